"""Values as data: exact builtin types to bytes and back; nothing else crosses a process border.

Tagged JSON. `None`, `bool`, `str`, `list` and small `int` are themselves; the rest is a one-key
object: `{"i": hex}` an int beyond 2**53, `{"f": hex}` a float, `{"t": [...]}` a tuple,
`{"s": [...]}` a set, `{"z": [...]}` a frozenset, `{"d": [[key, value], ...]}` a dict in its own
order (a judge may see the order). Set members are sorted by their encoding, so that equal values
have equal bytes whatever the hash seed. Types are compared with `is`, so no method of a subclass
ever runs.
"""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64
EXACT_INT = 2**53
DECIMAL_DIGITS = 4300
"""Longer integers are written in hexadecimal: decimal conversion is quadratic, and CPython
refuses it from here on (sys.int_info.default_max_str_digits)."""


class CodecError(ValueError):
    """A value that is not plain data, or bytes that do not encode one."""


def encode(value: object, max_bytes: int) -> bytes:
    """Bytes of a plain value.

    Raises:
        CodecError: Not an exact builtin type, not finite, deeper than 64, or over `max_bytes`.
    """
    # Every node takes at least two bytes, so a small value that aliases itself exponentially
    # (a = [a, a] sixty times) is refused by count before it is ever written out.
    budget = [max_bytes // 2 + 1]
    encoded = _dump(_lower(value, 0, budget)).encode("ascii")
    if len(encoded) > max_bytes:
        raise CodecError(f"the value takes {len(encoded)} bytes, over the limit of {max_bytes}")
    return encoded


def decode(data: bytes) -> Any:
    """The value that `encode` wrote.

    Raises:
        CodecError: The bytes are not of this form (they may come from a hostile process).
    """
    try:
        return _raise(json.loads(data, parse_float=_refuse, parse_constant=_refuse))
    except CodecError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise CodecError(f"not an encoded value: {type(error).__name__}") from None


def literal(value: object) -> str:
    """A Python literal of a decoded value: `repr`, with sets and dicts in sorted order."""
    kind = type(value)
    if kind is int and abs(value) >= 10**DECIMAL_DIGITS:  # type: ignore[arg-type]  # kind is int
        return hex(value)  # type: ignore[arg-type]  # kind is int
    if kind is list:
        return "[" + ", ".join(map(literal, value)) + "]"  # type: ignore[call-overload]  # kind is list
    if kind is tuple:
        inner = ", ".join(map(literal, value))  # type: ignore[call-overload]  # kind is tuple
        return f"({inner},)" if len(value) == 1 else f"({inner})"  # type: ignore[arg-type]  # kind is tuple
    if kind in (set, frozenset):
        members = ", ".join(literal(member) for member in _sorted(value))  # type: ignore[arg-type]  # kind is set
        shown = f"{{{members}}}" if members else "set()"
        return shown if kind is set else f"frozenset({shown if members else ''})"
    if kind is dict:
        keys = _sorted(value)  # type: ignore[arg-type]  # kind is dict
        return "{" + ", ".join(f"{literal(key)}: {literal(value[key])}" for key in keys) + "}"  # type: ignore[index]  # kind is dict
    return repr(value)


def _sorted(members: Any) -> list[Any]:
    try:
        return sorted(members)
    except TypeError:
        return sorted(members, key=literal)


def _dump(lowered: object) -> str:
    return json.dumps(lowered, separators=(",", ":"))


def _lower(value: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise CodecError("the value has too many parts")
    if depth > MAX_DEPTH:
        raise CodecError(f"the value is nested deeper than {MAX_DEPTH}")
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -EXACT_INT <= value <= EXACT_INT else {"i": hex(value)}
    if kind is float:
        if not math.isfinite(value):
            raise CodecError(f"{value} is not a finite number")
        return {"f": value.hex()}
    if kind is list:
        return [_lower(member, depth + 1, budget) for member in value]
    if kind is tuple:
        return {"t": [_lower(member, depth + 1, budget) for member in value]}
    if kind is set or kind is frozenset:
        members = [_lower(member, depth + 1, budget) for member in value]
        return {"s" if kind is set else "z": sorted(members, key=_dump)}
    if kind is dict:
        return {"d": [[_lower(key, depth + 1, budget), _lower(item, depth + 1, budget)] for key, item in value.items()]}
    raise CodecError(f"{kind.__name__} is not plain data")


def _refuse(text: str) -> Any:
    raise CodecError(f"untagged number {text[:40]!r}")


def _raise(lowered: Any) -> Any:
    if type(lowered) is list:
        return [_raise(member) for member in lowered]
    if type(lowered) is not dict:
        return lowered
    if len(lowered) != 1:
        raise CodecError("a tagged value has exactly one key")
    ((tag, content),) = lowered.items()
    if tag == "i" and type(content) is str:
        return int(content, 16)
    if tag == "f" and type(content) is str:
        number = float.fromhex(content)
        if not math.isfinite(number):
            raise CodecError("not a finite number")
        return number
    if type(content) is not list:
        raise CodecError(f"unknown tag {tag[:10]!r}")
    if tag == "d":
        return {_raise(key): _raise(item) for key, item in content}
    members = [_raise(member) for member in content]
    if tag == "t":
        return tuple(members)
    if tag == "s":
        return set(members)
    if tag == "z":
        return frozenset(members)
    raise CodecError(f"unknown tag {tag[:10]!r}")
