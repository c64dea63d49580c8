"""Templates of prompts: texts with named fields in braces, as in Python's format strings.

Here is what a template may and must hold. What its fields stand for is decided in `sampling/prompts.py`.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Iterable, Mapping

from puzzles.foreign import shortened, shown
from puzzles.puzzle import InputError

FIELDS = {
    "system": ("modules",),
    "propose": ("header", "modules", "shots"),
    "solve": ("answer_type", "header", "modules", "puzzle", "shots"),
}
"""The templates, which are settings under `prompt`, and their fields."""
NOWHERE = {("plain", "solve"): "shots", ("plain", "propose"): "shots", ("chat", "propose"): "header"}
"""The field that a protocol's template cannot hold: plain prompts show nothing, and a chat begins no program."""
FILE_MARK = "@"
"""Begins a value of the command line that names a file with the text."""


def filled(template: str, fields: Mapping[str, str]) -> str:
    """A checked template with its fields filled in. The text in `{shots:TEXT}` is left out where there are no shots."""
    parts = []
    for text, name, lead, _ in string.Formatter().parse(template):
        parts.append(text)
        if name is not None and fields[name]:
            parts += [lead or "", fields[name]]
    return "".join(parts)


def holds(template: str, field: str) -> bool:
    """Whether a checked template has a field."""
    return any(name == field for _, name, _, _ in string.Formatter().parse(template))


def check_templates(protocol: str, templates: Mapping[str, str], shots_as_turns: bool) -> None:
    """Check the templates of prompts.

    Args:
        protocol: The protocol whose prompts they write; `auto` if this is not known yet.
        templates: Each template by its name, as in `FIELDS`. An empty one is left open.
        shots_as_turns: Whether shots are to be turns of a chat.

    Raises:
        InputError: A brace has no partner, a field is unknown or has no place here, or one is missing. Or the protocol
            is no chat, and something is asked for that only a chat has.
    """
    if protocol in ("plain", "few-shot"):
        for key, is_given in (("system", bool(templates["system"])), ("shots_as_turns", shots_as_turns)):
            if is_given:
                raise InputError(f"prompt.{key}: expected none with protocol {protocol}: only a chat has turns")
    for key, template in templates.items():
        if template:
            _check(key, template, protocol)


def _check(key: str, template: str, protocol: str) -> None:
    known = [name for name in FIELDS[key] if NOWHERE.get((protocol, key)) != name]
    expected = f"prompt.{key}: expected a text with fields out of {_braced(known)}"
    if template.startswith(FILE_MARK):
        raise InputError(f"{expected}, got {shown(template)}: only the command line names a file, with --set")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{expected}, got {shown(template)}: {error}: double a brace that is text") from None
    for _, name, lead, conversion in parts:
        if name is None:
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(
                f"{expected}, got {_braced([shortened(name)])}{f'; did you mean {_braced(near)}?' if near else ''}"
            )
        if conversion or (lead and (name != "shots" or set(lead) & set("{}"))):
            raise InputError(f"{expected}, got more than a name in {_braced([name])}; only {{shots:TEXT}} has a text")
    names = [name for _, name, _, _ in parts]
    for name in _needed(key, protocol):
        if name not in names:
            raise InputError(f"{expected}, among them {_braced([name])}, which is missing in {shown(template)}")
    if protocol in ("plain", "few-shot") and not (names and names[-1] == "header"):
        raise InputError(
            f"{expected}, and {{header}} as its end with protocol {protocol}, because the model goes on from there, "
            f"got {shown(template)}"
        )


def _needed(key: str, protocol: str) -> Iterable[str]:
    if key == "solve":
        yield "puzzle"
    if protocol == "few-shot":
        yield "shots"


def _braced(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
