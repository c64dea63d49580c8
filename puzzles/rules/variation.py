"""Makes new puzzles from old ones: with other constants, with two conditions joined, or with one inside another.

An answer that fails a puzzle is right for a variant of it: the same condition, with constants chosen to fit the answer
(hindsight; Andrychowicz et al., 2017, arXiv:1707.01495). In the same way any combination of conditions can be made to
fit an answer. The result is text like a model's. It is parsed, admitted, guarded and verified like a proposal, so this
module need not guarantee anything.

Only puzzles that consist of one `return` of a condition are varied. The work runs in sandbox children, because a
condition is a program.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sandbox import child, codec
from sandbox.pool import Job, Pool

VARY = "puzzles.rules.variation:vary"
"""Name of the sandbox job; a pool that varies must preload it."""

MOST_CLAUSES = 3
"""Most clauses of a varied puzzle, joined by `and`."""
MOST_CHARACTERS = 160
"""Longest text of a varied puzzle. Without a limit puzzles would grow longer, but not harder."""
MOST_CONSTANT_CHARACTERS = 40
"""Longest literal that a constant may get."""
CPU_SECONDS = 0.1
"""CPU limit of one variation."""


@dataclass(frozen=True)
class Variation:
    """A variation that is to be made."""

    how: str
    """One of three ways. `hindsight` changes the constants of one source. `join` asks for the conditions of both
    sources. `nest` takes a value that the first source computes, and asks of it what the second source asks of its
    answer."""
    sources: tuple[str, ...]
    """Texts of the one or two puzzles to vary."""
    answer: str
    """Python literal of the answer that is to be right."""
    seed: int


def varied(pool: Pool, variations: Sequence[Variation]) -> list[str | None]:
    """The texts of the new puzzles, in order; None where the variation is not possible."""
    jobs = (
        Job(VARY, json.dumps(asdict(item)).encode(), label=f"{item.how} of a puzzle", cpu_seconds=CPU_SECONDS)
        for item in variations
    )
    return [
        result.records[0].decode("utf-8", "replace") if result.records and result.records[0] else None
        for result in pool.run(jobs)
    ]


# ---- below: the rules, run in a sandbox child ----


class _Inapplicable(Exception):
    """This variation of these puzzles is not possible."""


def vary(payload: bytes) -> Iterator[bytes]:
    """Job for a child: yields one record with the new text, which is empty if the variation is not possible."""
    request = json.loads(payload)
    try:
        yield _vary(request).encode("utf-8", "surrogatepass")
    except Exception:  # also one from a puzzle: its condition may raise on the answer
        yield b""


def _vary(request: dict[str, Any]) -> str:
    rng = random.Random(request["seed"])
    parts = [_Condition(ast.parse(source)) for source in request["sources"]]
    answer = ast.literal_eval(request["answer"])
    first = parts[0]
    if request["how"] == "join":
        first.join(parts[1])
    elif request["how"] == "nest":
        first.nest(parts[1], rng)
    first.fit(answer, rng)
    text = ast.unparse(first.tree)
    if len(text) > MOST_CHARACTERS or len(first.clauses) > MOST_CLAUSES or text in request["sources"]:
        raise _Inapplicable
    return text


class _Condition:
    """A puzzle that returns one condition: its clauses, which `and` joins, and its parameters with their constants."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        match tree.body:
            case [ast.FunctionDef(body=[ast.Return(value=ast.expr() as test)], args=arguments) as function]:
                self.function, self.arguments = function, arguments
            case _:
                raise _Inapplicable
        if arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg:
            raise _Inapplicable
        self.name = arguments.args[0].arg
        self.clauses: list[ast.expr]
        match test:
            case ast.BoolOp(op=ast.And(), values=values):
                self.clauses = values
            case _:
                self.clauses = [test]

    @property
    def parameters(self) -> dict[str, ast.expr]:
        """The constants of the parameters, by name."""
        names = [argument.arg for argument in self.arguments.args[1:]]
        return dict(zip(names, self.arguments.defaults, strict=True))

    def join(self, other: _Condition) -> None:
        """Ask for the clauses of both conditions."""
        self.clauses += other.asked_of(ast.Name(self.name, ast.Load()), {self.name, *self.parameters})
        self._write()

    def nest(self, other: _Condition, rng: random.Random) -> None:
        """Choose a value that a clause computes, and ask of it what the other condition asks of its answer."""
        computing = [index for index, clause in enumerate(self.clauses) if _computed(clause) is not None]
        if not computing:
            raise _Inapplicable
        index = rng.choice(computing)
        inner = _computed(self.clauses[index])
        assert inner is not None
        kept = [clause for place, clause in enumerate(self.clauses) if place != index and rng.random() < 0.5]
        self.clauses = [*other.asked_of(inner, {self.name, *self.parameters}), *kept]
        self._write()

    def asked_of(self, value: ast.expr, taken: set[str]) -> list[ast.expr]:
        """The clauses, with this expression in place of the answer and constants in place of the parameters."""
        constants: dict[str, ast.expr] = {self.name: value, **self.parameters}
        nodes = [node for clause in self.clauses for node in ast.walk(clause)]
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        if bound & (taken | constants.keys()):
            raise _Inapplicable
        return [_Replace(constants).visit(clause) for clause in self.clauses]

    def fit(self, answer: Any, rng: random.Random) -> None:
        """Change as few constants as necessary to make the answer right."""
        scope = dict(child.SCOPE)
        values = {name: ast.literal_eval(default) for name, default in self.parameters.items()}
        self._drop_unused()
        for clause in self.clauses:
            if _value(clause, {**scope, **values, self.name: answer}) is True:
                continue
            if not isinstance(clause, ast.Compare):
                raise _Inapplicable
            self._fit(clause, {**scope, **values, self.name: answer}, rng)
        self._write()
        values = {name: ast.literal_eval(default) for name, default in self.parameters.items()}
        if not all(_value(clause, {**scope, **values, self.name: answer}) is True for clause in self.clauses):
            raise _Inapplicable

    def _fit(self, clause: ast.Compare, scope: dict[str, Any], rng: random.Random) -> None:
        sides = [clause.left, *clause.comparators]
        for place, operator in enumerate(clause.ops):
            left, right = (_value(side, scope) for side in sides[place : place + 2])
            if _holds(operator, left, right):
                continue
            for index, other, sign in ((place + 1, left, 1), (place, right, -1)):
                new = _constant_for(operator, other, sign, rng)
                if new is not None and self._set(sides, index, new):
                    break
            else:
                raise _Inapplicable
        clause.left, *clause.comparators = sides

    def _set(self, sides: list[ast.expr], index: int, new: Any) -> bool:
        """Replace a constant of the same type, in the clause itself or as a parameter's default.

        Returns:
            Whether there was such a constant.
        """
        side = sides[index]
        named = isinstance(side, ast.Name) and side.id in self.parameters
        old = self.parameters[side.id] if named else side  # type: ignore[attr-defined]  # it has a name
        try:
            before = ast.literal_eval(old)
        except ValueError:
            return False
        text = codec.literal(new)
        if type(before) is not type(new) or len(text) > MOST_CONSTANT_CHARACTERS or isinstance(new, bool):
            return False
        constant = ast.parse(text, mode="eval").body
        if named:
            position = [argument.arg for argument in self.arguments.args].index(side.id)  # type: ignore[attr-defined]
            self.arguments.defaults[position - 1] = constant
        else:
            sides[index] = constant
        return True

    def _drop_unused(self) -> None:
        used = {node.id for clause in self.clauses for node in ast.walk(clause) if isinstance(node, ast.Name)}
        kept = [(argument, default) for argument, default in zip(
            self.arguments.args[1:], self.arguments.defaults, strict=True) if argument.arg in used]  # fmt: skip
        self.arguments.args[1:] = [argument for argument, _ in kept]
        self.arguments.defaults = [default for _, default in kept]

    def _write(self) -> None:
        whole = self.clauses[0] if len(self.clauses) == 1 else ast.BoolOp(ast.And(), self.clauses)
        self.function.body = [ast.Return(whole)]
        ast.fix_missing_locations(self.tree)


class _Replace(ast.NodeTransformer):
    """Replaces names by expressions."""

    def __init__(self, expressions: dict[str, ast.expr]) -> None:
        self.expressions = expressions

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A copy of the expression for this name, because the same expression may stand in several places."""
        expression = self.expressions.get(node.id)
        return node if expression is None else ast.parse(ast.unparse(expression), mode="eval").body


def _computed(clause: ast.expr) -> ast.expr | None:
    """The side of an equation that computes a value, if the other side is a name, a constant or a list; else None."""
    match clause:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            for side, other in ((left, right), (right, left)):
                if not isinstance(side, ast.Name | ast.Constant) and isinstance(
                    other, ast.Name | ast.Constant | ast.List
                ):
                    return side
    return None


def _value(expression: ast.expr, scope: dict[str, Any]) -> Any:
    return child.value_of(compile(ast.fix_missing_locations(ast.Expression(expression)), "<clause>", "eval"), scope)


def _holds(operator: ast.cmpop, left: Any, right: Any) -> bool:
    names = {"left": left, "right": right}
    test = ast.Compare(ast.Name("left", ast.Load()), [operator], [ast.Name("right", ast.Load())])
    return _value(test, names) is True


def _constant_for(operator: ast.cmpop, other: Any, sign: int, rng: random.Random) -> Any:
    """A constant that makes a comparison with the other value true; None if there is no rule for it.

    Args:
        operator: The comparison.
        other: The value on the other side.
        sign: 1 if the constant stands on the right of the other value, -1 if on its left.
        rng: Draws the distance to the other value.
    """
    if isinstance(operator, ast.Eq):
        return other
    if isinstance(other, bool) or not isinstance(other, int | float):
        return None
    distance = rng.randint(1, max(2, int(abs(other)) // 4))
    if isinstance(operator, ast.Gt | ast.GtE):
        return other - sign * distance
    if isinstance(operator, ast.Lt | ast.LtE):
        return other + sign * distance
    return None
