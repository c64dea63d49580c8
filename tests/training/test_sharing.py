"""Models of kinds that break what training assumes: they are found out, and learn the same from the same texts."""

import dataclasses

import pytest
import torch
from odd_models import KINDS, make_odd

from puzzles.puzzle import InputError
from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.sampling import proofs
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import Prompt
from selfplay.training.backend import Training
from selfplay.training.finetune import TokenExample, _Passes, finetune, of_one_length, train
from selfplay.training.objectives import Likelihood
from selfplay.training.select import Example
from selfplay.training.sharing import can_share, reads_padded

CPU = ModelConfig(device="cpu", threads=1)
CONFIG = FinetuneConfig(epochs=1, learning_rate=1e-2, batch_tokens=10_000, warmup_steps=0, dtype="float32")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network of a kind; its weights are not to be changed."""
    made = {}

    def load(kind):
        if kind not in made:
            folder = make_odd(kind, tmp_path_factory.mktemp(kind) / "model")
            made[kind] = LanguageModel(folder, CPU).network
        return made[kind]

    return load


@pytest.fixture(autouse=True)
def unsaid():
    """What is said once was not said by another test."""
    proofs.say_once.cache_clear()


BEGINNING = tuple(range(5, 45))
STEP = [
    TokenExample((*BEGINNING, *range(start, start + own)), (False,) * 40 + (True,) * own)
    for start, own in ((50, 5), (70, 9), (90, 13), (110, 9))
]


def alone(network):
    """Loss and gradients of the step, from each example read alone, whole and without a cache."""
    network.zero_grad()
    total = 0.0
    for example in STEP:
        ids = torch.tensor([example.input_ids_T])
        logits = network(input_ids=ids, use_cache=False).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[39:-1], ids[0, 40:], reduction="sum")
    loss = total / sum(example.learned for example in STEP)
    loss.backward()
    return float(loss.detach()), gradients(network)


def gradients(network):
    found = {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    network.zero_grad()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_the_loss_and_the_gradients_of_texts_that_are_read_alone(network, kind):
    model = network(kind)
    loss, expected = alone(model)
    model.zero_grad()
    found_loss = _Passes(model, CONFIG, Likelihood()).backward(STEP)["loss"]
    found = gradients(model)
    assert found_loss == pytest.approx(loss, rel=1e-4)
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-3 * largest


@pytest.mark.parametrize("kind", ["mamba", "xlm", "recurrent_gemma", "gpt_neo", "conv"])
def test_a_beginning_is_not_shared_where_that_would_change_what_is_learned(network, kind, caplog):
    assert not can_share(network(kind))
    assert not can_share(network(kind))
    (record,) = caplog.records
    assert record.message.endswith("cannot share a beginning: each example is read whole")


def test_a_model_that_reads_padding_learns_from_texts_of_one_length(network, caplog):
    assert not reads_padded(network("bert"))
    assert reads_padded(network("mamba"))
    assert "learns from texts of one length" in caplog.text
    assert len(caplog.records) == 1


def test_the_proofs_leave_the_network_as_it_was(tiny):
    network = LanguageModel(tiny(), CPU).network
    network.train()
    network.model.layers[0].eval()
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    modes, attention = [module.training for module in network.modules()], network.config._attn_implementation
    assert can_share(network)
    assert reads_padded(network)
    assert [module.training for module in network.modules()] == modes
    assert network.config._attn_implementation == attention
    assert all(weight.grad is None for weight in network.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_a_usual_model_learns_the_same_whether_it_was_proved_before_or_not(tiny):
    def learned(proved):
        network = LanguageModel(tiny(), CPU).network
        if proved:
            can_share(network)
            reads_padded(network)
        torch.manual_seed(1)
        train(network, [STEP, STEP], 2, CONFIG)
        return network.state_dict()

    one, other = learned(True), learned(False)
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_texts_longer_than_those_of_like_angles_are_read_whole_and_by_length(tiny):
    network = LanguageModel(tiny(), CPU).network
    passes = _Passes(network, CONFIG, Likelihood())
    assert [shared for (_, shared), _ in passes._parts(STEP)] == [39]
    passes._alike_tokens = max(map(len, STEP)) - 1
    parts = [part for part, _ in passes._parts(STEP)]
    assert [(sorted({len(example) for example in part}), shared) for part, shared in parts] == [
        ([45], 0), ([49], 0), ([53], 0),
    ]  # fmt: skip


def test_parts_of_one_length_hold_every_example_once():
    parts = of_one_length([(STEP, 40), (STEP[:1], 0)])
    assert sorted(len(example) for part, _ in parts for example in part) == [45, 45, 49, 49, 53]
    assert all(len({len(example) for example in part}) == 1 for part, _ in parts)
    assert [shared for _, shared in parts] == [40, 40, 40, 0]


@pytest.mark.slow
def test_a_lesson_with_a_token_that_has_no_embedding_is_one_line(tmp_path):
    from transformers import AutoTokenizer

    folder = make_odd("conv", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["qpictureq"])
    tokenizer.save_pretrained(folder)
    lessons = [Example(Prompt("def f(x: int):", chat=False, header=""), "\n    return x == 'qpictureq'\n")]
    training = Training(folder, lessons, dataclasses.replace(CONFIG, batch_tokens=99), CPU, [1], {"protocol": "plain"})
    with pytest.raises(InputError, match="a text holds 'qpictureq', token 330, but the model has 330 embeddings"):
        finetune(training, tmp_path / "out")
