"""Reads data from outside: TOML, JSON, checks of JSON against a shape, and values as messages show them.

Somebody else may have written a file, or a crash may have cut it short. So its content is checked against a shape where
it is read, and the code that uses the content can rely on it.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError

SHOWN_CHARACTERS = 60
"""Longest part of a value that a message shows."""
MOST_INTEGER = 2**63 - 1
"""Largest integer that SQLite can store."""
Shape = dict[str, Any]
"""A JSON Schema. `_fault` supports the part of the standard that this project's files need."""

NATURAL: Shape = {"type": "integer", "minimum": 0}
NUMBER: Shape = {"type": "number"}
TEXT: Shape = {"type": "string"}
TEXTS: Shape = {"type": "array", "items": TEXT}
ANY: Shape = {}


def an_object(optional: Iterable[str] = (), **properties: Shape) -> Shape:
    """The shape of an object with these keys; the optional ones may be missing."""
    return {"type": "object", "properties": properties, "required": [key for key in properties if key not in optional]}


def a_list(items: Shape, least: int = 0) -> Shape:
    """The shape of a list with at least `least` members."""
    return {"type": "array", "items": items, "minItems": least}


def each(items: Shape) -> Shape:
    """The shape of an object with any keys, whose values all have one shape."""
    return {"type": "object", "additionalProperties": items}


def shown(value: Any) -> str:
    """The beginning of a value, for a message that shows what was found."""
    if isinstance(value, int) and abs(value) > MOST_INTEGER:
        return "an integer of many digits"
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = "something too deep to be shown"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def expect(value: Any, shape: Shape, where: str) -> None:
    """Check that a JSON value has a shape. Integers must also fit into SQLite, and numbers must be finite.

    Args:
        value: A value from `json.loads`.
        shape: The JSON Schema.
        where: File and place, for the message.

    Raises:
        InputError: The value has another shape; the message names the first difference.
    """
    if fault := _fault(value, shape, ""):
        raise InputError(f"{where}: {fault}")


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
_NAMES = {
    "object": "an object", "array": "a list", "string": "a text", "integer": "an integer", "number": "a number",
    "boolean": "true or false", "null": "null",
}  # fmt: skip


def _fault(value: Any, shape: Shape, key: str) -> str:
    """The first difference between a value and its shape, as a message; an empty text if there is none."""
    under = f" under {shown(key)}" if key else ""
    types = shape.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        return f"expected {' or '.join(_NAMES[name] for name in types)}{under}, got {shown(value)}"
    known = [shape["const"]] if "const" in shape else shape.get("enum")
    if known is not None and value not in known:
        return f"expected {' or '.join(map(str, known))}{under}, got {shown(value)}"
    if isinstance(value, dict):
        return _fault_of_object(value, shape, key)
    if isinstance(value, list):
        return _fault_of_list(value, shape, key, under)
    if isinstance(value, str) and "pattern" in shape and not re.search(shape["pattern"], value):
        return f"expected a text like {shape['pattern']}{under}, got {shown(value)}"
    low, high = shape.get("minimum", -math.inf), shape.get("maximum", math.inf)
    if isinstance(value, int | float) and not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"{low} to {high}"
        return f"expected {bounds}{under}, got {shown(value)}"
    return ""


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, int) and not abs(value) <= MOST_INTEGER:
        return False
    return isinstance(value, _TYPES[name]) and not (isinstance(value, float) and not math.isfinite(value))


def _fault_of_object(value: dict[str, Any], shape: Shape, key: str) -> str:
    prefix = f"{key}." if key else ""
    if missing := [name for name in shape.get("required", ()) if name not in value]:
        return f"expected the key {prefix + missing[0]!r}, it is missing"
    properties, patterns = shape.get("properties", {}), shape.get("patternProperties", {})
    others = shape.get("additionalProperties")
    for name, member in value.items():
        like = next((own for pattern, own in patterns.items() if re.search(pattern, name)), others)
        inner = properties.get(name, like)
        if inner is False:
            return f"unknown key {shown(prefix + name)}"
        if isinstance(inner, dict) and (fault := _fault(member, inner, f"{prefix}{name}")):
            return fault
    return ""


def _fault_of_list(value: list[Any], shape: Shape, key: str, under: str) -> str:
    least, most = shape.get("minItems", 0), shape.get("maxItems", math.inf)
    if not least <= len(value) <= most:
        number = least if least == most else f"at least {least}" if most == math.inf else f"{least} to {most}"
        return f"expected {number} in the list{under}, got {len(value)}"
    items = shape.get("items")
    faults = (_fault(member, items, f"{key}[{place}]") for place, member in enumerate(value) if items)
    return next(filter(None, faults), "")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        InputError: The text is not TOML, or holds a number with thousands of digits.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and the errors of int() are ValueErrors
        raise InputError(f"{where}: expected TOML, {shortened(error)}") from None


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: The file cannot be read, or is not TOML.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{shortened(path)}: {reason}: expected a TOML file") from None
    return parse_toml(text, str(path))


def parse_json(text: str | bytes, where: str, expected: str = "JSON") -> Any:
    """The value of a JSON text.

    Args:
        text: The JSON.
        where: File and place, for the message.
        expected: What the message says was expected.

    Raises:
        InputError: The text is not JSON, is nested too deeply, or holds a number with thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: expected {expected}, {shortened(error)}") from None


def shortened(said: object) -> str:
    """The beginning of a library's message, or of a path."""
    text = str(said)
    return text if len(text) <= 300 else f"{text[:300]}…"
