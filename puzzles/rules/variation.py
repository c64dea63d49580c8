"""New puzzles from old ones: other constants that make an answer right, two conditions joined, one inside another.

An answer that fails a puzzle is right for another one: the same condition with the constants that the answer has
(hindsight; Andrychowicz et al., 2017, arXiv:1707.01495). The same makes a puzzle of any condition put together from
others, whatever they asked for before. What comes out is text like a model's: it is parsed, admitted, guarded and
verified as such, so nothing is believed here.

Only puzzles that are one `return` of a condition are varied. The work runs in sandbox children, for a
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
"""The sandbox job; a pool that varies must preload it."""

MOST_CLAUSES = 3
"""Of a varied puzzle, joined by `and`."""
MOST_CHARACTERS = 160
"""Of a varied puzzle's text: puzzles that grow without bound are not harder, only longer."""
MOST_CONSTANT_CHARACTERS = 40
"""Of a constant that is changed."""
CPU_SECONDS = 0.1
"""For one variation."""


@dataclass(frozen=True)
class Variation:
    """One to be made: `sources` are puzzles' texts, `answer` the Python literal that is to be right."""

    how: str
    """`hindsight` (one source), `join` or `nest` (the first's value is asked what the second asks of its answer)."""
    sources: tuple[str, ...]
    answer: str
    seed: int


def varied(pool: Pool, variations: Sequence[Variation]) -> list[str | None]:
    """Texts of the new puzzles, in order; None where the rules do not apply."""
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
    """No such variation of these puzzles."""


def vary(payload: bytes) -> Iterator[bytes]:
    """In a child: one record, the new text; empty if there is none."""
    request = json.loads(payload)
    try:
        yield _vary(request).encode("utf-8", "surrogatepass")
    except Exception:  # the puzzles' own, too: a condition may fail on an answer
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
    """A puzzle that returns a condition: its clauses, joined by `and`, and its constants by parameter."""

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
        """Constants by their names."""
        names = [argument.arg for argument in self.arguments.args[1:]]
        return dict(zip(names, self.arguments.defaults, strict=True))

    def join(self, other: _Condition) -> None:
        """Ask for both."""
        self.clauses += other.asked_of(ast.Name(self.name, ast.Load()), {self.name, *self.parameters})
        self._write()

    def nest(self, other: _Condition, rng: random.Random) -> None:
        """Ask of a value that one of the clauses computes what the other asks of its answer."""
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
        """The clauses, with another expression for the answer and constants for the parameters."""
        constants: dict[str, ast.expr] = {self.name: value, **self.parameters}
        nodes = [node for clause in self.clauses for node in ast.walk(clause)]
        bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        if bound & (taken | constants.keys()):
            raise _Inapplicable
        return [_Replace(constants).visit(clause) for clause in self.clauses]

    def fit(self, answer: Any, rng: random.Random) -> None:
        """Change constants such that the answer is right, no more of them than it takes."""
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
        """Put a constant where one of its type stands, also if that is a parameter's."""
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
    """Names by expressions."""

    def __init__(self, expressions: dict[str, ast.expr]) -> None:
        self.expressions = expressions

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A copy, for the same expression may stand in several places."""
        expression = self.expressions.get(node.id)
        return node if expression is None else ast.parse(ast.unparse(expression), mode="eval").body


def _computed(clause: ast.expr) -> ast.expr | None:
    """The side of an equation whose value is asked for; None if there is none, or it is the bare answer."""
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
    """What may stand on the right (`sign` 1) or on the left (-1) of the other value; None for no rule."""
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
