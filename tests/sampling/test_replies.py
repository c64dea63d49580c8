"""What a server's reply counts as: each line of the table in `replies.py`, and what other servers write instead."""

import json

import httpx2 as httpx
import pytest

from puzzles.puzzle import InputError
from selfplay.sampling import replies
from selfplay.sampling.replies import NoAnswer, SeveralRefused
from selfplay.sampling.sampler import Completion

URL = "http://here/v1/chat/completions"
USAGE = {"prompt_tokens": 7, "completion_tokens": 12}


def reply(content, status=200, **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    asked = httpx.Request("POST", URL, headers={"authorization": "Bearer sk-secret"})
    return httpx.Response(status, headers=headers, content=body, request=asked)


def chat(message, finish_reason="stop", usage=USAGE, **more):
    """A reply with one choice. A part that is left out is given as `...`."""
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, **more}
    whole = {"choices": [{key: value for key, value in choice.items() if value is not ...}], "usage": usage}
    return reply({key: value for key, value in whole.items() if value is not ...})


def only(read):
    (completion,) = read.completions
    return completion


# ---- samples ----


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant"}, {"content": None}, {"content": ""}, {"content": []}, {"content": [None]}, None, ..., {},
        {"content": None, "refusal": "I cannot do that."}, {"content": None, "tool_calls": [{"id": "call"}]},
        {"content": None, "reasoning": "def g(): return 1"}, {"reasoning_content": "I think"},
        {"content": [{"type": "refusal", "refusal": "No."}]}, {"content": [{"type": "image_url", "image_url": {}}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "def g(): return 1"}]}]},
        {"content": [{"type": "text", "text": None}]},
    ],
)  # fmt: skip
def test_a_finished_reply_without_an_answer_is_an_empty_sample_with_its_tokens(message):
    assert only(replies.read(chat(message, "length"), chat=True)) == Completion("", 12, finished=False)


@pytest.mark.parametrize("text", [{}, {"text": None}, {"text": ""}])
def test_so_is_a_plain_completion_without_a_text(text):
    answer = reply({"choices": [{**text, "finish_reason": "length"}], "usage": USAGE})
    assert only(replies.read(answer, chat=False)) == Completion("", 12, finished=False)


@pytest.mark.parametrize(
    "content",
    [
        "a\nb", ["a\n", "b"], [{"type": "text", "text": "a\n"}, {"type": "text", "text": "b"}],
        [{"type": "output_text", "text": "a\nb"}], [{"text": "a\nb"}], {"type": "text", "text": "a\nb"},
        [{"type": "reasoning", "text": "c"}, {"type": "text", "text": "a\nb"}],
        [{"thought": True, "text": "c"}, {"thought": False, "text": "a\nb"}],
        [{"type": "thinking", "thinking": "c"}, "a\nb"], [{"type": "text", "text": "a\nb"}, {"type": "image_url"}],
    ],
)  # fmt: skip
def test_the_text_of_a_content_is_its_text_parts_without_thoughts(content):
    assert only(replies.read(chat({"content": content}), chat=True)).text == "a\nb"


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning": "I think"}, {"reasoning_content": "I think"}, {"thinking": "I think", "reasoning": None},
        {"reasoning_details": [{"type": "reasoning.text", "text": "I "}, {"summary": "think"}]},
        {"thinking_signature": "x", "reasoning": "I think"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "I "}, {"text": "think"}]}, "x"]},
    ],
)  # fmt: skip
def test_thoughts_are_told_apart(message):
    read = replies.read(chat({"content": "x", **message}), chat=True)
    assert (read.thoughts, only(read).text) == (["I think"], "x")


def test_a_finish_reason_is_not_a_thought():
    answer = reply({"choices": [{"text": "x", "finish_reason": "stop", "stop_reason": "#"}]})
    assert replies.read(answer, chat=False).thoughts == [""]


@pytest.mark.parametrize(
    ("reason", "finished"),
    [
        ("stop", True), ("STOP", True), ("eos_token", True), ("end_turn", True), ("tool_calls", True),
        ("length", False), ("MAX_TOKENS", False), ("max_tokens", False), ("content_filter", False),
        ("content_filter: RECITATION", False), ({"type": "length", "length": 20}, False),
        (None, None), (..., None), ("", None), ("OTHER", None), (0, None), ([], None), ({}, None),
    ],
)  # fmt: skip
def test_an_end_that_is_not_told_is_not_known(reason, finished):
    assert only(replies.read(chat({"content": "x"}, reason), chat=True)) == Completion("x", 12, finished)


@pytest.mark.parametrize(
    ("usage", "tokens", "prompt_tokens"),
    [
        (USAGE, 12, 7), ({"completion_tokens": 12.0, "prompt_tokens": 7.0}, 12, 7), (..., None, None),
        (None, None, None), ({}, None, None), ([], None, None), ("12", None, None),
        ({"completion_tokens": None, "prompt_tokens": 7}, None, 7), ({"completion_tokens": 12}, 12, None),
        ({"completion_tokens": 12.5, "prompt_tokens": "7"}, None, None),
        ({"completion_tokens": -1, "prompt_tokens": True}, None, None),
        ({"completion_tokens": 2**62, "prompt_tokens": 10**400}, None, None),
        ({"completion_tokens": float("nan"), "prompt_tokens": float("inf")}, None, None),
        ({"completion_tokens": 0, "prompt_tokens": 0}, None, None),
    ],
)  # fmt: skip
def test_a_count_that_is_not_told_is_not_known(usage, tokens, prompt_tokens):
    read = replies.read(chat({"content": "x"}, usage=usage), chat=True)
    assert (only(read), read.prompt_tokens) == (Completion("x", tokens, finished=True), prompt_tokens)


def test_an_empty_text_may_have_no_tokens():
    read = replies.read(chat({"content": None}, usage={"completion_tokens": 0}), chat=True)
    assert only(read).tokens == 0


def test_one_choice_of_several_may_be_empty():
    choices = [{"message": {"content": "x"}, "finish_reason": "stop"}, {"finish_reason": "length"}]
    read = replies.read(reply({"choices": choices, "usage": {"completion_tokens": 5}}), chat=True, copies=2)
    assert read.completions == [Completion("x", 3, finished=True), Completion("", 2, finished=False)]


def test_choices_that_were_not_asked_for_are_left_out():
    choices = [{"message": {"content": name}, "finish_reason": "stop"} for name in "abc"]
    read = replies.read(reply({"choices": choices, "usage": USAGE}), chat=True, copies=2)
    assert [completion.text for completion in read.completions] == ["a", "b"]


# ---- failures ----

FAILURES = {
    "half a reply": (reply(b'{"choices": [{"mess'), "malformed answer"),
    "a web page": (reply(b"<html>"), "malformed answer"),
    "a stream": (reply(b'\n\ndata: {"choices": []}\n\ndata: [DONE]\n'), "malformed answer: .* got a stream of events"),
    "nothing": (reply(b""), "malformed answer"),
    "no object": (reply([]), "malformed answer"),
    "no choices": (reply({"id": "x", "usage": USAGE}), "malformed answer: .* expected the key 'choices'"),
    "an empty list of choices": (reply({"choices": []}), "malformed answer: .* expected at least 1"),
    "choices that are none": (reply({"choices": ["x"]}), "malformed answer: .* expected an object"),
    "a message that is none": (chat("x"), "malformed answer: .* expected an object under 'message', got 'x'"),
    "a content that is no text": (chat({"content": 7}), "malformed answer: .* expected a text or its parts .* got 7"),
    "a part that is no text": (chat({"content": [7]}), "malformed answer: .* expected a text or its parts .* got 7"),
    "an error without a code": (reply({"error": {"message": "upstream"}}), "an error in place of an answer: upstream"),
    "an error that is a text": (reply({"error": "upstream is busy"}), "an error in place of an answer: upstream is"),
    "an error with a code of a failure": (reply({"error": {"code": 429, "message": "slow"}}), "status 429: slow"),
    "given up": (chat({"content": "half"}, "abort"), "broken off: abort"),
    "failed": (chat({"content": None}, "error"), "broken off: error"),
    **{f"status {status}": (reply({"error": {"message": "no"}}, status), f"status {status}: no")
       for status in (408, 409, 425, 429, 500, 501, 502, 503, 504, 520, 529)},
}  # fmt: skip


@pytest.mark.parametrize("what", FAILURES)
def test_a_failure_is_no_answer(what):
    said, words = FAILURES[what]
    with pytest.raises(NoAnswer, match=f"^{words}"):
        replies.read(said, chat=True)


def test_lists_without_end_are_no_traceback():
    with pytest.raises(NoAnswer, match="malformed answer"):
        replies.read(reply(b'{"choices": [{"message": {"content": ' + b"[" * 400 + b"]" * 400 + b"}}]}"), chat=True)
    deep = b'{"choices": [{"message": {"content": "x", "reasoning": ' + b"[" * 400 + b"]" * 400 + b"}}]}"
    assert only(replies.read(reply(deep), chat=True)).text == "x"


# ---- refusals ----


@pytest.mark.parametrize("status", [400, 404, 405, 413, 422, 501])
def test_a_refusal_of_several_candidates_leaves_it_open_to_ask_one_by_one(status):
    with pytest.raises(SeveralRefused, match="only one"):
        replies.read(reply({"message": "only one"}, status), chat=True, copies=2)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (reply({"error": {"message": "too long:\n9 tokens"}}, 400), ": 400: too long: 9 tokens"),
        (reply({"error": {"message": "no such key: sk-secret"}}, 401), r": 401: no such key: \(the key\)"),
        (reply({"error": {"code": 402, "message": "pay first"}}), ": 402: pay first"),
        (reply(b"", 302, location="http://there/v1"), ": 302: expected an answer, got a redirect to http://there/v1"),
        (reply({"see": "other"}, 308), ": 308: expected an answer, got a redirect to nowhere"),
    ],
)
def test_what_is_refused_for_good_is_wrong_input_with_the_servers_words(said, words):
    with pytest.raises(InputError, match=words) as raised:
        replies.read(said, chat=True)
    assert "\n" not in str(raised.value)
    assert "sk-secret" not in str(raised.value)


@pytest.mark.parametrize("status", [307, 401, 403])
def test_a_redirect_or_a_key_that_is_not_taken_is_refused_for_several_too(status):
    with pytest.raises(InputError):
        replies.read(reply({}, status), chat=True, copies=2)


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("nan", 0.0), ("-1", 0.0), ("Wed, 21 Oct 2015", 0.0)])
def test_a_server_may_ask_for_time(header, seconds):
    with pytest.raises(NoAnswer) as raised:
        replies.read(reply({}, 429, **{"retry-after": header}), chat=True)
    assert raised.value.wait_seconds == seconds


# ---- bounds ----


BOUNDS = replies.bounds_of("def g():", max_tokens=10, is_told=True)


@pytest.mark.parametrize("end", ["stop", "length", None])
def test_a_text_that_is_longer_than_its_tokens_can_make_it_is_cut_and_counted_as_cut(end):
    message = {"content": "x" * 1_000_000, "reasoning": "y" * 1_000_000}
    read = replies.read(chat(message, end), chat=True, bounds=BOUNDS)
    assert only(read) == Completion("x" * 10 * replies.CHARACTERS_PER_TOKEN, 12, finished=False)
    assert len(read.thoughts[0]) == 10 * replies.CHARACTERS_PER_TOKEN


def test_a_text_of_the_largest_tokens_is_whole():
    whole = "x" * 10 * replies.CHARACTERS_PER_TOKEN
    assert only(replies.read(chat({"content": whole}), chat=True, bounds=BOUNDS)).finished is True


@pytest.mark.parametrize("number", [41, 2**20, 2**31, 2**62, 2**63 - 1, 2**64, 1e300, -1, float("nan"), float("inf")])
def test_a_number_of_tokens_that_cannot_be_is_not_known(number):
    usage = {"prompt_tokens": number + 2**20, "completion_tokens": number}
    read = replies.read(chat({"content": "x"}, usage=usage), chat=True, bounds=BOUNDS)
    assert (only(read).tokens, read.prompt_tokens) == (None, None)


def test_a_server_that_was_not_told_the_limit_may_count_more_but_not_anything():
    free = replies.bounds_of("def g():", max_tokens=10, is_told=False)
    assert (
        only(replies.read(chat({"content": "x"}, usage={"completion_tokens": 9000}), True, bounds=free)).tokens == 9000
    )
    many = chat({"content": "x"}, usage={"completion_tokens": 2**40})
    assert only(replies.read(many, chat=True, bounds=free)).tokens is None


def test_halves_of_characters_become_whole_ones_so_that_anything_can_keep_the_text():
    body = b'{"choices": [{"message": {"content": "a\\ud800b", "reasoning": "\\udfff"}}]}'
    read = replies.read(reply(body), chat=True)
    assert only(read).text.encode() == b"a?b"
    assert read.thoughts[0].encode() == b"?"


def test_a_key_is_in_no_text_and_no_message_also_not_in_part():
    key = "sk-" + "0123456789" * 8
    asked = httpx.Request("POST", URL, headers={"authorization": f"Bearer {key}"})
    escaped = "".join(f"\\u{ord(c):04x}" for c in key)
    for content in (f'{{"choices": "{escaped}"}}', f'{{"choices": [{{"message": "{escaped}"}}]}}'):
        with pytest.raises(NoAnswer) as caught:
            replies.read(httpx.Response(200, content=content.encode(), request=asked), chat=True)
        assert "0123456789" not in str(caught.value)
    body = f'{{"choices": [{{"message": {{"content": "{escaped}"}}}}]}}'
    read = replies.read(httpx.Response(200, content=body.encode(), request=asked), chat=True)
    assert only(read).text == "(the key)"
    body = f'{{"error": {{"message": "{escaped}"}}}}'
    with pytest.raises(InputError) as refused:
        replies.read(httpx.Response(400, content=body.encode(), request=asked), chat=True)
    assert "0123456789" not in str(refused.value)


@pytest.mark.parametrize("header", ["inf", "nan", "-inf", "1e999", "9" * 5000, "soon"])
def test_a_pause_that_never_ends_is_none(header):
    with pytest.raises(NoAnswer) as caught:
        replies.read(reply({}, 429, **{"retry-after": header}), chat=True)
    assert caught.value.wait_seconds == 0.0
