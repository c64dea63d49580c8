"""Makes solutions that search: programs that try answers of one form until the puzzle accepts one.

The answers to try are drawn around a known answer: a range that contains it, texts of its letters, tuples of its size.
A drawn search is kept if it soon finds an answer, which may differ from the known one. This process evaluates the
search, because rules of this project wrote all of its text.
"""

from __future__ import annotations

import ast
import itertools
import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from puzzles import answer_type
from sandbox import child

MOST_CALLS = 3000
"""Most calls of the puzzle until an answer is found."""
ATTEMPTS = 3
"""Number of searches drawn for a pair before it keeps the solution it has."""
NEXT_SHARE = 0.6
"""Share of searches without `try` that are one expression; the others are loops."""
CAREFUL_SHARE = 0.05
"""Share of searches with a `try` around the puzzle's call although it raises for none of the answers tried."""
VARIABLES = ("x", "y", "z", "n", "i", "j", "k", "a", "b", "c", "t", "w", "p")
BOUNDS = (5, 10, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
SCOPE = {
    "product": itertools.product, "permutations": itertools.permutations, "combinations": itertools.combinations,
    "ascii_lowercase": string.ascii_lowercase,
}  # fmt: skip
MODULES = {
    "product": "itertools",
    "permutations": "itertools",
    "combinations": "itertools",
    "ascii_lowercase": "string",
}


class _Unsuitable(Exception):
    """This kind of search does not fit the answer; another one is drawn."""


@dataclass(frozen=True)
class _Space:
    """The answers that a search tries."""

    answer: str
    """Expression for an answer, made of the loops' variables."""
    loops: tuple[tuple[str, str], ...]
    """Variable and values of each loop, the outermost first."""


def searched(rng: random.Random, puzzle: str, solution: str) -> str:
    """A solution that searches, or the given solution if no search was found.

    Args:
        rng: The source of randomness.
        puzzle: Text of a function with one `return`.
        solution: Text of a solution: a function with one `return` and the puzzle's parameters except the answer.

    Raises:
        ValueError: One of the texts is not a function with one `return`.
    """
    tree = ast.parse(puzzle)
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    declared, parameters, f = _function(tree)
    _, _, g = _function(ast.parse(solution))
    answer = g()
    for _ in range(ATTEMPTS):
        try:
            space = _Draw(rng, answer, constants, parameters).space(declared)
            careful = _needs_care(f, space, declared) or rng.random() < CAREFUL_SHARE
        except _Unsuitable:
            continue
        header = solution.partition("\n")[0]
        return f"{header}\n{_written(rng, space, careful)}"
    return solution


def _function(tree: ast.Module) -> tuple[str, list[str], Callable[..., Any]]:
    """The first parameter's annotation, the names of the other parameters, and the function; the tree is changed."""
    match tree.body:
        case [ast.FunctionDef(args=ast.arguments() as arguments, body=[ast.Return(value=ast.expr() as returned)])]:
            pass
        case _:
            raise ValueError(f"expected a function with one return, got {ast.unparse(tree)!r}")
    annotations = [ast.unparse(argument.annotation) for argument in arguments.args if argument.annotation]
    for argument in arguments.args:
        argument.annotation = None
    whole = ast.Expression(ast.Lambda(arguments, returned))
    function = child.value_of(compile(ast.fix_missing_locations(whole), "<rule>", "eval"), child.SCOPE)
    return annotations[0] if annotations else "", [argument.arg for argument in arguments.args[1:]], function


def _needs_care(f: Callable[[Any], Any], space: _Space, declared: str) -> bool:
    """Whether the puzzle raises for an answer that the search tries before it finds one.

    Raises:
        _Unsuitable: The search finds no answer, or not soon.
    """
    calls, raised = 0, False

    def asked(answer: Any) -> bool:
        nonlocal calls, raised
        calls += 1
        if calls > MOST_CALLS:
            raise _Unsuitable
        try:
            return bool(f(answer))
        except Exception:
            raised = True
            return False

    try:
        found = child.value_of(_next(space), {**child.SCOPE, **SCOPE, "f": asked})
    except (StopIteration, IndexError, TypeError) as error:
        raise _Unsuitable from error
    if not answer_type.matches(found, declared) or f(found) is not True:
        raise _Unsuitable
    return raised


def _next(space: _Space) -> str:
    loops = " ".join(f"for {name} in {values}" for name, values in space.loops)
    return f"next(({space.answer} {loops} if f({space.answer})))"


def _written(rng: random.Random, space: _Space, careful: bool) -> str:
    """The solution's body: a `next` over accepted answers, or loops around a `return`, with a `try` if `careful`."""
    used = {node.id for node in ast.walk(ast.parse(_next(space))) if isinstance(node, ast.Name)}
    lines = [f"from {MODULES[name]} import {name}" for name in MODULES if name in used]
    if not careful and rng.random() < NEXT_SHARE:
        lines.append(f"return {_next(space)}")
    else:
        for depth, (name, values) in enumerate(space.loops):
            lines.append(f"{'    ' * depth}for {name} in {values}:")
        inside = "    " * len(space.loops)
        tested = [f"if f({space.answer}):", f"    return {space.answer}"]
        if careful:
            tested = ["try:", *[f"    {line}" for line in tested], "except Exception:", "    pass"]
        lines += [inside + line for line in tested]
    return "\n".join("    " + line for line in lines)


class _Draw:
    """Draws one search."""

    def __init__(self, rng: random.Random, answer: Any, constants: Sequence[Any], taken: Sequence[str]) -> None:
        self.rng, self.answer, self.constants = rng, answer, constants
        self.names = [name for name in VARIABLES if name not in taken]

    def space(self, declared: str) -> _Space:
        """A space of answers, in one of the forms for this answer type."""
        answer = self.answer
        if declared in ("int", "Optional[int]"):
            return self._numbers(answer, "{}")
        if declared == "float":
            return self._fractions(answer)
        if declared == "str":
            return self.rng.choice((self._text, self._text, self._runs, self._arranged, self._around, self._digits))()
        if declared == "List[bool]":
            return self._product("list({})", "[False, True]", answer)
        if declared == "List[int]":
            return self.rng.choice((self._list, self._list, self._members, self._arranged, self._counted))()
        if declared == "Set[int]":
            return self.rng.choice((self._subset, self._members))()
        if declared.startswith("Tuple[int"):
            return self.rng.choice((self._members, self._list))()
        if declared.startswith(("List[List[int]", "List[Tuple[int", "Set[Tuple[int")):
            return self.rng.choice((self._members, self._indexed))()
        if declared in ("Dict[str, int]", "Dict[int, int]", "Dict[int, str]", "Dict[str, str]"):
            return self.rng.choice((self._members, self._mapped))()
        if declared in ("List[str]", "Set[str]", "Tuple[str, str]"):
            return self.rng.choice((self._members, self._members, self._texts))()
        return self._members()

    def fresh(self, among: Sequence[str] = VARIABLES) -> str:
        """An unused name for a variable, if possible among these."""
        free = [name for name in among if name in self.names] or self.names
        if not free:
            raise _Unsuitable
        name = self.rng.choice(free[:4])
        self.names.remove(name)
        return name

    def range_of(self, least: int, most: int) -> str:
        """Text of a range that contains these two numbers, mostly with a round end."""
        bounds = [bound for bound in BOUNDS if bound > max(most, -least)]
        if not bounds:
            raise _Unsuitable
        high = self.rng.choice(bounds[:4])
        if least < 0 or self.rng.random() < 0.05:
            return f"range({-high}, {high})"
        low = self.rng.choice((0, 0, 0, 1, 1, 2, *[c for c in self.constants if type(c) is int and 0 < c < most]))
        return f"range({low}, {high})" if 0 < low <= least else f"range({high})"

    def _numbers(self, value: int, form: str) -> _Space:
        if type(value) is not int:
            raise _Unsuitable
        name = self.fresh()
        return _Space(form.format(name), ((name, self.range_of(value, value)),))

    def _fractions(self, value: float) -> _Space:
        parts = [
            part for part in (2, 4, 10) if value * part == round(value * part) and round(value * part) / part == value
        ]
        if not parts:
            raise _Unsuitable
        part = self.rng.choice(parts[:2])
        name, whole = self.fresh(), round(value * part)
        return _Space(f"{name} / {part}", ((name, self.range_of(whole, whole)),))

    def letters_of(self, text: str) -> str:
        """Letters to make this text of: its own and up to two more, or the letters of a word in the puzzle."""
        words = [c for c in self.constants if type(c) is str and set(text) <= set(c) and len(set(c)) <= 8]
        if words and self.rng.random() < 0.7:
            return "".join(dict.fromkeys(self.rng.choice(words)))
        more = self.rng.sample(string.ascii_lowercase, self.rng.randint(0, 2))
        letters = list(dict.fromkeys([*text, *more]))
        if self.rng.random() < 0.7:
            letters.sort()
        return "".join(letters)

    def _product(self, form: str, values: str, answer: Sequence[Any]) -> _Space:
        """Tuples of the answer's size, or of every size up to a larger one."""
        name = self.fresh(("t", "p", "a", "c"))
        if self.rng.random() < 0.5:
            return _Space(form.format(name), ((name, f"product({values}, repeat={len(answer)})"),))
        size = self.fresh(("n", "k", "i"))
        low = self.rng.choice((0, 1, 1, 2)) if len(answer) > 1 else self.rng.choice((0, 1))
        sizes = f"range({low}, {len(answer) + self.rng.randint(1, 3)})" if low else f"range({len(answer) + 2})"
        return _Space(form.format(name), ((size, sizes), (name, f"product({values}, repeat={size})")))

    def _text(self) -> _Space:
        return self._product("''.join({})", repr(self.letters_of(self.answer)), self.answer)

    def _runs(self) -> _Space:
        """One or two letters, each repeated."""
        runs = [(letter, len(list(same))) for letter, same in itertools.groupby(self.answer)]
        if not 1 <= len(runs) <= 2:
            raise _Unsuitable
        names = [self.fresh(("n", "i", "j", "k")) for _ in runs]
        parts = [f"{letter!r} * {name}" for (letter, _), name in zip(runs, names, strict=True)]
        loops = [(name, self.range_of(count, count)) for (_, count), name in zip(runs, names, strict=True)]
        return _Space(" + ".join(parts), tuple(loops))

    def _arranged(self) -> _Space:
        """The answer's members in every order, where the puzzle names all of them."""
        members = sorted(self.answer)
        named = {*"".join(map(str, (c for c in self.constants if type(c) is type(self.answer)))), *self.constants}
        if not 2 <= len(members) <= 6 or not named.issuperset(members):
            raise _Unsuitable
        if self.rng.random() < 0.5:
            self.rng.shuffle(members)
        name, form = self.fresh(("p", "t", "a", "c")), "''.join({})" if type(self.answer) is str else "list({})"
        shown = repr("".join(members)) if type(self.answer) is str else repr(members)
        return _Space(form.format(name), ((name, f"permutations({shown})"),))

    def _around(self) -> _Space:
        """A word that the puzzle names, with letters before or after it that the puzzle does not name."""
        words = [c for c in self.constants if type(c) is str and c and c != self.answer and c in self.answer]
        if not words:
            raise _Unsuitable
        word = self.rng.choice(words)
        before, _, after = self.answer.partition(word)
        missing = before or after
        if (before and after) or not missing:
            raise _Unsuitable
        if len(missing) == 1 and self.rng.random() < 0.6:
            name = self.fresh(("c", "x", "a"))
            return _Space(f"{name} + {word!r}" if before else f"{word!r} + {name}", ((name, "ascii_lowercase"),))
        space = self._product("''.join({})", repr(self.letters_of(missing)), missing)
        whole = f"{space.answer} + {word!r}" if before else f"{word!r} + {space.answer}"
        return _Space(whole, space.loops)

    def _digits(self) -> _Space:
        if not self.answer.isdigit() or str(int(self.answer)) != self.answer:
            raise _Unsuitable
        return self._numbers(int(self.answer), "str({})")

    def _list(self) -> _Space:
        """Lists or tuples of numbers from one range."""
        if not self.answer or not all(type(member) is int for member in self.answer):
            raise _Unsuitable
        values = self.range_of(min(self.answer), max(self.answer))
        if self.rng.random() < 0.2:
            values = repr(sorted(set(self.answer)))
        if type(self.answer) is list:
            return self._product("list({})", values, self.answer)
        name = self.fresh(("t", "p"))
        return _Space(name, ((name, f"product({values}, repeat={len(self.answer)})"),))

    def _counted(self) -> _Space:
        """Lists of one number repeated, or of consecutive numbers."""
        answer = self.answer
        if len(answer) > 1 and len(set(answer)) == 1:
            value, count = self.fresh(("x", "y", "a")), self.fresh(("n", "k"))
            loops = ((value, self.range_of(answer[0], answer[0])), (count, self.range_of(len(answer), len(answer))))
            return _Space(f"[{value}] * {count}", loops)
        if len(answer) > 1 and answer == list(range(answer[0], answer[0] + len(answer))):
            low, high = self.fresh(("i", "a")), self.fresh(("j", "b", "n"))
            loops = ((low, self.range_of(answer[0], answer[0])), (high, self.range_of(answer[-1] + 1, answer[-1] + 1)))
            return _Space(f"list(range({low}, {high}))", loops)
        raise _Unsuitable

    def _subset(self) -> _Space:
        if not self.answer:
            raise _Unsuitable
        name, values = self.fresh(("c", "t", "s")), self.range_of(min(self.answer), max(self.answer))
        return _Space(f"set({name})", ((name, f"combinations({values}, {len(self.answer)})"),))

    def _indexed(self) -> _Space:
        """The answer's own shape, filled with the members of one tuple."""
        numbers: list[int] = []
        name = self.fresh(("t", "p", "a", "v"))

        def shape(value: Any) -> str:
            if type(value) is int:
                numbers.append(value)
                return f"{name}[{len(numbers) - 1}]"
            if type(value) is list and value:
                return f"[{', '.join(map(shape, value))}]"
            if type(value) is tuple:
                return f"({', '.join(map(shape, value))})"
            if type(value) is set and value:
                return "{" + ", ".join(map(shape, sorted(value))) + "}"
            raise _Unsuitable

        answer = shape(self.answer)
        if not 2 <= len(numbers) <= 6:
            raise _Unsuitable
        values = self.range_of(min(numbers), max(numbers))
        return _Space(answer, ((name, f"product({values}, repeat={len(numbers)})"),))

    def _texts(self) -> _Space:
        """Collections of texts that have one length and few letters."""
        # A set is sorted, because its own order differs between processes.
        texts = (
            [] if type(self.answer) is dict else sorted(self.answer) if type(self.answer) is set else list(self.answer)
        )
        sizes = {len(text) for text in texts if type(text) is str}
        if len(sizes) != 1 or not all(type(text) is str for text in texts) or 0 in sizes or len(texts) > 4:
            raise _Unsuitable
        (size,) = sizes
        inner, outer = self.fresh(("t", "p", "c")), self.fresh(("a", "w", "x"))
        letters = repr(self.letters_of("".join(texts)))
        words = letters if size == 1 else f"[''.join({inner}) for {inner} in product({letters}, repeat={size})]"
        form = "{}" if type(self.answer) is tuple else f"{type(self.answer).__name__}({{}})"
        return _Space(form.format(outer), ((outer, f"product({words}, repeat={len(texts)})"),))

    def _mapped(self) -> _Space:
        keys = list(self.answer)
        if not keys:
            raise _Unsuitable
        self.rng.shuffle(keys)
        values = [self.answer[key] for key in keys]
        shown = repr("".join(keys)) if all(type(k) is str and len(k) == 1 for k in keys) else repr(keys)
        name, among = self.fresh(("t", "p", "v")), self._values(values)
        return _Space(f"dict(zip({shown}, {name}))", ((name, f"product({among}, repeat={len(keys)})"),))

    def _values(self, values: Sequence[Any]) -> str:
        """Text of an iterable that contains these values of one type."""
        if all(type(value) is int for value in values):
            return self.range_of(min(values), max(values))
        if all(type(value) is str and len(value) == 1 for value in values):
            return repr(self.letters_of("".join(values)))
        if all(type(value) is str and value for value in values):
            words = list(dict.fromkeys([*values, *[c for c in self.constants if type(c) is str and c][:2]]))
            if len(words) < 2:
                raise _Unsuitable
            self.rng.shuffle(words)
            return repr(words)
        raise _Unsuitable

    def _members(self) -> _Space:
        """The answer's own shape, with a loop for each of its members or for some of them."""
        loops: list[tuple[str, str]] = []

        def shape(value: Any) -> str:
            if type(value) is float and not (loops and self.rng.random() < 0.25):
                parts = self._fractions(value)
                loops.extend(parts.loops)
                return parts.answer
            if type(value) in (int, str) and not (loops and self.rng.random() < 0.25):
                name = self.fresh(("x", "y", "z", "a", "b", "c", "i", "j", "k", "n"))
                loops.append((name, self._values([value])))
                return name
            if type(value) is list:
                return f"[{', '.join(map(shape, value))}]"
            if type(value) is tuple:
                return f"({', '.join(map(shape, value))})"
            if type(value) is set and value:
                return "{" + ", ".join(map(shape, sorted(value))) + "}"
            if type(value) is dict and value:
                return "{" + ", ".join(f"{key!r}: {shape(member)}" for key, member in value.items()) + "}"
            return repr(value)

        answer = shape(self.answer)
        if not 1 <= len(loops) <= 3:
            raise _Unsuitable
        return _Space(answer, tuple(loops))
