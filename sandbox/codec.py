"""Converts values of exact builtin types to bytes and back; no other value crosses a process border.

The bytes are tagged JSON. `None`, `bool`, `str`, `list` and small `int` stand for themselves. Every other value is an
object with one key:

    {"u": hex}                   a text with surrogate pairs, as its UTF-8; JSON would join each pair to one character
    {"i": hex}                   an int beyond 2**53
    {"f": hex}                   a float
    {"t": [...]}                 a tuple
    {"s": [...]}                 a set
    {"z": [...]}                 a frozenset
    {"d": [[key, value], ...]}   a dict in its own order, because a judge may see the order

Set members are sorted by their encoding, so equal values have equal bytes whatever the hash seed. Types are compared
with `is`, so no method of a subclass ever runs.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

MAX_DEPTH = 64
EXACT_INT = 2**53
SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
LONG_INT = 10**4300
"""Integers of this size and more are written in hexadecimal: conversion to decimal takes quadratic time, and CPython
refuses it (sys.int_info.default_max_str_digits)."""


class CodecError(ValueError):
    """The value is not plain data, or the bytes do not encode a value."""


def encode(value: object, max_bytes: int) -> bytes:
    """Bytes of a plain value.

    Raises:
        CodecError: The value is not of an exact builtin type, not finite, nested deeper than 64, or over `max_bytes`.
    """
    if type(value) is bool:  # a short cut, because most judges return a bool
        return b"true" if value else b"false"
    # Every node takes at least two bytes; a text or a long integer takes its length. A small value can hold itself many
    # times over (a = [a, a], sixty times). This count refuses such a value before it is written out.
    budget = [max_bytes // 2 + 1]
    encoded = _dump(_lower(value, 0, budget)).encode("ascii")
    if len(encoded) > max_bytes:
        raise CodecError(f"the value takes {len(encoded)} bytes, over the limit of {max_bytes}")
    return encoded


def decode(data: bytes) -> Any:
    """The value that `encode` wrote.

    Raises:
        CodecError: `encode` cannot have written these bytes (they may come from a hostile process).
    """
    try:
        # Given bytes, json would guess their encoding, and the judge's process might guess another one.
        return _raise(_DECODER.decode(data.decode("ascii")), 0)
    except CodecError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise CodecError(f"not an encoded value: {type(error).__name__}") from None


def literal(value: object) -> str:
    """A decoded value as a Python literal: its `repr`, with sets and dicts in sorted order."""
    kind = type(value)
    if kind is int and abs(value) >= LONG_INT:  # type: ignore[arg-type]  # kind is int
        return hex(value)  # type: ignore[arg-type]  # kind is int
    if kind is list:
        return "[" + ", ".join(map(literal, value)) + "]"  # type: ignore[call-overload]  # kind is list
    if kind is tuple:
        inner = ", ".join(map(literal, value))  # type: ignore[call-overload]  # kind is tuple
        return f"({inner},)" if len(value) == 1 else f"({inner})"  # type: ignore[arg-type]  # kind is tuple
    if kind in (set, frozenset):
        members = ", ".join(text for text, _ in _sorted(value))
        shown = f"{{{members}}}" if members else "set()"
        return shown if kind is set else f"frozenset({shown if members else ''})"
    if kind is dict:
        items = (f"{text}: {literal(value[key])}" for text, key in _sorted(value))  # type: ignore[index]  # kind is dict
        return "{" + ", ".join(items) + "}"
    return repr(value)


def _sorted(members: Any) -> list[tuple[str, Any]]:
    """Members with their literals, sorted by value, or by literal where the values have no total order.

    Each literal is made only once, because members may be nested.
    """
    try:
        ordered = sorted(members)
        if all(first < second for first, second in itertools.pairwise(ordered)):
            return [(literal(member), member) for member in ordered]
    except TypeError:
        pass
    return sorted(((literal(member), member) for member in members), key=lambda pair: pair[0])


def _dump(lowered: object) -> str:
    # The encoder would write an int the same way, but its first use costs a fresh child 0.1 ms.
    if type(lowered) is int:
        return str(lowered)
    return _ENCODER.encode(lowered)


def _lower(value: Any, depth: int, budget: list[int]) -> Any:
    kind = type(value)
    budget[0] -= 1 + (len(value) // 2 if kind is str else value.bit_length() // 8 if kind is int else 0)
    if budget[0] < 0:
        raise CodecError("the value is over the limit: too many parts, or too long ones")
    if depth > MAX_DEPTH:
        raise CodecError(f"the value is nested deeper than {MAX_DEPTH}")
    if value is None or kind is bool:
        return value
    if kind is str:
        paired = not value.isascii() and SURROGATE_PAIR.search(value)
        return {"u": value.encode("utf-8", "surrogatepass").hex()} if paired else value
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


# Both are made once, at import: making them would cost a fresh child more than using them.
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse)


MOST_ALIKE = 64
"""Most members of a set, or keys of a dict, with one hash. Values can be chosen such that thousands have the same, and
building a set of those takes quadratic time, in a process that has no limit."""


def _check_hashes(members: Sequence[Any]) -> None:
    if len(members) > MOST_ALIKE:
        (_, most), *_ = Counter(map(hash, members)).most_common(1)
        if most > MOST_ALIKE:
            raise CodecError(f"{most} members have one hash, over the limit of {MOST_ALIKE}")


def _raise(lowered: Any, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:  # the list of a call's arguments adds one level around each value
        raise CodecError(f"the value is nested deeper than {MAX_DEPTH}")
    if type(lowered) is list:
        return [_raise(member, depth + 1) for member in lowered]
    if type(lowered) is not dict:
        return lowered
    if len(lowered) != 1:
        raise CodecError("a tagged value has exactly one key")
    ((tag, content),) = lowered.items()
    if tag == "i" and type(content) is str:
        return int(content, 16)
    if tag == "u" and type(content) is str:
        return bytes.fromhex(content).decode("utf-8", "surrogatepass")
    if tag == "f" and type(content) is str:
        number = float.fromhex(content)
        if not math.isfinite(number):
            raise CodecError("not a finite number")
        return number
    if type(content) is not list:
        raise CodecError(f"unknown tag {tag[:10]!r}")
    if tag == "d":
        items = [(_raise(key, depth + 1), _raise(item, depth + 1)) for key, item in content]
        _check_hashes([key for key, _ in items])
        return dict(items)
    members = [_raise(member, depth + 1) for member in content]
    if tag == "t":
        return tuple(members)
    if tag in ("s", "z"):
        _check_hashes(members)
        return set(members) if tag == "s" else frozenset(members)
    raise CodecError(f"unknown tag {tag[:10]!r}")
