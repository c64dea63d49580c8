import dataclasses
import itertools
import json
import math
import warnings
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import CONTEXT, SHAPES

from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import Prompt
from selfplay.training import finetune as module
from selfplay.training.backend import Training
from selfplay.training.finetune import (
    TokenContrast,
    TokenExample,
    _epochs,
    _Passes,
    _without_dropout,
    can_share,
    finetune,
    objective_of,
    tokenize_lesson,
    train,
)
from selfplay.training.objectives import Likelihood, PolicyGradient, Preference, clipped_loss, preference_loss
from selfplay.training.select import Contrast, Example, Graded
from selfplay.training.sharing import reads_padded

CPU = ModelConfig(device="cpu", threads=1)
CONFIG = FinetuneConfig(
    epochs=2, learning_rate=1e-2, batch_tokens=400, warmup_steps=2, weight_decay=0.0, dtype="float32", most_fall=0.0
)  # fmt: skip

# ---- on a model of four weights, by hand ----


class Toy(torch.nn.Module):
    """Two tokens, of which the next depends on the last alone: 1 comes after t with sigmoid(w[1, t] - w[0, t])."""

    device, dtype = torch.device("cpu"), torch.float32
    is_gradient_checkpointing = False
    _is_stateful = True

    def __init__(self, after_0: float, after_1: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation="eager", get_text_config=lambda decoder: self.config)
        self.output = torch.nn.Linear(2, 2, bias=False)
        self.set(after_0, after_1)

    def set(self, after_0: float, after_1: float) -> None:
        self.output.weight.data = torch.tensor([[0.0, 0.0], [after_0, after_1]])

    def get_output_embeddings(self):
        return self.output

    get_input_embeddings = get_output_embeddings

    def set_attn_implementation(self, name) -> None:
        pass

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.output(torch.eye(2)[input_ids]))


def sequence(prompt, response, advantage=1.0) -> TokenExample:
    return TokenExample((*prompt, *response), (False,) * len(prompt) + (True,) * len(response), advantage)


START, NOW = (0.4, -0.3), (0.9, 0.5)
STEP = [
    sequence([0, 1], [1, 0, 0], 0.7),
    sequence([0, 1], [0, 1], -0.4),
    sequence([1], [1], 1.5),
    sequence([1], [0, 1, 1, 1, 0], -2.0),
]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def terms(one: TokenExample, weights):
    """Of each learned token: the token before it, its log-probability, and that one's derivative by the weight."""
    found = []
    for place in range(1, len(one)):
        if one.loss_mask_T[place]:
            before, token = one.input_ids_T[place - 1], one.input_ids_T[place]
            p = sigmoid(weights[before])
            found.append((before, math.log(p if token else 1 - p), token - p))
    return found


def log_of(one, weights):
    return sum(log for _, log, _ in terms(one, weights))


def slope_of(one, weights, after):
    return sum(slope for before, _, slope in terms(one, weights) if before == after)


def likelihood_by_hand(step):
    count = sum(len(terms(one, NOW)) for one in step)
    loss = -sum(log_of(one, NOW) for one in step) / count
    return loss, [-sum(slope_of(one, NOW, after) for one in step) / count for after in (0, 1)]


def preference_by_hand(step, beta):
    pairs = list(zip(step[0::2], step[1::2], strict=True))
    loss, gradient = 0.0, [0.0, 0.0]
    for better, worse in pairs:
        difference = log_of(better, NOW) - log_of(better, START) - log_of(worse, NOW) + log_of(worse, START)
        loss -= math.log(sigmoid(beta * difference)) / len(pairs)
        for after in (0, 1):
            slope = slope_of(better, NOW, after) - slope_of(worse, NOW, after)
            gradient[after] -= beta * sigmoid(-beta * difference) * slope / len(pairs)
    return loss, gradient


def policy_by_hand(step, clip):
    count = sum(len(terms(one, NOW)) for one in step)
    loss, gradient = 0.0, [0.0, 0.0]
    for one in step:
        for (after, now, slope), (_, before, _) in zip(terms(one, NOW), terms(one, START), strict=True):
            ratio, sign = math.exp(now - before), 1 if one.advantage > 0 else -1
            too_far = sign * (ratio - 1) > clip
            loss -= (1 + sign * clip if too_far else ratio) * one.advantage / count
            gradient[after] -= 0.0 if too_far else ratio * one.advantage * slope / count
    return loss, gradient


def computed(objective, step, network=None, config=CONFIG):
    """Loss, gradient and what is watched of a step, as `train` has them when the weights have moved on."""
    network = network or Toy(*START)
    network.set(*START)
    passes = _Passes(network, config, objective)
    passes.refer([step])
    network.set(*NOW)
    network.zero_grad()
    means = passes.backward(step)
    return means.pop("loss"), network.output.weight.grad, means


BY_HAND = [
    (Likelihood(), likelihood_by_hand(STEP)),
    *((Preference(beta), preference_by_hand(STEP, beta)) for beta in (0.1, 1.0, 5.0)),
    *((PolicyGradient(clip), policy_by_hand(STEP, clip)) for clip in (0.05, 0.2, 1.0)),
]


@pytest.mark.parametrize(("objective", "expected"), BY_HAND, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("most_tokens", [0, 1, 6])
def test_loss_and_gradient_are_those_computed_by_hand(objective, expected, most_tokens):
    config = dataclasses.replace(CONFIG, micro_batch_tokens=most_tokens)
    loss, gradient, _ = computed(objective, STEP, config=config)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert gradient[1].tolist() == pytest.approx(expected[1], rel=1e-4, abs=1e-7)
    assert gradient[0].tolist() == pytest.approx([-slope for slope in expected[1]], rel=1e-4, abs=1e-7)


def directly(objective, step, logs, reference):
    """The published formulas, word by word, of lists of log-probabilities."""
    if isinstance(objective, Likelihood):
        return -torch.cat(logs).mean()
    if isinstance(objective, Preference):
        losses = []
        for i in range(0, len(step), 2):
            gained = [logs[j].sum() - reference[j].sum() for j in (i, i + 1)]
            losses.append(-torch.log(torch.sigmoid(objective.beta * (gained[0] - gained[1]))))
        return torch.stack(losses).mean()
    clip, losses = objective.clip_ratio, []
    for one, own, before in zip(step, logs, reference, strict=True):
        ratio = torch.exp(own - before)
        losses.append(torch.min(ratio * one.advantage, torch.clip(ratio, 1 - clip, 1 + clip) * one.advantage))
    return -torch.cat(losses).mean()


@pytest.mark.parametrize("objective", [objective for objective, _ in BY_HAND], ids=str)
def test_loss_and_gradient_are_those_of_the_formula_by_autograd(objective):
    def logs_of(weights):
        found = []
        for one in STEP:
            logs_TV = torch.log_softmax(torch.eye(2)[list(one.input_ids_T)] @ weights.T, -1)
            learned = [place for place in range(1, len(one)) if one.loss_mask_T[place]]
            found.append(torch.stack([logs_TV[place - 1, one.input_ids_T[place]] for place in learned]))
        return found

    before, now = (torch.tensor([[0.0, 0.0], [*weights]], requires_grad=True) for weights in (START, NOW))
    expected = directly(objective, STEP, logs_of(now), [own.detach() for own in logs_of(before)])
    expected.backward()
    loss, gradient, _ = computed(objective, STEP)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient, now.grad, rtol=1e-4, atol=1e-7)


def test_what_is_watched_of_contrasts_is_how_many_are_in_order_and_the_better_ones_gain():
    watched = computed(Preference(0.1), STEP)[2]
    gains = [log_of(one, NOW) - log_of(one, START) for one in STEP]
    assert watched["better_shift"] == pytest.approx((gains[0] + gains[2]) / 2, rel=1e-4)
    assert watched["preferred"] == sum(a > b for a, b in zip(gains[0::2], gains[1::2], strict=True)) / 2


def test_what_is_watched_of_graded_ones_is_the_ratio_and_the_share_that_is_clipped():
    watched = computed(PolicyGradient(0.2), STEP)[2]
    ratios = [
        (math.exp(now[1] - before[1]), one.advantage)
        for one in STEP
        for now, before in zip(terms(one, NOW), terms(one, START), strict=True)
    ]
    assert watched["ratio"] == pytest.approx(sum(ratio for ratio, _ in ratios) / len(ratios), rel=1e-5)
    clipped = [ratio > 1.2 if advantage > 0 else ratio < 0.8 for ratio, advantage in ratios]
    assert watched["clipped"] == pytest.approx(sum(clipped) / len(clipped))
    assert 0 < sum(clipped) < len(clipped)


def test_a_responses_log_probability_is_the_sum_over_its_tokens_not_their_mean():
    short, long = sequence([1], [1]), sequence([1], [1, 1, 1, 1])
    worse = sequence([1], [0])
    shifts = [computed(Preference(1.0), [one, worse])[2]["better_shift"] for one in (short, long)]
    assert shifts[1] == pytest.approx(4 * shifts[0], rel=1e-5)


@pytest.mark.parametrize("objective", [Likelihood(), Preference(0.7), PolicyGradient(0.2)], ids=str)
def test_tokens_of_the_prompt_do_not_count(objective):
    usual = [sequence([1], [1, 0]), sequence([1], [0, 0])]
    longer = [sequence([0, 0, 1, 0, 1], [1, 0]), sequence([0, 1, 1], [0, 0])]
    one, other = computed(objective, usual), computed(objective, longer)
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert torch.allclose(one[1], other[1], rtol=1e-5)


@pytest.mark.parametrize("most_tokens", [0, 1])
def test_two_equal_responses_are_a_loss_of_log_2_and_no_gradient(most_tokens):
    same = sequence([0], [1, 0, 1])
    config = dataclasses.replace(CONFIG, micro_batch_tokens=most_tokens)
    loss, gradient, watched = computed(Preference(2.0), [same, same], config=config)
    assert loss == pytest.approx(math.log(2), rel=1e-6)
    assert gradient.abs().max() == 0
    assert watched["preferred"] == 0


def test_before_the_weights_have_moved_an_advantage_of_1_is_learned_as_an_example_is():
    network = Toy(*NOW)
    gradients = []
    for objective in (Likelihood(), PolicyGradient(0.2)):
        passes = _Passes(network, CONFIG, objective)
        step = [dataclasses.replace(one, advantage=1.0) for one in STEP]
        passes.refer([step])
        network.zero_grad()
        passes.backward(step)
        gradients.append(network.output.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-6)


def test_a_token_that_has_moved_too_far_is_left_alone_and_one_that_went_astray_is_not():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    losses = clipped_loss(ratio, advantage, 0.2)
    losses.sum().backward()
    assert losses.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert ratio.grad.tolist() == [0.0, 1.0, -1.0, 0.0]


def test_large_differences_have_finite_losses():
    far = torch.tensor([-1e4, 1e4])
    assert preference_loss(far, torch.zeros(2), 5.0).tolist() == [5e4, 0.0]


# ---- on models of every shape ----


def prompted(beginning, own, learned, advantage=1.0):
    ids = (*beginning, *map(int, own))
    return TokenExample(ids, (False,) * (len(ids) - learned) + (True,) * learned, advantage)


def like_few_shot(seed=0, pairs=6) -> list[TokenExample]:
    """Pairs of which two in three begin with one of two long texts; their lengths differ, and one is in two pairs."""
    rng = np.random.default_rng(seed)
    texts = [(), tuple(rng.integers(5, 300, 90).tolist()), tuple(rng.integers(5, 300, 120).tolist())]
    step = []
    for number in range(pairs):
        beginning = (*texts[number % 3], *rng.integers(5, 300, 4).tolist())
        for _ in range(2):
            learned = int(rng.integers(2, 15))
            step.append(prompted(beginning, rng.integers(5, 300, learned), learned, float(rng.normal())))
    return [*step, step[0], prompted(step[0].input_ids_T[:4], (7, 8, 9), 3, -0.5)]


def moved(network, seed=1):
    """The weights after a while."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.requires_grad:
            weight.data += 0.02 * torch.randn(weight.shape, generator=generator)


def logs_alone(network, one):
    logs_TV = torch.log_softmax(network(input_ids=torch.tensor([one.input_ids_T]), use_cache=False).logits[0], -1)
    learned = [place for place in range(1, len(one)) if one.loss_mask_T[place]]
    return torch.stack([logs_TV[place - 1, one.input_ids_T[place]] for place in learned])


def gradients_of(network):
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


OBJECTIVES = [Likelihood(), Preference(0.3), PolicyGradient(0.1)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_padding_shared_beginnings_and_parts_change_nothing(tiny, shape, objective):
    step = like_few_shot()
    network = LanguageModel(tiny(shape), CPU).network
    with torch.no_grad():
        reference = [logs_alone(network, one) for one in step]
    moved(network)
    expected = directly(objective, step, [logs_alone(network, one) for one in step], reference)
    expected.backward()
    gradients = gradients_of(network)
    for share, most_tokens in itertools.product([True, False], [0, 1, 200]):
        again = LanguageModel(tiny(shape), CPU).network
        config = dataclasses.replace(CONFIG, micro_batch_tokens=most_tokens)
        with mock.patch.object(module, "can_share", lambda network, share=share: share and can_share(network)):
            passes = _Passes(again, config, objective)
            passes.refer([step])
            moved(again)
            assert passes.backward(step)["loss"] == pytest.approx(expected.item(), rel=1e-4)
        for name, gradient in gradients_of(again).items():
            most = float(gradients[name].abs().max())
            assert torch.allclose(gradient, gradients[name], rtol=1e-3, atol=1e-4 * most), (name, share, most_tokens)


def calls(monkeypatch, most=None):
    """What goes through the network at a time; more than `most` sequences run out of memory."""
    seen: list[list[TokenExample]] = []
    usual = module.log_probabilities

    def log_probabilities(network, part, shared):
        if most is not None and len(part) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        seen.append(list(part))
        return usual(network, part, shared)

    monkeypatch.setattr(module, "log_probabilities", log_probabilities)
    return seen


def test_a_step_of_one_part_is_read_once_and_one_of_several_twice(tiny, monkeypatch):
    network = LanguageModel(tiny(), CPU).network
    step = [sequence([5], range(6, 6 + n)) for n in (3, 4, 5, 6)]
    seen = calls(monkeypatch)
    passes = _Passes(network, CONFIG, Preference(0.1))
    passes.refer([step, step])
    assert sum(map(len, seen)) == len(step)  # the reference reads each sequence once, in however many steps it is
    passes.backward(step)
    assert sum(map(len, seen)) == 2 * len(step)
    passes = _Passes(network, dataclasses.replace(CONFIG, micro_batch_tokens=12), Preference(0.1))
    passes.refer([step])
    del seen[:]
    passes.backward(step)
    assert sum(map(len, seen)) == 2 * len(step)
    assert len(seen) > 2


def test_a_sequence_of_several_contrasts_is_read_once(tiny, monkeypatch):
    network = LanguageModel(tiny(), CPU).network
    better, *worse = (sequence([5], range(6, 6 + n)) for n in (3, 4, 5))
    seen = calls(monkeypatch)
    passes = _Passes(network, CONFIG, Preference(0.1))
    passes.refer([[better, worse[0], better, worse[1]]])
    passes.backward([better, worse[0], better, worse[1]])
    assert [len(part) for part in seen] == [3, 3]


# ---- trainings ----


def prompt(number: int) -> Prompt:
    return Prompt(
        f"def f(x: int):\n    return x == {number}{' and x > 0' * (number % 4)}\n\ndef g():", False, "def g():"
    )


def right(number: int) -> str:
    return f"\n    return {number}\n"


NUMBERS = range(3, 27)
EXAMPLES = [Example(prompt(n), right(n)) for n in NUMBERS]
CONTRASTS = [Contrast(prompt(n), right(n), f"\n    return x + {n} - {n}\n") for n in NUMBERS]
GRADED = [Graded(prompt(n), text, grade) for n in NUMBERS for text, grade in ((right(n), 0.5), ("\n    pass\n", -0.5))]
KINDS = {"sft": EXAMPLES, "spin": CONTRASTS, "grpo": GRADED}


def tuned(tiny, folder, examples, config=CONFIG, shape="llama", **options):
    return finetune(Training(tiny(shape), examples, config, CPU, [1], {"protocol": "plain"}), folder, **options)


def weights(folder):
    return load_file(folder / "model.safetensors")


def gain(tiny, folder, prompt, completion):
    """What a completion's log-probability has gained on the starting weights."""
    logs = []
    for path in (folder, tiny()):
        model = LanguageModel(path, CPU)
        with torch.no_grad():
            logs.append(
                logs_alone(model.network, tokenize_lesson(model.tokenizer, Example(prompt, completion))).sum().item()
            )
    return logs[0] - logs[1]


def test_the_kind_of_the_examples_is_the_objective():
    config = dataclasses.replace(CONFIG, clip_ratio=0.3, beta=(0.2,))
    assert isinstance(objective_of(EXAMPLES, config), Likelihood)
    assert objective_of(CONTRASTS, config) == Preference(0.2)
    assert objective_of(GRADED, config) == PolicyGradient(0.3)
    with pytest.raises(ValueError, match="of one kind, got Contrast, Graded"):
        objective_of([*CONTRASTS, *GRADED], config)


@pytest.mark.slow
def test_better_responses_gain_on_worse_ones(tiny, tmp_path):
    stats = tuned(tiny, tmp_path / "new", CONTRASTS, dataclasses.replace(CONFIG, epochs=8, beta=(0.5,)))
    gains = [
        gain(tiny, tmp_path / "new", one.prompt, one.better) - gain(tiny, tmp_path / "new", one.prompt, one.worse)
        for one in CONTRASTS
    ]
    assert min(gains) > 1
    assert stats.preferred == 1
    assert stats.last_loss < 0.1 * math.log(2)
    assert (stats.ratio, stats.clipped, stats.stopped_at_step) == (None, None, None)


def test_what_did_better_than_its_group_becomes_likelier_and_what_did_worse_less(tiny, tmp_path):
    stats = tuned(tiny, tmp_path / "new", GRADED, dataclasses.replace(CONFIG, epochs=4))
    for one in GRADED[:8]:
        assert gain(tiny, tmp_path / "new", one.prompt, one.completion) * one.advantage > 0
    assert stats.ratio != 1
    assert 0 < stats.clipped < 1
    assert (stats.preferred, stats.better_shift) == (None, None)


def test_what_a_training_tells_is_kept_beside_the_weights(tiny, tmp_path):
    for name, examples in KINDS.items():
        stats = tuned(tiny, tmp_path / name, examples)
        notes = json.loads((tmp_path / name / "selfplay.json").read_text())
        assert notes["training"] == dataclasses.asdict(stats)
        assert LanguageModel(tmp_path / name, CPU).notes == notes
    assert dataclasses.asdict(tuned(tiny, tmp_path / "again", EXAMPLES))["better_shift"] is None


@pytest.mark.parametrize("kind", ["spin", "grpo"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_seed_gives_the_same_weights_to_the_bit(tiny, tmp_path, shape, kind):
    for name in ("one", "two"):
        torch.manual_seed(len(name) + ord(name[0]))
        tuned(tiny, tmp_path / name, KINDS[kind], shape=shape)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("shape", SHAPES)  # GPT-2's has dropout
def test_at_the_first_step_nothing_has_moved_and_no_chance_is_in_it(tiny, tmp_path, shape):
    config = dataclasses.replace(CONFIG, max_steps=1)
    contrasts = tuned(tiny, tmp_path / "spin", CONTRASTS, dataclasses.replace(config, beta=(5.0,)), shape)
    graded = tuned(tiny, tmp_path / "grpo", GRADED, config, shape)
    assert contrasts.first_loss == pytest.approx(math.log(2), abs=1e-3)
    assert contrasts.better_shift == pytest.approx(0, abs=1e-3)
    assert graded.ratio == pytest.approx(1, abs=1e-4)
    assert graded.clipped == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spin", "grpo"])
def test_parts_and_a_memory_that_runs_out_change_no_more_than_rounding(tiny, tmp_path, monkeypatch, kind, caplog):
    whole = tuned(tiny, tmp_path / "whole", KINDS[kind])
    parts = tuned(tiny, tmp_path / "parts", KINDS[kind], dataclasses.replace(CONFIG, micro_batch_tokens=100))
    calls(monkeypatch, most=3)
    less = tuned(tiny, tmp_path / "less", KINDS[kind])
    assert "out of memory: from now on finetune.micro_batch_tokens = " in caplog.text
    for other in (parts, less):
        assert (other.steps, other.sequences, other.tokens) == (whole.steps, whole.sequences, whole.tokens)
        assert other.last_loss == pytest.approx(whole.last_loss, rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("kind", ["spin", "grpo"])
@pytest.mark.parametrize("shape", SHAPES)
def test_with_checkpointing_layers_are_computed_again_without_dropout(tiny, shape, kind, monkeypatch):
    monkeypatch.setattr(module, "can_share", lambda network: False)
    counts = []
    for name in ("usual", "again"):
        model = LanguageModel(tiny(shape), CPU)
        pairs = [tokenize_lesson(model.tokenizer, one) for one in KINDS[kind]][:4]
        step = list(itertools.chain(*((one.better, one.worse) for one in pairs))) if kind == "spin" else pairs
        assert reads_padded(model.network)  # proved before, so that no proof is counted
        seen: list[int] = []
        next(m for n, m in model.network.named_modules() if n.endswith(".0.mlp")).register_forward_pre_hook(
            lambda *_, seen=seen: seen.append(1)
        )
        config = dataclasses.replace(CONFIG, checkpointing=name == "again", warmup_steps=0)
        stats = train(model.network, [step] * 2, 2, config, objective=objective_of(KINDS[kind], config))
        counts.append((stats.first_loss, stats.last_loss, len(seen)))
        assert not model.network.training
    assert counts[1][:2] == pytest.approx(counts[0][:2], rel=1e-4)
    assert (counts[0][2], counts[1][2]) == (3, 5)  # once for the reference


def test_without_dropout_a_layer_gives_the_same_twice(tiny):
    network = LanguageModel(tiny("gpt2"), CPU).network.train()
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.equal(network(input_ids=ids).logits, network(input_ids=ids).logits)
    _without_dropout(network)
    assert torch.equal(network(input_ids=ids).logits, network(input_ids=ids).logits)


@pytest.mark.parametrize("kind", ["spin", "grpo"])
@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_learn_and_begin_at_the_reference(tiny, tmp_path, shape, kind):
    pytest.importorskip("peft")
    config = dataclasses.replace(CONFIG, lora_rank=2, lora_alpha=4.0, epochs=8)
    first = tuned(tiny, tmp_path / "first", KINDS[kind], dataclasses.replace(config, max_steps=1, beta=(0.5,)), shape)
    last = tuned(tiny, tmp_path / "last", KINDS[kind], dataclasses.replace(config, beta=(0.5,)), shape)
    assert first.first_loss == pytest.approx(math.log(2) if kind == "spin" else first.first_loss, abs=1e-3)
    assert last.last_loss < first.first_loss - 0.01
    assert weights(tmp_path / "last").keys() == weights(tiny(shape)).keys()


def test_a_contrast_of_which_one_side_is_too_long_is_left_out_and_counted(tiny, tmp_path):
    long = "\n    return " + "x, " * CONTEXT + "\n"
    more = [Contrast(prompt(3), right(3), long), Contrast(prompt(3), long, right(3))]
    stats = tuned(tiny, tmp_path / "new", [*CONTRASTS, *more])
    assert stats.skipped == 2
    assert stats.sequences == 2 * 2 * len(CONTRASTS)


@pytest.mark.parametrize("batch_tokens", [64, 400])
def test_a_step_of_contrasts_is_as_large_as_one_of_examples_and_keeps_pairs_in_order(batch_tokens):
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 30, (50, 2)).tolist()
    contrasts = [
        TokenContrast(*(sequence([number], [side] * length) for side, length in enumerate(both)))
        for number, both in enumerate(lengths)
    ]
    steps = list(_epochs(contrasts, batch_tokens // 2, 10, rng))
    for step in steps:
        assert max(map(len, step)) * len(step) <= batch_tokens
        for better, worse in zip(step[0::2], step[1::2], strict=True):
            assert (better.input_ids_T[0], better.input_ids_T[1], worse.input_ids_T[1]) == (worse.input_ids_T[0], 0, 1)


# ---- the guard ----


def falling(steps, config):
    """A training in which better and worse responses fall together: the better ones' first token is the worse ones'."""
    network = Toy(1.0, 1.0)
    step = [sequence([1], [1] * 3 + [0]), sequence([1], [1] * 9)]
    return train(network, [step] * steps, steps, config, objective=Preference(0.5))


def test_the_training_stops_when_better_responses_have_fallen_too_far(caplog):
    config = dataclasses.replace(CONFIG, learning_rate=0.1, warmup_steps=0, most_fall=1e6)
    whole = falling(60, config)
    assert (whole.steps, whole.stopped_at_step) == (60, None)
    assert whole.better_shift < -0.5
    assert falling(60, dataclasses.replace(config, most_fall=0.0)).stopped_at_step is None
    cut = falling(60, dataclasses.replace(config, most_fall=0.25))
    assert 10 <= cut.steps == cut.stopped_at_step < 60
    assert f"step {cut.steps}: training ends, because better responses fell by more than" in caplog.text


@pytest.mark.parametrize(
    ("shifts", "total", "stops"),
    [
        ([-9.0] * 9, 50, False),  # too few to say
        ([-9.0] * 10, 50, True),
        ([-9.0] * 10, 200, False),  # a tenth are 20
        ([-9.0] * 20, 200, True),
        ([-9.0] * 100 + [-1.9] * 20, 200, False),
        ([0.0] * 100 + [-2.1] * 20, 200, True),
        ([9.0] * 100, 200, False),
    ],
)
def test_the_guard_looks_at_the_mean_over_the_last_tenth_of_the_steps_at_least_ten(shifts, total, stops):
    history = [{"loss": 1.0, "better_shift": shift} for shift in shifts]
    assert module._better_have_fallen(history, total, 2.0) == stops
    assert not module._better_have_fallen(history, total, 0.0)
    assert not module._better_have_fallen([{"loss": 1.0}] * len(shifts), total, 2.0)


def test_a_training_that_was_stopped_has_a_checkpoint(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_better_have_fallen", lambda history, *_: len(history) == 3)
    stats = tuned(tiny, tmp_path / "new", CONTRASTS)
    assert stats.stopped_at_step == stats.steps == 3
    assert LanguageModel(tmp_path / "new", CPU).notes["training"]["stopped_at_step"] == 3


# ---- beside another implementation ----


@pytest.fixture
def trl(monkeypatch, tmp_path):
    """The package, which gathers what it downloads and reports in the user's home, and warns of its own changes."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("trl")


def side_by_side(step, end):
    """A step as padded tensors: tokens, which are none, and which are learned."""
    width = max(map(len, step))
    ids, there, learned = torch.full((len(step), width), end), *torch.zeros(2, len(step), width, dtype=torch.long)
    for row, one in enumerate(step):
        ids[row, : len(one)], there[row, : len(one)] = torch.tensor(one.input_ids_T), 1
        learned[row, : len(one)] = torch.tensor(one.loss_mask_T)
    return ids, there, learned


def ours(tiny, step, objective):
    network = LanguageModel(tiny(), CPU).network
    passes = _Passes(network, CONFIG, objective)
    passes.refer([step])
    reference = [passes._reference[one] for one in step]
    moved(network)
    return passes.backward(step)["loss"], gradients_of(network), reference


def same(one, other):
    """The largest difference of gradients, as a share of the largest gradient."""
    most = max(float(gradient.abs().max()) for gradient in one.values())
    return max(float((gradient - other[name]).abs().max()) for name, gradient in one.items()) / most


@pytest.mark.parametrize("beta", [0.1, 5.0])
def test_contrasts_are_learned_as_trl_learns_them(tiny, tmp_path, trl, beta):
    datasets = pytest.importorskip("datasets")
    step = like_few_shot()
    model, start = LanguageModel(tiny(), CPU), LanguageModel(tiny(), CPU)
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2
    options = trl.DPOConfig(
        str(tmp_path / "trl"), beta=beta, report_to=[], use_cpu=True, bf16=False, max_length=CONTEXT
    )
    trainer = trl.DPOTrainer(
        model.network, start.network, options, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=model.tokenizer,
    )  # fmt: skip
    moved(model.network)
    ids, there, learned = side_by_side([*step[0::2], *step[1::2]], model.tokenizer.eos_token_id)
    loss = trainer._compute_loss(
        trainer.model, {"input_ids": ids, "attention_mask": there, "completion_mask": learned}, False
    )
    model.network.zero_grad()
    loss.backward()
    expected, gradients, _ = ours(tiny, step, Preference(beta))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert same(gradients, gradients_of(model.network)) < 1e-4


def test_graded_ones_are_learned_as_trl_learns_them(tiny, tmp_path, trl):
    datasets = pytest.importorskip("datasets")
    own = [dataclasses.replace(one, advantage=place - 3.5) for place, one in enumerate(like_few_shot()[:8])]
    model = LanguageModel(tiny(), CPU)
    options = trl.GRPOConfig(
        str(tmp_path / "trl"), beta=0.0, epsilon=0.1, loss_type="bnpo", report_to=[], use_cpu=True, bf16=False,
        per_device_train_batch_size=8, gradient_accumulation_steps=1,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model.network, lambda **_: [0.0], options, train_dataset=datasets.Dataset.from_list([{"prompt": "a"}] * 8),
        processing_class=model.tokenizer,
    )  # fmt: skip
    expected, gradients, reference = ours(tiny, own, PolicyGradient(0.1))
    moved(model.network)
    end, most = model.tokenizer.eos_token_id, max(len(one) - one.learned for one in own)
    ids, there, _ = side_by_side([TokenExample((0,) * most, (False,) * most)] * len(own), end)
    for row, one in enumerate(own):  # prompts stand on the right
        before = len(one) - one.learned
        ids[row, most - before :], there[row, : most - before] = torch.tensor(one.input_ids_T[:before]), 0
    answers, answered, _ = side_by_side(
        [TokenExample(one.input_ids_T[-one.learned :], (True,) * one.learned) for one in own], end
    )
    old = torch.nn.utils.rnn.pad_sequence(list(reference), batch_first=True)
    loss = trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": ids, "prompt_mask": there, "completion_ids": answers, "completion_mask": answered,
            "advantages": torch.tensor([one.advantage for one in own]), "old_per_token_logps": old,
        },
    )  # fmt: skip
    model.network.zero_grad()
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert same(gradients, gradients_of(model.network)) < 1e-4
