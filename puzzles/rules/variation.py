"""Makes new puzzles from old ones: with other constants, with fewer conditions, with those of two, or with one inside
another.

An answer that fails a puzzle is right for a variant of it: the same puzzle, with constants chosen to fit the answer
(hindsight, `puzzles.rules.fitting`). In the same way any combination of conditions can be made to fit an answer. The
result is text like a model's. It is parsed, admitted, guarded and verified like a proposal, so this module need not
guarantee anything.

Only puzzles that consist of one `return` of a condition are combined. The work runs in sandbox children, because a
puzzle is a program.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from puzzles.rules.fitting import drop_unused_parameters, fit
from sandbox.pool import Job, Pool

VARY = "puzzles.rules.variation:vary"
"""Name of the sandbox job; a pool that varies must preload it."""

FITTED = ("hindsight", "ease")
"""Ways that fit one puzzle to an answer that it refused."""
MOST_CLAUSES = 3
"""Most clauses of a combination, joined by `and`."""
MOST_CHARACTERS = 160
"""Longest text of a combination. Without a limit puzzles would grow longer, but not harder."""
MOST_MORE_CHARACTERS = 20
"""How many characters longer other constants may make a puzzle."""
CPU_SECONDS = 0.2
"""CPU limit of one variation."""


@dataclass(frozen=True)
class Variation:
    """A variation that is to be made."""

    how: str
    """One of four ways. `hindsight` changes constants of one source. `ease` may also leave out operands of its last
    `and`. `join` asks for the conditions of both
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
    rng, sources = random.Random(request["seed"]), request["sources"]
    answer = ast.literal_eval(request["answer"])
    if request["how"] in FITTED:
        tree, most = ast.parse(sources[0]), len(sources[0]) + MOST_MORE_CHARACTERS
    else:
        one, other = map(ast.parse, sources)
        tree, most = _combined(request["how"], one, other, rng), MOST_CHARACTERS
    fit(tree, answer, rng, easier=request["how"] == "ease")
    text = ast.unparse(tree)
    if len(text) > most or text in sources:
        raise _Inapplicable
    return text


def _combined(how: str, one: ast.Module, other: ast.Module, rng: random.Random) -> ast.Module:
    first, second = _Condition(one), _Condition(other)
    if how == "join":
        first.join(second)
    else:
        first.nest(second, rng)
    if len(first.clauses) > MOST_CLAUSES:
        raise _Inapplicable
    return first.tree


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

    def _write(self) -> None:
        whole = self.clauses[0] if len(self.clauses) == 1 else ast.BoolOp(ast.And(), self.clauses)
        self.function.body = [ast.Return(whole)]
        drop_unused_parameters(self.function)
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
