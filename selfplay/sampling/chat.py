"""A chat as its model's own template writes it: what we ask as text, or one line about why the template cannot.

A template comes with the model, so it is somebody else's program. It may refuse a conversation, fail, drop the text, or
write the time into the prompt. The time is the same in every prompt here, so the same seed gives the same samples.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from puzzles.foreign import shortened
from puzzles.puzzle import InputError
from selfplay.sampling.rendering import TemplateFailed, TemplateTakesTooMuch, rendered

CHAT_TIME = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""The time that every chat template is told. A time of its own for each run would make the same seed give other
samples."""
CLOCK = re.compile(r"\bstrftime_now\b")
_DIRECTIVES = {f"%{sign}": CHAT_TIME.strftime(f"%{sign}") for sign in string.ascii_letters}
_DIRECTIVES |= {f"%-{sign}": CHAT_TIME.strftime(f"%-{sign}") for sign in string.ascii_letters}
_DIRECTIVES |= {"%%": "%", "%s": str(int(CHAT_TIME.timestamp()))}  # %s would depend on the machine's time zone
_STOPPED_CLOCK = (
    "{% macro strftime_now(format) %}"
    f"{{% set told = {json.dumps(_DIRECTIVES)} %}}"
    "{% set sign = namespace(begun='') %}{% for c in format %}"
    "{% if not sign.begun %}{% if c == '%' %}{% set sign.begun = c %}{% else %}{{ c }}{% endif %}"
    "{% elif c == '-' %}{% set sign.begun = sign.begun ~ c %}"
    "{% else %}{{ told.get(sign.begun ~ c, sign.begun ~ c) }}{% set sign.begun = '' %}{% endif %}"
    "{% endfor %}{{ sign.begun }}{% endmacro %}\n"
)
"""Stands before a template that reads the clock, and takes the place of the function that reads it. The library takes
no function of ours as an argument. The line break goes with the block, so that the template begins its own line."""
PROBE = "def f(x: int):\n    return x == 17"
"""A message on which a template shows how it wants its messages."""

_forms: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()
"""For each tokenizer its template, and the form that this wants a message in."""


class TakesTooMuch(InputError):
    """A template takes too much, whatever the form of the messages."""


def chat_text(tokenizer: Any, content: str, *reply: str) -> str:
    """A chat with this message of the user, up to where the model replies, or with a reply and its end.

    Raises:
        InputError: The template refuses the chat, fails, or leaves out the message.
    """
    template = str(tokenizer.chat_template)
    known = _forms.get(tokenizer)
    if known is None or known[0] != template:
        known = _forms[tokenizer] = (template, _form(tokenizer))
    return _checked(tokenizer, content, reply, known[1])


def clock_of(tokenizer: Any) -> str | None:
    """The time that the chat template writes into prompts, to be recorded; None if it reads no clock."""
    return CHAT_TIME.isoformat() if CLOCK.search(str(tokenizer.chat_template or "")) else None


def _form(tokenizer: Any) -> str:
    """The first form of a message that the template can write.

    Raises:
        InputError: There is none; the message tells about the usual form. Or each call writes another text.
    """
    first: InputError | None = None
    for form in ("text", "parts"):
        try:
            if _checked(tokenizer, PROBE, (), form) == _checked(tokenizer, PROBE, (), form):
                return form
            raise InputError("protocol chat: this model's chat template writes another text each time")
        except TakesTooMuch:
            raise
        except InputError as error:
            first = first or error
    raise first or AssertionError


def _checked(tokenizer: Any, content: str, reply: tuple[str, ...], form: str) -> str:
    """The chat, with messages as texts or as lists of parts, as templates of models for pictures want them."""
    messages = [{"role": role, "content": _content(text, form)} for role, text in _turns(content, reply)]
    try:
        template = tokenizer.get_chat_template()
        template = _STOPPED_CLOCK + template if CLOCK.search(template) else template
        written = rendered(template, messages, tokenizer.special_tokens_map, not reply)
    except (TemplateFailed, ValueError) as error:  # ValueError: there is no template
        kind = TakesTooMuch if isinstance(error, TemplateTakesTooMuch) else InputError
        raise kind(
            f"protocol chat: this model's chat template fails: {shortened(error)}: choose plain or few-shot"
        ) from None
    if content.strip() not in written:
        raise InputError("protocol chat: this model's chat template drops our message: choose plain or few-shot")
    return written


def _turns(content: str, reply: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    yield "user", content
    yield from (("assistant", text) for text in reply)


def _content(text: str, form: str) -> str | list[dict[str, str]]:
    return text if form == "text" else [{"type": "text", "text": text}]
