"""Makes puzzles by a grammar: operations are applied to an answer one after another, and a condition tests the result.

An answer is drawn first. Operations are applied to its name (`s[::-1].count('a')`). A condition that is true of the
resulting value completes a clause. Most puzzles have one to three clauses, some up to six. So a puzzle is an inverse
problem whose answer is known, and the answers are as varied as the values drawn.

All texts come from `operations.toml`; none is a model's. So this process may evaluate them to learn an expression's
value.
"""

from __future__ import annotations

import ast
import random
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puzzles import answer_type
from puzzles.rules.vocabulary import (
    ANSWER_NAMES,
    INNER_NAMES,
    PARAMETER_NAMES,
    a_number,
    a_quarter,
    a_word,
    braces,
    some_letters,
    some_numbers,
    some_words,
)
from sandbox import child, codec

MOST_CHARACTERS = 100
"""Longest condition of a puzzle."""
LONG_SHARE, MOST_CHARACTERS_LONG = 0.1, 260
"""Share of puzzles with more clauses, and the longest condition of these. People's puzzles are longer than most by
rule."""
MOST_VALUE_CHARACTERS = 28
"""Longest literal of an answer or constant."""
MOST_OPERATED = 2000
"""Largest absolute value of an integer that a further operation is applied to, which limits time and memory."""
AMPLIFYING = re.compile(r"range\(|\*\* \{[xv]\}|\* \{x\}$|^\{x\}\[0\] \*\* ")
"""Operations that may be applied to the answer only. Applied to a computed value, they might take for ever on some
answer."""
LIFT_SHARE = 0.25
"""Share of puzzles in which a constant becomes a parameter."""
FLIP_SHARE = 0.12
"""Share of equations with the constant on the left."""
CONDITION_SHARE = 0.2
"""Share of clauses with an operation that end in another condition than an equation."""
CLAUSES, CLAUSES_LONG = (1, 1, 1, 2, 2, 2, 2, 3), (3, 4, 5, 6)
"""Numbers of clauses to draw from, for most puzzles and for long ones."""
FIRST_DEPTHS, FURTHER_DEPTHS = (1, 1, 1, 1, 2, 2, 2, 3), (0, 0, 0, 1, 1, 1, 2)
"""Numbers of operations to draw from, for the first clause and for the others."""

_TABLES = tomllib.loads((Path(__file__).parent / "operations.toml").read_text("utf-8"))
OPERATIONS: dict[str, list[tuple[str, str]]] = {
    taken: [(text, given) for given, texts in row.items() for text in texts.splitlines()]
    for taken, row in _TABLES["operations"].items()
}
"""Operations on a value of each type: the text, and the type of the result."""
CONDITIONS: dict[str, list[str]] = {kind: texts.splitlines() for kind, texts in _TABLES["conditions"].items()}
"""Texts of conditions on a value, by the value's kind."""

_KINDS = {
    "int": ("int",), "float": ("float",), "str": ("str",), "List[int]": ("list", "ints"), "List[bool]": ("bools",),
    "Set[int]": ("set", "intset"), "Tuple[str, int]": ("pair", "worded"),
    "Tuple[str, str]": ("pair", "ordered", "worded"),
}  # fmt: skip
_SHAPES = {"L": ("list",), "S": ("set",), "D": ("dict",), "T": ("pair", "ordered", "numbers"), "O": ("int",)}

ANSWERS: dict[str, tuple[float, Callable[[random.Random], Any]]] = {
    "int": (30, a_number),
    "str": (24, lambda rng: _a_text(rng)),
    "List[int]": (14, lambda rng: _numbers_of(rng, rng.choice((2, 2, 3, 3, 4, 5)))),
    "float": (5, a_quarter),
    "List[str]": (5, lambda rng: _some_texts(rng, rng.choice((2, 2, 3)))),
    "Tuple[int, int]": (5, lambda rng: tuple(_numbers_of(rng, 2))),
    "Set[int]": (3.5, lambda rng: set(some_numbers(rng, rng.choice((2, 2, 3))))),
    "List[List[int]]": (3, lambda rng: [_numbers_of(rng, rng.randint(1, 2)) for _ in range(rng.choice((2, 2, 3)))]),
    "Dict[str, int]": (2.5, lambda rng: _a_map(some_words(rng, 2, 1, 3), some_numbers(rng, 2), rng)),
    "List[bool]": (2, lambda rng: [rng.random() < 0.5 for _ in range(rng.randint(2, 4))]),
    "List[Tuple[int, int]]": (2, lambda rng: [tuple(_numbers_of(rng, 2)) for _ in range(2)]),
    "Tuple[str, str]": (2, lambda rng: tuple(some_words(rng, 2))),
    "Optional[int]": (2, a_number),
    "Tuple[str, int]": (1.5, lambda rng: (a_word(rng, 1, 4), rng.randint(2, 20))),
    "Set[str]": (1.5, lambda rng: set(some_words(rng, rng.choice((2, 2, 3)), 1, 3))),
    "List[float]": (1, lambda rng: [a_quarter(rng) for _ in range(2)]),
    "Tuple[int, int, int]": (1, lambda rng: tuple(_numbers_of(rng, 3))),
    "Tuple[float, float]": (1, lambda rng: (a_quarter(rng), a_quarter(rng))),
    "Dict[int, str]": (1, lambda rng: _a_map(some_numbers(rng, 2), some_words(rng, 2, 1, 3), rng)),
    "Dict[int, int]": (1, lambda rng: _a_map(some_numbers(rng, 2), some_numbers(rng, 2), rng)),
    "Dict[str, str]": (1, lambda rng: _a_map(some_words(rng, 2, 1, 2), some_words(rng, 2, 1, 3), rng)),
    "Set[Tuple[int, int]]": (0.7, lambda rng: {tuple(_numbers_of(rng, 2)) for _ in range(2)}),
}
"""Weight of each answer type in drawing, and the function that draws an answer of it."""


class _Unsuitable(Exception):
    """The draw does not make a good puzzle; another one is drawn."""


def compose(rng: random.Random, declared: str) -> tuple[str, str]:
    """A puzzle with this answer type, and a solution of it."""
    while True:
        try:
            return _Draft(rng, declared).written()
        except _Unsuitable:
            continue


class _Draft:
    """Composes one puzzle."""

    def __init__(self, rng: random.Random, declared: str) -> None:
        self.rng, self.declared = rng, declared
        self.type = answer_type.split(declared)[1][0] if declared.startswith("Optional") else declared
        self.name = rng.choice(ANSWER_NAMES[declared])
        self.answer = ANSWERS[declared][1](rng)
        self.taken = {self.name}
        if len(codec.literal(self.answer)) > MOST_VALUE_CHARACTERS:
            raise _Unsuitable

    def written(self) -> tuple[str, str]:
        """The texts of the puzzle and the solution.

        Raises:
            _Unsuitable: The draw does not make a good puzzle.
        """
        clauses: list[str] = []
        long = self.rng.random() < LONG_SHARE
        for place in range(self.rng.choice(CLAUSES_LONG if long else CLAUSES)):
            clause = self._clause(self.rng.choice(FURTHER_DEPTHS if place else FIRST_DEPTHS))
            if clause in clauses:
                raise _Unsuitable
            clauses.append(clause)
        self.rng.shuffle(clauses)
        if self.type != self.declared:
            clauses.insert(0, f"{self.name} is not None")
        test = ast.parse(" and ".join(clauses), mode="eval").body
        if len(ast.unparse(test)) > (MOST_CHARACTERS_LONG if long else MOST_CHARACTERS) or self._is_trivial(test):
            raise _Unsuitable
        defaults = self._lift(test) if self.rng.random() < LIFT_SHARE else []
        parameters = ", ".join([f"{self.name}: {self.declared}", *defaults])
        puzzle = f"def f({parameters}):\n    return {ast.unparse(test)}"
        return puzzle, f"def g({', '.join(defaults)}):\n    return {self._answer_text()}"

    def _clause(self, depth: int) -> str:
        expression, value, kind = self.name, self.answer, self.type
        for _ in range(depth):
            expression, value, kind = self._operated(expression, value, kind)
        if depth == 0 or self.rng.random() < CONDITION_SHARE:
            return self._condition(expression, value, kind)
        constant = _constant(value)
        return f"{constant} == {expression}" if self.rng.random() < FLIP_SHARE else f"{expression} == {constant}"

    def _operated(self, expression: str, value: Any, kind: str) -> tuple[str, Any, str]:
        if kind not in OPERATIONS or (type(value) is int and abs(value) > MOST_OPERATED):
            raise _Unsuitable
        text, given = self.rng.choice(OPERATIONS[kind])
        if AMPLIFYING.search(text) and expression != self.name:
            raise _Unsuitable
        applied, result = self._applied(text, expression, value)
        if not answer_type.matches(result, given) or not _is_plain(result):
            raise _Unsuitable
        return applied, result, given

    def _condition(self, expression: str, value: Any, kind: str) -> str:
        text = self.rng.choice(CONDITIONS[self.rng.choice(kinds_of(kind))])
        applied, holds = self._applied(text, expression, value)
        if holds is not True:
            raise _Unsuitable
        return applied

    def _applied(self, text: str, expression: str, value: Any) -> tuple[str, Any]:
        """A table's text with constants and the expression filled in, and its value."""
        constants = _Constants(self, value)
        result = _value(text.format_map(constants.with_x("x_")), {"x_": value})
        wrapped = expression if expression.isidentifier() else f"({expression})"
        return text.format_map(constants.with_x(wrapped)), result

    def fresh(self) -> str:
        """An unused name for the variable of a comprehension."""
        free = [name for name in INNER_NAMES if name not in self.taken]
        if not free:
            raise _Unsuitable
        name = self.rng.choice(free)
        self.taken.add(name)
        return name

    def _is_trivial(self, test: ast.expr) -> bool:
        code = compile(ast.Expression(test), "<test>", "eval")
        return any(_holds(code, {self.name: answer}) for answer in answer_type.trivial_answers(self.declared))

    def _lift(self, test: ast.expr) -> list[str]:
        """Replace a constant of the test by a new parameter, and return the parameter with its default, as a text."""
        places = [
            (node, field, index, part)
            for node in ast.walk(test)
            for field, parts in ast.iter_fields(node)
            for index, part in enumerate(parts if isinstance(parts, list) else [parts])
            if _is_liftable(part) and not isinstance(node, ast.List | ast.Tuple | ast.Set | ast.UnaryOp | ast.Slice)
        ]
        if not places:
            return []
        node, field, index, part = self.rng.choice(places)
        name = self.rng.choice([name for name in PARAMETER_NAMES if name not in self.taken])
        if isinstance(getattr(node, field), list):
            getattr(node, field)[index] = ast.Name(name, ast.Load())
        else:
            setattr(node, field, ast.Name(name, ast.Load()))
        return [f"{name}={ast.unparse(part)}"]

    def _answer_text(self) -> str:
        answer = self.answer
        if type(answer) is set:
            members = sorted(answer)
            self.rng.shuffle(members)
            return braces(members)
        return repr(answer)


def kinds_of(declared: str) -> tuple[str, ...]:
    """The kinds of a type, which decide the conditions that may be asked of its values."""
    return _KINDS.get(declared) or _SHAPES[declared[0]]


def _is_liftable(node: Any) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, str, float) and node.value not in (0, 1, 2, "")
    return isinstance(node, ast.List) and bool(node.elts) and all(isinstance(e, ast.Constant) for e in node.elts)


def _constant(value: Any) -> str:
    text = codec.literal(value)
    if len(text) > MOST_VALUE_CHARACTERS:
        raise _Unsuitable
    return text


def _is_plain(value: Any) -> bool:
    """Whether a value is good to show: texts are printable, floats exact in eighths, numbers and collections short."""
    if type(value) is float:
        return value * 8 % 1 == 0 and abs(value) < 1000
    if type(value) is int:
        return abs(value) < 100_000
    if type(value) is str:
        return value.isascii() and value.isprintable() and len(value) <= MOST_VALUE_CHARACTERS
    if type(value) is dict:
        return len(value) <= 8 and all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    return type(value) is bool or (len(value) <= 8 and all(map(_is_plain, value)))


def _value(text: str, names: dict[str, Any]) -> Any:
    try:
        return child.value_of(text, names)
    except Exception:
        raise _Unsuitable from None


def _holds(code: Any, names: dict[str, Any]) -> bool:
    try:
        return child.value_of(code, names) is True
    except Exception:
        return False


def _a_text(rng: random.Random) -> str:
    """Mostly a word; sometimes digits, parts with a separator, few letters repeated, or capitals."""
    draw = rng.random()
    if draw < 0.5:
        return a_word(rng, 2, 6)
    if draw < 0.62:
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 5)))
    if draw < 0.78:
        return rng.choice("-,/: .+_").join(some_words(rng, rng.choice((2, 2, 3)), 1, 4))
    if draw < 0.9:
        return "".join(rng.choices(some_letters(rng, rng.randint(1, 2)), k=rng.randint(3, 7)))
    word = a_word(rng, 2, 5)
    return rng.choice((word.upper(), word.title(), word + rng.choice("xX0.!-1")))


def _some_texts(rng: random.Random, count: int) -> list[str]:
    """Mostly words; sometimes numbers as texts, or the first word again."""
    draw = rng.random()
    if draw < 0.15:
        return [str(rng.randint(0, 99)) for _ in range(count)]
    words = some_words(rng, count)
    return [*words, words[0]] if draw < 0.25 else words


def _a_map(keys: list[Any], values: list[Any], rng: random.Random) -> dict[Any, Any]:
    """A dict of one or two of these keys with their values."""
    return dict(list(zip(keys, values, strict=True))[: rng.choice((1, 2, 2))])


def _numbers_of(rng: random.Random, count: int) -> list[int]:
    """Small integers, which may repeat."""
    most = rng.choice((9, 9, 20, 60))
    low = -5 if rng.random() < 0.1 else 0 if rng.random() < 0.4 else 2
    return [rng.randint(low, most) for _ in range(count)]


class _Constants(dict[str, str]):
    """Literals for the fields of a text. Each is drawn when it is first needed, often to suit the value at hand."""

    def __init__(self, draft: _Draft, value: Any) -> None:
        super().__init__()
        self.draft, self.rng, self.of = draft, draft.rng, value

    def with_x(self, expression: str) -> _Constants:
        """The same constants, with this expression for the field `x`."""
        self["x"] = expression
        return self

    def __missing__(self, field: str) -> str:
        try:
            drawn = getattr(self, f"_{field}")()
        except (IndexError, TypeError, ValueError, AttributeError, KeyError, StopIteration):
            raise _Unsuitable from None
        self[field] = drawn if field in "uv" else codec.literal(drawn)
        return self[field]

    def _u(self) -> str:
        return self.draft.fresh()

    _v = _u

    def _n(self) -> int:
        return a_number(self.rng) if self.rng.random() < 0.4 else self.rng.randint(2, 30)

    def _k(self) -> int:
        return self.rng.randint(2, 9)

    def _m(self) -> int:
        return self.rng.randint(3, 25)

    def _j(self) -> int:
        return self.rng.randint(1, 3)

    def _q(self) -> float:
        return self.rng.randint(1, 30) / self.rng.choice((2, 4))

    def _p(self) -> str:
        marks = [mark for mark in "-,/: .+_" if type(self.of) is str and mark in self.of]
        return self.rng.choice(marks or "-,/: .+_")

    def _w(self) -> str:
        word = a_word(self.rng, 3, 6)
        if type(self.of) is str and self.of and self.rng.random() < 0.6:  # the word gets some letters of the value
            place = self.rng.randrange(len(word))
            word = word[:place] + self.of[: self.rng.randint(1, 3)] + word[place:]
        return word

    def _c(self) -> str:
        text = self.of if type(self.of) is str else "".join(map(str, self.of)) if type(self.of) is list else ""
        return self.rng.choice(text) if text and self.rng.random() < 0.75 else self.rng.choice("abcdeiklmnorstuxyz")

    def _d(self) -> str:
        return self.rng.choice("abdeiklmnoprstuxyz*-")

    def _e(self) -> Any:
        return self.rng.choice(sorted(self.of) if type(self.of) in (set, dict) else self.of)

    def _i(self) -> int:
        return self.rng.randrange(-2, len(self.of))

    def _ns(self) -> list[int]:
        numbers, members = _numbers_of(self.rng, self.rng.randint(3, 5)), self._members()
        if members and self.rng.random() < 0.5:
            numbers[self.rng.randrange(len(numbers))] = self.rng.choice(members)
        return numbers

    def _members(self) -> list[int]:
        return [member for member in self.of if type(member) is int] if type(self.of) in (list, set) else []

    def _ws(self) -> list[str]:
        words = some_words(self.rng, self.rng.choice((2, 3)), 1, 4)
        if type(self.of) is list and self.of and self.rng.random() < 0.5:  # the words include the value's own
            words += [member for member in self.of if type(member) is str and member not in words]
            self.rng.shuffle(words)
        return words

    def _st(self) -> set[int]:
        members = self._members()
        common = set(self.rng.sample(members, 1)) if members and self.rng.random() < 0.7 else set()
        return common | set(some_numbers(self.rng, self.rng.randint(1, 2)))

    # The fields below are for conditions and depend on the value.

    def _low(self) -> Any:
        return self.of - self._step()

    def _high(self) -> Any:
        return self.of + self._step()

    def _step(self) -> Any:
        step = self.rng.randint(1, max(2, int(abs(self.of)) // 3))
        return step if type(self.of) is int else step / 2

    def _rest(self) -> Any:
        return self.of % int(self["k"])

    def _rest0(self) -> Any:
        return self.of[0] % int(self["k"])

    def _parity(self) -> Any:
        return self.of % 2

    def _among(self) -> Any:
        numbers = [*some_numbers(self.rng, 3), self.of]
        self.rng.shuffle(numbers)
        return numbers

    def _length(self) -> Any:
        return len(str(self.of)) if type(self.of) is int else len(self.of)

    def _shorter(self) -> Any:
        return len(self.of) - self.rng.randint(1, 2)

    def _head(self) -> Any:
        return self.of[: self.rng.choice((1, 1, 2))]

    def _tail(self) -> Any:
        return self.of[-self.rng.choice((1, 1, 2)) :]

    def _times(self) -> Any:
        return self.of.count(ast.literal_eval(self["head" if type(self.of) is str else "e"]))

    def _longer(self) -> Any:
        return a_word(self.rng, 1, 3) + self.of + a_word(self.rng, 1, 3)

    def _first(self) -> Any:
        return self.of[0]

    def _second(self) -> Any:
        return self.of[1]

    def _last(self) -> Any:
        return self.of[-1]

    def _below(self) -> Any:
        return min(self.of) - self.rng.randint(1, 5)

    def _above(self) -> Any:
        return max(self.of) + self.rng.randint(1, 9)

    def _total(self) -> Any:
        return sum(self.of)

    def _biggest(self) -> Any:
        return max(self.of)

    def _least(self) -> Any:
        return min(self.of)

    def _wider(self) -> Any:
        return self.of | {self._n() if type(next(iter(self.of))) is int else self._w()}

    def _at(self) -> Any:
        return self.of[ast.literal_eval(self["e"])]

    def _keys(self) -> Any:
        return sorted(self.of)

    def _keyset(self) -> Any:
        return set(self.of)

    def _firstlength(self) -> Any:
        return len(self.of[0])
