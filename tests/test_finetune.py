import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from conftest import CONTEXT, SHAPES
from safetensors.torch import load_file, save_file

from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.finetune import (
    IGNORED,
    TokenExample,
    TrainingDiverged,
    TransformersBackend,
    _schedule,
    batches,
    collate,
    finetune,
    loss_of,
    tokenize,
    train,
)
from selfplay.model import LanguageModel
from selfplay.prompts import Prompt
from selfplay.select import Example

CPU = ModelConfig(device="cpu", threads=1)
CONFIG = FinetuneConfig(
    epochs=2, learning_rate=1e-2, batch_tokens=400, warmup_steps=2, weight_decay=0.0, dtype="float32"
)  # fmt: skip


def example(number: int) -> Example:
    text = f"def f(x: int):\n    return x == {number}{' and x > 0' * (number % 4)}\n\ndef g():"
    return Example(Prompt(text, chat=False, header="def g():"), f"\n    return {number}\n")


EXAMPLES = [example(number) for number in range(3, 27)]


@pytest.fixture(scope="module")
def model(tiny):
    return LanguageModel(tiny(), CPU)


def tuned(tiny, folder, seed=(1,), examples=EXAMPLES, config=CONFIG, shape="llama", **options):
    return finetune(tiny(shape), examples, config, CPU, list(seed), folder, {"protocol": "plain"}, **options)


def weights(folder):
    return load_file(folder / "model.safetensors")


# ---- sequences ----


def test_the_loss_is_on_the_completion_and_its_end_and_on_nothing_else(model):
    tokens = tokenize(model.tokenizer, EXAMPLES[0])
    learned = [i for i, learn in zip(tokens.input_ids_T, tokens.loss_mask_T, strict=True) if learn]
    assert learned[-1] == model.tokenizer.eos_token_id
    assert model.tokenizer.decode(learned[:-1]) == EXAMPLES[0].completion
    assert model.tokenizer.decode(tokens.input_ids_T[: -len(learned)]) == EXAMPLES[0].prompt.text
    assert list(tokens.loss_mask_T) == sorted(tokens.loss_mask_T)


def test_a_chat_examples_prompt_is_the_template_and_its_loss_the_reply(tiny):
    tokenizer = LanguageModel(tiny("qwen2"), CPU).tokenizer
    tokens = tokenize(tokenizer, Example(Prompt("Hi", chat=True, header=""), "```\nx\n```"))
    cut = tokens.loss_mask_T.index(True)
    assert tokenizer.decode(tokens.input_ids_T[:cut]) == "<|user|>Hi<|end|><|assistant|>"
    assert tokenizer.decode(tokens.input_ids_T[cut:]) == "```\nx\n```<|end|>"


def test_a_batchs_labels_are_the_learned_tokens_and_padding_is_masked():
    short, long = TokenExample((5, 6, 7), (False, True, True)), TokenExample((8, 9, 1, 2), (False, False, False, True))
    tensors = collate([short, long], torch.device("cpu"))
    assert tensors["input_ids"].tolist() == [[5, 6, 7, 0], [8, 9, 1, 2]]
    assert tensors["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert tensors["labels"].tolist() == [[IGNORED, 6, 7, IGNORED], [IGNORED, IGNORED, IGNORED, 2]]


# ---- batches ----


def sequences(count: int, seed: int = 0) -> list[TokenExample]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 90, count)
    return [TokenExample((number,) * length, (True,) * length) for number, length in enumerate(lengths)]


@pytest.mark.parametrize("batch_tokens", [90, 256, 100_000])
@pytest.mark.parametrize("count", [1, 7, 300])
def test_every_example_comes_once_in_batches_of_bounded_size(count, batch_tokens):
    examples = sequences(count)
    grouped = batches(examples, batch_tokens, np.random.default_rng(1))
    assert sorted(e.input_ids_T[0] for batch in grouped for e in batch) == list(range(count))
    for batch in grouped:
        assert max(len(e.input_ids_T) for e in batch) * len(batch) <= batch_tokens


def test_sequences_of_like_length_share_a_batch_so_that_little_is_padding():
    grouped = batches(sequences(300), 512, np.random.default_rng(1))
    width = sum(len(batch) * max(len(e.input_ids_T) for e in batch) for batch in grouped)
    assert sum(len(e.input_ids_T) for batch in grouped for e in batch) > 0.9 * width


def test_a_sequence_longer_than_a_batch_gets_one_of_its_own():
    examples = [*sequences(5), TokenExample((99,) * 200, (True,) * 200)]
    assert [examples[-1]] in batches(examples, 100, np.random.default_rng(0))


def test_the_order_is_the_seeds():
    examples = sequences(60)
    first = batches(examples, 256, np.random.default_rng(1))
    assert batches(examples, 256, np.random.default_rng(1)) == first
    assert batches(examples, 256, np.random.default_rng(2)) != first


def test_batches_do_not_come_by_length():
    lengths = [max(len(e.input_ids_T) for e in b) for b in batches(sequences(300), 256, np.random.default_rng(1))]
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))


def test_no_examples_are_no_batches():
    assert batches([], 100, np.random.default_rng(0)) == []


# ---- the loss ----


def reference_loss(network, examples) -> float:
    """Each sequence alone, without padding, in double precision after the network."""
    total, learned = 0.0, 0
    for one in examples:
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([one.input_ids_T])).logits[0].double()
        logs = torch.log_softmax(logits, -1)
        for place in range(1, len(one.input_ids_T)):
            if one.loss_mask_T[place]:
                total -= float(logs[place - 1, one.input_ids_T[place]])
                learned += 1
    return total / learned


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_padded_batchs_loss_is_that_of_its_sequences_one_by_one(tiny, shape, attention):
    model = LanguageModel(tiny(shape), CPU)
    batch = [tokenize(model.tokenizer, one) for one in EXAMPLES[:7]]
    assert len({len(one.input_ids_T) for one in batch}) > 2
    expected = reference_loss(model.network, batch)
    model.network.set_attn_implementation(attention)
    with torch.no_grad():
        loss = loss_of(model.network, collate(batch, torch.device("cpu")))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def gradients(network, batches_of_one_step):
    network.zero_grad()
    for batch in batches_of_one_step:
        loss_of(network, collate(batch, torch.device("cpu"))).backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_stands_in_the_padding_does_not_reach_the_gradient(tiny, shape):
    model = LanguageModel(tiny(shape), CPU)
    short, long = (tokenize(model.tokenizer, EXAMPLES[place]) for place in (1, 0))
    assert len(short.input_ids_T) < len(long.input_ids_T)
    silent = TokenExample(long.input_ids_T, (False,) * len(long.input_ids_T))
    alone, beside = gradients(model.network, [[short]]), gradients(model.network, [[short, silent]])
    for name, gradient in alone.items():
        assert torch.allclose(gradient, beside[name], atol=1e-6, rtol=1e-4), name


# ---- training ----


@pytest.mark.parametrize(
    ("step", "total", "warmup", "share"),
    [
        (0, 10, 4, 0.25),
        (3, 10, 4, 1.0),
        (4, 10, 4, 1.0),
        (7, 10, 4, 0.5),
        (9, 10, 4, 1 / 6),
        (10, 10, 4, 0.0),
        (0, 10, 0, 1.0),
        (5, 10, 0, 0.5),
        (0, 3, 10, 0.1),  # shorter than the warm-up
        (2, 3, 10, 0.3),
        (0, 1, 1, 1.0),
    ],
)
def test_the_rate_rises_to_its_maximum_and_falls_to_zero(step, total, warmup, share):
    assert _schedule(step, total, warmup) == pytest.approx(share)


def test_the_loss_falls(tiny, tmp_path):
    stats = tuned(tiny, tmp_path / "new", config=dataclasses.replace(CONFIG, epochs=15))
    assert stats.first_loss > 3
    assert stats.last_loss < 0.6 * stats.first_loss


def test_a_training_tells_what_it_did(tiny, tmp_path, model):
    tokenized = [tokenize(model.tokenizer, one) for one in EXAMPLES]
    per_epoch = len(batches(tokenized, CONFIG.batch_tokens, np.random.default_rng(0)))
    planned: list[int] = []
    seen: list[tuple[int, float]] = []
    stats = tuned(
        tiny, tmp_path / "new", plan=planned.append, progress=lambda tokens, loss: seen.append((tokens, loss))
    )
    assert planned == [stats.steps] == [len(seen)] == [2 * per_epoch]
    assert stats.sequences == 2 * len(EXAMPLES)
    assert stats.tokens == sum(tokens for tokens, _ in seen) == 2 * sum(len(one.input_ids_T) for one in tokenized)
    assert stats.skipped == 0
    assert stats.first_loss == pytest.approx(seen[0][1])
    notes = json.loads((tmp_path / "new" / "selfplay.json").read_text())
    assert notes == {"protocol": "plain", "training": dataclasses.asdict(stats)}


def test_the_first_loss_is_the_starting_models(tiny, tmp_path, model):
    stats = tuned(tiny, tmp_path / "new", config=dataclasses.replace(CONFIG, batch_tokens=100_000))
    expected = reference_loss(model.network, [tokenize(model.tokenizer, one) for one in EXAMPLES])
    assert stats.first_loss == pytest.approx(expected, rel=1e-5)


def test_steps_have_an_upper_bound(tiny, tmp_path):
    assert tuned(tiny, tmp_path / "new", config=dataclasses.replace(CONFIG, max_steps=3)).steps == 3


def test_a_part_of_an_epoch_may_be_trained(tiny, tmp_path):
    whole = tuned(tiny, tmp_path / "one", config=dataclasses.replace(CONFIG, epochs=1)).steps
    half = tuned(tiny, tmp_path / "half", config=dataclasses.replace(CONFIG, epochs=0.5)).steps
    assert half == math.ceil(whole / 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_others(tiny, tmp_path, shape):
    for name, seed in (("one", (1,)), ("two", (1,)), ("other", (2,))):
        torch.manual_seed(len(name))  # what came before does not matter, nor does dropout draw from it
        tuned(tiny, tmp_path / name, seed, shape=shape)
    one, two, other = (weights(tmp_path / name) for name in ("one", "two", "other"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert LanguageModel(tmp_path / "one", CPU).checkpoint == LanguageModel(tmp_path / "two", CPU).checkpoint


def test_the_starting_folder_stays_as_it_was_and_the_new_one_loads(tiny, tmp_path, model):
    tuned(tiny, tmp_path / "new")
    assert LanguageModel(tiny(), CPU).checkpoint == model.checkpoint
    new = TransformersBackend().load(tmp_path / "new", CPU)
    assert new.checkpoint != model.checkpoint
    assert new.network.config._attn_implementation == model.network.config._attn_implementation
    assert new.network.dtype == torch.float32
    assert new.notes["training"]["steps"] > 0


def test_a_model_in_half_precision_is_trained_in_single(tiny, tmp_path):
    half = LanguageModel(tiny(), dataclasses.replace(CPU, dtype="bfloat16"))
    (tmp_path / "half").mkdir()
    half.save(tmp_path / "half", {})
    finetune(tmp_path / "half", EXAMPLES, CONFIG, dataclasses.replace(CPU, dtype="bfloat16"), [1], tmp_path / "new", {})
    assert {weight.dtype for weight in weights(tmp_path / "new").values()} == {torch.float32}


def test_bfloat16_autocast_learns_nearly_the_same(tiny, tmp_path):
    full = tuned(tiny, tmp_path / "full")
    half = tuned(tiny, tmp_path / "half", config=dataclasses.replace(CONFIG, dtype="bfloat16"))
    assert half.last_loss == pytest.approx(full.last_loss, rel=0.1)


def test_examples_longer_than_the_context_are_left_out_and_counted(tiny, tmp_path):
    long = Example(Prompt("def f(x: int):\n    return " + "x, " * CONTEXT, False, "def g():"), "\n    return 1\n")
    stats = tuned(tiny, tmp_path / "new", examples=[*EXAMPLES, long, long])
    tuned(tiny, tmp_path / "without", examples=EXAMPLES)
    assert stats.skipped == 2
    assert stats.sequences == 2 * len(EXAMPLES)
    new, without = weights(tmp_path / "new"), weights(tmp_path / "without")
    assert all(torch.equal(new[name], without[name]) for name in new)


def test_long_sequences_use_the_models_own_attention_and_short_ones_the_plain_one(model, monkeypatch):
    used: list[tuple[int, str]] = []
    network = LanguageModel(model.path, CPU).network
    network.register_forward_pre_hook(
        lambda module, args, kwargs: used.append((kwargs["input_ids"].shape[1], module.config._attn_implementation)),
        with_kwargs=True,
    )
    monkeypatch.setattr("selfplay.finetune.EAGER_TOKENS", 20)
    steps = [[TokenExample((5,) * length, (True,) * length)] for length in (10, 30, 20, 21)]
    train(network, steps, 4, CONFIG)
    assert used == [(10, "eager"), (30, "sdpa"), (20, "eager"), (21, "sdpa")]
    assert network.config._attn_implementation == "sdpa"
    assert not network.training


def test_only_matrices_are_decayed(model):
    network = LanguageModel(model.path, CPU).network
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    silent = [[TokenExample((5, 6), (False, True))]]
    config = dataclasses.replace(CONFIG, learning_rate=1e-9, weight_decay=1e6, warmup_steps=0)
    train(network, silent, 1, config)
    for name, weight in network.named_parameters():
        shrunk = torch.allclose(weight, before[name] * (1 - 1e-3), rtol=1e-5)
        assert shrunk == (weight.dim() >= 2), name


# ---- when it goes wrong ----


def test_weights_that_are_no_numbers_stop_the_training_and_leave_nothing(tiny_copy, tmp_path):
    spoiled = weights(tiny_copy)
    spoiled["model.norm.weight"][:] = math.nan
    save_file(spoiled, tiny_copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingDiverged, match=r"step 0.*finetune\.learning_rate"):
        finetune(tiny_copy, EXAMPLES, CONFIG, CPU, [1], tmp_path / "out" / "new", {})
    assert not (tmp_path / "out").exists()


def test_a_rate_that_is_far_too_high_stops_the_training_or_leaves_numbers(tiny, tmp_path):
    config = dataclasses.replace(CONFIG, learning_rate=1e18, warmup_steps=0, epochs=6)
    try:
        tuned(tiny, tmp_path / "new", config=config)
    except TrainingDiverged:
        assert not (tmp_path / "new").exists()
    else:
        assert all(weight.isfinite().all() for weight in weights(tmp_path / "new").values())


def test_a_training_that_is_interrupted_leaves_no_folder_and_can_be_done_again(tiny, tmp_path):
    def interrupt(tokens, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(tiny, tmp_path / "new", progress=interrupt)
    assert not (tmp_path / "new").exists()
    tuned(tiny, tmp_path / "new")
    assert (tmp_path / "new" / "model.safetensors").is_file()
