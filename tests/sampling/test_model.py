import contextlib
import dataclasses
import functools
import gc
import json
import math
import os
import pickle
import random
import threading
import time
import weakref
from collections import Counter
from itertools import chain, pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT, SHAPES
from torch.utils.flop_counter import FlopCounterMode

from puzzles.puzzle import InputError
from selfplay.config import ModelConfig
from selfplay.sampling import decode, proofs
from selfplay.sampling import model as model_module
from selfplay.sampling.decode import LineTable
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import Prompt, encode_prompt
from selfplay.sampling.sampler import SamplingSettings

CPU = ModelConfig(device="cpu", threads=1)
FREE = SamplingSettings(temperature=1.0, top_p=1.0, max_tokens=24, batch_rows=8)
GREEDY = dataclasses.replace(FREE, temperature=0.0)


def prompt(body: str = "return x == 17") -> Prompt:
    return Prompt(f"def f(x: int):\n    {body}\n\ndef g():", chat=False, header="def g():")


PROMPTS = [
    prompt(), prompt("return x * x * x - 7 * x == 300 and x > 0"), prompt("return 1"), prompt("return str(x) == '14'"),
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tiny):
    models = {}

    def load(shape="llama"):
        if shape not in models:
            models[shape] = LanguageModel(tiny(shape), CPU)
        return models[shape]

    return load


def texts(model, prompts=PROMPTS, copies=3, settings=FREE, seed=(7,)):
    return [[c.text for c in row] for row in model.sample(prompts, copies, settings, list(seed)).completions_P_K]


# ---- folders ----


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_model_is_a_plain_folder_that_samples_by_default(loaded, tmp_path, shape):
    (tmp_path / "saved").mkdir()
    loaded(shape).save(tmp_path / "saved", {"protocol": "plain", "iteration": 3})
    generation = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    wanted = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "eos_token_id": [0]}
    assert wanted.items() <= generation.items()
    assert json.loads((tmp_path / "saved" / "selfplay.json").read_text()) == {"protocol": "plain", "iteration": 3}
    names = {path.name for path in (tmp_path / "saved").iterdir()} - {"chat_template.jinja"}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "selfplay.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_and_loaded_model_is_the_same_to_the_bit(loaded, tmp_path, shape):
    (tmp_path / "saved").mkdir()
    loaded(shape).save(tmp_path / "saved", {"protocol": "plain"})
    again = LanguageModel(tmp_path / "saved", CPU)
    assert again.checkpoint == loaded(shape).checkpoint
    assert again.notes == {"protocol": "plain"}
    weights, before = again.network.state_dict(), loaded(shape).network.state_dict()
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert texts(again) == texts(loaded(shape))


def test_a_folder_without_our_notes_has_empty_ones(tiny_copy):
    (tiny_copy / "selfplay.json").unlink()
    assert LanguageModel(tiny_copy, CPU).notes == {}


def test_the_checkpoint_hash_is_that_of_the_content_and_not_of_the_place(loaded, tiny_copy):
    (tiny_copy / "selfplay.json").write_text('{"protocol": "chat"}')
    os.utime(tiny_copy / "model.safetensors", (0, 0))
    assert LanguageModel(tiny_copy, CPU).checkpoint == loaded().checkpoint


def test_the_checkpoint_hash_changes_with_a_chat_template_wherever_it_stands(loaded, tiny_copy):
    file = tiny_copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": "{{ messages[0].content }}"}))
    changed = LanguageModel(tiny_copy, CPU)
    assert changed.checkpoint != loaded().checkpoint
    changed.save(tiny_copy, {})
    assert LanguageModel(tiny_copy, CPU).checkpoint == changed.checkpoint


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_the_checkpoint_hash_changes_with_weights_tokenizer_and_configuration(loaded, tiny_copy, file):
    if file == "model.safetensors":
        weights = load_file(tiny_copy / file)
        weights["model.norm.weight"][0] += 1e-3
        save_file(weights, tiny_copy / file, {"format": "pt"})
    else:
        content = json.loads((tiny_copy / file).read_text())
        (tiny_copy / file).write_text(json.dumps(content | {"rms_norm_eps": 0.1} if file == "config.json" else content))
    assert LanguageModel(tiny_copy, CPU).checkpoint != loaded().checkpoint


def test_the_description_tells_what_else_samples_depend_on(loaded):
    description = loaded().description
    assert {key: description[key] for key in ("device", "dtype", "threads")} == {
        "device": "cpu", "dtype": "float32", "threads": 1,
    }  # fmt: skip
    assert torch.__version__ == description["versions"]["torch"]


def test_a_model_is_loaded_in_the_dtype_that_is_asked_for(tiny):
    model = LanguageModel(tiny(), dataclasses.replace(CPU, dtype="bfloat16"))
    assert {weight.dtype for weight in model.network.parameters()} == {torch.bfloat16}
    assert len(texts(model)[0]) == 3


def test_a_usual_model_says_nothing_of_its_engine(loaded):
    assert not {"engine", "engine_reason"} & loaded().description.keys()


@pytest.fixture
def speeds(monkeypatch):
    """Sets the measured speed of bfloat16, in that of float32. Returns the measurements that were made."""
    model_module.is_fast_in_bfloat16.cache_clear()
    measured = []

    def set_to(speed):
        def seconds(device, dtype, size, times):
            measured.append((size, dtype))
            return 1.0 / speed if dtype == torch.bfloat16 else 1.0

        monkeypatch.setattr(model_module, "_product_seconds", seconds)
        return measured

    yield set_to
    model_module.is_fast_in_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("speed", "dtype", "sizes"),
    [(2.7, "bfloat16", [256, 1024]), (1.2, "float32", [256, 1024]), (0.01, "float32", [256])],
)
def test_auto_takes_bfloat16_for_a_large_model_where_the_processor_is_measured_to_be_fast(
    tiny, speeds, monkeypatch, speed, dtype, sizes
):
    measured = speeds(speed)
    monkeypatch.setattr(model_module, "LARGE_BYTES", 1000)
    assert [LanguageModel(tiny(), CPU).description["dtype"] for _ in range(2)] == [dtype] * 2
    once = [(size, dtype) for size in sizes for dtype in (torch.float32, torch.bfloat16)]
    assert measured == once, "it is measured once, and with a large product only where a small one is not slow"
    assert LanguageModel(tiny(), dataclasses.replace(CPU, dtype="float16")).description["dtype"] == "float16"


def test_auto_leaves_small_models_such_as_the_embedded_one_in_float32(tiny, speeds):
    measured = speeds(9.0)
    for path in (tiny(), "embedded"):
        assert LanguageModel(path, CPU).description["dtype"] == "float32"
    assert not measured


# ---- what cannot be loaded ----


def error_of(path) -> str:
    with pytest.raises(InputError) as caught:
        LanguageModel(path, CPU)
    assert str(caught.value).startswith(f"{path}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_folder_is_an_error_that_says_what_was_expected(tmp_path):
    assert "expected `embedded`, `smollm2`, a model folder, a GGUF file or a hub name" in error_of(tmp_path / "nowhere")
    assert "expected `embedded`, `smollm2`, a model folder, a GGUF file or a hub name" in error_of("nowhere")


def test_a_folder_that_is_no_model_is_an_error_that_says_what_is_missing(tmp_path):
    assert "there is no config.json" in error_of(tmp_path)


def test_a_hub_name_without_a_network_is_one_line(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "cannot be loaded" in error_of("nobody-at-all/no-such-model")


class Trap:
    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_pickled_weights_are_refused_unopened(tiny_copy):
    (tiny_copy / "model.safetensors").unlink()
    (tiny_copy / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    assert "safetensors" in error_of(tiny_copy)
    assert not Trap.sprung


@pytest.mark.parametrize("content", [b"", b"x" * 2000, None], ids=["empty", "garbage", "cut off"])
def test_spoiled_weights_are_an_input_error(tiny_copy, content):
    file = tiny_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    assert "cannot be loaded" in error_of(tiny_copy)


def test_missing_weights_are_not_drawn_at_random(tiny_copy):
    weights = load_file(tiny_copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tiny_copy / "model.safetensors", {"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight is missing" in error_of(tiny_copy)


def change_json(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_weights_of_another_shape_are_an_input_error(tiny_copy):
    change_json(tiny_copy / "config.json", vocab_size=300)
    assert "cannot be loaded" in error_of(tiny_copy)


def test_a_model_of_another_kind_is_an_input_error(tiny_copy):
    change_json(tiny_copy / "config.json", model_type="nothing known")
    assert "cannot be loaded" in error_of(tiny_copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_spoiled_description_is_an_input_error(tiny_copy, name):
    (tiny_copy / name).write_text("not JSON")
    assert error_of(tiny_copy).startswith(f"{tiny_copy / name}: expected JSON, ")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_and_the_tensor_named(tiny_copy, number):
    weights = load_file(tiny_copy / "model.safetensors")
    name = next(name for name in weights if "layers.1" in name)
    weights[name].view(-1)[-1] = number
    save_file(weights, tiny_copy / "model.safetensors", {"format": "pt"})
    assert error_of(tiny_copy).endswith(f": expected numbers as weights, got NaN or infinity in {name}")


def test_code_that_comes_with_a_model_is_never_run_and_nobody_is_asked(tiny_copy, monkeypatch):
    own = {"AutoConfig": "own.A", "AutoModelForCausalLM": "own.B"}
    change_json(tiny_copy / "config.json", model_type="own", auto_map=own)
    (tiny_copy / "own.py").write_text(f"open({str(tiny_copy / 'executed')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on the terminal"))
    assert "a model's code is never run here" in error_of(tiny_copy)
    assert not (tiny_copy / "executed").exists()


def test_a_tokenizer_that_makes_no_tokens_is_an_input_error(tiny_copy):
    tokenizer = json.loads((tiny_copy / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {}, "merges": []}
    (tiny_copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "makes no tokens of a text" in error_of(tiny_copy)


@pytest.mark.parametrize("end", [{}, -1, 330, 2**70, "x", [None], [2**70]])
def test_an_end_that_is_no_token_is_an_input_error(tiny_copy, end):
    change_json(tiny_copy / "generation_config.json", eos_token_id=end)
    error_of(tiny_copy)


def test_a_context_that_is_no_number_is_an_input_error(tiny_copy):
    change_json(tiny_copy / "config.json", max_position_embeddings=0)
    error_of(tiny_copy)


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ('{"training": 3}', "expected an object under 'training', got 3"),
        ('{"training": {"seconds": NaN}}', "expected a number under 'training.seconds', got nan"),
        ('{"protocol": "sonnet"}', "expected plain or few-shot or chat under 'protocol', got 'sonnet'"),
        ('{"shots": [["f"]]}', "expected 2 in the list under 'shots[0]', got 1"),
        ("[" * 100_000, "expected JSON, "),
    ],
)
def test_notes_of_another_shape_are_an_input_error(tiny_copy, notes, words):
    (tiny_copy / "selfplay.json").write_text(notes)
    assert f"selfplay.json: {words}" in error_of(tiny_copy)


def test_a_tokenizer_without_an_end_is_an_input_error(tiny_copy):
    change_json(tiny_copy / "tokenizer_config.json", eos_token=None)
    assert "no end-of-text token" in error_of(tiny_copy)


def test_a_device_that_is_not_here_is_an_input_error(tiny):
    with pytest.raises(InputError, match=r"model\.device"):
        LanguageModel(tiny(), ModelConfig(device="nowhere"))


# ---- sampling ----


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_seed_gives_the_same_texts_and_another_seed_others(loaded, shape):
    first = texts(loaded(shape))
    assert texts(loaded(shape)) == first
    assert texts(loaded(shape), seed=(8,)) != first
    assert texts(loaded(shape), seed=(7, 1)) != first


def test_what_was_sampled_before_does_not_matter(loaded, tiny):
    fresh = texts(LanguageModel(tiny(), CPU))
    torch.manual_seed(1)
    texts(loaded(), seed=(99,))
    assert texts(loaded()) == fresh


def test_completions_come_in_the_prompts_order_with_all_their_copies(loaded):
    rows = loaded().sample(PROMPTS, 5, FREE, [1]).completions_P_K
    assert [len(row) for row in rows] == [5] * len(PROMPTS)
    assert len({c.text for row in rows for c in row}) > 15


@pytest.mark.parametrize("batch_rows", [1, 3, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_greedy_completion_is_the_same_alone_and_beside_others(loaded, shape, batch_rows):
    together = texts(loaded(shape), copies=2, settings=dataclasses.replace(GREEDY, batch_rows=batch_rows))
    alone = dataclasses.replace(GREEDY, batch_rows=1)
    for one, row in zip(PROMPTS, together, strict=True):
        assert row == texts(loaded(shape), [one], 1, alone)[0] * 2


@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_read_in_parts_are_continued_as_if_read_at_once(loaded, shape, monkeypatch):
    at_once = texts(loaded(shape), settings=GREEDY)
    monkeypatch.setattr("selfplay.sampling.decode.READ_TOKENS", 1)
    assert texts(loaded(shape), settings=GREEDY) == at_once


def test_a_greedy_completion_is_the_argmax_at_each_step(loaded):
    model = loaded()
    model.network.eval()
    ids = encode_prompt(model.tokenizer, PROMPTS[0])
    expected: list[int] = []
    with torch.inference_mode():
        for _ in range(6):
            expected.append(int(model.network(torch.tensor([ids + expected])).logits[0, -1].argmax()))
    (row,) = model.sample(PROMPTS[:1], 1, dataclasses.replace(GREEDY, max_tokens=6), [0]).completions_P_K
    assert row[0].text == model.tokenizer.decode(expected)


@pytest.mark.parametrize(
    ("prompts", "copies", "side_by_side", "threads", "sizes"),
    [
        (20, 100, 512, 2, [300, 300, 200, 200, 300, 300, 200, 200]),  # five prompts fit beside each other
        (4, 100, 512, 2, [100] * 4),  # both threads have two
        (3, 100, 64, 1, [25] * 12),
        (2, 7, 4, 1, [2, 2, 2, 1] * 2),
        (1, 512, 256, 2, [128] * 4),
        (5, 1, 1, 1, [1] * 5),
        (0, 3, 8, 1, []),
    ],
)
def test_waves_are_of_whole_prompts_or_like_parts_of_one(prompts, copies, side_by_side, threads, sizes):
    waves = decode._cut(prompts, copies, side_by_side, threads)
    assert [len(rows) for rows in waves] == sizes
    assert [row for rows in waves for row in rows] == list(range(prompts * copies))
    for mine in (waves[number::threads] for number in range(threads)):
        assert all(len(one) + len(next_one) <= side_by_side or len(one) == 1 for one, next_one in pairwise(mine))


def test_no_prompts_have_no_completions(loaded):
    assert loaded().sample([], 3, FREE, [1]).completions_P_K == []


def test_progress_tells_the_completions_of_each_batch(loaded):
    told: list[int] = []
    loaded().sample(PROMPTS, 3, FREE, [1], told.append)
    assert [ended for ended in told if ended] == [6, 6]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_completion_tells_its_length_and_whether_it_ended_by_itself(loaded, shape):
    rows = (
        loaded(shape).sample(PROMPTS, 30, dataclasses.replace(FREE, max_tokens=40, batch_rows=64), [2]).completions_P_K
    )
    completions = [c for row in rows for c in row]
    assert {c.finished for c in completions} == {True, False}
    assert all(1 <= c.tokens <= 40 for c in completions)
    assert all(c.tokens == 40 for c in completions if not c.finished)
    special = loaded(shape).tokenizer.all_special_tokens
    assert not any(token in c.text for c in completions for token in special)


def frequencies(model, settings, draws=4096):
    """How often each text came as the first token, and how likely the network makes it."""
    one = PROMPTS[0]
    drawn = model.sample(
        [one], draws, dataclasses.replace(settings, max_tokens=1, batch_rows=512), [3]
    ).completions_P_K[0]
    probabilities = torch.softmax(next_logits(model, one).double() / settings.temperature, 0).numpy()
    order = np.argsort(-probabilities)
    nucleus = order[: int(np.searchsorted(np.cumsum(probabilities[order]), settings.top_p)) + 1]
    by_text: dict[str, float] = {}  # several tokens may show the same text, such as parts of characters
    for token in nucleus:
        text = model.tokenizer.decode([token], skip_special_tokens=True)
        by_text[text] = by_text.get(text, 0) + float(probabilities[token] / probabilities[nucleus].sum())
    counts = dict.fromkeys(by_text, 0)
    for completion in drawn:
        counts[completion.text] += 1  # only what may come has a place here
    return np.array(list(counts.values())), np.array(list(by_text.values()))


def next_logits(model, one):
    with torch.inference_mode():
        return model.network(torch.tensor([encode_prompt(model.tokenizer, one)])).logits[0, -1]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.9), (1.0, 0.5), (1.5, 0.2)])
@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_tokens_come_as_often_as_the_network_says(loaded, shape, temperature, top_p):
    counts, probabilities = frequencies(loaded(shape), SamplingSettings(temperature, top_p, 1, 1))
    expected = probabilities * counts.sum()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum() + 1e-9)
    degrees = len(wanted) - 1
    assert degrees >= 2
    # Mean `degrees` and variance twice that, if they agree; so far off is chance once in a million runs.
    assert ((observed - wanted) ** 2 / wanted).sum() < degrees + 7 * (2 * degrees) ** 0.5


def test_settings_that_came_with_a_model_do_not_change_what_is_drawn(loaded, tiny_copy):
    own = {"repetition_penalty": 9.0, "min_p": 0.4, "top_k": 2, "no_repeat_ngram_size": 1, "max_length": 30}
    change_json(tiny_copy / "generation_config.json", **own)
    changed = LanguageModel(tiny_copy, CPU)
    assert texts(changed) == texts(loaded())
    assert texts(changed, settings=GREEDY) == texts(loaded(), settings=GREEDY)


def test_an_end_that_came_with_a_model_ends_a_completion(loaded, tiny_copy):
    first = int(next_logits(loaded(), PROMPTS[0]).argmax())
    change_json(tiny_copy / "generation_config.json", eos_token_id=[0, first])
    (row,) = LanguageModel(tiny_copy, CPU).sample(PROMPTS[:1], 2, GREEDY, [0]).completions_P_K
    assert [(c.text, c.tokens, c.finished) for c in row] == [("", 1, True)] * 2


# ---- context ----


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_fits_when_it_and_its_completion_are_within_the_context(loaded, shape):
    length = len(encode_prompt(loaded(shape).tokenizer, PROMPTS[0]))
    assert loaded(shape).context_tokens == CONTEXT
    assert loaded(shape).fits(PROMPTS[0], CONTEXT - length)
    assert not loaded(shape).fits(PROMPTS[0], CONTEXT - length + 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_texts_tokens_are_counted_without_an_end(loaded, shape):
    model = loaded(shape)
    assert model.tokens_of("") == 0
    text = "\n    return x == 17\n"
    assert model.tokens_of(text) == len(model.tokenizer.encode(text, add_special_tokens=False))
    assert model.tokenizer.decode(model.tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_that_just_fits_is_sampled_to_its_last_token(loaded, shape):
    long = prompt("return x == " + "7" * 300)
    room = CONTEXT - len(encode_prompt(loaded(shape).tokenizer, long))
    assert room > 20
    settings = dataclasses.replace(FREE, max_tokens=room)
    (row,) = loaded(shape).sample([long], 8, settings, [4]).completions_P_K
    assert len(row) == 8


# ---- what all prompts begin with ----

SHOTS = "".join(
    f"def f(x: int):\n    return x * {number} == {number * 30 + 30}\n\ndef g():\n    return {number + 30}\n\n\n"
    for number in range(2, 5)
)
SHOWN = [dataclasses.replace(one, text=SHOTS + one.text) for one in PROMPTS]
CHATS = [Prompt("Solve this puzzle by a function g.\n" * 3 + one.text, chat=True, header="") for one in PROMPTS]


def tokens_of(model, prompts):
    return [encode_prompt(model.tokenizer, one) for one in prompts]


def begun(model, prompts):
    """Length of what the prompts begin with, counted plainly."""
    ids = tokens_of(model, prompts)
    most = min(map(len, ids)) - 1
    return next((place for place in range(most) if len({row[place] for row in ids}) > 1), most)


@pytest.mark.parametrize("prompts", [SHOWN, CHATS], ids=["few-shot", "chat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_texts_behind_a_beginning_that_is_read_once_are_those_of_the_librarys_own_loop(
    loaded, shape, prompts, monkeypatch
):
    model = loaded("qwen2" if prompts is CHATS else shape)
    settings = dataclasses.replace(GREEDY, batch_rows=6)
    ours, read = model.sample(prompts, 2, settings, [7]), []
    plain = decode._read
    monkeypatch.setattr(decode, "_read", lambda *given: read.append(given) or plain(*given))
    assert model.sample(prompts, 2, settings, [7]) == ours
    shared = begun(model, prompts)
    assert {beginning.tokens for _, _, beginning in read} == {shared}
    assert shared > decode.FEWEST_BEGUN
    assert ours.prompt_tokens == shared + sum(len(ids) - shared for ids in tokens_of(model, prompts))
    monkeypatch.setattr(model, "_agrees", False)
    library = model.sample(prompts, 2, settings, [7])
    assert library.completions_P_K == ours.completions_P_K
    assert library.prompt_tokens == 2 * sum(map(len, tokens_of(model, prompts)))


@pytest.mark.parametrize("shape", SHAPES)
def test_texts_behind_a_beginning_do_not_depend_on_how_it_is_read(loaded, threaded, shape, monkeypatch):
    model, settings = loaded(shape), dataclasses.replace(FREE, batch_rows=8)
    expected, two = texts(model, SHOWN, 5, settings), threaded(shape)
    assert texts(two, SHOWN, 5, settings) == expected
    # Both threads read each prompt, because its copies do not fit one wave; but not what all begin with.
    shared = begun(model, SHOWN)
    own = sum(len(ids) - shared for ids in tokens_of(model, SHOWN))
    assert two.sample(SHOWN, 5, settings, [7]).prompt_tokens == shared + 2 * own
    monkeypatch.setattr(decode, "READ_PAIRS", 1)
    assert texts(model, SHOWN, 5, settings) == expected
    monkeypatch.setattr(decode, "FEWEST_BEGUN", 10**6)
    assert texts(model, SHOWN, 5, settings) == expected
    assert model.sample(SHOWN, 5, settings, [7]).prompt_tokens == sum(map(len, tokens_of(model, SHOWN)))


def test_a_beginning_is_held_once_however_many_prompts_and_rows_go_on_from_it(loaded):
    model, held = loaded(), set()
    texts(model, SHOWN[:1], 1)  # the model's self-check reads a beginning of its own

    def before(network, waves):
        for wave in waves:
            held.update(keys.data_ptr() for keys, _ in wave._beginning.layers)
            assert all(keys.shape[0] == 1 for keys, _ in wave._beginning.layers)
            assert all(keys.shape[2] < 60 for keys, _ in wave._prompts)

    with steps(before):
        texts(model, SHOWN * 5, 3)
    assert len(held) == len(model.network.model.layers)


@pytest.mark.parametrize(
    ("prompts", "tokens"),
    [
        ([], 0),
        ([[1] * 100], 0),  # alone it is read once in any case
        ([[1] * 100, [1] * 100], 99),  # each keeps a token of its own
        ([[1] * 100, [1] * 70, [1] * 90 + [2]], 69),
        ([[1] * 80 + [2] * 9, [1] * 80 + [3] * 5, [1] * 80 + [2, 4]], 80),
        ([[1] * 64 + [2], [1] * 64 + [3]], 64),
        ([[1] * 63 + [2], [1] * 63 + [3]], 0),  # too short to be worth it
        ([[2], [1] * 100], 0),
    ],
)
def test_the_beginning_that_is_read_once_is_the_longest_of_all_prompts(prompts, tokens):
    assert decode.FEWEST_BEGUN == 64
    assert decode.begun_tokens(prompts) == tokens


def test_prompts_without_a_long_beginning_are_sampled_as_ever_to_the_bit(loaded, monkeypatch):
    model, logits = loaded(), []
    step = decode._next_logits
    monkeypatch.setattr(decode, "_next_logits", lambda *given: logits.append(step(*given)) or logits[-1])
    texts(model)
    usual = list(logits)
    logits.clear()
    monkeypatch.setattr(decode, "begun_tokens", lambda prompts_U: 0)
    texts(model)
    assert len(usual) == len(logits) > 20
    assert all(torch.equal(one, other) for one, other in zip(usual, logits, strict=True))


def test_shots_that_all_prompts_share_leave_room_for_more_rows(loaded, monkeypatch):
    model = loaded()
    monkeypatch.setattr(model_module, "free_bytes", lambda device: 2_000_000)
    settings = dataclasses.replace(FREE, max_tokens=4, batch_rows=64)
    shared = model.sample(SHOWN * 10, 1, settings, [1])
    monkeypatch.setattr(decode, "begun_tokens", lambda prompts_U: 0)
    assert 1 < model.sample(SHOWN * 10, 1, settings, [1]).batch_rows < shared.batch_rows


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """A tiny Gemma 3: each second layer looks back a limited number of tokens."""
    from tiny_models import make_tokenizer
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    def load(window):
        tokenizer = make_tokenizer("gpt_neox")
        config = Gemma3TextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, sliding_window=window, max_position_embeddings=CONTEXT,
            layer_types=["sliding_attention", "full_attention"] * 2, query_pre_attn_scalar=8, initializer_range=0.5,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("gemma") / "model"
        folder.mkdir()
        model_module.save(Gemma3ForCausalLM(config), tokenizer, folder, {"protocol": "plain"})
        return LanguageModel(folder, CPU)

    return load


@pytest.mark.parametrize("prompts", [PROMPTS, SHOWN], ids=["plain", "few-shot"])
def test_a_model_with_a_window_shares_prompts_in_texts_that_are_shorter_than_it(gemma, prompts, monkeypatch):
    model = gemma(300)
    longest = max(map(len, tokens_of(model, prompts)))
    assert longest + GREEDY.max_tokens < 300
    ours = model.sample(prompts, 2, GREEDY, [1])
    assert ours.prompt_tokens < 2 * sum(map(len, tokens_of(model, prompts)))
    monkeypatch.setattr(model, "_agrees", False)
    assert model.sample(prompts, 2, GREEDY, [1]).completions_P_K == ours.completions_P_K


def test_a_model_with_a_window_is_sampled_by_generate_in_longer_texts_and_says_so(gemma, caplog):
    proofs.say_once.cache_clear()
    model = gemma(100)
    prompts = tokens_of(model, SHOWN)
    assert max(map(len, prompts)) + GREEDY.max_tokens >= 100
    assert model.sample(SHOWN, 2, GREEDY, [1]).prompt_tokens == 2 * sum(map(len, prompts))
    model.sample(SHOWN, 2, GREEDY, [1])
    reason = "in a longer text its layers look back less far, or its positions change"
    assert caplog.messages == [
        "this kind of model (gemma3_text) is sampled by `generate` where a text may have more than 99 tokens: " + reason
    ]
    told = {key: model.description[key] for key in ("engine", "engine_reason")}
    assert told == {"engine": "generate beyond 99 tokens", "engine_reason": reason}


# ---- the stop at the end of a function ----


def trimmed(text: str) -> str:
    """What a parser takes of a completion: its first line, and those after it until one is not indented."""
    first, *rest = text.split("\n")
    kept = [first]
    for line in rest:
        if line.strip() and not line[0].isspace():
            break
        kept.append(line)
    return "\n".join(kept).rstrip()


@pytest.mark.parametrize("shape", SHAPES)
def test_stopping_behind_a_function_is_trimming_what_would_have_come(loaded, shape, monkeypatch):
    model = loaded(shape)
    settings = dataclasses.replace(FREE, max_tokens=60, batch_rows=64)
    # A line break now and then: the random models rarely write one.
    breaks = [token for token in range(len(model.tokenizer)) if "\n" in model.tokenizer.decode([token])]
    more_breaks = model.network.get_output_embeddings().register_forward_hook(
        lambda module, arguments, logits: logits.index_add(
            -1, torch.tensor(breaks), torch.full((*logits.shape[:-1], len(breaks)), 4.0)
        )
    )
    try:
        stopped = model.sample(PROMPTS, 32, settings, [5]).completions_P_K
        monkeypatch.setattr(model, "_lines", lambda: None)
        whole = model.sample(PROMPTS, 32, settings, [5]).completions_P_K
    finally:
        more_breaks.remove()
    for with_stop, without in zip(chain(*stopped), chain(*whole), strict=True):
        assert trimmed(with_stop.text) == trimmed(without.text)
        assert with_stop.tokens <= without.tokens
    saved = sum(c.tokens for row in whole for c in row) - sum(c.tokens for row in stopped for c in row)
    assert saved > 1000
    assert any("\n" in trimmed(c.text) for row in stopped for c in row)


class Spoken:
    """A tokenizer of whole texts, to tell what a table says of each."""

    def __init__(self, *pieces: str, special: tuple[str, ...] = ()):
        self.pieces, self.special = ("x", *pieces), special

    def __len__(self):
        return len(self.pieces)

    def encode(self, text, add_special_tokens):
        return [self.pieces.index(text)]

    def decode(self, ids, skip_special_tokens=False, **_):
        return "".join(self.pieces[i] for i in ids if not (skip_special_tokens and self.pieces[i] in self.special))

    def batch_decode(self, rows, **options):
        return [self.decode(row, **options) for row in rows]


PIECES = (
    "\n", "    ", "\n    ", "return", " return", "\n\n", "\ndef", "a\n", "\n \nb", "<end>",
    "\ufffd", "\n\ufffd", "\n\t#",
)  # fmt: skip


@pytest.mark.parametrize(
    ("pieces", "stopped_at"),
    [
        (["\n", "return"], 2),
        (["\n    ", "return"], None),
        (["\n", "    ", "return"], None),
        (["\n", " return"], None),
        (["\n", "\n", "return"], 3),
        (["\n\n", "return"], 2),
        (["\ndef"], 1),
        (["return", "return"], None),
        (["\n    ", "a\n", "return"], 3),
        (["\n \nb"], 1),
        (["\n\t#"], None),
        (["\n", "<end>", "    ", "return"], None),  # a special token leaves no text behind
        (["\n", "<end>", "return"], 3),
        (["\n", "\ufffd", "return"], None),  # part of a character that may be a space: rather too late than too early
        (["\n\ufffd", "return"], None),
        (["\n", "beyond"], None),
    ],
)  # fmt: skip
def test_a_row_stops_where_a_line_begins_that_is_not_indented(pieces, stopped_at):
    tokenizer = Spoken(*PIECES, special=("<end>",))
    table = LineTable(tokenizer, len(tokenizer) + 1, torch.device("cpu"))
    stop = model_module._LineStop(table)
    ids = [tokenizer.pieces.index(piece) if piece != "beyond" else len(tokenizer) for piece in pieces]
    stops = [bool(stop(torch.tensor([[0, *ids[: n + 1]]]), torch.zeros(1))[0]) for n in range(len(ids))]
    assert (stops.index(True) + 1 if True in stops else None) == stopped_at
    assert table.first(ids) == (None if stopped_at is None else stopped_at - 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_texts_are_those_of_the_librarys_own_loop(loaded, shape, monkeypatch):
    model = loaded(shape)
    settings = dataclasses.replace(GREEDY, max_tokens=24, batch_rows=64)
    ours = model.sample(PROMPTS, 2, settings, [7]).completions_P_K
    monkeypatch.setattr(model, "_agrees", False)
    assert model.sample(PROMPTS, 2, settings, [7]).completions_P_K == ours


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("agrees", [True, False])
def test_a_text_tells_the_tokens_that_were_drawn_and_what_ended_it(loaded, shape, agrees, monkeypatch):
    model, settings = loaded(shape), dataclasses.replace(FREE, max_tokens=20, batch_rows=64)
    monkeypatch.setattr(model, "_agrees", agrees)
    ends, table = set(model._end_ids()), model._lines()
    found = Counter()
    for one in (one for row in model.sample(PROMPTS, 100, settings, [8]).completions_P_K for one in row):
        ids, line = one.drawn.ids, table.first(one.drawn.ids)
        ended = "token" if ids[-1] in ends else "cut" if line is None else "line"
        assert (one.drawn.ended, one.tokens) == (ended, len(ids))
        assert not ends & {*ids[:-1]}
        assert line in (None, len(ids) - 1)
        assert ended != "cut" or len(ids) == 20
        found[ended] += 1
    assert {"token", "cut"} <= found.keys()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_token_frequencies_are_those_of_the_librarys_own_loop(loaded, monkeypatch, temperature, top_p):
    model = loaded("llama")
    settings = SamplingSettings(temperature, top_p, 2, 2000)
    ours = Counter(c.text for row in model.sample(PROMPTS[:1], 4000, settings, [1]).completions_P_K for c in row)
    monkeypatch.setattr(model, "_agrees", False)
    library = Counter(c.text for row in model.sample(PROMPTS[:1], 4000, settings, [2]).completions_P_K for c in row)
    # Two samples of one distribution: each frequent text differs by a few standard deviations at most.
    for text in [text for text, count in (ours + library).items() if count >= 40]:
        assert abs(ours[text] - library[text]) < 5 * math.sqrt(ours[text] + library[text])


def test_a_rows_text_does_not_depend_on_when_others_end(loaded, monkeypatch):
    model = loaded("llama")
    settings = dataclasses.replace(FREE, max_tokens=40, batch_rows=64)
    often = texts(model, PROMPTS, 16, settings)
    monkeypatch.setattr(decode, "RETIRED_SHARE", 1)
    assert texts(model, PROMPTS, 16, settings) == often


@pytest.mark.parametrize(("agrees", "padding"), [(True, None), (False, (True, True)), (False, (False, False))])
def test_a_text_is_drawn_by_its_number_whatever_is_sampled_beside_it(loaded, monkeypatch, agrees, padding):
    model, settings = loaded("llama"), dataclasses.replace(FREE, batch_rows=4)
    monkeypatch.setattr(model, "_agrees", agrees)
    monkeypatch.setattr(model, "_padding", padding)

    def sampled(prompts, copies, numbers=None):
        rows = model.sample(prompts, copies, settings, [5, 6], numbers=numbers).completions_P_K
        return [completion.drawn.ids for row in rows for completion in row]

    together = sampled(PROMPTS, 3, [3 * place for place in range(len(PROMPTS))])
    assert len({*together}) > len(together) // 2
    assert [sampled([prompt], 3, [3 * place]) for place, prompt in enumerate(PROMPTS)] == [
        together[start : start + 3] for start in range(0, len(together), 3)
    ]
    assert sampled(PROMPTS[1:], 2, [3 * place + 1 for place in range(1, len(PROMPTS))]) == [
        together[3 * place + k] for place in range(1, len(PROMPTS)) for k in (1, 2)
    ]
    assert sampled(PROMPTS[:1], 3, [100]) != together[:3]


def test_a_chat_reply_is_not_stopped_at_a_line(loaded):
    model = loaded("qwen2")
    chat = Prompt("Write a function.", chat=True, header="")
    rows = model.sample([chat], 64, dataclasses.replace(FREE, max_tokens=80, batch_rows=64), [6]).completions_P_K
    assert any("\n" in c.text and trimmed(c.text) != c.text.rstrip() for c in rows[0])


def test_chat_and_plain_prompts_sampled_together_keep_their_places(loaded):
    chat = Prompt("Hi", chat=True, header="")
    one_row = dataclasses.replace(GREEDY, batch_rows=1)
    alone = [texts(loaded("qwen2"), [one], 1, one_row)[0] for one in (chat, PROMPTS[0])]
    assert texts(loaded("qwen2"), [chat, PROMPTS[0]], 1, one_row) == alone


# ---- threads ----

TWO = ModelConfig(device="cpu", threads=2)


@pytest.fixture
def threaded(tiny, monkeypatch):
    """Loads models whose two threads share even a small batch."""
    before = torch.get_num_threads()
    monkeypatch.setattr(model_module, "ROWS_PER_THREAD", 1)

    def load(shape="llama"):
        model = LanguageModel(tiny(shape), TWO)
        torch.set_num_threads(1)
        assert model._shares_prompts()  # tried now, and not while a test watches the steps
        torch.set_num_threads(2)
        return model

    yield load
    torch.set_num_threads(before)


@contextlib.contextmanager
def steps(before):
    """`before(network, waves)` is called before each step of sampling, by its thread."""
    step = decode._next_logits

    def watched(network, token_B, waves):
        before(network, waves)
        return step(network, token_B, waves)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "_next_logits", watched)
        yield


def endless(model, monkeypatch):
    """Let no text end before it has all its tokens, but perhaps at its first."""
    step, ends = decode._next_logits, model._end_ids()

    def unending(network, token_B, waves):
        logits_BV = step(network, token_B, waves)
        logits_BV[:, ends] = -math.inf
        return logits_BV

    monkeypatch.setattr(decode, "_next_logits", unending)
    monkeypatch.setattr(model, "_lines", lambda: None)


@pytest.mark.parametrize("batch_rows", [2, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_texts_are_the_same_with_one_thread_and_with_two(loaded, threaded, shape, batch_rows):
    settings, sampled_by = dataclasses.replace(GREEDY, batch_rows=batch_rows), set()
    expected = texts(loaded(shape), settings=settings)
    model = threaded(shape)
    with steps(lambda network, waves: sampled_by.add(threading.current_thread())):
        assert texts(model, settings=settings) == expected
    assert len(sampled_by - {threading.main_thread()}) == len(sampled_by) == 2


@pytest.mark.slow
def test_texts_do_not_depend_on_which_thread_is_faster(threaded, monkeypatch):
    model, delays, decode_waves, dealt = threaded(), random.Random(3), decode._decode_waves, set()

    def told(network, asked, plans, *more):
        dealt.update((network is model.network, rows) for rows in plans)
        return decode_waves(network, asked, plans, *more)

    monkeypatch.setattr(decode, "_decode_waves", told)
    expected, expected_dealt = texts(model, copies=6), set(dealt)
    assert len(dealt) == 12
    assert expected != texts(model, copies=6, seed=(8,))
    slow = {
        "one": lambda network: 0.002 * (network is model.network),
        "the other": lambda network: 0.002 * (network is not model.network),
        "now this and now that": lambda network: delays.choice([0, 0, 0, 0.004]),
    }
    for which, delay in slow.items():
        dealt.clear()
        with steps(lambda network, waves, delay=delay: time.sleep(delay(network))):
            assert texts(model, copies=6) == expected, which
        # The same rows beside the same others: rounding would seldom show it in a text.
        assert dealt == expected_dealt, which


def test_rows_are_shared_out_to_the_threads_and_a_thread_with_few_has_none_beside_it(threaded, monkeypatch):
    monkeypatch.setattr(model_module, "ROWS_PER_THREAD", 4)
    model, seen = threaded(), []
    for batch_rows, copies, threads, most in ((8, 3, 2, 4), (11, 3, 2, 4), (7, 3, 1, 7), (8, 1, 1, 4)):
        seen.clear()
        with steps(lambda network, waves: seen.append((id(network), sum(wave.rows for wave in waves)))):
            texts(model, copies=copies, settings=dataclasses.replace(FREE, batch_rows=batch_rows))
        assert len({network for network, _ in seen}) == threads, batch_rows
        assert max(rows for _, rows in seen) <= most, batch_rows


@pytest.mark.parametrize("shape", SHAPES)
def test_twins_have_the_same_weights_in_memory_and_nothing_else_in_common(loaded, shape):
    network = loaded(shape).network
    first, *others = decode.twins(network, 3)
    assert first is network
    assert len(others) == 2
    for other in others:
        assert not {id(module) for module in network.modules()} & {id(module) for module in other.modules()}
        assert other.config is not network.config
        for tensors in ("named_parameters", "named_buffers"):
            theirs = {name: tensor.data_ptr() for name, tensor in getattr(other, tensors)()}
            assert theirs == {name: tensor.data_ptr() for name, tensor in getattr(network, tensors)()}
    assert not {id(module) for module in others[0].modules()} & {id(module) for module in others[1].modules()}


def test_two_threads_tell_their_progress_one_at_a_time_and_all_of_it(threaded):
    told, telling, tellers = [], threading.Lock(), set()

    def progress(done):
        assert telling.acquire(blocking=False), "two threads told at the same time"
        time.sleep(0.0005)
        told.append(done)
        tellers.add(threading.current_thread())
        telling.release()

    threaded().sample(PROMPTS, 6, FREE, [1], progress)
    assert sum(told) == 24
    assert min(told) >= 0
    assert len(tellers) == 2


class Stop(Exception):
    """What a `progress` may raise."""


def test_what_progress_raises_ends_every_thread_and_reaches_the_caller(threaded, monkeypatch):
    model, stopped, after = threaded(), threading.Event(), []
    endless(model, monkeypatch)

    def progress(done):
        if not stopped.is_set():
            stopped.set()
            raise Stop("nobody waits")

    def before(network, waves):
        if stopped.is_set():
            after.append(network)
            time.sleep(0.02)

    with steps(before), pytest.raises(Stop, match="nobody waits"):
        model.sample(PROMPTS, 4, dataclasses.replace(FREE, max_tokens=400), [1], progress)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sampling")]
    assert len(after) < 390, "the other thread went on to the end"


@pytest.mark.parametrize("twin", [0, 1])
def test_an_error_in_one_thread_ends_the_others_and_reaches_the_caller(threaded, monkeypatch, twin):
    model, failed, after = threaded(), threading.Event(), []
    endless(model, monkeypatch)

    def before(network, waves):
        if failed.is_set():
            after.append(network)
            time.sleep(0.02)
        elif (network is not model.network) == twin:
            failed.set()
            raise RuntimeError("this network failed")

    with steps(before), pytest.raises(RuntimeError, match="this network failed"):
        model.sample(PROMPTS, 4, dataclasses.replace(FREE, max_tokens=400), [1])
    assert len(after) < 390, "the other thread went on to the end"
    # The model is as good as before.
    assert len(texts(model)) == len(PROMPTS)


def test_threads_share_torchs_threads_and_leave_them_as_they_were(threaded):
    model, inside = threaded(), set()
    with steps(lambda network, waves: inside.add(torch.get_num_threads())):
        texts(model)
    assert inside == {1}
    assert threads_of_torch() == (2, 2)

    def fail(network, waves):
        raise RuntimeError("this network failed")

    with steps(fail), pytest.raises(RuntimeError, match="this network failed"):
        texts(model)
    assert threads_of_torch() == (2, 2)


def threads_of_torch():
    """In this thread, and in one that is made now."""
    numbers = [torch.get_num_threads()]
    new = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    new.start()
    new.join()
    return tuple(numbers)


# ---- memory ----


def test_the_rows_are_a_power_of_two_that_falls_with_the_memory_and_never_below_one(loaded, monkeypatch):
    model, found = loaded(), []
    for free in (1 << 50, *(1 << bits for bits in range(32, 8, -1)), 3_000_000, 1, 0):
        monkeypatch.setattr(model_module, "free_bytes", lambda device, free=free: free)
        rows = model.batch_rows(100)
        assert rows.bit_count() == 1
        assert model.batch_rows(400) <= rows <= model.batch_rows(10)
        found.append((free, rows))
    assert found[0][1] == model_module.MOST_ROWS
    assert found[-1][1] == 1
    by_memory = [rows for _, rows in sorted(found)]
    assert by_memory == sorted(by_memory)
    assert set(by_memory) == {1 << bits for bits in range(11)}, "no power is left out"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_width_of_keys_is_that_of_the_models_own_cache(shape, loaded):
    network = loaded(shape).network
    cache = network(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    if not (layers := getattr(cache, "layers", [])):
        pytest.skip("it keeps no keys")
    _, heads, _, size = layers[0].keys.shape
    assert model_module.key_width(network.config.get_text_config()) == heads * size


def test_what_so_many_rows_keep_is_within_half_of_the_memory(loaded, monkeypatch):
    model, kept = loaded(), []
    monkeypatch.setattr(model_module, "free_bytes", lambda device: 1_000_000)
    rows = model.batch_rows(40)
    assert 1 < rows < 64

    def before(network, waves):
        pairs = [pair for wave in waves for pair in wave._own if pair]
        kept.append(sum(tensor.nbytes for pair in pairs for tensor in pair))

    with steps(before):
        texts(model, copies=rows, settings=SamplingSettings(1.0, 1.0, 40, rows))
    assert 10_000 < max(kept) <= 500_000


def test_what_rows_with_long_prompts_of_their_own_keep_is_within_half_of_the_memory_too(loaded, monkeypatch):
    model, kept = loaded(), []
    long = [prompt(f"return x == {number}  # {'and so on ' * 12}") for number in range(40)]
    monkeypatch.setattr(model_module, "free_bytes", lambda device: 1_000_000)

    def before(network, waves):
        pairs = [pair for wave in waves for pair in [*wave._own, *wave._prompts] if pair]
        kept.append(sum(tensor.nbytes for pair in pairs for tensor in pair))

    with steps(before):
        sampled = model.sample(long, 1, dataclasses.replace(FREE, max_tokens=4, batch_rows=64), [1])
    assert 1 < sampled.batch_rows < 40
    assert 50_000 < max(kept) <= 500_000
    shared = model.sample(long[:1], 40, dataclasses.replace(FREE, max_tokens=4, batch_rows=64), [1])
    assert shared.batch_rows > sampled.batch_rows


MEMORY = "[enforce fail at alloc_cpu.cpp:126] err == 0. DefaultCPUAllocator: can't allocate memory: 9 bytes"


@pytest.fixture
def short_of_memory(monkeypatch):
    """Sampling fails with more than so many rows, after one completion; the rows that were asked for."""

    def short(most, message=MEMORY):
        asked, real = [], decode.decode

        def decoded(networks, prompts_U, copies, settings, ends, lines, seed, progress):
            asked.append(settings.batch_rows)
            if settings.batch_rows > most:
                progress(1)
                raise RuntimeError(message)
            return real(networks, prompts_U, copies, settings, ends, lines, seed, progress)

        monkeypatch.setattr(decode, "decode", decoded)
        return asked

    return short


@pytest.mark.parametrize(
    "message",
    [
        MEMORY,
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "could not create a primitive",
    ],
)
def test_out_of_memory_fewer_rows_are_sampled_side_by_side(loaded, tiny, short_of_memory, caplog, message):
    settings = dataclasses.replace(FREE, max_tokens=8)
    expected = texts(loaded(), settings=dataclasses.replace(settings, batch_rows=2))
    model, told = LanguageModel(tiny(), CPU), []
    asked = short_of_memory(3, message)
    sampled = model.sample(PROMPTS, 3, settings, [7], told.append)
    assert asked == [8, 4, 2]
    assert sampled.batch_rows == 2
    assert [[c.text for c in row] for row in sampled.completions_P_K] == expected
    assert sum(told) == 12
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "from now on 2 sequences are sampled side by side" in caplog.messages[-1]
    # From then on it begins with what was left, or with less if less is asked for.
    assert model.sample(PROMPTS, 1, settings, [1]).batch_rows == 2
    assert model.sample(PROMPTS, 1, dataclasses.replace(settings, batch_rows=1), [1]).batch_rows == 1
    assert model.sample(PROMPTS, 1, settings, [1]).batch_rows == 2
    assert asked[3:] == [2, 1, 2]


def test_out_of_memory_the_rows_that_there_were_are_halved(tiny, short_of_memory):
    asked = short_of_memory(4)
    sampled = LanguageModel(tiny(), CPU).sample(PROMPTS, 3, dataclasses.replace(FREE, batch_rows=512), [1])
    assert asked == [512, 6, 3]
    assert sampled.batch_rows == 3


def test_memory_for_not_even_one_row_is_an_input_error_of_one_line(tiny, short_of_memory):
    asked = short_of_memory(0)
    with pytest.raises(InputError, match=r"out of memory with one sequence.*model\.dtype") as caught:
        LanguageModel(tiny(), CPU).sample(PROMPTS, 3, FREE, [1])
    assert str(tiny()) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert asked == [8, 4, 2, 1]


def test_another_error_than_of_memory_is_passed_on_at_once(tiny, short_of_memory):
    asked = short_of_memory(4, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        LanguageModel(tiny(), CPU).sample(PROMPTS, 3, FREE, [1])
    assert asked == [8]


def test_memory_that_ends_in_one_of_two_threads_leaves_fewer_rows_to_both(threaded):
    model, most = threaded(), []

    def before(network, waves):
        rows = sum(wave.rows for wave in waves)
        if network is not model.network and rows > 2:
            raise RuntimeError(MEMORY)
        most.append(rows)

    told = []
    with steps(before):
        sampled = model.sample(PROMPTS, 3, FREE, [7], told.append)
    assert sampled.batch_rows == 4
    assert sum(told) == 12
    assert [[c.text for c in row] for row in sampled.completions_P_K] == texts(
        threaded(), settings=dataclasses.replace(FREE, batch_rows=4)
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_failed_attempt_held_is_gone_before_the_next(tiny, monkeypatch, threads):
    monkeypatch.setattr("selfplay.sampling.model.ROWS_PER_THREAD", 1)
    model, held, gone = LanguageModel(tiny(), dataclasses.replace(CPU, threads=threads)), [], []
    assert model._shares_prompts()
    rows = model._most_rows

    def before(network, waves):
        if not held:
            large = torch.zeros(1000)
            held.append(weakref.ref(large))
            raise RuntimeError(MEMORY)
        if model._most_rows < rows:  # the other thread may still take steps of the failed attempt
            gone.append(held[0]() is None)

    gc.disable()  # memory that waits for it is not free when it is needed
    try:
        with steps(before):
            texts(model)
    finally:
        gc.enable()
    assert gone
    assert all(gone)


def test_every_thread_has_work_when_there_are_fewer_rows_than_would_fit(tiny, monkeypatch):
    monkeypatch.setattr("selfplay.sampling.model.ROWS_PER_THREAD", 1)
    model, seen = LanguageModel(tiny(), dataclasses.replace(CPU, threads=2)), set()
    assert model._shares_prompts()  # found out in this thread
    with steps(lambda network, waves: seen.add(threading.current_thread())):
        texts(model, settings=dataclasses.replace(FREE, batch_rows=64))
    assert len(seen) == 2


def test_a_model_is_sampled_by_its_threads_where_torch_has_fewer(tiny, monkeypatch):
    monkeypatch.setattr("selfplay.sampling.model.ROWS_PER_THREAD", 1)
    model = LanguageModel(tiny(), dataclasses.replace(CPU, threads=2))
    before = texts(model)
    LanguageModel(tiny(), CPU)  # sets one thread for all
    assert texts(model) == before


# ---- cost ----


@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_are_counted_as_often_as_they_are_read(loaded, monkeypatch, shape):
    model = loaded(shape)
    once = sum(len(encode_prompt(model.tokenizer, one)) for one in PROMPTS)
    shared = model.sample(PROMPTS, 3, FREE, [1])
    assert (shared.prompt_tokens, shared.batch_rows) == (once, 8)
    assert shared.tokens == sum(completion.tokens for row in shared.completions_P_K for completion in row)
    monkeypatch.setattr(model, "_agrees", False)
    assert model.sample(PROMPTS, 3, FREE, [1]).prompt_tokens == 3 * once
    assert model.sample([], 3, FREE, [1]).prompt_tokens == 0


@pytest.mark.slow
def test_a_prompt_with_more_copies_than_a_wave_is_read_once_by_each_thread(loaded, threaded):
    once = sum(len(encode_prompt(loaded().tokenizer, one)) for one in PROMPTS)
    for model, threads in ((loaded(), 1), (threaded(), 2)):
        for copies in (9, 30):
            assert model.sample(PROMPTS, copies, FREE, [1]).prompt_tokens == threads * once


def test_logits_that_are_no_numbers_are_an_error_and_not_a_text(loaded, monkeypatch):
    step = decode._next_logits
    for temperature, bad in product((0.0, 1.0), (math.nan, math.inf)):
        monkeypatch.setattr(
            decode, "_next_logits", lambda *given, bad=bad: step(*given).index_fill(1, torch.tensor(3), bad)
        )
        with pytest.raises(InputError, match=r"the model's logits are not finite: set model\.dtype = 'float32'"):
            texts(loaded(), settings=dataclasses.replace(FREE, temperature=temperature))


@pytest.mark.parametrize("settings", [{"temperature": 1e-38}, {"top_p": 1e-46}, {"temperature": 1e-38, "top_p": 1e-46}])
def test_settings_that_leave_nothing_leave_the_likeliest(loaded, settings):
    assert texts(loaded(), settings=dataclasses.replace(FREE, **settings)) == texts(loaded(), settings=GREEDY)


def test_threads_of_torch_are_all_given_to_the_parts(monkeypatch):
    given = []
    monkeypatch.setattr(decode.torch, "get_num_threads", lambda: 12)
    monkeypatch.setattr(decode.torch, "set_num_threads", given.append)
    decode._in_threads(lambda place, check: None, 8, lambda done: None)
    assert sorted(given) == [1] * 4 + [2] * 4 + [12]


@pytest.mark.parametrize("shape", ["llama", "gpt_neox", "qwen2"])
def test_the_arithmetic_of_a_token_is_that_of_the_networks_matrices(loaded, monkeypatch, shape):
    monkeypatch.setattr(model_module, "peak_flops_per_second", lambda *_: 1.0)
    # GPT-2's learned positions are added, not multiplied, and in a model this small they are a third of it.
    model = loaded(shape)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.network(torch.arange(20)[None], use_cache=False)
    matrices = [torch.ops.aten.mm, torch.ops.aten.addmm]
    counted = sum(number for operator, number in counter.get_flop_counts()["Global"].items() if operator in matrices)
    # Biases and norms are parameters, too.
    assert counted <= 20 * model.arithmetic.flops_per_token <= 1.15 * counted


@pytest.mark.parametrize(("small_seconds", "size"), [(0.0009, 64), (0.001, 32), (0.009, 16), (9.0, 8)])
def test_the_peak_is_that_of_the_fastest_of_some_products_of_a_size_that_takes_no_half_second(
    monkeypatch, small_seconds, size
):
    clock = iter([0.0, 50.0, 50.0, 50.0 + small_seconds, 0.0, 3.0, 10.0, 12.0, 20.0, 20.5, 30.0, 31.0, 40.0, 44.0])
    monkeypatch.setattr(model_module, "PEAK_SIZE", {"cpu": 64})
    monkeypatch.setattr(model_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    uncached = model_module.peak_flops_per_second.__wrapped__
    assert uncached(torch.device("cpu"), torch.float32, 1) == 2 * size**3 / 0.5


def test_the_peak_is_measured_once_for_each_dtype(loaded, monkeypatch):
    monkeypatch.setattr(model_module, "PEAK_SIZE", {"cpu": 64})
    monkeypatch.setattr(
        model_module, "peak_flops_per_second", functools.cache(model_module.peak_flops_per_second.__wrapped__)
    )
    peak = model_module.peak_flops_per_second
    assert loaded().arithmetic.peak_flops_per_second == loaded().arithmetic.peak_flops_per_second > 0
    assert peak(torch.device("cpu"), torch.bfloat16, 1) > 0
    assert (peak.cache_info().misses, peak.cache_info().hits) == (2, 1)
