import dataclasses
import json
import math
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import CONTEXT, SHAPES

from puzzles.puzzle import InputError
from selfplay.config import FinetuneConfig, ModelConfig
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import Prompt
from selfplay.training import finetune as module
from selfplay.training.backend import Training
from selfplay.training.finetune import (
    WORTH_SHARING,
    TokenExample,
    TrainingDiverged,
    TransformersBackend,
    _Passes,
    _schedule,
    _with_adapters,
    batches,
    can_share,
    collate,
    finetune,
    log_probabilities,
    micro_batches,
    require_peft,
    shared_tokens,
    tokenize,
    train,
)
from selfplay.training.objectives import Likelihood
from selfplay.training.select import Example
from selfplay.training.sharing import reads_padded

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
    return finetune(Training(tiny(shape), examples, config, CPU, list(seed), {"protocol": "plain"}), folder, **options)


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


def test_collated_places_are_those_before_learned_tokens_and_targets_are_these_tokens():
    short, long = TokenExample((5, 6, 7), (False, True, True)), TokenExample((8, 9, 1, 2), (True, False, False, True))
    input_ids, places, targets = collate([short, long], 0, torch.device("cpu"))
    assert input_ids.tolist() == [[5, 6, 7, 0], [8, 9, 1, 2]]
    assert places.tolist() == [0, 1, 6]
    assert targets.tolist() == [6, 7, 2]  # the very first token has nothing before it


def test_collated_without_a_shared_beginning_the_rest_stays():
    pair = [TokenExample((5, 6, 7), (False, False, True)), TokenExample((5, 6, 1, 2), (False, False, True, True))]
    input_ids, places, targets = collate(pair, 1, torch.device("cpu"))
    assert input_ids.tolist() == [[6, 7, 0], [6, 1, 2]]
    assert places.tolist() == [0, 3, 4]
    assert targets.tolist() == [7, 1, 2]


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


# ---- parts of a step ----


def prompted(beginning, own, learned=6):
    """An example whose last few tokens are learned."""
    ids = (*beginning, *own)
    return TokenExample(ids, (False,) * (len(ids) - learned) + (True,) * learned)


def like_few_shot(seed=0, count=12) -> list[TokenExample]:
    """Two examples in three begin with one of two long texts; lengths and numbers of learned tokens differ."""
    rng = np.random.default_rng(seed)
    texts = [(), tuple(rng.integers(5, 300, 90)), tuple(rng.integers(5, 300, 120))]
    return [
        prompted(texts[n % 3], map(int, rng.integers(5, 300, 12 + 3 * n)), learned=int(rng.integers(1, 11)))
        for n in range(count)
    ]


@pytest.mark.parametrize("most_tokens", [1, 150, 400, math.inf])
@pytest.mark.parametrize("share", [False, True])
def test_a_steps_parts_hold_every_example_once_within_their_size(share, most_tokens):
    step = like_few_shot()
    parts = micro_batches(step, most_tokens, share)
    assert sorted(one.input_ids_T for part, _ in parts for one in part) == sorted(one.input_ids_T for one in step)
    for part, shared in parts:
        own = max(len(one.input_ids_T) for one in part) - shared
        assert len(part) == 1 or shared + own * len(part) <= most_tokens


def test_a_step_that_fits_and_shares_nothing_is_one_part():
    assert [(len(part), shared) for part, shared in micro_batches(sequences(50), math.inf, share=True)] == [(50, 0)]


def test_examples_that_begin_alike_come_together_and_share_what_they_have_in_common():
    parts = micro_batches(like_few_shot(), math.inf, share=True)
    assert sorted((len(part), shared) for part, shared in parts) == [(4, 0), (4, 90), (4, 120)]
    assert all(len({one.input_ids_T[:shared] for one in part}) == 1 for part, shared in parts)


def test_what_is_shared_ends_before_the_token_that_predicts_the_first_learned_one():
    text = tuple(range(5, 105))
    same = [TokenExample(text, (False,) * 97 + (True,) * 3)] * 2
    assert shared_tokens(same) == 96
    assert shared_tokens([same[0], TokenExample(text, (False,) * 20 + (True,) * 80)]) == 19
    assert shared_tokens([same[0], TokenExample(text, (True,) * 100)]) == 0


@pytest.mark.parametrize("where", [0, 9])  # before all others in order, and after them
def test_one_example_that_shares_little_does_not_spoil_it_for_the_others(where):
    text = (*range(5, 69), *[5] * 136)
    alike = [prompted(text, (n, *range(7))) for n in range(10)]
    outlier = prompted(text[:64], [where] * 50)
    parts = micro_batches([outlier, *alike], math.inf, share=True)
    assert sorted((len(part), shared) for part, shared in parts) == [(1, 0), (10, 200)]


def best_saving(ordered, price):
    """Of all ways to cut the list into groups, what the best one saves."""
    if not ordered:
        return 0.0
    first = [ordered[:count] for count in range(1, len(ordered) + 1)]
    worth = [max(0.0, shared_tokens(group) * (len(group) - 1) - price) if len(group) > 1 else 0.0 for group in first]
    return max(w + best_saving(ordered[len(group) :], price) for w, group in zip(worth, first, strict=True))


@pytest.mark.parametrize("seed", range(30))
def test_no_other_groups_save_more(seed):
    rng = np.random.default_rng(seed)
    texts = [tuple(map(int, rng.integers(5, 7, 40))) for _ in range(2)]
    step = [prompted(texts[rng.integers(2)][: rng.integers(1, 41)], rng.integers(5, 7, 8).tolist()) for _ in range(9)]
    price = WORTH_SHARING * sum(len(one.input_ids_T) for one in step)
    saved = [shared * (len(part) - 1) - price for part, shared in micro_batches(step, math.inf, share=True) if shared]
    assert all(worth > 0 for worth in saved)
    assert sum(saved) == pytest.approx(best_saving(sorted(step, key=lambda one: one.input_ids_T), price))


# ---- the loss ----


def reference(network, examples):
    """The mean loss of a padded batch, and its gradients, as transformers has them."""
    width = max(len(one.input_ids_T) for one in examples)
    ids, mask, labels = torch.zeros(3, len(examples), width, dtype=torch.long)
    labels -= 100
    for row, one in enumerate(examples):
        length, tokens = len(one.input_ids_T), torch.tensor(one.input_ids_T)
        ids[row, :length], mask[row, :length] = tokens, 1
        labels[row, :length] = tokens.where(torch.tensor(one.loss_mask_T), -100)
    network.zero_grad()
    loss = network(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    loss.backward()
    return loss.item(), gradients_of(network)


def gradients_of(network):
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.requires_grad}


def trained(network, examples, most_tokens=0, share=True):
    """The same as `train` computes them."""
    network.zero_grad()
    with mock.patch.object(module, "can_share", lambda network: share and can_share(network)):
        passes = _Passes(network, dataclasses.replace(CONFIG, micro_batch_tokens=most_tokens), Likelihood())
        return passes.backward(examples)["loss"], gradients_of(network)


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    for name, gradient in one[1].items():
        assert torch.allclose(gradient, other[1][name], rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


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
def test_a_batchs_loss_is_that_of_its_sequences_one_by_one(tiny, shape, attention):
    network = LanguageModel(tiny(shape), CPU).network
    step = like_few_shot()
    network.set_attn_implementation(attention)
    learned = sum(sum(one.loss_mask_T) for one in step)
    with torch.no_grad():
        loss = -sum(map(float, map(torch.sum, log_probabilities(network, step)))) / learned
    assert loss == pytest.approx(reference_loss(network, step), rel=1e-5)


@pytest.mark.parametrize("eager_tokens", [0, 1000])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_steps_loss_and_gradients_are_those_of_the_padded_batch(tiny, shape, share, eager_tokens, monkeypatch):
    monkeypatch.setattr(module, "EAGER_TOKENS", eager_tokens)
    network = LanguageModel(tiny(shape), CPU).network
    assert can_share(network)
    assert_same(trained(network, like_few_shot(), share=share), reference(network, like_few_shot()))


@pytest.mark.parametrize("most_tokens", [1, 200])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_in_parts_has_the_loss_and_gradients_of_the_whole_one(tiny, shape, most_tokens):
    network = LanguageModel(tiny(shape), CPU).network
    assert len(micro_batches(like_few_shot(), most_tokens, share=True)) > 3
    assert_same(trained(network, like_few_shot(), most_tokens), reference(network, like_few_shot()))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_neighbour_holds_does_not_reach_an_examples_loss_and_gradient(tiny, shape):
    network = LanguageModel(tiny(shape), CPU).network
    text = tuple(range(5, 105))
    example = prompted(text, range(30, 50))

    def beside(own):
        neighbour = TokenExample((*text, *own), (False,) * (len(text) + len(own)))
        assert micro_batches([example, neighbour], math.inf, share=True)[0][1] == 100
        return trained(network, [example, neighbour])

    alone = trained(network, [example])
    first, other, longer = beside((7,) * 20), beside((9,) * 20), beside((9,) * 40)
    assert first[0] == other[0]
    for name, gradient in first[1].items():
        assert torch.equal(gradient, other[1][name]), name
    assert_same(first, alone)
    assert_same(longer, alone)
    changed = prompted((6, *text[1:]), range(30, 50))  # what does belong to it, does
    assert trained(network, [changed])[0] != pytest.approx(alone[0], rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_stands_in_the_padding_does_not_reach_the_gradient(tiny, shape):
    model = LanguageModel(tiny(shape), CPU)
    short, long = (tokenize(model.tokenizer, EXAMPLES[place]) for place in (1, 0))
    assert len(short.input_ids_T) < len(long.input_ids_T)
    silent = TokenExample(long.input_ids_T, (False,) * len(long.input_ids_T))
    assert_same(trained(model.network, [short, silent]), trained(model.network, [short]))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_output_layer_reads_learned_positions_only_and_is_whole_again_afterwards(tiny, shape):
    network = LanguageModel(tiny(shape), CPU).network
    assert reads_padded(network)  # proved before, so that no proof is counted
    seen: list[int] = []
    hook = network.get_output_embeddings().register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    trained(network, like_few_shot(), share=False)
    hook.remove()
    assert seen == [sum(sum(one.loss_mask_T) for one in like_few_shot())]
    assert network(input_ids=torch.tensor([[5, 6, 7]])).logits.shape[:2] == (1, 3)


def test_a_beginning_is_read_once_however_many_share_it(tiny):
    network = LanguageModel(tiny(), CPU).network
    assert can_share(network)  # proved before, so that no proof is counted
    read: list[int] = []
    hook = network.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].numel()))
    text = tuple(range(5, 105))
    trained(network, [prompted(text, (n, *range(9))) for n in range(8)])
    hook.remove()
    assert read == [100, 8 * 10]


def test_a_model_with_windowed_attention_reads_every_prompt_in_full(tiny):
    network = LanguageModel(tiny(), CPU).network
    assert can_share(network)
    network.config.sliding_window = 64
    assert not can_share(network)


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
        tiny, tmp_path / "new", plan=planned.append, progress=lambda tokens, loss, rate: seen.append((tokens, loss))
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
    bfloat16 = dataclasses.replace(CPU, dtype="bfloat16")
    finetune(Training(tmp_path / "half", EXAMPLES, CONFIG, bfloat16, [1], {}), tmp_path / "new")
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


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_where_there_is_nothing_to_learn_the_weights_stay(tiny, tmp_path, objective):
    stats = tuned(tiny, tmp_path / "new", examples=[], config=dataclasses.replace(CONFIG, objective=objective))
    assert (stats.steps, stats.tokens, stats.skipped) == (0, 0, 0)
    new, before = weights(tmp_path / "new"), weights(tiny())
    assert all(torch.equal(new[name], before[name].float()) for name in new)


def test_long_sequences_use_the_models_own_attention_and_short_ones_the_plain_one(model, monkeypatch):
    used: list[tuple[int, str]] = []
    network = LanguageModel(model.path, CPU).network
    network.register_forward_pre_hook(
        lambda module, args, kwargs: used.append((kwargs["input_ids"].shape[1], module.config._attn_implementation)),
        with_kwargs=True,
    )
    monkeypatch.setattr("selfplay.training.finetune.EAGER_TOKENS", 20)
    steps = [[TokenExample((5,) * length, (True,) * length)] for length in (10, 30, 20, 21)]
    train(network, steps, 4, CONFIG)
    assert used == [(10, "eager"), (30, "sdpa"), (20, "eager"), (21, "sdpa")]
    assert network.config._attn_implementation == "sdpa"
    assert not network.training


def calls(monkeypatch):
    """How many examples went through the network at a time."""
    seen: list[int] = []
    usual = module.log_probabilities
    monkeypatch.setattr(
        module, "log_probabilities", lambda *arguments: seen.append(len(arguments[1])) or usual(*arguments)
    )
    return seen


def test_parts_of_a_step_make_no_steps_of_their_own(tiny, tmp_path, monkeypatch):
    whole = tuned(tiny, tmp_path / "whole")
    seen = calls(monkeypatch)
    parts = tuned(tiny, tmp_path / "parts", config=dataclasses.replace(CONFIG, micro_batch_tokens=100))
    assert len(seen) > 2 * parts.steps
    assert (parts.steps, parts.sequences, parts.tokens) == (whole.steps, whole.sequences, whole.tokens)
    assert parts.first_loss == pytest.approx(whole.first_loss, rel=1e-5)
    assert parts.last_loss == pytest.approx(whole.last_loss, rel=1e-2)


@pytest.mark.parametrize("shape", SHAPES)
def test_checkpointing_computes_twice_and_learns_the_same(tiny, tmp_path, shape, monkeypatch):
    monkeypatch.setattr(module, "can_share", lambda network: False)
    counts = []
    for name in ("usual", "again"):
        network = LanguageModel(tiny(shape), CPU).network
        assert reads_padded(network)  # proved before, so that no proof is counted
        seen: list[int] = []
        next(m for n, m in network.named_modules() if n.endswith(".0.mlp")).register_forward_pre_hook(
            lambda *_, seen=seen: seen.append(1)
        )
        torch.manual_seed(0)
        config = dataclasses.replace(CONFIG, checkpointing=name == "again", warmup_steps=0)
        stats = train(network, [like_few_shot()] * 2, 2, config)
        counts.append((stats.first_loss, stats.last_loss, len(seen)))
        assert not network.is_activation_checkpointing
    assert counts[1][:2] == pytest.approx(counts[0][:2], rel=1e-5)
    assert (counts[0][2], counts[1][2]) == (2, 4)


def forgetful(monkeypatch, most):
    """A machine on which parts of more examples run out of memory."""
    usual = module.log_probabilities

    def log_probabilities(network, part, shared):
        if len(part) > most:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return usual(network, part, shared)

    monkeypatch.setattr(module, "log_probabilities", log_probabilities)


def test_when_the_memory_runs_out_parts_are_halved_and_the_training_goes_on(tiny, tmp_path, monkeypatch, caplog):
    whole = tuned(tiny, tmp_path / "whole")
    forgetful(monkeypatch, 3)
    seen = calls(monkeypatch)
    less = tuned(tiny, tmp_path / "less")
    assert (less.steps, less.sequences, less.tokens) == (whole.steps, whole.sequences, whole.tokens)
    assert less.first_loss == pytest.approx(whole.first_loss, rel=1e-5)
    assert less.last_loss == pytest.approx(whole.last_loss, rel=1e-2)
    assert sum(count > 3 for count in seen) <= 3  # it remembers what fits
    assert "out of memory: from now on finetune.micro_batch_tokens = " in caplog.text


def test_when_not_even_one_example_fits_one_line_says_what_helps(tiny, tmp_path, monkeypatch):
    forgetful(monkeypatch, 0)
    with pytest.raises(InputError, match=r"out of memory with one example of \d+ tokens.*finetune\.checkpointing"):
        tuned(tiny, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_another_failure_is_not_taken_for_a_lack_of_memory(tiny, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(module, "log_probabilities", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        tuned(tiny, tmp_path / "new")


# ---- adapters ----

ADAPTERS = dataclasses.replace(CONFIG, lora_rank=2, lora_alpha=4.0, epochs=8)


@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_change_linear_layers_by_their_rank_and_nothing_else(tiny, tmp_path, shape):
    pytest.importorskip("peft")
    stats = tuned(tiny, tmp_path / "new", config=ADAPTERS, shape=shape)
    assert stats.last_loss < stats.first_loss
    before, after = weights(tiny(shape)), weights(tmp_path / "new")
    assert before.keys() == after.keys()
    ranks = {
        name: int(torch.linalg.matrix_rank(after[name] - before[name], atol=1e-4))
        for name in before
        if before[name].dim() == 2
    }
    assert set(ranks.values()) == {0, 2}
    assert all(torch.equal(before[name], after[name]) for name in before if ranks.get(name) != 2)
    assert not any(rank for name, rank in ranks.items() if "emb" in name or "wte" in name or "head" in name)


def test_a_checkpoint_trained_with_adapters_is_a_plain_folder_that_samples_load(tiny, tmp_path):
    pytest.importorskip("peft")
    tuned(tiny, tmp_path / "new", config=ADAPTERS)
    tuned(tiny, tmp_path / "plain")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == sorted(
        file.name for file in (tmp_path / "plain").iterdir()
    )
    ids = torch.tensor([[5, 6, 7, 8]])
    new, base = (LanguageModel(path, CPU).network for path in (tmp_path / "new", tiny()))
    assert not torch.allclose(new(input_ids=ids).logits, base(input_ids=ids).logits, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_gradients_are_those_of_the_padded_batch(tiny, shape):
    pytest.importorskip("peft")
    network = _with_adapters(LanguageModel(tiny(shape), CPU).network, ADAPTERS).eval()
    for weight in network.parameters():
        if weight.requires_grad:  # one factor starts as zeros, and the other would have no gradient
            weight.data.normal_(0, 0.1)
    expected = reference(network, like_few_shot())
    assert 0 < len(expected[1]) < len(list(network.parameters()))
    assert_same(trained(network, like_few_shot()), expected)
    assert_same(trained(network, like_few_shot(), 200, share=False), expected)


def test_adapters_learn_the_same_with_checkpointing(tiny, tmp_path):
    pytest.importorskip("peft")
    usual = tuned(tiny, tmp_path / "usual", config=ADAPTERS)
    again = tuned(tiny, tmp_path / "again", config=dataclasses.replace(ADAPTERS, checkpointing=True))
    assert (again.first_loss, again.last_loss) == pytest.approx((usual.first_loss, usual.last_loss), rel=1e-3)


def test_adapters_are_the_seeds(tiny, tmp_path):
    pytest.importorskip("peft")
    for name in ("one", "two"):
        torch.manual_seed(len(name) + ord(name[0]))
        tuned(tiny, tmp_path / name, config=ADAPTERS)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_adapters_without_their_package_are_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^finetune\.lora_rank: .*pip install '\.\[lora\]'$"):
        require_peft()


# ---- weights ----


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


def test_a_loss_that_is_no_number_stops_the_training_and_leaves_nothing(tiny, tmp_path, monkeypatch):
    def broken(*arguments):
        return [math.nan * own for own in log_probabilities(*arguments)]

    monkeypatch.setattr(module, "log_probabilities", broken)
    with pytest.raises(TrainingDiverged, match=r"step 0.*finetune\.learning_rate"):
        finetune(Training(tiny(), EXAMPLES, CONFIG, CPU, [1], {}), tmp_path / "out" / "new")
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
    def interrupt(tokens, loss, learning_rate):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(tiny, tmp_path / "new", progress=interrupt)
    assert not (tmp_path / "new").exists()
    tuned(tiny, tmp_path / "new")
    assert (tmp_path / "new" / "model.safetensors").is_file()
