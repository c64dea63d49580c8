"""Answers that tell puzzles apart: near-misses of a right answer, telling values of a type, and the forms that a value
can take in another type.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from puzzles import answer_type
from sandbox import codec

MOST_CHANGES = 24
"""Most near-misses of one member of a reference answer. With 6, a pair had only near-misses of the wrong length."""
KINDS_OF_CHARACTERS = "aeo1 "
"""Characters that also replace a text's characters in near-misses. They tell a count of vowels from a count of one
letter."""
MOST_STEPS = 128
"""Near-misses of an integer stay within this distance. It is large, because a puzzle about a remainder accepts only
every n-th integer, with n the modulus."""

TELLING: dict[str, tuple[Any, ...]] = {
    "int": (7919, 36, 1005, -57, 123456, 12),
    "float": (81.375, -6.5, 1005.25, 0.625, 12.0, 7919.5),
    "str": ("Zebra 407, crab!", "racecar", "(()[b])", "59038", "aabbccdda", "x=3*7;yes"),
    "bool": (True, False),
    "Any": (7919, "crab", 36, "zoo"),
}
"""Values of the scalar types on which different puzzles compute different things."""
TELLING_MEMBERS: dict[str, tuple[Any, ...]] = {
    "int": (3, 14, 7, 1, 26, 9, 41, 5, 18, 2, 33, -4, 0, 12),
    "float": (2.5, 7.25, -1.5, 13.0, 0.75, 4.125, 21.5),
    "str": ("crab", "zoo", "apple", "b", "Kayak", "42", "fig", "nest", "lemur"),
    "bool": (True, True, False, True, False, False),
    "Any": (3, "crab", 14, "zoo"),
}
"""The same for members of containers."""
TELLING_LENGTHS = (5, 3, 7, 2, 4, 6)
MOST_FORMS = 3
"""Most forms of a value in another type."""


def telling_answers(declared: str, count: int) -> list[Any]:
    """At most `count` distinct answers of the type, on which different puzzles compute different things."""
    found: dict[str, Any] = {}
    for number in range(count):
        value = _telling(declared, number, TELLING)
        found.setdefault(repr(value), value)
    return list(found.values())


def _telling(declared: str, number: int, scalars: dict[str, tuple[Any, ...]]) -> Any:
    name, arguments = answer_type.split(declared)
    if name in scalars:
        return scalars[name][number % len(scalars[name])]
    if name == "Optional":
        return _telling(arguments[0], number, scalars)
    if name == "Tuple" and arguments[-1] != "...":
        return tuple(_telling(each, number * 3 + place, TELLING_MEMBERS) for place, each in enumerate(arguments))
    length = TELLING_LENGTHS[number % len(TELLING_LENGTHS)]
    members = [_telling(arguments[0], number * 5 + place, TELLING_MEMBERS) for place in range(length)]
    if name == "Dict":
        items = [_telling(arguments[1], number * 5 + place, TELLING_MEMBERS) for place in range(length)]
        return dict(zip(map(_frozen, members), items, strict=True))
    if number % 3 == 1 and all(type(member) in (int, float, str) for member in members):
        members.sort()
    return set(map(_frozen, members)) if name == "Set" else tuple(members) if name == "Tuple" else members


def _frozen(member: Any) -> Any:
    return member if type(member) in (int, float, str, bool, tuple) else repr(member)


def forms(value: Any, declared: str, keys: Sequence[str] = ()) -> list[Any]:
    """The value as answers of the declared type: itself, in another type, or inside a container; the likeliest first.

    Args:
        value: A plain value.
        declared: The type.
        keys: Keys under which a dict holds the value.

    Returns:
        At most MOST_FORMS values, which match the type.
    """
    made = list(itertools.islice(_forms(value, declared), 2 * MOST_FORMS))
    name, arguments = answer_type.split(declared)
    if name == "Dict" and keys and arguments[0] == "str" and answer_type.matches(value, arguments[1]):
        made.append(dict.fromkeys(keys, value))
    return [each for each in made if answer_type.matches(each, declared)][:MOST_FORMS]


def _forms(value: Any, declared: str) -> Iterator[Any]:
    if answer_type.matches(value, declared):
        yield value
        return
    name, arguments = answer_type.split(declared)
    if name in answer_type.SCALARS:
        yield from _as_scalar(value, name)
    elif name == "Optional":
        yield from _forms(value, arguments[0])
    else:
        yield from _as_container(value, name, arguments)
        yield from _inside(value, name, arguments)


def _as_scalar(value: Any, name: str) -> Iterator[Any]:
    members = _members(value)
    if name == "str" and type(value) in (int, float):
        yield str(value)
    elif name == "str" and members is not None and all(type(member) in (int, float, str) for member in members):
        texts = [*map(str, members)]
        yield from (",".join(texts), " ".join(texts))
        if all(len(text) == 1 for text in texts):
            yield "".join(texts)
    elif name == "float" and type(value) is int:
        yield float(value)
    elif name == "int" and (
        (type(value) is float and value.is_integer()) or (type(value) is str and value.isdecimal())
    ):
        yield int(value)
    elif name == "int" and members and all(type(member) is int and 0 <= member < 10 for member in members):
        yield int("".join(map(str, members)))


def _members(value: Any) -> list[Any] | None:
    """The members of a container in order; None for other values."""
    if type(value) in (list, tuple):
        return list(value)
    if type(value) is dict:
        return list(value.items())
    if type(value) is set:
        return sorted(value, key=lambda member: (str(type(member)), member) if type(member) is not set else ("", 0))
    return None


def _as_container(value: Any, name: str, arguments: tuple[str, ...]) -> Iterator[Any]:
    members = _members(value)
    if members is None and type(value) is str and len(value) > 1 and name == "List":
        members = list(value)
    if members is None and type(value) is int and value > 9 and name == "List":
        members = list(str(value)) if arguments[0] == "str" else [*map(int, str(value))]
    if members is None:
        return
    if name == "Dict":
        if all(type(member) in (tuple, list) and len(member) == 2 for member in members):
            keys = [_first_form(key, arguments[0]) for key, _ in members]
            items = [_first_form(item, arguments[1]) for _, item in members]
            if None not in keys:
                yield dict(zip(map(_frozen, keys), items, strict=True))
        return
    if name == "Tuple" and arguments[-1] != "...":
        if len(members) == len(arguments):
            yield tuple(map(_first_form, members, arguments))
        return
    changed = [_first_form(member, arguments[0]) for member in members]
    yield set(map(_frozen, changed)) if name == "Set" else tuple(changed) if name == "Tuple" else changed


def _first_form(value: Any, declared: str) -> Any:
    return next(_forms(value, declared), None)


def _inside(value: Any, name: str, arguments: tuple[str, ...]) -> Iterator[Any]:
    """Containers that hold the value as a member, with telling values beside it."""
    if name == "Tuple" and arguments[-1] != "...":
        for place, each in enumerate(arguments):
            if answer_type.matches(value, each):
                others = [_telling(other, place, TELLING_MEMBERS) for other in arguments]
                yield (*others[:place], value, *others[place + 1 :])
    elif name == "Dict":
        return
    elif answer_type.matches(value, arguments[0]):
        yield {_frozen(value)} if name == "Set" else (value,) if name == "Tuple" else [value]


def near_misses(value: Any) -> Iterator[Any]:
    """Values that differ a little from a plain value; not all have its type."""
    if type(value) is bool:
        yield not value
    elif type(value) is float:
        yield from (value + 1, value - 1, -value, 2 * value, value + 0.1, value - 0.1, value / 2)
    elif type(value) is int:
        yield from (value + 1, value - 1, -value, 2 * value, value // 2)
        if 10 <= abs(value) < codec.EXACT_INT:
            digits = _edited(list(str(abs(value))), lambda digit: [str((int(digit) + step) % 10) for step in (1, 9, 5)])
            yield from (int("".join(changed)) for changed in digits if changed)
        yield from (value + sign * step for step in range(2, MOST_STEPS) for sign in (1, -1))
    elif type(value) is str:
        yield from map("".join, _edited(list(value), _near_characters))
    elif type(value) in (list, tuple):
        yield from map(type(value), _edited(list(value), near_misses))
        yield from map(type(value), _same_sum(list(value)))
    elif type(value) is set:
        members = sorted(value, key=codec.literal)
        yield from map(set, _edited(members, near_misses))
        yield from map(set, _same_sum(members))
    elif type(value) is dict:
        yield from map(dict, _edited(list(value.items()), _near_items))
        yield from (dict(zip(value, changed, strict=True)) for changed in _same_sum(list(value.values())))


def _near_characters(character: str) -> list[str]:
    return [chr(ord(character) ^ 1), character.swapcase(), *KINDS_OF_CHARACTERS]


def _near_items(item: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    key, value = item
    return in_turn(((key, other) for other in near_misses(value)), ((other, value) for other in near_misses(key)))


def _same_sum(members: list[Any]) -> Iterator[list[Any]]:
    """Lists with the same sum, where one number is larger by 1 and another smaller: many puzzles ask for a total."""
    numbers = [place for place, member in enumerate(members) if type(member) in (int, float)]
    for first, second in itertools.islice(itertools.permutations(numbers, 2), MOST_CHANGES):
        changed = list(members)
        changed[first] += 1
        changed[second] -= 1
        yield changed


def _edited(members: list[Any], near: Callable[[Any], Iterable[Any]]) -> Iterator[list[Any]]:
    """Lists with members left out, repeated or moved, or with one of four members changed.

    The kinds of change take turns, because only the first few lists are used where this one is itself a member.
    """
    moved = [members[:-1], members[1:], members[::-1], members + members[:1], members[1:] + members[:1]]
    moved += [members[1:2] + members[:1] + members[2:], members[-1:] + members[1:-1] + members[:1]]
    places = sorted({0, 1, len(members) // 2, len(members) - 1} & set(range(len(members))))
    return in_turn(moved, *(_changed(members, place, near) for place in places))


def _changed(members: list[Any], place: int, near: Callable[[Any], Iterable[Any]]) -> Iterator[list[Any]]:
    for other in itertools.islice(near(members[place]), MOST_CHANGES):
        yield [*members[:place], other, *members[place + 1 :]]


def in_turn(*sources: Iterable[Any]) -> Iterator[Any]:
    """The first value of each source, then the second of each, and so on, until all sources have ended."""
    ended = object()
    return (value for row in itertools.zip_longest(*sources, fillvalue=ended) for value in row if value is not ended)
