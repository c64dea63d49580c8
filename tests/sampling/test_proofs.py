"""Models of kinds that break what sampling assumes: they are found out, and sampled in a plainer way."""

import dataclasses
import json
import math
import shutil
from collections import Counter

import pytest
import torch
from odd_models import KINDS, make_odd

from puzzles.puzzle import InputError
from selfplay.config import ModelConfig
from selfplay.sampling import proofs
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import Prompt, encode_prompt
from selfplay.sampling.sampler import SamplingSettings

CPU = ModelConfig(device="cpu", threads=1)
GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_tokens=12, batch_rows=8)
SHORT = Prompt("def f(x: int):", chat=False, header="def f(")
LONG = Prompt("def f(x: int):\n    return x * x == 1369 and x > 0\n\ndef g():", chat=False, header="def g():")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    models = {}

    def load(kind):
        if kind not in models:
            models[kind] = LanguageModel(make_odd(kind, tmp_path_factory.mktemp(kind) / "model"), CPU)
        return models[kind]

    return load


@pytest.fixture(autouse=True)
def unsaid():
    """What is said once was not said by another test."""
    proofs.say_once.cache_clear()


def texts(model, prompts, copies=1, settings=GREEDY, seed=0):
    return [[c.text for c in row] for row in model.sample(prompts, copies, settings, [seed]).completions_P_K]


def likeliest(model, prompt):
    """What comes of a prompt that is read alone and whole for each token, until a line or the text ends."""
    ids = encode_prompt(model.tokenizer, prompt)
    begun = len(ids)
    for _ in range(GREEDY.max_tokens):
        ids.append(int(proofs.plain_logits(model.network, ids)[-1].argmax()))
    return model.tokenizer.decode(ids[begun:], skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_what_the_model_says_alone_and_beside_a_longer_one(odd, kind):
    model = odd(kind)
    alone, (beside, _) = texts(model, [SHORT])[0], texts(model, [SHORT, LONG], 2)
    assert beside == alone * 2
    with torch.inference_mode():
        assert likeliest(model, SHORT).startswith(alone[0].rstrip("\ufffd"))


@pytest.mark.parametrize(
    ("kind", "pads", "caches"), [("trocr", False, True), ("roberta", False, False), ("gpt_neo", True, True)]
)
def test_what_is_assumed_is_proved(odd, kind, pads, caches):
    model = odd(kind)
    assert not model._shares_prompts()
    assert model._generate_can() == (pads, caches)


def test_the_plainer_way_is_said_once(odd, caplog):
    model = odd("trocr")
    model._agrees = model._padding = None
    texts(model, [SHORT])
    model._agrees = model._padding = None
    texts(model, [SHORT])
    assert [record.message for record in caplog.records] == [
        "this kind of model (trocr) is sampled by `generate`: with shared prompts its texts would be others",
        "this kind of model (trocr) reads padding as text: prompts are sampled by length",
    ]


WHY = "with shared prompts its texts would be others"


@pytest.mark.parametrize(
    ("kind", "engine", "reason"),
    [
        ("trocr", "generate", f"{WHY}; it reads padding as text, so prompts are sampled by length"),
        ("roberta", "whole texts", f"{WHY}, and so they would with its cache"),
        ("gpt_neo", "generate", WHY),
    ],
)
def test_the_plainer_way_and_its_reason_stand_in_the_description(odd, kind, engine, reason):
    description = odd(kind).description
    assert (description["engine"], description["engine_reason"]) == (engine, reason)


def test_a_usual_model_is_proved_once_and_nothing_is_said(tiny, caplog, monkeypatch):
    model = LanguageModel(tiny(), CPU)
    texts(model, [SHORT])
    monkeypatch.setattr("selfplay.sampling.decode.agrees", lambda network: pytest.fail("a second proof"))
    texts(model, [SHORT, LONG])
    assert model._padding is None  # what is not needed is not tried
    assert caplog.records == []


def test_a_usual_model_is_sampled_the_same_whether_it_was_proved_before_or_not(tiny):
    free = SamplingSettings(temperature=1.0, top_p=0.9, max_tokens=16, batch_rows=8)
    first = LanguageModel(tiny(), CPU)
    before = texts(first, [SHORT, LONG], 8, free)
    first._generate_can()
    assert texts(first, [SHORT, LONG], 8, free) == before


# ---- texts that are read whole ----


@pytest.fixture
def whole(tiny, monkeypatch):
    model = LanguageModel(tiny(), CPU)
    monkeypatch.setattr(model, "_agrees", False)
    monkeypatch.setattr(model, "_padding", (False, False))
    return model


def test_texts_that_are_read_whole_are_the_same_texts(tiny, whole):
    settings = dataclasses.replace(GREEDY, max_tokens=24, batch_rows=3)
    prompts = [SHORT, LONG, dataclasses.replace(LONG, chat=True) if whole.tokenizer.chat_template else LONG]
    assert texts(whole, prompts, 4, settings) == texts(LanguageModel(tiny(), CPU), prompts, 4, settings)


@pytest.mark.parametrize("read_tokens", [1, 100])
def test_they_are_read_in_parts(whole, monkeypatch, read_tokens):
    at_once = texts(whole, [LONG], 5)
    monkeypatch.setattr("selfplay.sampling.decode.READ_TOKENS", read_tokens)
    assert texts(whole, [LONG], 5) == at_once


def test_they_come_as_often_as_those_of_other_ways(tiny, whole):
    free = SamplingSettings(temperature=0.7, top_p=0.9, max_tokens=2, batch_rows=1000)
    ours = Counter(texts(whole, [SHORT], 3000, free, 1)[0])
    usual = Counter(texts(LanguageModel(tiny(), CPU), [SHORT], 3000, free, 2)[0])
    for text in [text for text, count in (ours + usual).items() if count >= 40]:
        assert abs(ours[text] - usual[text]) < 5 * math.sqrt(ours[text] + usual[text])


def test_their_seed_decides_them(whole):
    free = SamplingSettings(temperature=1.0, top_p=1.0, max_tokens=12, batch_rows=2)
    first = texts(whole, [SHORT, LONG], 3, free, 1)
    assert texts(whole, [SHORT, LONG], 3, free, 1) == first
    assert texts(whole, [SHORT, LONG], 3, free, 2) != first


# ---- models that contradict themselves, and tokens that they do not know ----


@pytest.fixture
def copy(odd, tmp_path):
    """The folder of a model with a convolution, which a test may spoil."""
    return shutil.copytree(odd("conv").path, tmp_path / "copy")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_that_cannot_read_is_one_line(odd, monkeypatch):
    model = odd("gpt_neo")
    model._padding = None

    def broken(*_, **__):
        raise ValueError("the language is unknown:\nset one")

    monkeypatch.setattr(model.network, "forward", broken)
    with pytest.raises(InputError, match=r"expected a model that reads text, reading failed: the language is unknown:"):
        texts(model, [SHORT])
    model._padding = None


def with_more_tokens(folder, *names):
    """Add tokens for which the model has no embedding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(names))
    tokenizer.save_pretrained(folder)
    return LanguageModel(folder, CPU)


@pytest.mark.slow
def test_tokens_without_an_embedding_are_a_warning_until_one_is_used(copy, caplog):
    model = with_more_tokens(copy, "qpictureq", "qsoundq")
    told = "this model (lfm2) has 330 embeddings for 332 tokens: a text with one of the others would be refused"
    assert [record.message for record in caplog.records] == [told]
    texts(model, [SHORT])
    with pytest.raises(InputError, match=r"a text holds 'qpictureq', token 330, but the model has 330 embeddings"):
        texts(model, [SHORT, dataclasses.replace(SHORT, text="x = 'qpictureq'\n" + SHORT.text)])


def test_a_token_for_padding_without_an_embedding_is_not_used(copy):
    with_more_tokens(copy, "<nothing>")
    change_json(copy / "tokenizer_config.json", pad_token="<nothing>")
    model = LanguageModel(copy, CPU)
    assert model.tokenizer.pad_token_id == 330
    texts(model, [SHORT, LONG])
    assert model.network.generation_config.pad_token_id == model.tokenizer.eos_token_id


def test_an_end_without_an_embedding_is_one_line(copy):
    with_more_tokens(copy, "<end of all>")
    change_json(copy / "tokenizer_config.json", eos_token="<end of all>")
    with pytest.raises(InputError, match="expected tokens from 0 to 329 as ends, got 330"):
        LanguageModel(copy, CPU)
