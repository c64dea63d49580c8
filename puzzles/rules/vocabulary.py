"""Draws the names, numbers and words that rules write puzzles with: varied, short, and never a trivial answer."""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Sequence

from puzzles import answer_type

LIST_NAMES = ("xs", "nums", "a", "v", "ys", "lst", "items", "q", "seq")
PAIR_NAMES = ("t", "p", "pair", "xy", "u", "pt")
ANSWER_NAMES = {
    "int": ("x", "n", "k", "m", "a", "i", "num", "y", "v", "z"),
    "float": ("x", "y", "t", "r", "v", "w", "h", "num"),
    "str": ("s", "t", "w", "text", "word", "name", "u", "msg"),
    "List[int]": LIST_NAMES,
    "List[float]": LIST_NAMES,
    "List[str]": ("words", "ws", "a", "names", "strs", "parts", "t"),
    "List[bool]": ("b", "flags", "bits", "mask", "v", "on"),
    "Set[int]": ("s", "t", "nums", "seen", "u", "st"),
    "Set[str]": ("s", "t", "words", "names", "u", "st"),
    "Dict[str, int]": ("d", "m", "counts", "ages", "t", "score"),
    "Dict[int, str]": ("d", "m", "names", "t", "table", "labels"),
    "Tuple[int, int]": PAIR_NAMES,
    "Tuple[str, int]": (*PAIR_NAMES, "item", "row"),
    "List[List[int]]": ("m", "grid", "rows", "g", "mat", "a"),
    "List[Tuple[int, int]]": ("pairs", "ps", "pts", "edges", "a", "z"),
    "Optional[int]": ("x", "n", "k", "num", "y", "v"),
    "Tuple[int, int, int]": (*PAIR_NAMES, "abc", "q"),
    "Tuple[str, str]": (*PAIR_NAMES, "names", "words"),
    "Tuple[float, float]": PAIR_NAMES,
    "Set[Tuple[int, int]]": ("s", "edges", "pts", "cells", "u"),
    "Dict[int, int]": ("d", "m", "t", "table", "counts"),
    "Dict[str, str]": ("d", "m", "names", "code", "t"),
}
PARAMETER_NAMES = ("a", "b", "c", "n", "k", "p", "q", "r", "t", "u")
INNER_NAMES = ("y", "v", "e", "j", "c", "w", "o")
FILLERS = "xyzqwk"
TRIVIAL_INTS = answer_type.SCALARS["int"][1]


def an_integer(rng: random.Random, low: int, high: int) -> int:
    """An integer from `low` to `high` that is no trivial answer."""
    while True:
        value = rng.randint(low, high)
        if value not in TRIVIAL_INTS:
            return value


def a_number(rng: random.Random) -> int:
    """An integer constant that is no trivial answer: mostly of one or two digits, sometimes of three or negative."""
    value = an_integer(rng, 3, rng.choice((20, 60, 99, 99, 400)))
    return -value if rng.random() < 0.1 else value


def some_numbers(rng: random.Random, count: int) -> list[int]:
    """Distinct small numbers, none of them a trivial answer."""
    numbers = list(range(3, rng.choice((10, 20, 40, 100))))
    return rng.sample([number for number in numbers if number not in TRIVIAL_INTS], count)


def parts_of(rng: random.Random, total: int, count: int) -> list[int]:
    """Positive integers with this sum, in random order."""
    cuts = [0, *sorted(rng.sample(range(1, total), count - 1)), total]
    return [high - low for low, high in itertools.pairwise(cuts)]


def distinct_parts_of(rng: random.Random, total: int, count: int) -> list[int]:
    """Distinct positive integers with this sum, in random order. The sum must be large enough for distinct ones."""
    while True:
        parts = parts_of(rng, total, count)
        if len(set(parts)) == count:
            return parts


def a_word(rng: random.Random, low: int, high: int) -> str:
    """A text of `low` to `high` lower-case letters, mostly pronounceable, that is no trivial answer."""
    while True:
        length = rng.randint(low, high)
        kinds = ("bdfghklmnprstvw", "aeiou") if rng.random() < 0.7 else (string.ascii_lowercase,) * 2
        start = rng.randrange(2)
        word = "".join(rng.choice(kinds[(start + i) % 2]) for i in range(length))
        if word not in ("a", "abc"):
            return word


def some_words(rng: random.Random, count: int, low: int = 1, high: int = 4) -> list[str]:
    """Distinct words of `low` to `high` letters."""
    words: list[str] = []
    while len(words) < count:
        word = a_word(rng, low, high)
        if word not in words:
            words.append(word)
    return words


def some_letters(rng: random.Random, count: int) -> str:
    """A text of distinct lower-case letters."""
    return "".join(rng.sample(string.ascii_lowercase, count))


def letters_without(rng: random.Random, letters: str, count: int) -> str:
    """A text of `count` letters without the given ones: one letter repeated, or random letters."""
    others = [letter for letter in string.ascii_lowercase if letter not in letters]
    if rng.random() < 0.5:
        fillers = [letter for letter in FILLERS if letter not in letters]
        return rng.choice(fillers or others) * count
    return "".join(rng.choice(others) for _ in range(count))


def shuffled(rng: random.Random, members: Sequence[int]) -> list[int]:
    """The same members in random order."""
    return rng.sample(list(members), len(members))


def braces(members: Sequence[object]) -> str:
    """The literal of a set, in the order of the members given, because a set's own order differs between machines."""
    return "{" + ", ".join(map(repr, members)) + "}"


def a_quarter(rng: random.Random) -> float:
    """A multiple of a quarter that is no trivial answer; mostly not a whole number."""
    return (rng.randint(5, 120) if rng.random() < 0.9 else -rng.randint(5, 40)) / rng.choice((2, 4, 4))
