"""Writes a puzzle in several statements: a name for a value, a loop for a comprehension, an early return for a clause.

Puzzles by rule consist of one `return` of a condition, but people also write several statements. The rewritten puzzle
computes the same values in the same order. Only the way in which a wrong answer fails may differ.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence

NAMES = ("total", "out", "parts", "r", "m", "value", "res", "d", "h", "size")
HELPERS = ("h", "score", "run", "ok", "step", "count", "norm")
HELPER_SHARE = 0.15
"""Share of puzzles in which one part gets a function of its own."""
_MIRRORED = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot,
             ast.IsNot: ast.Is}  # fmt: skip
_OWN_SCOPE = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda, ast.IfExp, ast.BoolOp)


def unfolded(rng: random.Random, puzzle: str) -> str:
    """The puzzle after up to three such changes, or unchanged if none applies."""
    tree = ast.parse(puzzle)
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    for way in rng.sample((_named, _named, _looped, _looped, _split), 2):
        way(rng, function)
    if rng.random() < HELPER_SHARE:
        _helped(rng, tree, function)
    return ast.unparse(ast.fix_missing_locations(tree))


def _first_clause(function: ast.FunctionDef) -> tuple[ast.AST, str, int | None] | None:
    """Node, field and index of the condition's first clause; None if there is an early return before it."""
    last = function.body[-1]
    assert isinstance(last, ast.Return)
    if any(isinstance(statement, ast.If) for statement in function.body):
        return None
    return (last.value, "values", 0) if isinstance(last.value, ast.BoolOp) else (last, "value", None)


def _places(function: ast.FunctionDef) -> list[tuple[ast.AST, str, int | None, ast.expr]]:
    """The expressions of the first clause that are computed for every answer, and where they stand."""
    place = _first_clause(function)
    if place is None:
        return []
    node, field, index = place
    value = getattr(node, field)
    return list(_inside(node, field, index, value if index is None else value[index]))


def _inside(
    node: ast.AST, field: str, index: int | None, child: object
) -> Iterator[tuple[ast.AST, str, int | None, ast.expr]]:
    if isinstance(child, ast.Compare) and len(child.ops) > 1:
        return
    if isinstance(child, ast.expr):
        yield node, field, index, child
    if isinstance(child, ast.AST) and not isinstance(child, _OWN_SCOPE):
        for name, value in ast.iter_fields(child):
            for place, member in enumerate(value) if isinstance(value, list) else [(None, value)]:
                yield from _inside(child, name, place, member)


def _fresh(rng: random.Random, names: Sequence[str], tree: ast.AST) -> str:
    nodes = list(ast.walk(tree))
    taken = {node.id for node in nodes if isinstance(node, ast.Name)}
    taken |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return rng.choice([name for name in names if name not in taken])


def _replace(node: ast.AST, field: str, index: int | None, new: ast.expr) -> None:
    if index is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[index] = new


def _named(rng: random.Random, function: ast.FunctionDef) -> None:
    answer = function.args.args[0].arg
    places = [
        place
        for place in _places(function)[1:]
        if isinstance(place[3], ast.Call | ast.BinOp | ast.Subscript | ast.ListComp | ast.SetComp | ast.DictComp)
        and any(isinstance(node, ast.Name) and node.id == answer for node in ast.walk(place[3]))
    ]
    if not places:
        return
    node, field, index, value = rng.choice(places)
    name = _fresh(rng, NAMES, function)
    _replace(node, field, index, ast.Name(name, ast.Load()))
    function.body.insert(-1, ast.Assign([ast.Name(name, ast.Store())], value))


def _helped(rng: random.Random, tree: ast.Module, function: ast.FunctionDef) -> None:
    answer = function.args.args[0].arg
    parameters, stored = {argument.arg for argument in function.args.args[1:]}, _bound(function)
    places = []
    for node, field, index, value in _places(function)[1:]:
        read = {n.id for n in ast.walk(value) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        if (
            isinstance(value, ast.Call | ast.BinOp | ast.ListComp)
            and answer in read
            and not read & (parameters | stored - _bound(value))
        ):
            places.append((node, field, index, value))
    if not places:
        return
    node, field, index, value = rng.choice(places)
    name = _fresh(rng, HELPERS, tree)
    _replace(node, field, index, ast.Call(ast.Name(name, ast.Load()), [ast.Name(answer, ast.Load())], []))
    arguments = ast.arguments([], [ast.arg(answer)], None, [], [], None, [])
    tree.body.insert(0, ast.FunctionDef(name, arguments, [ast.Return(value)], []))


def _bound(part: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(part) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _looped(rng: random.Random, function: ast.FunctionDef) -> None:
    found = []
    for node, field, index, value in _places(function)[1:]:
        summed = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "sum"
        inner = value.args[0] if summed and isinstance(value, ast.Call) and len(value.args) == 1 else value
        wanted = ast.GeneratorExp if summed else ast.ListComp
        if isinstance(inner, wanted) and len(inner.generators) == 1:
            found.append((node, field, index, inner, summed))
    if not found:
        return
    node, field, index, inner, summed = rng.choice(found)
    name, loop = _fresh(rng, NAMES, function), inner.generators[0]
    started = ast.Constant(0) if summed else ast.List([], ast.Load())
    target = ast.Name(name, ast.Load())
    step: ast.stmt = (
        ast.AugAssign(ast.Name(name, ast.Store()), ast.Add(), inner.elt)
        if summed
        else ast.Expr(ast.Call(ast.Attribute(target, "append", ast.Load()), [inner.elt], []))
    )
    for condition in reversed(loop.ifs):
        step = ast.If(condition, [step], [])
    _replace(node, field, index, ast.Name(name, ast.Load()))
    function.body[-1:-1] = [
        ast.Assign([ast.Name(name, ast.Store())], started),
        ast.For(loop.target, loop.iter, [step], []),
    ]


def _split(rng: random.Random, function: ast.FunctionDef) -> None:
    last = function.body[-1]
    assert isinstance(last, ast.Return)
    if not isinstance(last.value, ast.BoolOp) or not isinstance(last.value.op, ast.And):
        return
    first, *rest = last.value.values
    match first:
        case ast.Compare(ops=[operator]) if type(operator) in _MIRRORED:
            first.ops = [_MIRRORED[type(operator)]()]
            failing: ast.expr = first
        case _:
            failing = ast.UnaryOp(ast.Not(), first)
    last.value = rest[0] if len(rest) == 1 else ast.BoolOp(ast.And(), rest)
    function.body.insert(-1, ast.If(failing, [ast.Return(ast.Constant(False))], []))
