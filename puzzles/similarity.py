"""When are two puzzles the same? Normal forms of syntax trees, and what near-duplicates share.

The forms are made in a sandbox child (a syntax tree of model text can be a bomb); their texts are
plain data.
"""

from __future__ import annotations

import ast
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

SHINGLE_TOKENS = 5

# Fields that carry no meaning, or differ between Python versions.
_SKIPPED = {"ctx", "type_comment", "kind", "type_params", "returns", "type_ignores"}


def normal_form(tree: ast.AST, constants: bool = True) -> str:
    """A text that is equal for programs which differ only in local names, layout, docstrings and annotations' spelling.

    Args:
        tree: The program; docstrings should have been removed.
        constants: Whether constants count; without, the text is the program's skeleton.
    """
    bound = _bound_names(tree)
    numbers: dict[str, int] = {}

    def name(text: str) -> str:
        return f"v{numbers.setdefault(text, len(numbers))}" if text in bound else text

    tokens: list[str] = []

    def add(node: object) -> None:
        if isinstance(node, ast.Constant):
            tokens.append(repr(node.value) if constants else type(node.value).__name__)
        elif isinstance(node, ast.Name):
            tokens.append(name(node.id))
        elif isinstance(node, ast.AST):
            tokens.append(f"({type(node).__name__}")
            complete = True
            for field_name, value in ast.iter_fields(node):
                if field_name in _SKIPPED:
                    continue
                if value is None or value == []:
                    complete = False
                    continue
                # Where a field may be missing or long, its name tells x[:5] from x[5:] and a body from an else.
                if isinstance(value, list) or not complete:
                    tokens.append(f"{field_name}:")
                add(name(value) if field_name in _NAME_FIELDS and isinstance(value, str) else value)
            tokens.append(")")
        elif isinstance(node, list):
            for member in node:
                add(member)
        else:
            tokens.append("-" if node is None else str(node))

    add(tree)
    return " ".join(tokens)


_NAME_FIELDS = {"name", "arg"}


class _Bag(list[object]):
    """Parts of a program that may stand in any order."""


def order_free_form(tree: ast.AST, constants: bool = True) -> str:
    """A text that is equal for programs which differ as `normal_form` allows, and in the order of what can be moved.

    That is operands of `and`, `or` and commutative operators, both sides of comparisons, members of
    sets and dicts, keyword arguments, parameters behind the first, and statements. An early `return
    False` is a clause of the last `return`, in a `try` or not. Names that the program gives are all
    written alike, for a number would depend on the order, and annotations are left out. So a few
    programs that differ are equal here too: `x - a` and `a - x`.

    Args:
        tree: The program; docstrings should have been removed.
        constants: Whether constants count; without, neither does how long a list of them is, nor whether one is a
            parameter's default.
    """
    return _writer(tree, constants)(tree)


def clause_forms(tree: ast.Module) -> frozenset[str]:
    """Each clause of a puzzle that is one condition as `order_free_form` writes it without constants; else none."""
    body = _folded(tree.body[0].body) if len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef) else []
    if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
        return frozenset()
    return frozenset(map(_writer(tree, False), _clauses(body[0].value, ast.And)))


def _writer(tree: ast.AST, constants: bool) -> Callable[[object], str]:
    bound, named = _bound_names(tree), {} if constants else _named_constants(tree)

    def write(part: object) -> str:
        part = _without_not(part)
        if isinstance(part, ast.Name):
            part = named.get(part.id, part)
        if isinstance(part, ast.Constant) and constants:
            return repr(part.value)
        if not constants and _is_constant(part):
            return _kind(part)
        if isinstance(part, ast.Name):
            return "v" if part.id in bound else part.id
        if isinstance(part, ast.arguments):
            return f"(arguments {' '.join(map(write, _parameters(part, named)))} )"
        if isinstance(part, ast.AST):
            return f"({type(part).__name__} {' '.join(map(write, _movable_parts(part)))} )"
        if isinstance(part, list):
            texts = map(write, part)
            return " ".join(sorted(texts) if isinstance(part, _Bag) else texts)
        return "-" if part is None else str(part)

    return write


def _named_constants(tree: ast.AST) -> dict[str, ast.expr]:
    """Parameters with a constant as their default that are never anything else, by name."""
    given: dict[str, ast.expr] = {}
    names: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            defaults = zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True)
            given |= {argument.arg: default for argument, default in defaults if _is_constant(default)}
        elif isinstance(node, ast.arg):
            names[node.arg] += 1
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] += 1
    return {name: default for name, default in given.items() if names[name] == 1}


def _is_constant(part: object) -> bool:
    """A literal: a number with its sign, a text, or a list and the like of literals."""
    if isinstance(part, ast.UnaryOp):
        return isinstance(part.op, ast.USub) and isinstance(part.operand, ast.Constant)
    if isinstance(part, ast.List | ast.Tuple | ast.Set):
        return all(map(_is_constant, part.elts))
    if isinstance(part, ast.Dict):
        return all(map(_is_constant, [*part.keys, *part.values]))
    return isinstance(part, ast.Constant)


def _kind(part: Any) -> str:
    if isinstance(part, ast.UnaryOp):
        return _kind(part.operand)
    return type(part.value).__name__ if isinstance(part, ast.Constant) else type(part).__name__.lower()


_COMMUTATIVE = (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr, ast.BitXor)
_MIRRORED = {ast.Gt: ast.Lt(), ast.GtE: ast.LtE()}
_MOVABLE_FIELDS = {"body", "orelse", "finalbody", "keywords", "ifs", "names"}


def _movable_parts(node: ast.AST) -> Iterator[object]:
    """What a node is made of, with bags of what may stand in any order."""
    if isinstance(node, ast.BoolOp):
        yield from (node.op, _Bag(_clauses(node, type(node.op))))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, _COMMUTATIVE):
        yield from (node.op, _Bag(_operands(node, type(node.op))))
    elif isinstance(node, ast.Compare):
        yield from _sides(node)
    elif isinstance(node, ast.Set):
        yield _Bag(node.elts)
    elif isinstance(node, ast.Dict):
        yield _Bag([key, value] for key, value in zip(node.keys, node.values, strict=True))
    else:
        yield from _fields(node)


def _fields(node: ast.AST) -> Iterator[object]:
    complete = True
    for field_name, value in ast.iter_fields(node):
        if field_name in _SKIPPED or field_name == "annotation":
            continue
        if value is None or value == []:
            complete = False
            continue
        if isinstance(value, list) or not complete:  # as in `normal_form`
            yield f"{field_name}:"
        if isinstance(node, ast.FunctionDef) and field_name == "body":
            yield _Bag(_folded(value))
        elif isinstance(value, list) and field_name in _MOVABLE_FIELDS:
            yield _Bag(value)
        else:
            yield ast.Name(value) if field_name in _NAME_FIELDS and isinstance(value, str) else value


def _operands(node: ast.expr, operator: type[ast.operator]) -> Iterator[ast.expr]:
    """`a + (b + c)` and `(c + b) + a` have the same three."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, operator):
            waiting += [part.left, part.right]
        else:
            yield part


def _clauses(node: ast.expr, operator: type[ast.boolop]) -> Iterator[ast.expr]:
    """`a and (b and c)` has three."""
    waiting = [node]
    while waiting:
        part = _without_not(waiting.pop())
        if isinstance(part, ast.BoolOp) and isinstance(part.op, operator):
            waiting += part.values
        else:
            yield part


def _folded(body: list[ast.stmt]) -> list[ast.stmt]:
    """A function's body with its early refusals as clauses of what it returns in the end."""
    if len(body) == 1 and isinstance(body[0], ast.Try) and all(_is_false(each.body) for each in body[0].handlers):
        body = [*body[0].body, *body[0].orelse, *body[0].finalbody]
    if not body or not isinstance(body[-1], ast.Return) or body[-1].value is None:
        return body
    refusals = [part for part in body[:-1] if isinstance(part, ast.If) and _is_false(part.body) and not part.orelse]
    if not refusals:
        return body
    clauses = [_negated(part.test) for part in refusals]
    kept = [part for part in body[:-1] if part not in refusals]
    return [*kept, ast.Return(ast.BoolOp(ast.And(), [*clauses, body[-1].value]))]


def _is_false(body: list[ast.stmt]) -> bool:
    value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
    return isinstance(value, ast.Constant) and value.value is False


_OPPOSITES: dict[type[ast.cmpop], ast.cmpop] = {
    ast.Eq: ast.NotEq(), ast.NotEq: ast.Eq(), ast.Lt: ast.GtE(), ast.GtE: ast.Lt(), ast.Gt: ast.LtE(),
    ast.LtE: ast.Gt(), ast.In: ast.NotIn(), ast.NotIn: ast.In(), ast.Is: ast.IsNot(), ast.IsNot: ast.Is(),
}  # fmt: skip


def _without_not(part: Any) -> Any:
    """A part of a program with no `not` before what can be turned round."""
    if not (isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not)):
        return part
    turned = _negated(part.operand)
    return part if isinstance(turned, ast.UnaryOp) else _without_not(turned)


def _negated(test: ast.expr) -> ast.expr:
    """What holds where a test does not."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return ast.Compare(test.left, [_OPPOSITES[type(test.ops[0])]], test.comparators)
    if isinstance(test, ast.BoolOp):
        return ast.BoolOp(ast.Or() if isinstance(test.op, ast.And) else ast.And(), [*map(_negated, test.values)])
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), test)


def _sides(node: ast.Compare) -> Iterator[object]:
    """Equalities have no order; `a > b` is `b < a`."""
    sides, kinds = [node.left, *node.comparators], {type(operator) for operator in node.ops}
    if len(kinds) == 1 and kinds <= {ast.Eq, ast.NotEq}:
        yield from (node.ops[0], _Bag(sides))
    elif kinds <= {*_MIRRORED}:
        yield from ([_MIRRORED[type(operator)] for operator in reversed(node.ops)], sides[::-1])
    else:
        yield from (node.ops, sides)


def _parameters(node: ast.arguments, left_out: Collection[str]) -> Iterator[object]:
    positional = [*node.posonlyargs, *node.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.defaults)) + [*node.defaults]
    pairs = [*zip(positional, defaults, strict=True), *zip(node.kwonlyargs, node.kw_defaults, strict=True)]
    parameters: list[object] = [
        [name, default] if default else name for name, default in pairs if name.arg not in left_out
    ]
    parameters += [[stars, name] for stars, name in (("*", node.vararg), ("**", node.kwarg)) if name]
    yield from (*parameters[:1], _Bag(parameters[1:]))


def _bound_names(tree: ast.AST) -> set[str]:
    """Names that the program gives; not those of a class's own members, which are reached as attributes."""
    nodes = list(ast.walk(tree))
    members = {
        id(part)
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for member in node.body
        for part in ([member] if isinstance(member, ast.FunctionDef | ast.ClassDef) else ast.walk(member))
    }
    bound = set()
    for node in nodes:
        if id(node) in members:
            continue
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return bound


def shingles(text: str) -> frozenset[int]:
    """Hashed runs of five tokens of a normal form."""
    tokens = text.split()
    runs = range(max(1, len(tokens) - SHINGLE_TOKENS + 1))
    return frozenset(zlib.crc32(" ".join(tokens[i : i + SHINGLE_TOKENS]).encode("utf-8", "replace")) for i in runs)


def jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    """Shared shingles over all shingles, in [0, 1]."""
    return len(first & second) / len(first | second) if first or second else 1.0
