"""Changes constants of a puzzle until it accepts an answer that it refused (hindsight; Andrychowicz et al., 2017,
arXiv:1707.01495).

The puzzle runs on the answer, and its comparisons are recorded. What `and`, `all` or an early `return` ended with is
the comparison that was evaluated last. A constant of it is changed so that it comes out the other way, and the puzzle
runs again, until it returns True. A constant is a literal beside the operator, or the only value of a name that stands
there: a parameter's default, or what the function assigns to it.

Where no constant helps, a part of what the puzzle asks can be left out: an operand of the `and` that it returns last.
The puzzle is then easier (as in LADDER; Simonds and Yoshiyama, 2025, arXiv:2503.00735).

A puzzle is a program, so this runs in sandbox children only.
"""

from __future__ import annotations

import ast
import operator
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox import child, codec
from sandbox.syntax import copied, walk

MOST_RUNS = 40
"""Most runs of a puzzle. A bound that must hold for each item of an answer may move once for each."""
MOST_CHANGED = 3
"""Most constants that change. With many changed, little of the puzzle would be left."""
MOST_LOOKED_AT = 3
"""Comparisons that are looked at for a constant, from the last one back."""
MOST_CONSTANT_CHARACTERS = 40
"""Longest literal that a constant may get."""
MOST_LEFT_OUT = 2
"""Most parts of a puzzle that are left out."""
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 "
"""What a text is asked not to hold if the one it may not hold is in it."""

_RECORD, _BEGIN = "__fitting_record__", "__fitting_begin__"
_TESTS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda item, group: item in group, ast.NotIn: lambda item, group: item not in group,
    ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip
_OPPOSITES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.In: ast.NotIn,
}  # fmt: skip
_OPPOSITES |= {opposite: test for test, opposite in _OPPOSITES.items()}
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE, ast.Eq: ast.Eq, ast.NotEq: ast.NotEq,
}  # fmt: skip


class Unfit(Exception):
    """No change of constants was found that makes the answer right."""


@dataclass(frozen=True)
class _Evaluated:
    """Two neighbours in a comparison, as they were evaluated."""

    comparison: ast.Compare
    place: int
    """Number of the operator between them."""
    left: Any
    right: Any
    held: bool


@dataclass
class _Trial:
    """What a run of the puzzle did."""

    evaluated: list[_Evaluated]
    """Comparisons in the order in which they were evaluated; of the last `and`, those of the part begun last."""
    part: int | None = None
    """Number of the part of the last `and` that was begun last; None if it was not reached, or there is none."""
    accepted: bool = False
    raised: bool = False


def fit(tree: ast.Module, answer: Any, rng: random.Random, easier: bool = False) -> None:
    """Change constants of the function `f` so that it accepts the answer. The tree is changed in place.

    Args:
        tree: A module with the function `f`.
        answer: The answer that `f` shall accept.
        rng: Draws where there is a choice.
        easier: Whether parts that no constant makes true may be left out.

    Raises:
        Unfit: No such change was found.
    """
    puzzle, changed, left_out = _Puzzle(tree), Counter[Any](), 0
    for _ in range(MOST_RUNS):
        trial = puzzle.run(answer)
        if trial.accepted:
            return
        looked_at = [] if trial.raised else trial.evaluated[-MOST_LOOKED_AT:]
        if any(puzzle.turn(item, changed, rng) for item in reversed(looked_at)):
            if len(changed) > MOST_CHANGED:
                break
        elif easier and left_out < MOST_LEFT_OUT and puzzle.leave_out(trial.part):
            left_out += 1
        else:
            break
    raise Unfit


class _Puzzle:
    """A puzzle, its comparisons, and the names that stand for one constant each."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "f"]
        if not functions:
            raise Unfit
        self.comparisons = [node for node in walk(functions[-1]) if isinstance(node, ast.Compare)]
        for number, node in enumerate(self.comparisons):
            node.number = number  # type: ignore[attr-defined]  # copies keep it
        self.named = _named_constants(functions[-1])
        self.returned, self.parts = functions[-1].body[-1], list[ast.expr]()
        match self.returned:
            case ast.Return(value=ast.BoolOp(op=ast.And(), values=values)):
                self.parts = values

    def run(self, answer: Any) -> _Trial:
        """Run the puzzle on the answer."""
        trial = _Trial([])

        def record(number: int, values: list[Any]) -> Any:
            comparison, held = self.comparisons[number], True
            for place, test in enumerate(comparison.ops):
                left, right = values[place : place + 2]
                held = _TESTS[type(test)](left, right)
                trial.evaluated.append(_Evaluated(comparison, place, left, right, bool(held)))
                if not held:
                    break
            return held

        def begin(part: int) -> bool:
            trial.part = part
            trial.evaluated.clear()
            return True

        child.SCOPE.update({_RECORD: record, _BEGIN: begin})
        for number, part in enumerate(self.parts):
            part.part = number  # type: ignore[attr-defined]  # copies keep it
        tree = ast.fix_missing_locations(_Recording().visit(copied(self.tree)))
        code = compile(tree, "<puzzle>", "exec", dont_inherit=True)
        size = 1 << 16
        program = child.program([""], "f", [codec.encode([answer], size)], size)
        (result,) = child.run_calls(program, lambda source, index: code)
        trial.raised = result[:1] != child.VALUE
        trial.accepted = not trial.raised and codec.decode(result[1:]) is True
        return trial

    def leave_out(self, part: int | None) -> bool:
        """Leave out a part of the last `and`. Returns whether there is one, and others beside it."""
        if part is None or len(self.parts) < 2:
            return False
        del self.parts[part]
        if len(self.parts) == 1:
            self.returned.value = self.parts[0]  # type: ignore[attr-defined]  # it is a `return`
            self.parts = []
        return True

    def turn(self, item: _Evaluated, changed: Counter[Any], rng: random.Random) -> bool:
        """Change a constant of a comparison so that it comes out the other way. Returns whether there is one."""
        test: type[ast.cmpop] | None = type(item.comparison.ops[item.place])
        if item.held:
            test = _OPPOSITES.get(test)  # type: ignore[arg-type]  # it is no None here
        sides = [item.comparison.left, *item.comparison.comparators]
        for index, other, on_left in ((item.place + 1, item.left, False), (item.place, item.right, True)):
            owner, field, at = self.named.get(getattr(sides[index], "id", ""), _place(item.comparison, index))
            key = (id(owner), field, at)
            if test is None or (test is ast.Eq and changed[key]):
                continue
            new = _replacement(_get(owner, field, at), test, other, on_left, rng)
            if new is not None:
                _set(owner, field, at, new)
                changed[key] += 1
                return True
        return False


class _Recording(ast.NodeTransformer):
    """Makes each comparison that has a number a call that records it, and lets each part of the last `and` say so."""

    def visit(self, node: ast.AST) -> Any:
        """The node; a part only after what records that it begins."""
        number, made = getattr(node, "part", None), super().visit(node)
        if number is None:
            return made
        return ast.BoolOp(ast.And(), [ast.Call(ast.Name(_BEGIN, ast.Load()), [ast.Constant(number)], []), made])

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """The call, with the values of all sides."""
        self.generic_visit(node)
        if not hasattr(node, "number"):
            return node
        values = ast.List([node.left, *node.comparators], ast.Load())
        return ast.Call(ast.Name(_RECORD, ast.Load()), [ast.Constant(node.number), values], [])


Place = tuple[ast.AST, str, int | None]
"""Where an expression stands: the node above it, its field there, and its place if the field is a list."""


def _place(comparison: ast.Compare, side: int) -> Place:
    return (comparison, "comparators", side - 1) if side else (comparison, "left", None)


def _get(owner: ast.AST, field: str, at: int | None) -> ast.expr:
    value = getattr(owner, field)
    return value if at is None else value[at]  # type: ignore[no-any-return]


def _set(owner: ast.AST, field: str, at: int | None, value: ast.expr) -> None:
    if at is None:
        setattr(owner, field, value)
    else:
        getattr(owner, field)[at] = value


def _named_constants(function: ast.FunctionDef) -> dict[str, Place]:
    """Names that have one value in the whole function: defaults of parameters, and what is assigned once at its top."""
    nodes = walk(function)
    bound = Counter(node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load))
    bound += Counter(node.arg for node in nodes if isinstance(node, ast.arg))
    arguments, found = function.args, dict[str, Place]()
    positional = [*arguments.posonlyargs, *arguments.args]
    for at, argument in enumerate(positional[len(positional) - len(arguments.defaults) :]):
        found[argument.arg] = (arguments, "defaults", at)
    for at, argument in enumerate(arguments.kwonlyargs):
        if arguments.kw_defaults[at] is not None:
            found[argument.arg] = (arguments, "kw_defaults", at)
    for node in function.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = (node, "value", None)
    return {name: place for name, place in found.items() if bound[name] == 1}


def _replacement(
    node: ast.expr, test: type[ast.cmpop], other: Any, on_left: bool, rng: random.Random
) -> ast.expr | None:
    """A literal in the place of a constant, with which the test holds; None if there is none of the same type."""
    try:
        before = ast.literal_eval(node)
        new = _constant(before, test, other, on_left, rng)
        text = codec.literal(new)
    except (ValueError, TypeError, SyntaxError, codec.CodecError):
        return None
    if type(new) is not type(before) or isinstance(new, bool) or new == before:
        return None
    return ast.parse(text, mode="eval").body if len(text) <= MOST_CONSTANT_CHARACTERS else None


def _constant(before: Any, test: type[ast.cmpop], other: Any, on_left: bool, rng: random.Random) -> Any:
    """A value with which a test holds beside another value; None if there is no rule for it.

    Args:
        before: The value that stands there now.
        test: What shall hold.
        other: The value on the other side.
        on_left: Whether the constant stands on the left.
        rng: Draws the distance to the other value, and a part of it.
    """
    if test in (ast.In, ast.NotIn):
        return (_part if on_left else _group)(before, test is ast.In, other, rng)
    test = _MIRRORED.get(test, test) if on_left else test
    if test is ast.Eq:
        return other
    if isinstance(other, bool) or not isinstance(other, int | float):
        return other if test in (ast.LtE, ast.GtE) else None
    distance = rng.randint(1, max(2, int(abs(other)) // 4))
    if test in (ast.Lt, ast.LtE):
        return other + distance
    return other - distance if test in (ast.Gt, ast.GtE, ast.NotEq) else None


def _part(before: Any, inside: bool, group: Any, rng: random.Random) -> Any:
    """Something of the same kind that is in a group, or not."""
    if not isinstance(before, str) or not isinstance(group, str):
        alike = sorted((item for item in group if type(item) is type(before)), key=codec.literal)
        return rng.choice(alike) if inside and alike else None
    if inside:
        first = rng.randrange(len(group) - len(before) + 1)
        return group[first : first + len(before)]
    absent = [letter for letter in LETTERS if letter not in group]
    return rng.choice(absent) if absent else None


def _group(before: Any, inside: bool, item: Any, rng: random.Random) -> Any:
    """The group with the item, or without it; never an empty one."""
    if isinstance(before, str):
        return before + item if inside else before.replace(item, "") or None
    if not isinstance(before, list | tuple | set):
        return None
    kept = [*before, item] if inside else [each for each in before if each != item]
    return type(before)(kept) or None
