"""A chat as its model's own template writes it: our turns as text, or one line about why the template cannot.

A template comes with the model, so it is somebody else's program. It may refuse a conversation, fail, drop the text, or
write the time into the prompt. The time is the same in every prompt here, so the same seed gives the same samples.
"""

from __future__ import annotations

import itertools
import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
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
PROBE, PROBE_SYSTEM = "def f(x: int):\n    return x == 17", "You write Python."
"""A message, and a text of the system, on which a template shows how it wants them."""

OTHERWISE = "choose plain or few-shot"
"""What to do where no chat can be written."""
Turn = tuple[str, str]
"""A turn of a chat: its role (`system`, `user` or `assistant`) and its text."""


@dataclass(frozen=True)
class _Form:
    """How a template wants a chat."""

    parts: bool
    """Whether messages are lists of parts, as templates of models for pictures want them, and not texts."""
    joined: bool
    """Whether what the system says stands at the beginning of the first message, because there is no such role."""


_forms: WeakKeyDictionary[Any, dict[tuple[str, bool], _Form]] = WeakKeyDictionary()
"""For each tokenizer the form of chats, by the template and by whether there is a system turn."""


class TakesTooMuch(InputError):
    """A template takes too much, whatever the form of the messages."""


def chat_text(tokenizer: Any, turns: Sequence[Turn]) -> str:
    """A chat with these turns, up to where the model replies, or to the end of a reply that is the last turn.

    What the system says goes to the beginning of the first message if the template has no role for it.

    Raises:
        InputError: The template refuses the chat, fails, or leaves out a turn.
    """
    known = _forms.setdefault(tokenizer, {})
    about = str(tokenizer.chat_template), turns[0][0] == "system"
    if about not in known:
        known[about] = _form(tokenizer, about[1])
    return _checked(tokenizer, turns, known[about])


def clock_of(tokenizer: Any) -> str | None:
    """The time that the chat template writes into prompts, to be recorded; None if it reads no clock."""
    return CHAT_TIME.isoformat() if CLOCK.search(str(tokenizer.chat_template or "")) else None


def _form(tokenizer: Any, has_system: bool) -> _Form:
    """The first form of a chat that the template can write.

    Raises:
        InputError: There is none; the message tells about the usual form. Or each call writes another text.
    """
    probe: list[Turn] = [*[("system", PROBE_SYSTEM)] * has_system, ("user", PROBE)]
    first: InputError | None = None
    for joined, parts in itertools.product((False, True) if has_system else (False,), (False, True)):
        form = _Form(parts, joined)
        try:
            if _checked(tokenizer, probe, form) == _checked(tokenizer, probe, form):
                return form
            raise InputError("protocol chat: this model's chat template writes another text each time")
        except TakesTooMuch:
            raise
        except InputError as error:
            first = first or error
    if first and not has_system and _can_have_system(tokenizer):
        raise InputError(str(first).replace(OTHERWISE, f"give prompt.system, or {OTHERWISE}"))
    raise first or AssertionError


def _can_have_system(tokenizer: Any) -> bool:
    try:
        return bool(_form(tokenizer, has_system=True))
    except InputError:
        return False


def _checked(tokenizer: Any, turns: Sequence[Turn], form: _Form) -> str:
    """The chat in this form."""
    if form.joined:
        (_, said), (role, text), *later = turns
        turns = [(role, f"{said}\n\n{text}"), *later]
    messages = [{"role": role, "content": _content(text, form.parts)} for role, text in turns]
    try:
        template = tokenizer.get_chat_template()
        template = _STOPPED_CLOCK + template if CLOCK.search(template) else template
        written = rendered(template, messages, tokenizer.special_tokens_map, turns[-1][0] != "assistant")
    except (TemplateFailed, ValueError) as error:  # ValueError: there is no template
        kind = TakesTooMuch if isinstance(error, TemplateTakesTooMuch) else InputError
        raise kind(f"protocol chat: this model's chat template fails: {shortened(error)}: {OTHERWISE}") from None
    ours = turns[:-1] if turns[-1][0] == "assistant" else turns
    if not all(text.strip() in written for _, text in ours):
        raise InputError(f"protocol chat: this model's chat template drops our message: {OTHERWISE}")
    return written


def _content(text: str, parts: bool) -> str | list[dict[str, str]]:
    return [{"type": "text", "text": text}] if parts else text
