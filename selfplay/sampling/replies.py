"""What a server's reply counts as. No other place decides it.

    reply                                                             counts as
    ----------------------------------------------------------------  ------------------------------------------------
    status 200 with choices                                           a sample for each choice, whatever is in it:
      no message or content, or it is null or empty                     an empty text, so a wrong answer
      content is a list of parts                                        its text parts, joined
      thoughts, in fields or parts of their own                         no part of the text
      the end is `length`, `content_filter` or the like                 cut; its text is judged like any other
      the end is missing, null or an unknown word                       whether it was cut is not known
      a count of tokens is missing, null or no whole number             this count is not known
      a count is larger than what was asked for can need                this count is not known
      a text is longer than its token limit can make it                 cut there
      more choices than were asked for                                  the first ones, as many as were asked for
    status 200, and the server says that it gave up (`abort`, …)      a failure
    status 200 without choices, or not JSON (a stream, half a reply)  a failure
    larger than the answer can be, or packed otherwise than by gzip   a failure
    status 200 with an error in place of choices                      as the error's code; a failure if it has none
    status 408, 409, 425, 429, or 500 and above                       a failure
    no connection, or no whole reply within the time limit            a failure
    a refusal of a request for several candidates (`n`)               asked again, one by one
    a redirect, or another status                                     wrong input, which ends the command

A failure is asked again, `endpoint.attempts` times in all at most. If none succeeds, the command ends with an error
that names the prompt. So no candidate of a score or of a run is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from puzzles.foreign import a_list, an_object, expect, parse_json, shortened, shown
from puzzles.puzzle import InputError
from selfplay.sampling.sampler import Completion
from selfplay.sampling.transfer import REDACTED, key_of, without_key

if TYPE_CHECKING:
    import httpx2 as httpx

PASSING = (408, 409, 425, 429)
"""Status codes below 500 after which another try may succeed: the server is busy, or there were too many requests."""
ENDED = (
    "stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete", "completed", "tool_calls", "function_call",
)  # fmt: skip
"""Finish reasons of texts that ended by themselves."""
CUT = (
    "length", "max_tokens", "max_length", "max_output_tokens", "model_length", "model_context_window_exceeded",
    "content_filter", "safety", "recitation",
)  # fmt: skip
"""Finish reasons of texts that were cut."""
GIVEN_UP = ("abort", "aborted", "cancelled", "canceled", "error", "insufficient_system_resource")
"""Finish reasons by which a server says that it failed itself."""
MOST_TOKENS = 2**20
"""A larger number is no count of a text's tokens."""
CHARACTERS_PER_TOKEN = 256
"""Longest text of a token: vocabularies have runs of 128 spaces, say."""
TOKENS_BESIDE = 2**16
"""Tokens that a server may read beside our prompt, for a system prompt of its own."""
COUNTED_TWICE = 4
"""A server may count a text several times: thoughts apart, say, or what it drew and left out."""
THOUGHT = ("reasoning", "think", "thought")
"""Parts of the names of fields, and of the types of parts, that hold what a model thinks before it answers."""

_ANSWER = an_object(choices=a_list(an_object(), least=1))


class NoAnswer(Exception):
    """A failure: the reply is not an answer, or is a temporary refusal."""

    def __init__(self, kind: str, said: str = "", wait_seconds: float = 0.0) -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind, self.wait_seconds = kind, wait_seconds


class SeveralRefused(Exception):
    """The server refuses a request of several candidates. It may grant each by a request of its own."""


@dataclass(frozen=True)
class Bounds:
    """What a reply can hold of each text that was asked for. What exceeds it cannot be true."""

    characters: int = CHARACTERS_PER_TOKEN * MOST_TOKENS
    tokens: int = MOST_TOKENS
    prompt_tokens: int = MOST_TOKENS


def bounds_of(prompt: str, max_tokens: int, is_told: bool) -> Bounds:
    """The bounds of an answer.

    Args:
        prompt: The prompt. A token has at least one byte of it.
        max_tokens: Token limit of a text.
        is_told: Whether the server is told this limit. If not, its texts may have more tokens, and are cut here.
    """
    tokens = COUNTED_TWICE * max_tokens if is_told else MOST_TOKENS
    read = TOKENS_BESIDE + len(prompt.encode("utf-8", "replace"))
    return Bounds(CHARACTERS_PER_TOKEN * max_tokens, min(tokens, MOST_TOKENS), read)


@dataclass(frozen=True)
class Reply:
    """A server's answer."""

    completions: list[Completion]
    """One for each choice. Tokens and ends that the server does not tell are None."""
    thoughts: list[str]
    """What the model was thinking before each text, as far as the server tells it apart."""
    prompt_tokens: int | None
    """None if the server does not tell."""

    @property
    def first(self) -> tuple[str, str]:
        """The first choice's thoughts and text."""
        return self.thoughts[0], self.completions[0].text

    @property
    def may_go_on(self) -> bool:
        """Whether the first choice was cut, or says nothing without an end that is known. More tokens may say more."""
        finished = self.completions[0].finished
        return finished is False or (finished is None and not any(self.first))


def read(reply: httpx.Response, chat: bool, copies: int = 1, bounds: Bounds | None = None) -> Reply:
    """The answer in a reply, by the table above.

    Args:
        reply: The reply.
        chat: Whether a message was asked for, not a plain completion.
        copies: Number of candidates that were asked for. Further ones are left out.
        bounds: What each of them can hold.

    Raises:
        NoAnswer: The reply is a failure.
        SeveralRefused: The candidates may be asked for one by one.
        InputError: The server refuses the request for good.
    """
    if reply.status_code != 200:
        raise _refusal(reply, reply.status_code, copies)
    try:
        answer = _parsed(reply)
        told = isinstance(answer, dict) and bool(answer.get("error")) and not answer.get("choices")
        if not told:
            return _answer(answer, str(reply.url), chat, copies, bounds or Bounds())
    except InputError as error:
        raise NoAnswer("malformed answer", _without_key(reply, str(error))) from None
    raise _told_error(reply, answer["error"], copies)


def _parsed(reply: httpx.Response) -> Any:
    if reply.content.lstrip().startswith((b"data:", b"event:")):
        raise InputError(f"{reply.url}: expected one object of JSON, got a stream of events")
    return without_key(parse_json(reply.content, str(reply.url), "an answer"), key_of(reply.request))


def _answer(answer: Any, where: str, chat: bool, copies: int, bounds: Bounds) -> Reply:
    """The answer in a JSON value.

    Raises:
        InputError: It is malformed.
        NoAnswer: The server gave a text up.
    """
    expect(answer, _ANSWER, where)
    choices = answer["choices"][:copies]
    ends = [_finished(choice) for choice in choices]
    messages = [_message(choice, where) if chat else choice for choice in choices]
    texts = [_text(message.get("content" if chat else "text"), where) for message in messages]
    most = bounds.characters
    tokens, prompt_tokens = _counts(answer.get("usage"), texts, bounds)
    completions = [
        Completion(text[:most], count, False if len(text) > most else end)
        for text, count, end in zip(texts, tokens, ends, strict=True)
    ]
    return Reply(completions, [_unicode(_thoughts(message))[:most] for message in messages], prompt_tokens)


def _told_error(reply: httpx.Response, error: Any, copies: int) -> Exception:
    """What an error in place of choices counts as."""
    code = error.get("code") if isinstance(error, dict) else None
    if type(code) is int and 400 <= code < 600:
        return _refusal(reply, code, copies)
    return NoAnswer("an error in place of an answer", said(reply))


def _refusal(reply: httpx.Response, status: int, copies: int) -> Exception:
    """What a reply without an answer counts as, by its status."""
    if status in PASSING or (status >= 500 and not (status == 501 and copies > 1)):
        return NoAnswer(f"status {status}", said(reply), _seconds(reply.headers.get("retry-after", "")))
    if copies > 1 and status >= 400 and status not in (401, 403):
        return SeveralRefused(said(reply))
    if 300 <= status < 400:
        to = shortened(_without_key(reply, reply.headers.get("location", "nowhere")))
        return InputError(f"{reply.url}: {status}: expected an answer, got a redirect to {to}: give that address")
    return InputError(f"{reply.url}: {status}: {said(reply)}")


def _finished(choice: dict[str, Any]) -> bool | None:
    """Whether a text ended by itself; None if the server does not tell.

    Raises:
        NoAnswer: The server gave it up.
    """
    reason = choice.get("finish_reason")
    if isinstance(reason, dict):
        reason = reason.get("type")
    word = reason.partition(":")[0].strip().casefold() if isinstance(reason, str) else ""
    if word in GIVEN_UP:
        raise NoAnswer("broken off", word)
    return True if word in ENDED else False if word in CUT else None


def _message(choice: dict[str, Any], where: str) -> dict[str, Any]:
    message = choice.get("message")
    if message is None:
        return {}
    if not isinstance(message, dict):
        raise InputError(f"{where}: expected an object under 'message', got {shown(message)}")
    return message


def _text(content: Any, where: str) -> str:
    """A content's text, without the parts that are thoughts."""
    texts = []
    for part in content if isinstance(content, list) else [content]:
        text = (None if _is_thought(part) else part.get("text")) if isinstance(part, dict) else part
        if not isinstance(text, str | None):
            raise InputError(f"{where}: expected a text or its parts as content, got {shown(text)}")
        texts.append(text or "")
    return _unicode("".join(texts))


def _unicode(text: str) -> str:
    """A text that UTF-8 can encode: JSON's escapes can write halves of characters."""
    return text.encode("utf-8", "replace").decode()


def _is_thought(part: dict[str, Any]) -> bool:
    return part.get("thought") is True or _has_thought(str(part.get("type")))


def _has_thought(name: str) -> bool:
    return any(word in name for word in THOUGHT) and "signature" not in name


def _thoughts(message: dict[str, Any]) -> str:
    """The thoughts beside a text, or among its parts; empty if there are none."""
    parts = message["content"] if isinstance(message.get("content"), list) else []
    named = [value for name, value in message.items() if _has_thought(name)]
    fields = [*named, [part for part in parts if isinstance(part, dict) and _is_thought(part)]]
    return next(filter(None, map(_all_texts, fields)), "")


def _all_texts(value: Any) -> str:
    """The texts in a field of thoughts: it is a text, or a list of parts, which may hold lists themselves."""
    found, open_values = [], [value]
    while open_values:
        each = open_values.pop()
        if isinstance(each, str):
            found.append(each)
        elif isinstance(each, list):
            open_values += reversed(each)
        elif isinstance(each, dict):
            open_values += [each.get(name) for name in ("summary", "thinking", "text")]
    return "".join(found)


def _counts(usage: Any, texts: list[str], bounds: Bounds) -> tuple[list[int | None], int | None]:
    """Tokens of each text and of the prompt. The reply has one number for all texts, which is shared out evenly."""
    told = usage if isinstance(usage, dict) else {}
    tokens = _count(told.get("completion_tokens"), bounds.tokens * len(texts))
    prompt_tokens = _count(told.get("prompt_tokens"), bounds.prompt_tokens * len(texts))
    if tokens is None or (tokens == 0 and any(texts)):
        return [None] * len(texts), prompt_tokens or None
    share, rest = divmod(tokens, len(texts))
    return [share + (place < rest) for place in range(len(texts))], prompt_tokens or None


def _count(value: Any, most: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        return None
    return int(value) if value == int(value) else None


def said(reply: httpx.Response) -> str:
    """The message of a refusal, in one line. If it repeats the key, the key is replaced."""
    try:
        body = without_key(parse_json(reply.content, str(reply.url)), key_of(reply.request))
        error = (body.get("error") or body) if isinstance(body, dict) else body
        told = error.get("message", error) if isinstance(error, dict) else error
    except InputError:
        told = reply.content.decode("utf-8", "replace")
    return shortened(" ".join(_without_key(reply, str(told)).split()))


def _without_key(reply: httpx.Response, text: str) -> str:
    key = reply.request.headers.get("authorization", "").removeprefix("Bearer ")
    return text.replace(key, REDACTED) if key else text


def _seconds(text: str) -> float:
    """Seconds of a Retry-After header that is a number; 0 for anything else, such as a date, which is rare."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
