"""Makes puzzles by rule: from a set of rules and a seed come pairs of a puzzle and one of its solutions.

A small model learns the form of puzzles and solutions from these pairs. So they are short, use many different constants
and names, have more than one right answer, and can be written in more than one way. A rule draws the answer before it
writes the puzzle. Only texts of these rules run in this process; the sandbox judges the pairs like all others.

Texts are canonical as written: `ast.unparse` puts parentheses around comparisons from the third operand of an `and` on,
and so do the rules.
"""

from __future__ import annotations

import functools
import random
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from puzzles.rules import composition
from puzzles.rules.searching import searched
from puzzles.rules.unfolding import unfolded
from puzzles.rules.vocabulary import (
    ANSWER_NAMES,
    FILLERS,
    INNER_NAMES,
    PARAMETER_NAMES,
    TRIVIAL_INTS,
    a_number,
    a_quarter,
    a_word,
    an_integer,
    braces,
    distinct_parts_of,
    letters_without,
    parts_of,
    shuffled,
    some_letters,
    some_numbers,
    some_words,
)

Family = Callable[[random.Random], tuple[str, str]]
"""A function that draws the texts of a puzzle and of a solution."""

FAMILIES: dict[str, Family] = {}
"""All families by name, in the order of this file."""

COMPOSED: set[str] = set()
"""Names of the families of `composition`, one for each answer type. All other families are single rules."""
WEIGHTS: dict[str, float] = {}
"""Weights of families in drawing; a family that is not named here has weight 1."""

COMPOSED_TO_SINGLE = 2.0
"""Number of composed puzzles drawn for each puzzle of a single rule."""
LIFT_SHARE = 0.25
"""Share of puzzles in which constants become parameters, where they can."""
LITERAL_SHARE = 0.65
"""Share of solutions that are the bare answer although the rule also has an expression for it."""
SEARCH_SHARE = 0.4
"""Share of solutions that are replaced by a program that searches, where one is found."""
UNFOLD_SHARE = 0.25
"""Share of puzzles that are written in several statements, where they can be."""
FRUITLESS_DRAWS = 10_000
"""Number of repeated puzzles in a row after which the families count as exhausted."""


@dataclass(frozen=True)
class RulePair:
    """A puzzle and a solution by rule, with the name of the rule's family."""

    family: str
    puzzle: str
    solution: str
    condition: str
    """The puzzle with one `return`, as it was drawn. It differs from `puzzle` only if that has several statements."""


def draw(rng: random.Random, names: Sequence[str] = ()) -> RulePair:
    """One pair of a family drawn by its weight, among `names` or among all."""
    names = names or list(FAMILIES)
    (family,) = rng.choices(names, [WEIGHTS.get(name, 1) for name in names])
    puzzle, solution = FAMILIES[family](rng)
    if rng.random() < SEARCH_SHARE:
        solution = searched(rng, puzzle, solution)
    return RulePair(
        family, unfolded(rng, puzzle) if rng.random() < UNFOLD_SHARE else puzzle, solution, condition=puzzle
    )


def generate(seed: int, count: int, names: Sequence[str] = ()) -> Iterator[RulePair]:
    """Pairs with distinct puzzles; the same for the same seed on every machine.

    Args:
        seed: Seed of the draws.
        count: Number of pairs.
        names: Names of the families to draw from; empty for all.

    Raises:
        ValueError: The families do not have that many puzzles.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    fruitless = 0
    while len(seen) < count:
        pair = draw(rng, names)
        if pair.puzzle in seen:
            fruitless += 1
            if fruitless == FRUITLESS_DRAWS:
                raise ValueError(f"{', '.join(names) or 'all families'}: expected {count} puzzles, got {len(seen)}")
            continue
        fruitless = 0
        seen.add(pair.puzzle)
        yield pair


# ---- tools to write rules with ----

_FIRST_MARK = 0xE000  # the first of Unicode's private-use characters, which no rule uses for anything else


class _Sheet:
    """Writes one puzzle: holds the answer's name, and constants that may become parameters.

    Only constants that stand in the test can become parameters, so they are chosen when the test is known. Until then
    each constant is a mark in the text.
    """

    def __init__(self, rng: random.Random, declared: str) -> None:
        self.rng = rng
        self.declared = declared
        self.name = rng.choice(ANSWER_NAMES[declared])
        self.taken = {self.name}
        self.constants: list[object] = []

    def const(self, value: object) -> str:
        """A mark that stands for a constant, in the test and in expressions for the answer."""
        self.constants.append(value)
        return chr(_FIRST_MARK + len(self.constants) - 1)

    def fresh(self, names: Sequence[str] = INNER_NAMES) -> str:
        """An unused name, by default for a comprehension's variable."""
        name = self.rng.choice([name for name in names if name not in self.taken])
        self.taken.add(name)
        return name

    def both(self, first: str, second: str) -> str:
        """Both conditions joined by `and`, in random order."""
        return f"{first} and {second}" if self.rng.random() < 0.5 else f"{second} and {first}"

    def pair(self, test: str, answer: object, *expressions: str) -> tuple[str, str]:
        """The texts of the puzzle and of a solution, which returns the answer or one of the expressions."""
        return self.written(test, repr(answer), *expressions)

    def written(self, test: str, literal: str, *expressions: str) -> tuple[str, str]:
        """Like `pair`, for an answer whose text is not its `repr`, such as a set."""
        plain = not expressions or self.rng.random() < LITERAL_SHARE
        answer = literal if plain else self.rng.choice(expressions)
        marks = [chr(_FIRST_MARK + number) for number in range(len(self.constants))]
        texts = dict(zip(marks, map(repr, self.constants), strict=True))
        named = [mark for mark in marks if mark in test]
        defaults = []
        if named and self.rng.random() < LIFT_SHARE:
            for mark in self.rng.sample(named, min(len(named), self.rng.choice((1, 1, 2)))):
                name = self.fresh(PARAMETER_NAMES)
                defaults.append(f"{name}={texts[mark]}")
                texts[mark] = name
        spell = str.maketrans(texts)
        puzzle = f"def f({', '.join([f'{self.name}: {self.declared}', *defaults])}):\n    return {test}"
        return puzzle.translate(spell), f"def g({', '.join(defaults)}):\n    return {answer}".translate(spell)


def _family(family: Family) -> Family:
    FAMILIES[family.__name__] = family
    return family


# ---- whole numbers ----


@_family
def linear_equation(rng: random.Random) -> tuple[str, str]:
    """`3 * x + 5 == 47`."""
    sheet = _Sheet(rng, "int")
    x, answer, factor, offset = sheet.name, a_number(rng), rng.randint(2, 12), rng.randint(1, 60)
    a, b = sheet.const(factor), sheet.const(offset)
    test, total, expression = rng.choice((
        (f"{a} * {x} + {b}", factor * answer + offset, "({c} - {b}) // {a}"),
        (f"{x} * {a} - {b}", factor * answer - offset, "({c} + {b}) // {a}"),
        (f"{b} - {a} * {x}", offset - factor * answer, "({b} - {c}) // {a}"),
        (f"({x} + {b}) * {a}", (answer + offset) * factor, "{c} // {a} - {b}"),
        (f"{a} * ({x} - {b})", factor * (answer - offset), "{c} // {a} + {b}"),
    ))  # fmt: skip
    return sheet.pair(f"{test} == {total}", answer, expression.format(a=a, b=b, c=total))


@_family
def sum_or_difference(rng: random.Random) -> tuple[str, str]:
    """`x - 17 == 30`."""
    sheet = _Sheet(rng, "int")
    x, answer, other = sheet.name, a_number(rng), rng.randint(2, rng.choice((20, 99, 300)))
    a = sheet.const(other)
    test, value, expression = rng.choice((
        (f"{x} + {a}", answer + other, "{c} - {a}"),
        (f"{a} + {x}", answer + other, "{c} - {a}"),
        (f"{x} - {a}", answer - other, "{c} + {a}"),
        (f"{a} - {x}", other - answer, "{a} - {c}"),
    ))  # fmt: skip
    c = sheet.const(value)
    return sheet.pair(f"{test} == {c}", answer, expression.format(a=a, c=c))


@_family
def remainder_and_bound(rng: random.Random) -> tuple[str, str]:
    """`x % 7 == 3 and x > 150`."""
    sheet = _Sheet(rng, "int")
    x, modulus, bound = sheet.name, rng.randint(3, 25), rng.randint(20, rng.choice((99, 300, 900)))
    rest = rng.choice([rest for rest in range(modulus) if rest not in (10 % modulus, 100 % modulus)])
    m, b = sheet.const(modulus), sheet.const(bound)
    if rng.random() < 0.2:
        quotient = -(bound // modulus + 2 + rng.randrange(4))
        test = sheet.both(f"{x} % {m} == {rest}", f"{x} < -{b}")
    else:
        quotient = bound // modulus + 1 + rng.randrange(4)
        test = sheet.both(f"{x} % {m} == {rest}", f"{x} > {b}")
    return sheet.pair(test, quotient * modulus + rest, f"{m} * {quotient} + {rest}")


@_family
def two_remainders(rng: random.Random) -> tuple[str, str]:
    """`x % 3 == 2 and x % 5 == 1 and (x > 100)`."""
    sheet = _Sheet(rng, "int")
    (first, second), x, bound = rng.sample(range(2, 13), 2), sheet.name, rng.randint(10, rng.choice((99, 200, 600)))
    answer = rng.randint(bound + 1, bound + 60)
    if bound < 100 and all((answer - 100) % modulus == 0 for modulus in (first, second)):
        return two_remainders(rng)
    a, b = sheet.const(first), sheet.const(second)
    test = sheet.both(f"{x} % {a} == {answer % first}", f"{x} % {b} == {answer % second}")
    return sheet.pair(f"{test} and ({x} > {bound})", answer)


@_family
def quotient_and_remainder(rng: random.Random) -> tuple[str, str]:
    """`x // 8 == 5 and x % 8 == 3`."""
    sheet = _Sheet(rng, "int")
    x, divisor, quotient = sheet.name, rng.randint(3, 30), rng.randint(3, 40)
    rest = rng.choice([r for r in range(divisor) if divisor * quotient + r not in TRIVIAL_INTS])
    d, q = sheet.const(divisor), sheet.const(quotient)
    test = sheet.both(f"{x} // {d} == {q}", f"{x} % {d} == {rest}")
    if rng.random() < 0.25:
        test = f"divmod({x}, {d}) == ({q}, {rest})"
    return sheet.pair(test, divisor * quotient + rest, f"{d} * {q} + {rest}")


@_family
def digit_sum(rng: random.Random) -> tuple[str, str]:
    """`sum(map(int, str(x))) == 14 and x > 200`."""
    sheet = _Sheet(rng, "int")
    x, length = sheet.name, rng.randint(2, 5)
    digits = [rng.randint(1, 9), *(rng.randint(0, 9) for _ in range(length - 1))]
    if sum(digits) < 3:  # the trivial answers 1, 2, 10 and 100 have such sums
        digits[-1] = rng.randint(3, 9)
    answer, total = int("".join(map(str, digits))), sheet.const(sum(digits))
    c = sheet.fresh()
    added = rng.choice((f"sum(map(int, str({x})))", f"sum((int({c}) for {c} in str({x})))"))
    bound = rng.choice((
        f"{x} > {rng.randint(answer // 2, answer - 1)}",
        f"{x} < {rng.randint(answer + 1, answer * 2)}",
        f"len(str({x})) == {length}",
    ))  # fmt: skip
    return sheet.pair(sheet.both(f"{added} == {total}", bound), answer)


@_family
def root(rng: random.Random) -> tuple[str, str]:
    """`x ** 2 == 169 and x < 0`."""
    sheet = _Sheet(rng, "int")
    x, size, offset = sheet.name, an_integer(rng, 3, 40), rng.randint(1, 50)
    answer = rng.choice((size, -size))
    sign = f"{x} > 0" if answer > 0 else f"{x} < 0"
    if rng.random() < 0.3:
        size = an_integer(rng, 3, 12)
        answer = rng.choice((size, -size))
        return sheet.pair(f"{x} ** 3 + {sheet.const(offset)} == {answer**3 + offset}", answer)
    square = rng.choice((f"{x} ** 2", f"{x} * {x}"))
    plain = f"{square} == {sheet.const(answer * answer)}"
    shifted = f"{square} - {offset} == {answer * answer - offset}"
    return sheet.pair(rng.choice((shifted, sheet.both(plain, sign), sheet.both(shifted, sign))), answer)


@_family
def multiple_between(rng: random.Random) -> tuple[str, str]:
    """`120 < x < 160 and x % 9 == 0`."""
    sheet = _Sheet(rng, "int")
    x, factor = sheet.name, rng.randint(3, 30)
    quotient = rng.randint(100 // factor + 1, 100 // factor + 20)
    answer = factor * quotient
    low, high = rng.randint(max(100, answer - 30), answer - 1), rng.randint(answer + 1, answer + 30)
    m, a = sheet.const(factor), sheet.const(low)
    return sheet.pair(sheet.both(f"{a} < {x} < {high}", f"{x} % {m} == 0"), answer, f"{m} * {quotient}")


@_family
def divisor_above(rng: random.Random) -> tuple[str, str]:
    """`x > 5 and 91 % x == 0`."""
    sheet = _Sheet(rng, "int")
    x, small, large = sheet.name, rng.randint(3, 12), rng.randint(11, 40)
    product = small * large
    bound = rng.randint(2, large - 1)
    answers = [n for n in range(bound + 1, product + 1) if product % n == 0]
    if 10 in answers or 100 in answers:
        return divisor_above(rng)
    n = sheet.const(product)
    return sheet.pair(f"{x} > {bound} and {n} % {x} == 0", rng.choice([large, *answers]))


@_family
def reversed_digits(rng: random.Random) -> tuple[str, str]:
    """`str(x)[::-1] == '472'`."""
    sheet = _Sheet(rng, "int")
    x, length = sheet.name, rng.randint(2, 4)
    digits = "".join(rng.choice("123456789") for _ in range(length))
    if rng.random() < 0.5:
        t = sheet.const(digits)
        return sheet.pair(f"str({x})[::-1] == {t}", int(digits[::-1]), f"int({t}[::-1])")
    n = sheet.const(int(digits))
    return sheet.pair(f"int(str({x})[::-1]) == {n}", int(digits[::-1]), f"int(str({n})[::-1])")


@_family
def shape_of_digits(rng: random.Random) -> tuple[str, str]:
    """`str(x).startswith('4') and len(str(x)) == 4`."""
    sheet = _Sheet(rng, "int")
    x = sheet.name
    if rng.random() < 0.3:
        digit, times = rng.choice("3456789"), rng.randint(2, 4)
        answer = rng.choice(("", "1", "2")) + digit * times + rng.choice(("", "0"))
        size = f"len(str({x})) == {len(answer)}"
        return sheet.pair(sheet.both(f"str({x}).count('{digit}') == {sheet.const(times)}", size), int(answer))
    # No digit is zero, because the trivial answers 10 and 100 end in zeros.
    answer = "".join(rng.choice("123456789") for _ in range(rng.randint(3, 5)))
    lower = sheet.const(rng.randint(10 ** (len(answer) - 1), int(answer) - 1))
    head, tail = sheet.const(answer[: rng.randint(1, 2)]), sheet.const(answer[-rng.randint(1, 2) :])
    if rng.random() < 0.5:
        return sheet.pair(sheet.both(f"str({x}).endswith({tail})", f"{x} > {lower}"), int(answer))
    if answer[0] == "1":
        head = sheet.const(answer[:2])
    return sheet.pair(sheet.both(f"str({x}).startswith({head})", f"len(str({x})) == {len(answer)}"), int(answer))


@_family
def bit_count(rng: random.Random) -> tuple[str, str]:
    """`bin(x).count('1') == 5 and x > 200`."""
    sheet = _Sheet(rng, "int")
    x, ones, bound = sheet.name, rng.randint(2, 7), rng.randint(100, rng.choice((200, 500)))
    k = sheet.const(ones)
    counted = rng.choice((f"bin({x}).count('1')", f"{x}.bit_count()"))
    shift = next(shift for shift in range(12) if (2**ones - 1) << shift > bound)
    answers = [n for n in range(bound + 1, 1024) if n.bit_count() == ones]
    return sheet.pair(sheet.both(f"{counted} == {k}", f"{x} > {bound}"), rng.choice(answers),
                      f"2 ** {k} - 1 << {shift + rng.randrange(2)}")  # fmt: skip


@_family
def exclusive_or(rng: random.Random) -> tuple[str, str]:
    """`x ^ 37 == 90`."""
    sheet = _Sheet(rng, "int")
    x, answer, mask = sheet.name, an_integer(rng, 3, 127), rng.randint(3, rng.choice((31, 127)))
    a, b = sheet.const(mask), sheet.const(answer ^ mask)
    test = rng.choice((f"{x} ^ {a} == {b}", f"{a} ^ {x} == {b}"))
    return sheet.pair(test, answer, f"{a} ^ {b}", f"{b} ^ {a}")


@_family
def shift(rng: random.Random) -> tuple[str, str]:
    """`x << 3 == 296`."""
    sheet = _Sheet(rng, "int")
    x, places = sheet.name, rng.randint(1, 5)
    s = sheet.const(places)
    if rng.random() < 0.5:
        answer = an_integer(rng, 3, 90)
        v = sheet.const(answer << places)
        return sheet.pair(f"{x} << {s} == {v}", answer, f"{v} >> {s}")
    value = rng.choice([v for v in range(3, 120) if v not in (10 >> places, 100 >> places)])
    v = sheet.const(value)
    return sheet.pair(f"{x} >> {s} == {v}", (value << places) + rng.randrange(1 << places), f"{v} << {s}")


@_family
def letter_at(rng: random.Random) -> tuple[str, str]:
    """`'kobamu'[x] == 'a'`."""
    sheet = _Sheet(rng, "int")
    x, word = sheet.name, some_letters(rng, rng.randint(5, 9))
    place = rng.randint(3, len(word) - 2)
    s, letter = sheet.const(word), word[place]
    if rng.random() < 0.25:
        return sheet.pair(sheet.both(f"{s}[{x}] == '{letter}'", f"{x} < 0"), place - len(word))
    index = rng.choice((place, place, place - len(word)))
    return sheet.pair(f"{s}[{x}] == '{letter}'", index, f"{s}.index('{letter}')")


@_family
def place_in_list(rng: random.Random) -> tuple[str, str]:
    """`[4, 9, 3, 7, 5][x] == 7`, or the sum of a list's first elements."""
    sheet = _Sheet(rng, "int")
    x, numbers = sheet.name, some_numbers(rng, rng.randint(5, 6))
    place = rng.randint(3, len(numbers) - 2)
    a = sheet.const(numbers)
    if rng.random() < 0.3:
        return sheet.pair(f"sum({a}[:{x}]) == {sum(numbers[:place])}", rng.choice((place, place - len(numbers))))
    index = rng.choice((place, place, place - len(numbers)))
    return sheet.pair(f"{a}[{x}] == {numbers[place]}", index, f"{a}.index({numbers[place]})")


@_family
def distance(rng: random.Random) -> tuple[str, str]:
    """`abs(x - 40) == 7 and x < 40`."""
    sheet = _Sheet(rng, "int")
    x, centre, gap = sheet.name, rng.randint(5, 99), rng.randint(2, 60)
    if centre - gap in TRIVIAL_INTS or centre + gap in TRIVIAL_INTS:
        return distance(rng)
    a, b = sheet.const(centre), sheet.const(gap)
    above = rng.random() < 0.5
    test = rng.choice((f"abs({x} - {a})", f"abs({a} - {x})")) + f" == {b}"
    if rng.random() < 0.6:
        test = sheet.both(test, f"{x} {'>' if above else '<'} {a}")
    return sheet.pair(test, centre + gap if above else centre - gap, f"{a} {'+' if above else '-'} {b}")


@_family
def choices_of_two(rng: random.Random) -> tuple[str, str]:
    """`x * (x - 1) // 2 == 45`: numbers of pairs, and sums of a range."""
    sheet = _Sheet(rng, "int")
    x, size, start = sheet.name, an_integer(rng, 5, 40), rng.randint(1, 4)
    test, total = rng.choice((
        (f"{x} * ({x} - 1) // 2", size * (size - 1) // 2),
        (f"{x} * ({x} + 1) // 2", size * (size + 1) // 2),
        (f"sum(range({x}))", size * (size - 1) // 2),
        (f"sum(range({start}, {x}))", size * (size - 1) // 2 - start * (start - 1) // 2),
    ))  # fmt: skip
    if rng.random() < 0.5:
        return sheet.pair(f"{test} == {sheet.const(total)}", size)
    extra = rng.randint(2, 30)
    return sheet.pair(f"{test} + {sheet.const(extra)} == {sheet.const(total + extra)}", size)


@_family
def exponent(rng: random.Random) -> tuple[str, str]:
    """`3 ** x + 5 == 86`."""
    sheet = _Sheet(rng, "int")
    x, base = sheet.name, rng.choice((2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9))
    answer = rng.randint(3, {2: 9, 3: 6, 4: 5}.get(base, 4))
    a, offset = sheet.const(base), rng.randint(1, 60)
    b = sheet.const(offset)
    test, value = rng.choice((
        (f"{a} ** {x} + {b}", base**answer + offset),
        (f"{a} ** {x} - {b}", base**answer - offset),
        (f"{b} + {a} ** {x}", base**answer + offset),
    ))  # fmt: skip
    return sheet.pair(f"{test} == {value}", answer)


@_family
def number_or_none(rng: random.Random) -> tuple[str, str]:
    """`x is not None and x * 3 == 51`."""
    sheet = _Sheet(rng, "Optional[int]")
    x, answer, factor, offset = sheet.name, an_integer(rng, 3, 200), rng.randint(2, 12), rng.randint(2, 99)
    a, b = sheet.const(factor), sheet.const(offset)
    product, over, under = (sheet.const(value) for value in (factor * answer, answer + offset, answer - offset))
    test, expression = rng.choice((
        (f"{x} * {a} == {product}", f"{product} // {a}"),
        (f"{x} + {b} == {over}", f"{over} - {b}"),
        (f"{x} - {b} == {under}", f"{under} + {b}"),
        (f"{a} * {x} + {b} == {factor * answer + offset}", f"({factor * answer + offset} - {b}) // {a}"),
    ))  # fmt: skip
    return sheet.pair(f"{x} is not None and {test}", answer, expression)


# ---- fractions: mostly halves and quarters, which floats hold exactly ----


@_family
def scaled_fraction(rng: random.Random) -> tuple[str, str]:
    """`x * 4 == 13.0`."""
    sheet = _Sheet(rng, "float")
    x, answer, factor, offset = sheet.name, a_quarter(rng), rng.choice((2, 3, 4, 5, 8, 10)), a_quarter(rng)
    a, b = sheet.const(factor), sheet.const(offset)
    test, value, expression = rng.choice((
        (f"{x} * {a}", answer * factor, "{c} / {a}"),
        (f"{a} * {x}", answer * factor, "{c} / {a}"),
        (f"{x} / 2", answer / 2, "{c} * 2"),
        (f"{x} + {b}", answer + offset, "{c} - {b}"),
        (f"{x} - {b}", answer - offset, "{c} + {b}"),
        (f"{b} - {x}", offset - answer, "{b} - {c}"),
    ))  # fmt: skip
    return sheet.pair(f"{test} == {value}", answer, expression.format(a=a, b=b, c=value))


@_family
def fraction_between(rng: random.Random) -> tuple[str, str]:
    """`2.5 < x < 3.25`."""
    sheet = _Sheet(rng, "float")
    x, low, width = sheet.name, rng.randint(5, 400) / 4, rng.randint(1, 12) / 4
    if rng.random() < 0.15:
        low = -low - width
    a, b = sheet.const(low), sheet.const(low + width)
    test = rng.choice((f"{a} < {x} < {b}", sheet.both(f"{x} > {a}", f"{x} < {b}")))
    # A tenth may be an end of the interval, and is then left out; the middle never is one.
    inner = [i / 10 for i in range(int(low * 10) - 1, int((low + width) * 10) + 2) if low < i / 10 < low + width]
    return sheet.pair(test, rng.choice([*inner, low + width / 2]), f"({a} + {b}) / 2")


@_family
def rounded_fraction(rng: random.Random) -> tuple[str, str]:
    """`round(x) == 7 and x < 7`."""
    sheet = _Sheet(rng, "float")
    x, whole, part = sheet.name, rng.randint(2, 150), rng.choice((0.25, 0.5, 0.75))
    n, near = sheet.const(whole), rng.choice((0.1, 0.2, 0.25, 0.4))
    test, answer, expression = rng.choice((
        (sheet.both(f"round({x}) == {n}", f"{x} < {n}"), whole - rng.choice((0.25, 0.1, 0.2, 0.3)), f"{n} - {near}"),
        (sheet.both(f"round({x}) == {n}", f"{x} > {n}"), whole + rng.choice((0.25, 0.1, 0.2, 0.3)), f"{n} + {near}"),
        (sheet.both(f"int({x}) == {n}", f"{x} % 1 == {part}"), whole + part, f"{n} + {part}"),
        (sheet.both(f"{x} // 1 == {n}", f"{x} > {whole + 0.5}"), whole + rng.choice((0.75, 0.6, 0.8)), f"{n} + 0.75"),
        (sheet.both(f"{x} > {n}", f"{x} % 1 == {part}"), whole + rng.randint(0, 3) + part, f"{n} + {part}"),
    ))  # fmt: skip
    return sheet.pair(test, round(answer, 2), expression)


@_family
def side_or_midpoint(rng: random.Random) -> tuple[str, str]:
    """`2 * (x + 7.5) == 31.0`: sides of rectangles, and midpoints."""
    sheet = _Sheet(rng, "float")
    x, side, other = sheet.name, rng.randint(3, 60) / 2, rng.randint(3, 60) / 2
    if side == 1.0:
        side = 1.5
    a = sheet.const(other)
    test, expression = rng.choice((
        (f"2 * ({x} + {a}) == {2 * (side + other)}", f"{side + other} - {a}"),
        (f"{x} * {a} == {side * other}", f"{side * other} / {a}"),
        (f"({x} + {a}) / 2 == {(side + other) / 2}", f"2 * {(side + other) / 2} - {a}"),
        (f"{x} * {x} == {side * side} and {x} > 0", f"{side * side} ** 0.5"),
        (f"{x} * {a} / 2 == {side * other / 2}", f"{side * other} / {a}"),
    ))  # fmt: skip
    return sheet.pair(test, side, expression)


# ---- strings ----


@_family
def prefix_and_length(rng: random.Random) -> tuple[str, str]:
    """`s.startswith('ab') and len(s) == 7`."""
    sheet = _Sheet(rng, "str")
    s, word, more = sheet.name, a_word(rng, 1, 4), rng.randint(1, 6)
    length = max(4, len(word) + more)
    more = length - len(word)
    a, n, filler, rest = sheet.const(word), sheet.const(length), rng.choice(FILLERS), letters_without(rng, "", more)
    if rng.random() < 0.6:
        return sheet.pair(sheet.both(f"{s}.startswith({a})", f"len({s}) == {n}"), word + rest,
                          f"{a} + '{filler}' * {more}", f"{a}.ljust({n}, '{filler}')")  # fmt: skip
    return sheet.pair(sheet.both(f"{s}.endswith({a})", f"len({s}) == {n}"), rest + word,
                      f"'{filler}' * {more} + {a}", f"{a}.rjust({n}, '{filler}')")  # fmt: skip


@_family
def letter_count(rng: random.Random) -> tuple[str, str]:
    """`s.count('k') == 4 and len(s) == 6`."""
    sheet = _Sheet(rng, "str")
    s, letter, times, more = sheet.name, rng.choice(string.ascii_lowercase), rng.randint(2, 6), rng.randint(0, 4)
    c, n, filler = sheet.const(letter), sheet.const(times), letters_without(rng, letter, 1)
    rest = letters_without(rng, letter, more)
    if rng.random() < 0.25:
        return sheet.pair(f"{s}.count({c}) == {n}", letter * times + rest, f"{c} * {n}", f"{c} * {n} + '{rest}'")
    answer = rng.choice((letter * times + rest, rest + letter * times))
    test = sheet.both(f"{s}.count({c}) == {n}", f"len({s}) == {times + more}")
    if not more:
        return sheet.pair(test, answer, f"{c} * {n}")
    return sheet.pair(test, answer, f"{c} * {n} + '{rest}'", f"{c} * {n} + '{filler}' * {more}")


@_family
def repeated_text(rng: random.Random) -> tuple[str, str]:
    """`s * 3 == 'bobobo'`."""
    sheet = _Sheet(rng, "str")
    s, word, times = sheet.name, a_word(rng, 2, 4), rng.randint(2, 4)
    whole, n = sheet.const(word * times), sheet.const(times)
    if rng.random() < 0.3:
        w = sheet.const(word)
        return sheet.pair(f"{s} == {w} * {n}", word * times, f"{w} * {n}")
    if times == 2 and rng.random() < 0.5:
        return sheet.pair(f"{s} + {s} == {whole}", word, f"{whole}[:{len(word)}]")
    return sheet.pair(rng.choice((f"{s} * {n} == {whole}", f"{n} * {s} == {whole}")), word, f"{whole}[:{len(word)}]")


@_family
def reversed_text(rng: random.Random) -> tuple[str, str]:
    """`s[::-1] == 'maki'`."""
    sheet = _Sheet(rng, "str")
    s, word, tail = sheet.name, a_word(rng, 2, 7), a_word(rng, 1, 3)
    t, u = sheet.const(word), sheet.const(tail)
    test, answer, expression = rng.choice((
        (f"{s}[::-1] == {t}", word[::-1], f"{t}[::-1]"),
        (f"{t} == {s}[::-1]", word[::-1], f"{t}[::-1]"),
        (f"{s}[::-1] + {u} == '{word + tail}'", word[::-1], f"'{word}'[::-1]"),
        (f"({s} + {u})[::-1] == '{tail[::-1] + word}'", word[::-1], f"'{word}'[::-1]"),
    ))  # fmt: skip
    return sheet.pair(test, answer, expression) if answer != "abc" else reversed_text(rng)


@_family
def missing_piece(rng: random.Random) -> tuple[str, str]:
    """`'ki' + s == 'kino'`."""
    sheet = _Sheet(rng, "str")
    s, (head, word, tail) = sheet.name, some_words(rng, 3, 2, 4)
    a, b = sheet.const(head), sheet.const(tail)
    test, expression = rng.choice((
        (f"{a} + {s} == '{head + word}'", f"'{head + word}'[{len(head)}:]"),
        (f"{s} + {b} == '{word + tail}'", f"'{word + tail}'[:{len(word)}]"),
        (f"{a} + {s} + {b} == '{head + word + tail}'", f"'{head + word + tail}'[{len(head)}:-{len(tail)}]"),
        (f"{s} == {a} + {b}", f"{a} + {b}"),
    ))  # fmt: skip
    return sheet.pair(test, head + tail if test.startswith(f"{s} ==") else word, expression)


@_family
def split_text(rng: random.Random) -> tuple[str, str]:
    """`s.split('-') == ['ab', 'c']`."""
    sheet = _Sheet(rng, "str")
    s, words = sheet.name, some_words(rng, rng.randint(2, 3), 1, 3)
    mark = rng.choice(("-", ",", "/", ":", ".", "+", "_"))
    parts = sheet.const(words)
    if rng.random() < 0.25:
        gap = rng.choice((" ", " ", "  "))
        return sheet.pair(f"{s}.split() == {parts}", gap.join(words), f"' '.join({parts})")
    return sheet.pair(f"{s}.split({mark!r}) == {parts}", mark.join(words), f"{mark!r}.join({parts})")


@_family
def numbers_in_text(rng: random.Random) -> tuple[str, str]:
    """`[int(c) for c in s.split(',')] == [4, 17]`."""
    sheet = _Sheet(rng, "str")
    s, c, mark = sheet.name, sheet.fresh(), rng.choice((",", "-", " ", ":", "/", "+"))
    numbers = some_numbers(rng, rng.randint(2, 3))
    joined = mark.join(map(str, numbers))
    if rng.random() < 0.5:
        a = sheet.const(numbers)
        test = rng.choice((f"[int({c}) for {c} in {s}.split('{mark}')]", f"list(map(int, {s}.split('{mark}')))"))
        return sheet.pair(f"{test} == {a}", joined, f"'{mark}'.join(map(str, {a}))")
    total, count = sum(numbers), len(numbers)
    test = f"sum(map(int, {s}.split('{mark}'))) == {total} and {s}.count('{mark}') == {count - 1}"
    return sheet.pair(test, mark.join(map(str, parts_of(rng, total, count))))


@_family
def swapped_letter(rng: random.Random) -> tuple[str, str]:
    """`s.replace('a', 'o') == 'bolo' and 'a' in s`."""
    sheet = _Sheet(rng, "str")
    s, word = sheet.name, a_word(rng, 3, 6)
    new = rng.choice(word)
    old = letters_without(rng, f"{word}abc", 1)  # without a, b and c, the trivial answer 'abc' is wrong
    a, b = sheet.const(old), sheet.const(new)
    places = [i for i, letter in enumerate(word) if letter == new]
    chosen = rng.sample(places, rng.randint(1, len(places)))
    answer = "".join(old if i in chosen else letter for i, letter in enumerate(word))
    test = sheet.both(f"{s}.replace({a}, {b}) == '{word}'", f"{a} in {s}")
    return sheet.pair(test, answer, f"'{word}'.replace({b}, {a})")


@_family
def other_case(rng: random.Random) -> tuple[str, str]:
    """`s.upper() == 'KIMO' and s[0] == 'k'`."""
    sheet = _Sheet(rng, "str")
    s, word = sheet.name, a_word(rng, 3, 7)
    big, mixed = sheet.const(word.upper()), "".join(rng.choice((c, c.upper())) for c in word)
    return sheet.pair(*rng.choice((
        (f"{s}.upper() == {big}", rng.choice((word, word, mixed)), f"{big}.lower()"),
        (f"{s}.swapcase() == {big}", word, f"{big}.lower()"),
        (f"{s}.upper() == {big} and {s}[0] == '{word[0]}'", word[0] + mixed[1:], f"{big}.lower()"),
        (f"{s}.lower() == '{word}' and {s} != '{word}'", word.title(), f"'{word}'.upper()"),
        (f"{s}.title() == '{word.title()}'", rng.choice((word, word.title(), word.upper())), f"'{word}'"),
    ))) if word != "abc" else other_case(rng)  # fmt: skip


@_family
def letter_and_length(rng: random.Random) -> tuple[str, str]:
    """`s[2] == 'k' and len(s) == 5`."""
    sheet = _Sheet(rng, "str")
    s, length, letter = sheet.name, rng.randint(4, 8), rng.choice(string.ascii_lowercase)
    place = rng.randrange(length)
    index = rng.choice((place, place, place - length))
    n, c, filler = sheet.const(length), sheet.const(letter), letters_without(rng, letter, 1)
    answer = letters_without(rng, letter, place) + letter + letters_without(rng, letter, length - place - 1)
    finder = f"{s}.index({c}) == {place}"
    test = sheet.both(f"{s}[{index}] == {c}" if rng.random() < 0.6 else finder, f"len({s}) == {n}")
    if 0 < place < length - 1:
        return sheet.pair(test, answer, f"'{filler}' * {place} + {c} + '{filler}' * {length - place - 1}")
    return sheet.pair(test, answer, *([f"{c} + '{filler}' * {length - 1}"] if not place else []))


@_family
def number_as_text(rng: random.Random) -> tuple[str, str]:
    """`int(s) == 472 and len(s) == 6`."""
    sheet = _Sheet(rng, "str")
    s, number, offset = sheet.name, rng.randint(3, rng.choice((60, 999))), rng.randint(2, 90)
    n, b, over, under = (sheet.const(value) for value in (number, offset, number + offset, number - offset))
    size = len(str(number)) + rng.randint(1, 3)
    length, padded = sheet.const(size), str(number).zfill(size)
    test, answer, expression = rng.choice((
        (sheet.both(f"int({s}) == {n}", f"len({s}) == {length}"), padded, f"str({n}).zfill({length})"),
        (f"int({s}) + {b} == {over}", str(number), f"str({over} - {b})"),
        (f"int({s}) - {b} == {under}", str(number), f"str({under} + {b})"),
        (f"int({s}, 2) == {n}", f"{number:b}", f"bin({n})[2:]"),
    ))  # fmt: skip
    return sheet.pair(test, answer, expression)


@_family
def palindrome(rng: random.Random) -> tuple[str, str]:
    """`s == s[::-1] and s.startswith('kab') and (len(s) == 6)`."""
    sheet = _Sheet(rng, "str")
    s, half = sheet.name, a_word(rng, 2, 4)
    length = 2 * len(half) - rng.choice((0, 1, -1))
    a, middle = sheet.const(half), rng.choice(string.ascii_lowercase) if length > 2 * len(half) else ""
    answer = half + middle + half[: length // 2][::-1]
    start = rng.choice((f"{s}.startswith({a})", f"{s}[:{len(half)}] == {a}"))
    if length == 2 * len(half):
        return sheet.pair(f"{s} == {s}[::-1] and {start} and (len({s}) == {length})", answer, f"{a} + {a}[::-1]")
    return sheet.pair(f"{start} and {s} == {s}[::-1] and (len({s}) == {length})", answer)


@_family
def sorted_letters(rng: random.Random) -> tuple[str, str]:
    """`sorted(s) == list('abkz') and s[0] == 'k'`."""
    sheet = _Sheet(rng, "str")
    s, letters = sheet.name, some_letters(rng, rng.randint(3, 5))
    ordered, rest = "".join(sorted(letters)), "".join(sorted(letters[1:]))
    place, letter = rng.choice(((0, letters[0]), (-1, letters[-1])))
    expression = f"'{letter}' + '{rest}'" if place == 0 else f"'{''.join(sorted(letters[:-1]))}' + '{letter}'"
    t = sheet.const(ordered)
    if ordered == "abc":
        return sorted_letters(rng)
    return sheet.pair(sheet.both(f"sorted({s}) == list({t})", f"{s}[{place}] == '{letter}'"), letters, expression)


@_family
def prefix_and_count(rng: random.Random) -> tuple[str, str]:
    """`len(s) == 8 and s.startswith('ab') and (s.count('z') == 2)`."""
    sheet = _Sheet(rng, "str")
    s, word, times, more = sheet.name, a_word(rng, 2, 3), rng.randint(2, 4), rng.randint(0, 3)
    letter = letters_without(rng, word, 1)
    filler = letters_without(rng, word + letter, 1)
    a, length = sheet.const(word), len(word) + times + more
    at_start = rng.random() < 0.6
    edge = f"{s}.startswith({a})" if at_start else f"{s}.endswith({a})"
    counted = f"{s}.count('{letter}') == {times}"
    if length < 4 or not more:
        test, length = f"{edge} and {counted}", len(word) + times
        more = 0
    else:
        test = f"{sheet.both(f'len({s}) == {length}', edge)} and ({counted})"
    rest = "".join(rng.sample(letter * times + filler * more, times + more))
    many = f"'{letter}' * {times}" + (f" + '{filler * more}'" if more else "")
    return sheet.pair(test, word + rest if at_start else rest + word, f"{a} + {many}" if at_start else f"{many} + {a}")


# ---- lists ----


@_family
def sum_and_length(rng: random.Random) -> tuple[str, str]:
    """`sum(xs) == 20 and len(xs) == 3`."""
    sheet = _Sheet(rng, "List[int]")
    xs, count, total = sheet.name, rng.randint(3, 5), rng.randint(8, rng.choice((20, 60, 200)))
    if rng.random() < 0.3:
        total -= total % count
    n, t = sheet.const(count), sheet.const(total)
    test = sheet.both(f"sum({xs}) == {t}", f"len({xs}) == {n}")
    if total <= 6:
        return sum_and_length(rng)
    even = total // count
    answer = rng.choice((parts_of(rng, total, count), [even] * (count - 1) + [total - even * (count - 1)]))
    expressions = [f"[0] * {count - 1} + [{t}]", f"[1] * {count - 1} + [{total - count + 1}]"]
    return sheet.pair(test, answer, *([f"[{even}] * {n}"] if total == even * count else expressions))


@_family
def sorted_with_place(rng: random.Random) -> tuple[str, str]:
    """`sorted(xs) == [3, 5, 9] and xs[0] == 5`."""
    sheet = _Sheet(rng, "List[int]")
    xs, answer = sheet.name, some_numbers(rng, rng.randint(2, 4))
    place = rng.choice((0, 0, -1, 1))
    a = sheet.const(sorted(answer))
    if rng.random() < 0.2:
        return sheet.pair(f"sorted({xs}) == {a}", answer, a)
    return sheet.pair(sheet.both(f"sorted({xs}) == {a}", f"{xs}[{place}] == {answer[place]}"), answer)


@_family
def rising_to_maximum(rng: random.Random) -> tuple[str, str]:
    """`xs == sorted(xs) and max(xs) == 40 and (len(xs) == 3)`."""
    sheet = _Sheet(rng, "List[int]")
    xs, count, top = sheet.name, rng.randint(3, 5), rng.randint(8, 90)
    a = sheet.const(top)
    members = [*sorted(rng.sample(range(1, top), count - 1)), top]
    if rng.random() < 0.5:
        test, answer = f"{xs} == sorted({xs}) and max({xs}) == {a}", members
        expression = f"list(range({top - count + 1}, {top + 1}))"
    else:
        test, answer = f"{xs}[0] == {a} and {xs} == sorted({xs}, reverse=True)", members[::-1]
        expression = f"list(range({a}, {top - count}, -1))"
    return sheet.pair(f"{test} and (len({xs}) == {count})", answer, expression)


@_family
def slice_of_list(rng: random.Random) -> tuple[str, str]:
    """`xs[:2] == [4, 9] and len(xs) == 5`."""
    sheet = _Sheet(rng, "List[int]")
    xs, part, more = sheet.name, some_numbers(rng, rng.randint(1, 3)), rng.randint(1, 3)
    if part == [3]:  # the trivial answer [1, 2, 3] ends in 3
        return slice_of_list(rng)
    a, size, filler = sheet.const(part), len(part), rng.randint(0, 9)
    length, rest = size + more, some_numbers(rng, more) if rng.random() < 0.6 else [filler] * more
    n = sheet.const(length)
    if rng.random() < 0.5:
        test = sheet.both(f"{xs}[:{size}] == {a}", f"len({xs}) == {n}")
        return sheet.pair(test, part + rest, f"{a} + [{filler}] * {more}")
    test = sheet.both(f"{xs}[{-size}:] == {a}", f"len({xs}) == {n}")
    return sheet.pair(test, rest + part, f"[{filler}] * {more} + {a}")


@_family
def mapped_list(rng: random.Random) -> tuple[str, str]:
    """`[y * 2 for y in xs] == [8, 14]`."""
    sheet = _Sheet(rng, "List[int]")
    xs, y, answer, factor = sheet.name, sheet.fresh(), some_numbers(rng, rng.randint(2, 4)), rng.randint(2, 9)
    k = sheet.const(factor)
    forward, values, back = rng.choice((
        (f"{y} * {k}", [v * factor for v in answer], f"{y} // {k}"),
        (f"{k} * {y}", [v * factor for v in answer], f"{y} // {k}"),
        (f"{y} + {k}", [v + factor for v in answer], f"{y} - {k}"),
        (f"{y} - {k}", [v - factor for v in answer], f"{y} + {k}"),
        (f"{k} - {y}", [factor - v for v in answer], f"{k} - {y}"),
        (f"-{y}", [-v for v in answer], f"-{y}"),
    ))  # fmt: skip
    a = sheet.const(values)
    return sheet.pair(f"[{forward} for {y} in {xs}] == {a}", answer, f"[{back} for {y} in {a}]")


@_family
def list_equation(rng: random.Random) -> tuple[str, str]:
    """`xs + [3, 4] == [7, 9, 3, 4]`."""
    sheet = _Sheet(rng, "List[int]")
    xs, numbers = sheet.name, some_numbers(rng, rng.randint(3, 5))
    cut = rng.randint(1, len(numbers) - 1)
    left, right = numbers[:cut], numbers[cut:]
    test, answer, expression = rng.choice((
        (f"{xs} + {sheet.const(right)} == {numbers}", left, f"{numbers}[:{cut}]"),
        (f"{sheet.const(left)} + {xs} == {numbers}", right, f"{numbers}[{cut}:]"),
        (f"{xs}[::-1] == {numbers}", numbers[::-1], f"{numbers}[::-1]"),
        (f"{xs} * 2 == {left * 2}", left, f"{left * 2}[:{cut}]"),
        (f"{xs} == {left} + {right}", numbers, f"{left} + {right}"),
    ))  # fmt: skip
    return sheet.pair(test, answer, expression)


@_family
def list_of_range(rng: random.Random) -> tuple[str, str]:
    """`xs == list(range(3, 20, 4))`."""
    sheet = _Sheet(rng, "List[int]")
    xs, start, step, count = sheet.name, rng.randint(2, 60), rng.randint(1, 9), rng.randint(3, 5)
    a, stop, answer = sheet.const(start), start + step * (count - 1) + 1, [start + step * i for i in range(count)]
    spread = f"range({a}, {stop})" if step == 1 else f"range({a}, {stop}, {step})"
    if rng.random() < 0.7:
        return sheet.pair(f"{xs} == list({spread})", answer, f"list({spread})")
    return sheet.pair(f"{xs}[::-1] == list({spread})", answer[::-1], f"list({spread})[::-1]")


@_family
def count_in_list(rng: random.Random) -> tuple[str, str]:
    """`xs.count(7) == 3 and len(xs) == 5`."""
    sheet = _Sheet(rng, "List[int]")
    xs, value, times, more = sheet.name, rng.randint(3, 99), rng.randint(2, 4), rng.randint(0, 2)
    v, n = sheet.const(value), sheet.const(times)
    rest = [number for number in some_numbers(rng, 4) if number != value][:more]
    answer = rng.choice(([value] * times + rest, rest + [value] * times))
    test = sheet.both(f"{xs}.count({v}) == {n}", f"len({xs}) == {times + more}")
    return sheet.pair(test, answer, f"[{v}] * {n}" + (f" + {rest}" if more else ""))


@_family
def joined_words(rng: random.Random) -> tuple[str, str]:
    """`' '.join(words) == 'ka bo mi' and len(words) == 3`."""
    sheet = _Sheet(rng, "List[str]")
    ws, words, mark = sheet.name, some_words(rng, rng.randint(2, 4), 1, 3), rng.choice((" ", "-", ",", "/", "+"))
    joined = sheet.const(mark.join(words))
    count = f"len({ws}) == {len(words)}"
    return sheet.pair(sheet.both(f"'{mark}'.join({ws}) == {joined}", count), words, f"{joined}.split('{mark}')")


@_family
def word_lengths(rng: random.Random) -> tuple[str, str]:
    """`[len(w) for w in words] == [2, 4] and words[0] == 'ab'`."""
    sheet = _Sheet(rng, "List[str]")
    ws, w, words = sheet.name, sheet.fresh(), some_words(rng, rng.randint(2, 3), 2, 5)
    sizes, place = sheet.const([len(word) for word in words]), rng.randrange(len(words))
    lengths = rng.choice((f"[len({w}) for {w} in {ws}]", f"list(map(len, {ws}))"))
    known = f"{ws}[{place}] == '{words[place]}'"
    letter = rng.choice(string.ascii_lowercase)
    answer = [word if i == place or rng.random() < 0.5 else letter * len(word) for i, word in enumerate(words)]
    return sheet.pair(sheet.both(f"{lengths} == {sizes}", known), answer)


@_family
def word_in_list(rng: random.Random) -> tuple[str, str]:
    """`words[0] == 'bo' and 'ka' in words and (len(words) == 3)`."""
    sheet = _Sheet(rng, "List[str]")
    ws, words = sheet.name, some_words(rng, rng.randint(2, 4), 1, 4)
    a, b = sheet.const(words[0]), sheet.const(words[1])
    answer = [words[0], *rng.sample(words[1:], len(words) - 1)]
    test = f"{sheet.both(f'{ws}[0] == {a}', f'{b} in {ws}')} and (len({ws}) == {len(words)})"
    return sheet.pair(test, answer, f"[{a}, {b}]" + (f" + {words[2:]}" if words[2:] else ""))


@_family
def count_of_flags(rng: random.Random) -> tuple[str, str]:
    """`sum(b) == 3 and len(b) == 5 and (b[0] == True)`."""
    sheet = _Sheet(rng, "List[bool]")
    # A long list of True and False makes a long text, so long answers are written as two runs.
    b, length = sheet.name, rng.choice((3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 12))
    ones = rng.randint(1, length - 1)
    k, n, others = sheet.const(ones), sheet.const(length), sheet.const(length - ones)
    counted = rng.choice((f"sum({b}) == {k}", f"{b}.count(True) == {k}", f"{b}.count(False) == {others}"))
    test = sheet.both(counted, f"len({b}) == {n}")
    answer = rng.sample([True] * ones + [False] * (length - ones), length)
    if length <= 5 and rng.random() < 0.5:
        place = rng.randrange(length)
        return sheet.pair(f"{test} and ({b}[{place}] == {answer[place]})", answer)
    runs = rng.choice((f"[True] * {k} + [False] * {others}", f"[False] * {others} + [True] * {k}"))
    return sheet.pair(test, answer, runs) if length <= 5 else sheet.written(test, runs)


@_family
def pattern_of_flags(rng: random.Random) -> tuple[str, str]:
    """`flags == [v > 12 for v in [3, 15, 20]]`."""
    sheet = _Sheet(rng, "List[bool]")
    b, v, numbers = sheet.name, sheet.fresh(), some_numbers(rng, rng.randint(3, 4))
    bound, bits = rng.choice(numbers), [rng.randrange(2) for _ in numbers]
    a = sheet.const(numbers)
    test, answer, expression = rng.choice((
        (f"{b} == [{v} > {bound} for {v} in {a}]", [n > bound for n in numbers], f"[{v} > {bound} for {v} in {a}]"),
        (f"{b} == [{v} < {bound} for {v} in {a}]", [n < bound for n in numbers], f"[{v} < {bound} for {v} in {a}]"),
        (f"{b} == [{v} % 2 == 0 for {v} in {a}]", [n % 2 == 0 for n in numbers], f"[{v} % 2 == 0 for {v} in {a}]"),
        (f"[int({v}) for {v} in {b}] == {bits}", list(map(bool, bits)), f"[{v} == 1 for {v} in {bits}]"),
    ))  # fmt: skip
    return sheet.pair(test, answer, expression)


@_family
def halves_in_list(rng: random.Random) -> tuple[str, str]:
    """`[v * 2 for v in xs] == [5.0, 7.0]`."""
    sheet = _Sheet(rng, "List[float]")
    xs, v, count = sheet.name, sheet.fresh(), rng.randint(2, 3)
    answer = [n / 2 for n in some_numbers(rng, count)]
    if rng.random() < 0.4:
        total = sum(answer)
        test = sheet.both(f"sum({xs}) == {sheet.const(total)}", f"{xs}[0] == {answer[0]}")
        return sheet.pair(f"{test} and (len({xs}) == {count})", answer)
    k, factor = rng.choice(((2, 2), (4, 4), (3, 3)))
    doubled = sheet.const([n * factor for n in answer])
    return sheet.pair(f"[{v} * {k} for {v} in {xs}] == {doubled}", answer, f"[{v} / {k} for {v} in {doubled}]")


# ---- sets and maps ----


@_family
def subset_and_size(rng: random.Random) -> tuple[str, str]:
    """`{3, 8} <= s and len(s) == 4`."""
    sheet = _Sheet(rng, "Set[int]")
    s, numbers, known = sheet.name, some_numbers(rng, rng.randint(3, 5)), rng.randint(1, 2)
    part, n = braces(numbers[:known]), sheet.const(len(numbers))
    held = rng.choice((f"{part} <= {s}", f"{s} >= {part}")) if known == 2 else f"{sheet.const(numbers[0])} in {s}"
    test = sheet.both(held, f"len({s}) == {n}")
    return sheet.written(test, braces(shuffled(rng, numbers)), f"{part} | {braces(numbers[known:])}")


@_family
def set_equation(rng: random.Random) -> tuple[str, str]:
    """`s | {4} == {4, 9, 11} and len(s) == 2`."""
    sheet = _Sheet(rng, "Set[int]")
    s, numbers = sheet.name, some_numbers(rng, rng.randint(3, 4))
    left, right = numbers[:-1], numbers[-1:]
    whole, extra = braces(sorted(numbers)), right[0]
    both, one = braces(left), braces(right)
    test, answer, expression = rng.choice((
        (f"{s} | {one} == {whole} and {extra} not in {s}", both, f"{whole} - {one}"),
        (f"{s} - {one} == {both} and {extra} in {s}", braces(numbers), f"{both} | {one}"),
        (f"{s} ^ {one} == {both}", braces(numbers), f"{both} | {one}"),
        (f"{s} & {whole} == {both} and len({s}) == {len(left)}", both, f"{whole} - {one}"),
        (f"sorted({s}) == {sorted(numbers)}", braces(numbers), f"set({sorted(numbers)})"),
    ))  # fmt: skip
    return sheet.written(test, answer, expression)


@_family
def set_sum(rng: random.Random) -> tuple[str, str]:
    """`len(s) == 3 and sum(s) == 20`."""
    sheet = _Sheet(rng, "Set[int]")
    s, count = sheet.name, rng.randint(2, 4)
    parts = distinct_parts_of(rng, rng.randint(12, rng.choice((30, 60, 150))), count)
    n, total = sheet.const(count), sheet.const(sum(parts))
    test = sheet.both(f"len({s}) == {n}", f"sum({s}) == {total}")
    if rng.random() < 0.4:
        return sheet.written(f"{test} and ({rng.choice(parts)} in {s})", braces(parts))
    return sheet.written(test, braces(parts))


@_family
def set_of_letters(rng: random.Random) -> tuple[str, str]:
    """`s == set('kab')`."""
    sheet = _Sheet(rng, "Set[str]")
    s, letters = sheet.name, some_letters(rng, rng.randint(2, 4))
    word, ordered = "".join(rng.sample(letters + letters[:2], len(letters) + 2)), "".join(sorted(letters))
    t = sheet.const(ordered)
    test, expression = rng.choice((
        (f"{s} == set('{word}')", f"set('{word}')"),
        (f"sorted({s}) == list({t})", f"set({t})"),
    ))  # fmt: skip
    return sheet.written(test, braces(letters), expression)


@_family
def words_in_set(rng: random.Random) -> tuple[str, str]:
    """`'ka' in s and len(s) == 3`."""
    sheet = _Sheet(rng, "Set[str]")
    s, words, w = sheet.name, some_words(rng, rng.randint(2, 3), 1, 4), sheet.fresh()
    a, b = sheet.const(words[0]), sheet.const(words[1])
    test = rng.choice((
        f"{sheet.both(f'{a} in {s}', f'{b} in {s}')} and (len({s}) == {len(words)})",
        sheet.both(f"len({s}) == {len(words)}", f"{{{a}, {b}}} <= {s}"),
        f"{{{a}, {b}}} <= {s} and sum((len({w}) for {w} in {s})) == {len(''.join(words))}",
    ))  # fmt: skip
    filled = ", ".join([a, b, *map(repr, words[2:])])
    return sheet.written(test, braces(rng.sample(words, len(words))), f"{{{filled}}}")


@_family
def value_of_key(rng: random.Random) -> tuple[str, str]:
    """`d['ka'] == 7 and len(d) == 2`."""
    sheet = _Sheet(rng, "Dict[str, int]")
    d, (key, other), (value, more) = sheet.name, some_words(rng, 2, 1, 4), some_numbers(rng, 2)
    a, v = sheet.const(key), sheet.const(value)
    test, answer, expression = rng.choice((
        (f"{d}[{a}] == {v}", {key: value}, f"{{{a}: {v}}}"),
        (sheet.both(f"{d}[{a}] == {v}", f"len({d}) == 2"), {key: value, other: rng.choice((more, 0, 1))},
         f"{{{a}: {v}, '{other}': {more}}}"),
        (sheet.both(f"{d}[{a}] == {v}", f"{d}['{other}'] == {more}"), {key: value, other: more},
         f"{{{a}: {v}, '{other}': {more}}}"),
        (f"{d}[{a}] + {d}['{other}'] == {value + more}", {key: value, other: more},
         f"{{{a}: 0, '{other}': {value + more}}}"),
        (f"{d}.get({a}) == {v}", {key: value}, f"dict([({a}, {v})])"),
    ))  # fmt: skip
    return sheet.pair(test, answer, expression)


@_family
def keys_and_values(rng: random.Random) -> tuple[str, str]:
    """`sorted(d) == ['k', 'm'] and sum(d.values()) == 12`."""
    sheet = _Sheet(rng, "Dict[str, int]")
    d, keys, total = sheet.name, sorted(some_words(rng, rng.randint(2, 3), 1, 2)), rng.randint(5, 60)
    values = parts_of(rng, total, len(keys))
    a = sheet.const(keys)
    test = sheet.both(f"sorted({d}) == {a}", f"sum({d}.values()) == {sheet.const(total)}")
    if rng.random() < 0.4:
        test = f"list({d}.values()) == {values} and list({d}) == {a}"
    return sheet.pair(test, dict(zip(keys, values, strict=True)), f"dict(zip({a}, {values}))")


@_family
def lengths_of_words(rng: random.Random) -> tuple[str, str]:
    """`d == {w: len(w) for w in ['ka', 'bomi']}`, or of letters and counts."""
    sheet = _Sheet(rng, "Dict[str, int]")
    d, w, words = sheet.name, sheet.fresh(), some_words(rng, rng.randint(2, 3), 2, 5)
    if rng.random() < 0.5:
        a = sheet.const(words)
        built = f"{{{w}: len({w}) for {w} in {a}}}"
        return sheet.pair(f"{d} == {built}", {word: len(word) for word in words}, built)
    letters = some_letters(rng, rng.randint(2, 3))
    word = letters + "".join(rng.choice(letters) for _ in range(rng.randint(1, 3)))
    a = sheet.const(word)
    built = f"{{{w}: {a}.count({w}) for {w} in {a}}}"
    return sheet.pair(f"{d} == {built}", {letter: word.count(letter) for letter in letters}, built)


@_family
def names_of_numbers(rng: random.Random) -> tuple[str, str]:
    """`d[4] + d[7] == 'kabo' and d[4] == 'ka'`."""
    sheet = _Sheet(rng, "Dict[int, str]")
    d, (key, other), (word, more) = sheet.name, some_numbers(rng, 2), some_words(rng, 2, 1, 3)
    k, w = sheet.const(key), sheet.const(word)
    answer = {key: word, other: more}
    filled = f"{{{k}: {w}, {other}: '{more}'}}"
    test, expression = rng.choice((
        (f"{d}[{k}] + {d}[{other}] == '{word + more}' and {d}[{k}] == {w}", filled),
        (sheet.both(f"{d}[{k}] == {w}", f"{d}[{other}] == '{more}'"), filled),
        (sheet.both(f"{d}[{k}] == {w}", f"len({d}) == 2"), filled),
        (sheet.both(f"{d}[{k}] == {w}", f"sum({d}) == {key + other}"), filled),
        (f"list({d}.items()) == [({k}, {w}), ({other}, '{more}')]", f"dict([({k}, {w}), ({other}, '{more}')])"),
    ))  # fmt: skip
    return sheet.pair(test, answer, expression)


# ---- tuples ----


@_family
def sum_and_product(rng: random.Random) -> tuple[str, str]:
    """`t[0] + t[1] == 15 and t[0] * t[1] == 56`."""
    sheet = _Sheet(rng, "Tuple[int, int]")
    t, (first, second) = sheet.name, some_numbers(rng, 2)
    added = rng.choice((f"{t}[0] + {t}[1]", f"sum({t})"))
    plus = f"{added} == {sheet.const(first + second)}"
    minus = f"{t}[0] - {t}[1] == {sheet.const(first - second)}"
    times = f"{t}[0] * {t}[1] == {sheet.const(first * second)}"
    (one, two), order = rng.choice((((plus, minus), 1), ((plus, times), 2), ((minus, times), 1)))
    answer = (first, second) if order == 1 or rng.random() < 0.5 else (second, first)
    return sheet.pair(sheet.both(one, two), answer)


@_family
def quotient_pair(rng: random.Random) -> tuple[str, str]:
    """`p[0] * 7 + p[1] == 52 and 0 <= p[1] < 7`."""
    sheet = _Sheet(rng, "Tuple[int, int]")
    p, divisor, number = sheet.name, rng.randint(3, 20), rng.randint(21, 199)
    d, n = sheet.const(divisor), sheet.const(number)
    if number // divisor == number % divisor:
        return quotient_pair(rng)
    test = rng.choice((f"{p}[0] * {d} + {p}[1] == {n} and 0 <= {p}[1] < {d}", f"{p} == divmod({n}, {d})"))
    return sheet.pair(test, divmod(number, divisor), f"divmod({n}, {d})", f"({n} // {d}, {n} % {d})")


@_family
def moved_point(rng: random.Random) -> tuple[str, str]:
    """`(p[0] + 3, p[1] - 2) == (10, 5)`."""
    sheet = _Sheet(rng, "Tuple[int, int]")
    p, (x, y), right, up = sheet.name, some_numbers(rng, 2), rng.randint(1, 30), rng.randint(1, 30)
    a, b = sheet.const(right), sheet.const(up)
    return sheet.pair(*rng.choice((
        (f"({p}[0] + {a}, {p}[1] - {b}) == ({x + right}, {y - up})", (x, y), f"({x + right} - {a}, {y - up} + {b})"),
        (f"({p}[0] - {a}, {p}[1] + {b}) == ({x - right}, {y + up})", (x, y), f"({x - right} + {a}, {y + up} - {b})"),
        (f"({p}[1] + {a}, {p}[0] + {b}) == ({y + right}, {x + up})", (x, y), f"({x + up} - {b}, {y + right} - {a})"),
        (f"({p}[0] * {a}, {p}[1] + {b}) == ({x * right}, {y + up})", (x, y), f"({x * right} // {a}, {y + up} - {b})"),
    )))  # fmt: skip


@_family
def sides_of_rectangle(rng: random.Random) -> tuple[str, str]:
    """`p[0] * p[1] == 24 and p[0] > p[1] > 2`."""
    sheet = _Sheet(rng, "Tuple[int, int]")
    p, (short, long) = sheet.name, sorted(rng.sample(range(2, 21), 2))
    area = sheet.const(short * long)
    product, order = f"{p}[0] * {p}[1] == {area}", rng.random() < 0.5
    answer = (long, short) if order else (short, long)
    chain = f"{p}[0] > {p}[1] > {short - 1}" if order else f"{short - 1} < {p}[0] < {p}[1]"
    border = f"2 * ({p}[0] + {p}[1]) == {2 * (short + long)}"
    return sheet.pair(sheet.both(product, rng.choice((chain, border))), answer)


@_family
def repeated_pair(rng: random.Random) -> tuple[str, str]:
    """`t[0] * t[1] == 'kokoko' and t[1] > 1`."""
    sheet = _Sheet(rng, "Tuple[str, int]")
    t, word, times = sheet.name, a_word(rng, 2, 4), rng.randint(2, 4)
    whole = sheet.const(word * times)
    known = rng.choice((f"{t}[1] == {times}", f"{t}[0] == '{word}'", f"len({t}[0]) == {len(word)}"))
    return sheet.pair(sheet.both(f"{t}[0] * {t}[1] == {whole}", known), (word, times), f"('{word}', {times})")


@_family
def word_and_number(rng: random.Random) -> tuple[str, str]:
    """`t[0] + str(t[1]) == 'ko14' and t[1] > 9`."""
    sheet = _Sheet(rng, "Tuple[str, int]")
    t, word, tail, number, offset = sheet.name, a_word(rng, 1, 4), a_word(rng, 1, 2), a_number(rng), rng.randint(2, 30)
    b, n, w, longer = sheet.const(offset), abs(number), sheet.const(word), word + tail
    test, answer, expression = rng.choice((
        (f"{t}[0] + str({t}[1]) == '{word}{n}' and {t}[1] > {b}", (word, n), f"({w}, {n})"),
        (f"({t}[0] + '{tail}', {t}[1] + {b}) == ('{longer}', {n + offset})", (word, n), f"({w}, {n + offset} - {b})"),
        (f"({t}[0], {t}[1] - {b}) == ({w}, {n - offset})", (word, n), f"({w}, {n - offset} + {b})"),
        (f"{t}[0] == {w} and {t}[1] * {b} == {n * offset}", (word, n), f"({w}, {n * offset} // {b})"),
        (f"{t}[0] == {w} and {t}[1] == len({w}) + {b}", (word, len(word) + offset), f"({w}, len({w}) + {b})"),
    ))  # fmt: skip
    if "str(" in test and n <= offset:
        return word_and_number(rng)
    return sheet.pair(test, answer, expression)


# ---- grids and lists of pairs ----


@_family
def row_sums(rng: random.Random) -> tuple[str, str]:
    """`[sum(r) for r in m] == [7, 12] and len(m[0]) == 2`."""
    sheet = _Sheet(rng, "List[List[int]]")
    m, r, sums = sheet.name, sheet.fresh(), some_numbers(rng, rng.randint(2, 3))
    a = sheet.const(sums)
    rows = [[total] if rng.random() < 0.3 else parts_of(rng, total, 2) for total in sums]
    added = rng.choice((f"[sum({r}) for {r} in {m}] == {a}", f"list(map(sum, {m})) == {a}"))
    if rng.random() < 0.5:
        return sheet.pair(added, rows, f"[[{r}] for {r} in {a}]")
    return sheet.pair(f"{added} and len({m}[0]) == 2", [parts_of(rng, sums[0], 2), *rows[1:]],
                      f"[[{r}, 0] for {r} in {a}]", f"[[0, {r}] for {r} in {a}]")  # fmt: skip


@_family
def cell_of_grid(rng: random.Random) -> tuple[str, str]:
    """`m[1][0] == 7 and [len(r) for r in m] == [1, 2]`."""
    sheet = _Sheet(rng, "List[List[int]]")
    m, r, row, column = sheet.name, sheet.fresh(), rng.randrange(2), rng.randrange(2)
    value, filler, lengths = an_integer(rng, 3, 99), rng.randint(0, 9), [rng.randint(1, 3), rng.randint(1, 2)]
    lengths[row] = max(lengths[row], column + 1)
    rows = [[filler] * length for length in lengths]
    rows[row][column] = value
    v, sizes = sheet.const(value), sheet.const(lengths)
    measured = rng.choice((f"[len({r}) for {r} in {m}]", f"list(map(len, {m}))"))
    return sheet.pair(sheet.both(f"{m}[{row}][{column}] == {v}", f"{measured} == {sizes}"), rows)


@_family
def flipped_grid(rng: random.Random) -> tuple[str, str]:
    """`[list(c) for c in zip(*m)] == [[3, 5], [4, 6]]`, or with rows reversed."""
    sheet = _Sheet(rng, "List[List[int]]")
    m, r, (a, b, c, d) = sheet.name, sheet.fresh(), some_numbers(rng, 4)
    t = sheet.const([[a, b], [c, d]])
    test, answer, expression = rng.choice((
        (f"[list({r}) for {r} in zip(*{m})] == {t}", [[a, c], [b, d]], f"[list({r}) for {r} in zip(*{t})]"),
        (f"[{r}[::-1] for {r} in {m}] == {t}", [[b, a], [d, c]], f"[{r}[::-1] for {r} in {t}]"),
        (f"{m}[::-1] == {t}", [[c, d], [a, b]], f"{t}[::-1]"),
        (f"[{r}[1:] for {r} in {m}] == {t}", [[0, a, b], [0, c, d]], f"[[1] + {r} for {r} in {t}]"),
    ))  # fmt: skip
    return sheet.pair(test, answer, expression)


@_family
def sums_of_pairs(rng: random.Random) -> tuple[str, str]:
    """`[a + b for a, b in ps] == [7, 12]`."""
    sheet = _Sheet(rng, "List[Tuple[int, int]]")
    ps, one, two = sheet.name, sheet.fresh(), sheet.fresh()
    answer = list(zip(some_numbers(rng, 2), some_numbers(rng, 2), strict=True))
    sign, values = rng.choice((
        ("+", [a + b for a, b in answer]), ("-", [a - b for a, b in answer]), ("*", [a * b for a, b in answer]),
    ))  # fmt: skip
    if values[0] == values[1]:  # a trivial answer has two equal pairs
        return sums_of_pairs(rng)
    t, neutral = sheet.const(values), 1 if sign == "*" else 0
    test = f"[{one} {sign} {two} for {one}, {two} in {ps}] == {t}"
    if sign == "*" and rng.random() < 0.7:
        # Without a given factor, every pair could have the factor 1, which is the shortest answer.
        return sheet.pair(f"{test} and {ps}[0][0] == {answer[0][0]}", [answer[0], (1, values[1])])
    return sheet.pair(test, answer, f"[({one}, {neutral}) for {one} in {t}]")


@_family
def columns_of_pairs(rng: random.Random) -> tuple[str, str]:
    """`[p[0] for p in ps] == [3, 9] and sum((p[1] for p in ps)) == 10`."""
    sheet = _Sheet(rng, "List[Tuple[int, int]]")
    ps, p, first, total = sheet.name, sheet.fresh(), some_numbers(rng, 2), rng.randint(5, 40)
    place, second = rng.randrange(2), parts_of(rng, total, 2)
    a = sheet.const(first)
    answer = list(zip(first, second, strict=True)) if place == 0 else list(zip(second, first, strict=True))
    test = f"[{p}[{place}] for {p} in {ps}] == {a}"
    return sheet.pair(f"{test} and sum(({p}[{1 - place}] for {p} in {ps})) == {total}", answer)


@_family
def pairs_of_map(rng: random.Random) -> tuple[str, str]:
    """`dict(ps) == {3: 5, 4: 7}`, or the pairs of two lists."""
    sheet = _Sheet(rng, "List[Tuple[int, int]]")
    ps, keys, values = sheet.name, some_numbers(rng, rng.randint(2, 3)), some_numbers(rng, 3)
    pairs = list(zip(keys, values, strict=False))
    table = sheet.const(dict(pairs))
    if rng.random() < 0.5:
        return sheet.pair(f"dict({ps}) == {table}", rng.sample(pairs, len(pairs)), f"list({table}.items())")
    a, b = keys, values[: len(keys)]
    return sheet.pair(f"{ps} == list(zip({a}, {b}))", pairs, f"list(zip({a}, {b}))")


# ---- composed puzzles, a family for each answer type ----

_SINGLE_RULES = len(FAMILIES)
_SHARES = sum(share for share, _ in composition.ANSWERS.values())


def _composed(declared: str, share: float) -> None:
    name = "composed_" + "_".join(re.findall(r"\w+", declared)).lower()
    COMPOSED.add(name)
    FAMILIES[name] = functools.partial(composition.compose, declared=declared)
    WEIGHTS[name] = COMPOSED_TO_SINGLE * _SINGLE_RULES * share / _SHARES


for _declared, (_share, _) in composition.ANSWERS.items():
    _composed(_declared, _share)
