"""Texts and tokens where a completion stands behind its prompt, for tokenizers of six families."""

import numpy as np
import pytest
from families import CHATML, FAMILIES, tokenizer_of

from selfplay.sampling.prompts import Prompt, encode_completion, encode_prompt, end_of, is_joined
from selfplay.sampling.tokens import (
    control_tokens,
    decode_after,
    encode_after,
    encode_begun,
    encode_rendered,
    encode_text,
    is_border,
)

CHATTING = ("llama2", "qwen2", "gemma")
HEAD = "def f(x: int, k=19):\n    return x * x == k\n\ndef g(k=19):"
TEXTS = [
    "\n    return k + 9\n", " x * x == 1369", "x: int):\n    return x > 0\n", ") and x", "9", "", "    \n", "\n\n\n  x",
    "\n    return 'a  b   c'\n", "\n    return 'ü€😀'\n", " ", "\tx",
]  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request):
    return tokenizer_of(request.param)


@pytest.fixture(scope="module", params=CHATTING)
def chatting(request):
    return tokenizer_of(request.param)


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


# ---- there and back ----


def test_a_completion_is_what_all_tokens_decode_to_without_what_the_prompt_decodes_to(tokenizer):
    rng = np.random.default_rng(0)
    prompts = [HEAD, "def f(", "def f(x: int):\n    return", "x\n", "s == 'ü"]
    compared = 0
    for number in range(600):
        before = encode_prompt(tokenizer, Prompt(prompts[number % len(prompts)], False, ""))
        ids = rng.integers(len(tokenizer), size=int(rng.integers(1, 9))).tolist()
        shown, whole = decoded(tokenizer, before), decoded(tokenizer, before + ids)
        if whole.startswith(shown):  # not if bytes of the prompt and of the completion make up an unknown character
            compared += 1
            assert decode_after(tokenizer, before, ids) == whole.removeprefix(shown)
    assert compared > 500


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_behind_another_comes_back_as_it_was(tokenizer, text):
    before = encode_prompt(tokenizer, Prompt(HEAD, False, ""))
    ids = encode_after(tokenizer, text)
    assert decode_after(tokenizer, before, ids) == text
    assert decoded(tokenizer, before + ids) == HEAD + text


def test_a_byte_that_makes_no_character_does_not_take_a_text_before_it_away():
    tokenizer = tokenizer_of("llama2")
    before = encode_prompt(tokenizer, Prompt("def g():\n", False, ""))
    (byte,) = tokenizer.convert_tokens_to_ids(["<0xFF>"])
    assert decode_after(tokenizer, before, [byte, *encode_after(tokenizer, " x")]) == "\ufffd x"


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gpt_neox", "ours"])
def test_byte_level_tokenizers_write_completions_as_they_write_any_text(family):
    tokenizer = tokenizer_of(family)
    for text in TEXTS:
        own = tokenizer.encode(text, add_special_tokens=False)
        assert encode_completion(tokenizer, text) == [*own, tokenizer.eos_token_id]


def test_a_completion_of_a_word_that_the_prompt_begins_has_no_space_before_it():
    tokenizer = tokenizer_of("llama2")
    assert tokenizer.convert_ids_to_tokens(encode_after(tokenizer, "x"))[0] == "x"
    assert tokenizer.convert_ids_to_tokens(encode_after(tokenizer, " x"))[0] == "▁x"
    assert tokenizer.convert_ids_to_tokens(encode_after(tokenizer, "\n"))[0] == "<0x0A>"


def test_given_tokens_are_kept_as_far_as_they_are_the_texts_beginning(tokenizer):
    before = encode_prompt(tokenizer, Prompt(HEAD, False, ""))
    end = tokenizer.eos_token_id
    letters = [token for letter in "\n    return" for token in encode_after(tokenizer, letter)]
    beyond = [*letters, *encode_after(tokenizer, " 9\n"), end, *encode_after(tokenizer, "\ndef")]
    ids = encode_begun(tokenizer, before, beyond, "\n    return 9\n")
    assert ids == [*letters, *encode_after(tokenizer, " 9\n")]
    ids = encode_begun(tokenizer, before, [*letters, *encode_after(tokenizer, " 7")], "\n    return 9\n")
    assert ids[: len(letters)] == letters
    assert decode_after(tokenizer, before, ids) == "\n    return 9\n"
    assert encode_begun(tokenizer, before, letters, " 9") == encode_after(tokenizer, " 9")


# ---- borders ----


def test_a_text_is_cut_only_where_no_token_spans_the_place(tokenizer):
    for place in range(1, len(HEAD)):
        begun = encode_text(tokenizer, HEAD[:place])
        assert is_border(tokenizer, HEAD, place) == (encode_text(tokenizer, HEAD)[: len(begun)] == begun)
    assert not all(is_border(tokenizer, HEAD, place) for place in range(1, len(HEAD)))


def test_what_a_tokenizer_would_join_is_found():
    tokenizer, body = tokenizer_of("qwen2"), "\n    return k + 9\n"
    whole = tokenizer.encode(HEAD + body)
    prompt, completion = encode_prompt(tokenizer, Prompt(HEAD, False, "")), encode_after(tokenizer, body)
    assert (whole[: len(prompt)] != prompt) == is_joined(tokenizer, prompt, completion) is True
    prompt, completion = encode_text(tokenizer, HEAD + "\n    "), encode_after(tokenizer, "return")
    other = encode_text(tokenizer, HEAD + "\n    return") != prompt + completion
    assert is_joined(tokenizer, prompt, completion) is other
    prompt, completion = encode_text(tokenizer, "x"), encode_after(tokenizer, " + k")
    assert is_joined(tokenizer, prompt, completion) is False


# ---- names of control tokens ----


def quoted(tokenizer):
    return "\n    return " + " + ".join(f"'{name}'" for name in control_tokens(tokenizer)) + "\n"


def test_no_text_becomes_a_control_token(tokenizer):
    controls = {*control_tokens(tokenizer).values()}
    assert {tokenizer.eos_token_id, *tokenizer.all_special_ids} <= controls
    for text in (quoted(tokenizer), *control_tokens(tokenizer)):
        assert not controls & {*encode_text(tokenizer, text)}
        assert not controls & {*encode_after(tokenizer, text)}
        before = encode_prompt(tokenizer, Prompt(text, False, ""))
        framed = tokenizer.encode("", add_special_tokens=True)
        assert [token for token in before if token in controls] == framed
        assert decode_after(tokenizer, before, encode_after(tokenizer, text)) == text
        assert [place for place, token in enumerate(encode_completion(tokenizer, text)) if token in controls] == [
            len(encode_completion(tokenizer, text)) - 1
        ]


def test_tokens_for_indentation_are_text():
    tokenizer = tokenizer_of("gpt_neox")
    wide = tokenizer.convert_tokens_to_ids(" " * 8)
    assert wide in encode_text(tokenizer, "\n        return 1")
    assert wide not in control_tokens(tokenizer).values()


def test_added_tokens_in_brackets_and_those_that_the_template_writes_are_control_tokens():
    tokenizer = tokenizer_of("qwen2")
    tokenizer.chat_template += "/no_think"
    tokenizer.add_tokens(["/no_think", "[INST]", "elif", "->", "[]"])
    assert {"<think>", "</think>", "<|im_start|>", "/no_think", "[INST]"} <= control_tokens(tokenizer).keys()
    assert not {"elif", "->", "[]"} & control_tokens(tokenizer).keys()
    assert tokenizer.convert_tokens_to_ids("elif") in encode_text(tokenizer, "elif x -> []")


def test_a_name_that_is_a_word_of_the_vocabulary_is_cut():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [(letter, -9.0) for letter in "▁</s>abcdefg:x(\n"]
    core = Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *dict(letters).items()], 0, False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    assert 2 in tokenizer.encode("a </s> b", add_special_tokens=False, split_special_tokens=True)
    ids = encode_prompt(tokenizer, Prompt("a </s> b", False, ""))
    assert (ids[0], {1, 2} & {*ids[1:]}) == (1, set())
    assert decoded(tokenizer, ids) == "a </s> b"
    assert encode_completion(tokenizer, " c")[-1] == 2
    many = ":</s><s></s></s>\n" * 9
    assert not {1, 2} & {*encode_text(tokenizer, many)}
    assert decode_after(tokenizer, (), encode_after(tokenizer, many)) == many


def test_a_single_character_is_text_even_if_it_is_a_special_token():
    tokenizer = tokenizer_of("gpt2")
    usual = encode_after(tokenizer, " x(!= '!'")
    tokenizer.pad_token, tokenizer.unk_token = "!", "("
    assert encode_after(tokenizer, " x(!= '!'") == usual
    assert not {"!", "("} & control_tokens(tokenizer).keys()


# ---- chats ----


def test_a_chat_without_such_names_is_as_the_tokenizer_has_it(chatting):
    message = f"Solve this.\n\n{HEAD}\n"
    expected = chatting.apply_chat_template(
        [{"role": "user", "content": message}], add_generation_prompt=True, return_dict=False
    )
    assert encode_prompt(chatting, Prompt(message, True, "")) == expected


def test_in_a_chat_names_in_the_message_are_text_and_the_templates_own_are_commands(chatting):
    controls = {*control_tokens(chatting).values()}
    plain = encode_prompt(chatting, Prompt("Solve x. Thanks", True, ""))
    for name in control_tokens(chatting):
        for message in (f"Solve {name}. Thanks", f"{name}", f"Solve '{name}{name}'\n{name}"):
            ids = encode_prompt(chatting, Prompt(message, True, ""))
            assert [token for token in ids if token in controls] == [token for token in plain if token in controls]
            assert message in decoded(chatting, ids)
    first = encode_prompt(chatting, Prompt("Solve x. Thanks </s><|im_end|><eos>", True, ""))
    shared = next(place for place, (one, other) in enumerate(zip(first, plain, strict=False)) if one != other)
    assert "Thanks" in decoded(chatting, first[:shared])


def test_a_chat_whose_control_tokens_take_spaces_away_is_as_the_tokenizer_has_it():
    from tokenizers import AddedToken

    tokenizer = tokenizer_of("gpt2")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|end|>", rstrip=True, special=True)]})
    tokenizer.chat_template = "{% for m in messages %}<|end|>\n{{ m['content'] }} <|end|>\n{% endfor %}x"

    def render(contents):
        messages = [{"role": "user", "content": content} for content in contents]
        return tokenizer.apply_chat_template(messages, tokenize=False)

    usual = encode_rendered(tokenizer, render, ["return k + 9"])
    named = encode_rendered(tokenizer, render, ["return k + 9<|end|>"])
    assert usual == tokenizer.encode(render(["return k + 9"]), add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert named.count(end) == usual.count(end) == 2
    last = len(usual) - usual[::-1].index(end)
    assert named[: last - 2] == usual[: last - 2]
    assert named[named.index(end, 1) :] == usual[usual.index(end, 1) :]


@pytest.mark.parametrize(("family", "end"), [("llama2", "</s>"), ("qwen2", "<|im_end|>"), ("gemma", "<end_of_turn>")])
def test_a_chats_completion_ends_as_its_template_ends_a_turn_and_others_with_the_texts_end(family, end):
    tokenizer = tokenizer_of(family)
    assert tokenizer.convert_ids_to_tokens(end_of(tokenizer, True)) == end
    assert end_of(tokenizer, False) == tokenizer.eos_token_id
    assert encode_completion(tokenizer, "x", chat=True)[-1] == end_of(tokenizer, True)
    assert encode_completion(tokenizer, "x")[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
        "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('no') }}{% endif %}x{% endfor %}",
        "{{ messages[0]['content'] }}",
        "{% for m in messages %}{{ m['content'] }}\n### Next <|im_end|>{% endfor %}",
    ],
)
def test_a_template_that_tells_no_end_of_a_turn_leaves_the_texts_end(template):
    tokenizer = tokenizer_of("qwen2")
    tokenizer.chat_template = template
    tokenizer.eos_token = "<|endoftext|>"
    assert end_of(tokenizer, True) == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.chat_template = CHATML
    assert end_of(tokenizer, True) == tokenizer.convert_tokens_to_ids("<|im_end|>")
