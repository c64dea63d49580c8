"""Changes constants of a puzzle until it accepts an answer that it refused (hindsight; Andrychowicz et al., 2017,
arXiv:1707.01495).

The puzzle runs on the answer, and its comparisons are recorded. `and`, `all` and an early `return` stop at the first
thing that does not hold, so a comparison that was evaluated late has mostly decided. A constant of it is changed so
that it comes out the other way, and the puzzle runs again, until it returns True. A constant is a literal beside the
operator, or the only value of a name that stands there: a parameter's default, or what the function assigns to it.

If no constant of an operand of the last `and` helps, that operand can be left out. The puzzle is then easier (as in
LADDER; Simonds and Yoshiyama, 2025, arXiv:2503.00735).

A puzzle is a program, so this runs in sandbox children only.
"""

from __future__ import annotations

import ast
import operator
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from puzzles.impossible import bound_name
from sandbox import child, codec
from sandbox.syntax import copied, walk

MOST_RUNS = 40
"""Most runs of a puzzle. A bound that must hold for each item of an answer may move once for each."""
MOST_CHANGED = 3
"""Most constants that change. With many changed, little of the puzzle would be left."""
MOST_LOOKED_AT = 3
"""Comparisons that are looked at for a constant after a run, from the last one back."""
MOST_CONSTANT_CHARACTERS = 40
"""Longest literal that a constant may get."""
MOST_LEFT_OUT = 2
"""Most operands that are left out."""
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 "
"""Letters of which one replaces a text that must not occur."""
PLAIN_BYTES = 1 << 16
"""Most bytes of an encoded answer or constant."""

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
    ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE,
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


def _last() -> deque[_Evaluated]:
    return deque(maxlen=MOST_LOOKED_AT)


@dataclass
class _Trial:
    """What a run of the puzzle did."""

    before: deque[_Evaluated] = field(default_factory=_last)
    """The last comparisons of the statements before the last `and`, in the order in which they were evaluated."""
    evaluated: deque[_Evaluated] = field(default_factory=_last)
    """Those of the operand that was begun last; of all statements if none was."""
    operand: int | None = None
    """Number of that operand; None if none was begun."""
    accepted: bool = False
    failed: bool = False
    """Whether it raised an exception, or returned what is no plain value."""


Place = tuple[ast.AST, str, int | None]
"""Where an expression stands: the node above it, its field there, and its place if the field is a list."""


def fit(tree: ast.Module, answer: Any, rng: random.Random, easier: bool = False) -> None:
    """Change constants of the function `f` so that it accepts the answer. The tree is changed in place.

    Args:
        tree: A module with the function `f`.
        answer: The answer that `f` shall accept.
        rng: Draws where there is a choice.
        easier: Whether operands of the last `and` that none of their constants makes true may be left out.

    Raises:
        Unfit: No such change was found.
    """
    puzzle, changed, left_out = _Puzzle(tree), dict[Place, ast.expr](), 0
    for _ in range(MOST_RUNS):
        trial = puzzle.run(answer)
        if trial.accepted:
            puzzle.put_back(changed, answer)
            if left_out:
                drop_unused_parameters(puzzle.function)
            return
        if not trial.failed and puzzle.turn(trial.evaluated, changed, rng):
            pass
        elif easier and left_out < MOST_LEFT_OUT and puzzle.leave_out(trial.operand):
            left_out += 1
        elif trial.failed or not puzzle.turn(trial.before, changed, rng):
            break
        if len(changed) > MOST_CHANGED:
            break
    raise Unfit


def drop_unused_parameters(function: ast.FunctionDef) -> None:
    """Leave out parameters with a default that the body does not name. The first parameter stays.

    A function with parameters by position only stays as it is.
    """
    if function.args.posonlyargs:
        return
    used = {node.id for statement in function.body for node in walk(statement) if isinstance(node, ast.Name)}
    own = function.args
    without_default = len(own.args) - len(own.defaults)
    kept = [place for place, each in enumerate(own.args) if place < max(1, without_default) or each.arg in used]
    own.defaults = [own.defaults[place - without_default] for place in kept if place >= without_default]
    own.args = [own.args[place] for place in kept]


class _Puzzle:
    """A puzzle, its comparisons, and the names that stand for one constant each."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree, self.text = tree, ast.unparse(tree)
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "f"]
        if not functions:
            raise Unfit
        self.function = functions[-1]
        self.comparisons = [node for node in walk(self.function) if isinstance(node, ast.Compare)]
        for number, node in enumerate(self.comparisons):
            node.number = number  # type: ignore[attr-defined]  # copies keep it
        self.named = _named_constants(self.function)
        self.returned, self.operands = self.function.body[-1], list[ast.expr]()
        match self.returned:
            case ast.Return(value=ast.BoolOp(op=ast.And(), values=values)):
                self.operands = values

    def run(self, answer: Any) -> _Trial:
        """Run the puzzle on the answer."""
        trial = _Trial()

        def record(number: int, values: list[Any]) -> Any:
            comparison, held = self.comparisons[number], True
            for place, test in enumerate(comparison.ops):
                left, right = values[place : place + 2]
                held = _TESTS[type(test)](left, right)
                trial.evaluated.append(_Evaluated(comparison, place, left, right, bool(held)))
                if not held:
                    break
            return held

        def begin(operand: int) -> bool:
            if trial.operand is None:
                trial.before = trial.evaluated
            trial.operand, trial.evaluated = operand, _last()
            return True

        child.SCOPE.update({_RECORD: record, _BEGIN: begin})
        for number, operand in enumerate(self.operands):
            operand.place_in_and = number  # type: ignore[attr-defined]  # copies keep it
        tree = ast.fix_missing_locations(_Recording().visit(copied(self.tree)))
        code = compile(tree, "<puzzle>", "exec", dont_inherit=True)
        # The text is not run. It seeds what the puzzle draws.
        program = child.program([self.text], "f", [codec.encode([answer], PLAIN_BYTES)], PLAIN_BYTES)
        (result,) = child.run_calls(program, lambda source, index: code)
        trial.failed = result[:1] != child.VALUE
        trial.accepted = not trial.failed and codec.decode(result[1:]) is True
        return trial

    def turn(self, evaluated: deque[_Evaluated], changed: dict[Place, ast.expr], rng: random.Random) -> bool:
        """Change a constant so that one of the comparisons comes out the other way; the last one that has a constant.

        Returns:
            Whether there was one.
        """
        return any(self._turn(item, changed, rng) for item in reversed(evaluated))

    def _turn(self, item: _Evaluated, changed: dict[Place, ast.expr], rng: random.Random) -> bool:
        own = type(item.comparison.ops[item.place])
        test = _OPPOSITES.get(own) if item.held else own
        if test is None:
            return False
        sides = [item.comparison.left, *item.comparison.comparators]
        for index, other, on_left in ((item.place + 1, item.left, False), (item.place, item.right, True)):
            place = self.named.get(getattr(sides[index], "id", ""), _place(item.comparison, index))
            if test in (ast.Eq, ast.NotEq) and place in changed:
                continue
            before = _get(place)
            new = _replacement(before, test, other, on_left, rng)
            if new is not None:
                _set(place, new)
                changed.setdefault(place, before)
                return True
        return False

    def leave_out(self, number: int | None) -> bool:
        """Leave out an operand of the last `and`. Returns whether there is one, and others beside it."""
        if number is None or len(self.operands) < 2:
            return False
        del self.operands[number]
        if len(self.operands) == 1:
            self.returned.value = self.operands[0]  # type: ignore[attr-defined]  # it is a `return`
        return True

    def put_back(self, changed: dict[Place, ast.expr], answer: Any) -> None:
        """Undo the changes without which the answer is right too."""
        for place, before in changed.items() if len(changed) > 1 else ():
            new = _get(place)
            _set(place, before)
            if not self.run(answer).accepted:
                _set(place, new)


class _Recording(ast.NodeTransformer):
    """Makes each numbered comparison a call that records it, and records when an operand of the last `and` is begun."""

    def visit(self, node: ast.AST) -> Any:
        """The node; an operand after the call that records that it is begun."""
        number, made = getattr(node, "place_in_and", None), super().visit(node)
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


def _place(comparison: ast.Compare, side: int) -> Place:
    return (comparison, "comparators", side - 1) if side else (comparison, "left", None)


def _get(place: Place) -> ast.expr:
    owner, name, at = place
    value = getattr(owner, name)
    return value if at is None else value[at]  # type: ignore[no-any-return]


def _set(place: Place, value: ast.expr) -> None:
    owner, name, at = place
    if at is None:
        setattr(owner, name, value)
    else:
        getattr(owner, name)[at] = value


def _named_constants(function: ast.FunctionDef) -> dict[str, Place]:
    """Names that have one value in the whole function: defaults of parameters, and what is assigned once at its top."""
    bound = Counter(bound_name(node) for node in walk(function))
    arguments, found = function.args, dict[str, Place]()
    positional = [*arguments.posonlyargs, *arguments.args]
    for at, argument in enumerate(positional[len(positional) - len(arguments.defaults) :]):
        found[argument.arg] = (arguments, "defaults", at)
    for at, argument in enumerate(arguments.kwonlyargs):
        if arguments.kw_defaults[at] is not None:
            found[argument.arg] = (arguments, "kw_defaults", at)
    for node in function.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                found[name] = (node, "value", None)
    if positional:
        found.pop(positional[0].arg, None)  # the answer
    return {name: place for name, place in found.items() if bound[name] == 1}


def _replacement(
    node: ast.expr, test: type[ast.cmpop], other: Any, on_left: bool, rng: random.Random
) -> ast.expr | None:
    """A literal in the place of a constant, with which the test holds; None if there is none of the same type."""
    try:
        before = ast.literal_eval(node)
        new = _constant(before, test, other, on_left, rng)
        if type(new) is not type(before) or isinstance(new, bool):
            return None
        codec.encode(new, PLAIN_BYTES)  # refuses what is no plain value
        text = codec.literal(new)
        parsed = ast.parse(text, mode="eval").body
    except (ValueError, TypeError, SyntaxError, OverflowError, RecursionError):
        return None
    return parsed if new != before and len(text) <= MOST_CONSTANT_CHARACTERS else None


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
    # A remainder, a length or a count is never negative.
    if test in (ast.Lt, ast.LtE) or (test is ast.NotEq and other >= 0):
        return other + distance
    return other - distance if test in (ast.Gt, ast.GtE, ast.NotEq) else None


def _part(before: Any, inside: bool, group: Any, rng: random.Random) -> Any:
    """Something of the same type that is in a group; or a letter that a text does not hold."""
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
