"""Training learns the tokens that the model drew, whatever its tokenizer, and with the end that it drew."""

import logging

import pytest
import torch
from families import FAMILIES, network_of, save_family, tokenizer_of

from selfplay.config import ModelConfig
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import Prompt, encode_completion, encode_prompt, end_of, own_part, propose_prompt
from selfplay.sampling.sampler import Drawn, SamplingSettings
from selfplay.sampling.tokens import encode_after
from selfplay.training.finetune import log_probabilities, log_tokens, tokenize_lesson
from selfplay.training.select import Contrast, Example, Graded

PUZZLE = "def f(x: int, k=19):\n    return x * x == k * k and x > 0"
PROMPT = Prompt(f"{PUZZLE}\n\ndef g(k=19):", chat=False, header="def g(k=19):")
BODY = "\n    return k + 0\n"
OTHER = "def f(s: str, n=3):\n    return s.count('a') == n and s > 'b'"
HELLO = Prompt("Write g for this:\n" + PUZZLE, chat=True, header="")
GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_tokens=60, batch_rows=4)
WILD = SamplingSettings(temperature=1.5, top_p=1.0, max_tokens=24, batch_rows=32)
CPU = ModelConfig(device="cpu", dtype="float32", threads=1)


def by_heart(tokenizer, rows, steps=70):
    """A network that has learned these rows of tokens."""
    network = network_of(tokenizer, spread=0.08)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(network.parameters(), 2e-2)
    for _ in range(steps):
        network(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return network


@pytest.fixture(scope="module", params=FAMILIES)
def learner(request, tmp_path_factory):
    """A model of a family that knows a puzzle and its solution by heart."""
    tokenizer = tokenizer_of(request.param)
    whole, prompt, puzzle = (tokenizer.encode(text) for text in (PROMPT.text + BODY, PROMPT.text, f"{OTHER}\n"))
    if whole[: len(prompt)] != prompt:  # a token spans the border, which no prompt can end with
        whole = prompt + tokenizer.encode(BODY)
    network = by_heart(tokenizer, [[*whole, tokenizer.eos_token_id], [*puzzle, tokenizer.eos_token_id]])
    return LanguageModel(save_family(tokenizer, tmp_path_factory.mktemp("by heart"), network), CPU)


@pytest.fixture(scope="module", params=FAMILIES)
def stranger(request, tmp_path_factory):
    """A model of a family that writes anything."""
    return LanguageModel(save_family(tokenizer_of(request.param), tmp_path_factory.mktemp("random")), CPU)


def loss(model, lesson):
    with torch.no_grad():
        (logs,) = log_probabilities(model.network, [tokenize_lesson(model.tokenizer, lesson)])
    return -float(logs.mean())


def learned(model, lesson):
    """The tokens that a lesson teaches."""
    tokens = tokenize_lesson(model.tokenizer, lesson)
    assert tokens.input_ids_T[: tokens.loss_mask_T.index(True)] == tuple(encode_prompt(model.tokenizer, lesson.prompt))
    return tuple(token for token, own in zip(tokens.input_ids_T, tokens.loss_mask_T, strict=True) if own)


def test_a_solution_that_a_model_writes_greedily_is_learned_in_its_own_tokens_and_costs_nothing(learner):
    ((written,),) = learner.sample([PROMPT], 1, GREEDY, [0]).completions_P_K
    assert (written.text, written.drawn.ended) == (BODY, "token")
    lesson = Example(PROMPT, written.text, drawn=written.drawn)
    assert learned(learner, lesson) == written.drawn.ids
    assert learned(learner, Graded(PROMPT, written.text, 1.0, drawn=written.drawn)) == written.drawn.ids
    assert loss(learner, lesson) < 0.05


def test_a_reference_is_learned_in_the_tokens_that_the_model_would_write_it_in(learner):
    assert loss(learner, Example(PROMPT, BODY)) < 0.05


def test_a_beginning_goes_on_with_the_space_that_was_drawn(learner):
    for begun in ("def f(s: str, n=3):\n    return", "def f(s: str, n=3):\n    return s.count('a') =="):
        prompt = propose_prompt("plain", begun=begun)
        ((written,),) = learner.sample([prompt], 1, GREEDY, [0]).completions_P_K
        assert begun + written.text == f"{OTHER}\n"
        assert learned(learner, Example(prompt, written.text, drawn=written.drawn)) == written.drawn.ids


def test_whatever_a_model_draws_is_learned_in_just_these_tokens(stranger):
    prompts = [PROMPT, Prompt("def f(", False, "def f("), Prompt("def f(x: int):\n    return", False, "def f(x")]
    rows = stranger.sample(prompts, 40, WILD, [3]).completions_P_K
    ends = set()
    for prompt, row in zip(prompts, rows, strict=True):
        before = encode_prompt(stranger.tokenizer, prompt)
        shown = stranger.tokenizer.decode(before, skip_special_tokens=True)
        for one in row:
            ends.add(one.drawn.ended)
            assert learned(stranger, Graded(prompt, one.text, -1.0, drawn=one.drawn)) == one.drawn.ids
            kept = list(one.drawn.ids[:-1] if one.drawn.ended == "token" else one.drawn.ids)
            assert stranger.tokenizer.decode(before + kept, skip_special_tokens=True) == shown + one.text
            assert (one.drawn.ids[-1] in stranger._end_ids()) == (one.drawn.ended == "token")
            assert len(one.drawn.ids) == one.tokens <= WILD.max_tokens
            if one.drawn.ended == "cut":
                assert one.tokens == WILD.max_tokens
    assert {"line", "cut"} <= ends


def test_a_text_that_a_line_ended_is_cloned_up_to_there_in_the_tokens_that_were_drawn(stranger):
    row = stranger.sample([PROMPT], 60, WILD, [5]).completions_P_K[0]
    by_line = [one for one in row if one.drawn.ended == "line"]
    assert by_line
    for one in by_line:
        own = own_part(PROMPT, one.text)
        ids = learned(stranger, Example(PROMPT, own, drawn=one.drawn))
        assert ids[-1] == stranger.tokenizer.eos_token_id
        assert stranger._completion(list(ids), stranger._end_ids(), 99, encode_prompt(stranger.tokenizer, PROMPT)).text
        kept = sum(1 for _ in iter_equal(ids, one.drawn.ids))
        assert kept >= len(ids) - 3  # the last line break may be a part of a token that was drawn


def iter_equal(one, other):
    for left, right in zip(one, other, strict=False):
        if left != right:
            return
        yield left


def test_both_sides_of_a_contrast_are_learned_as_they_were_drawn(stranger):
    better, worse = stranger.sample([PROMPT], 2, WILD, [7]).completions_P_K[0]
    lesson = Contrast(PROMPT, better.text, worse.text, drawn=(better.drawn, worse.drawn))
    tokens = tokenize_lesson(stranger.tokenizer, lesson)
    for side, one in ((tokens.better, better), (tokens.worse, worse)):
        assert side.input_ids_T[-len(one.drawn.ids) :] == one.drawn.ids


@pytest.mark.parametrize("family", ["qwen2", "gemma"])
def test_in_a_chat_the_end_that_was_drawn_is_learned_and_else_the_templates(family, tmp_path):
    tokenizer = tokenizer_of(family)
    tokenizer.eos_token = {"qwen2": "<|endoftext|>", "gemma": "<eos>"}[family]
    turn = end_of(tokenizer, True)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": HELLO.text}], tokenize=False, add_generation_prompt=True
    )
    reply = "```python\ndef g(k=19):\n    return k + 0\n```"
    row = [*tokenizer.encode(asked + reply, add_special_tokens=False), turn]
    model = LanguageModel(save_family(tokenizer, tmp_path / "model", by_heart(tokenizer, [row])), CPU)
    assert turn not in model._end_ids()
    ((written,),) = model.sample([HELLO], 1, GREEDY, [0]).completions_P_K
    assert (written.text, written.drawn.ended, written.drawn.ids[-1]) == (reply, "token", turn)
    assert learned(model, Example(HELLO, reply, drawn=written.drawn)) == written.drawn.ids
    assert learned(model, Example(HELLO, reply))[-1] == turn
    other = Drawn((*written.drawn.ids[:-1], tokenizer.eos_token_id), "token")
    assert learned(model, Example(HELLO, reply, drawn=other)) == other.ids


def test_the_log_says_how_many_texts_are_not_learned_as_they_were_drawn(caplog):
    tokenizer = tokenizer_of("qwen2")
    drawn = Drawn((*tokenizer.encode(BODY), tokenizer.eos_token_id), "token")
    lessons = [Graded(PROMPT, BODY, 1.0, drawn=drawn), Graded(PROMPT, BODY, 1.0), Graded(PROMPT, " + 1", 1.0)]
    with caplog.at_level(logging.INFO):
        log_tokens(tokenizer, lessons, [tokenize_lesson(tokenizer, lesson) for lesson in lessons])
    (said,) = [record.getMessage() for record in caplog.records]
    tokens = sum(len(tokenize_lesson(tokenizer, lesson)) - len(encode_prompt(tokenizer, PROMPT)) for lesson in lessons)
    assert said.startswith(
        f"the model drew {len(drawn.ids)} of the {tokens} tokens to learn. 2 of 3 texts are tokenised"
    )
    assert said.endswith("the tokenizer would join 1 of these to their prompts")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ended", ["token", "line"])
def test_tokens_of_another_tokenizer_are_not_learned(family, ended):
    other, tokenizer = tokenizer_of("llama2" if family != "llama2" else "ours"), tokenizer_of(family)
    drawn = Drawn((*encode_after(other, BODY), other.eos_token_id), ended)
    own = tuple(encode_completion(tokenizer, BODY))
    for lesson in (Example(PROMPT, BODY, drawn=drawn), Graded(PROMPT, BODY, 1.0, drawn=drawn)):
        sequence = tokenize_lesson(tokenizer, lesson)
        assert sequence.input_ids_T[-len(own) :] == own
        assert sum(sequence.loss_mask_T) == len(own)
