"""Decides when two puzzles are the same: normal forms of syntax trees, and shingles for near-duplicates.

The forms of a model's text are made in a sandbox child, because its syntax tree can exhaust memory or the stack. The
forms themselves are plain data.
"""

from __future__ import annotations

import ast
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from puzzles import scopes
from sandbox.syntax import walk

SHINGLE_TOKENS = 5
"""Number of tokens in a shingle."""

# Fields of syntax trees that carry no meaning, or that differ between Python versions.
_SKIPPED = {"ctx", "type_comment", "kind", "type_params", "returns", "type_ignores"}


def normal_form(tree: ast.AST, constants: bool = True, renamable: Collection[str] | None = None) -> str:
    """A text that is equal for programs which differ only in names that mean nothing, and in layout.

    Equal texts mean equal behaviour: only names that `scopes.renamable_names` lists are written as numbers.

    Args:
        tree: The program, without docstrings and, where these are not to count, without parts that do nothing.
        constants: Whether constants count. If not, the text is the program's skeleton.
        renamable: The program's `scopes.renamable_names`, if they are known.
    """
    renamable = scopes.renamable_names(tree) if renamable is None else renamable
    numbers: dict[str, int] = {}

    def name(text: str) -> str:
        if text in renamable:
            return f"v{numbers.setdefault(text, len(numbers))}"
        return f"={text}" if NUMBERED.fullmatch(text) else text

    tokens: list[str] = []

    def add(node: Any) -> None:
        kind = type(node)
        if kind is ast.Name:
            tokens.append(name(node.id))
        elif kind is ast.Constant:
            tokens.append(repr(node.value) if constants else type(node.value).__name__)
        elif kind is list:
            for member in node:
                add(member)
        elif kind is ast.Global or kind is ast.Nonlocal:
            tokens.append(f"({kind.__name__} {' '.join(map(name, node.names))} )")
        elif isinstance(node, ast.AST):
            tokens.append(f"({kind.__name__}")
            for field_name, value, is_told in _filled(node):
                if is_told:
                    tokens.append(f"{field_name}:")
                add(name(value) if field_name in _NAME_FIELDS and isinstance(value, str) else value)
            tokens.append(")")
        else:
            tokens.append("-" if node is None else str(node))

    add(tree)
    return " ".join(tokens)


def _filled(node: ast.AST) -> Iterator[tuple[str, Any, bool]]:
    """The fields of a node that carry a meaning and are not empty: name, value, and whether the name must be told.

    If a field may be missing or holds a list, its name is told, to tell x[:5] from x[5:] and a body from an else.
    """
    complete, own = True, node.__dict__
    for field_name in node._fields:
        if field_name not in _SKIPPED:
            value = own.get(field_name)
            if value is None or value == []:
                complete = False
            else:
                yield field_name, value, not complete or type(value) is list


_NAME_FIELDS = {"name", "arg", "rest"}
NUMBERED = re.compile(r"v\d+")
"""A name that looks like one of the numbers that stand for renamable names."""


class _Bag(list[object]):
    """Parts of a program whose order does not matter."""


def order_free_form(tree: ast.AST, constants: bool = True) -> str:
    """A text that is equal for programs which differ as `normal_form` allows, or in the order of movable parts.

    These parts are: operands of `and`, `or` and commutative operators, both sides of comparisons, members of sets and
    dicts, keyword arguments, parameters after the first, and statements. An early `return False`, in a `try` or not,
    becomes a clause of the last `return`. All names that the program binds are written alike, because a number for each
    would depend on the order. Annotations are left out. So a few programs that differ have the same text, such as
    `x - a` and `a - x`.

    Args:
        tree: The program, without docstrings.
        constants: Whether constants count. If not, the length of a list of constants does not count either, nor
            whether a constant is a parameter's default.
    """
    return _writer(tree, constants)(tree)


def clause_forms(tree: ast.Module) -> frozenset[str]:
    """The clauses of a puzzle, each as `order_free_form` writes it without constants.

    Returns:
        An empty set if the program is anything else than one function with a single condition.
    """
    body = _folded(tree.body[0].body) if len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef) else []
    if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
        return frozenset()
    return frozenset(map(_writer(tree, False), _clauses(body[0].value, ast.And)))


def _writer(tree: ast.AST, constants: bool) -> Callable[[object], str]:
    bound, named = _bound_names(tree), {} if constants else _named_constants(tree)

    def write(part: Any) -> str:
        kind = type(part)
        if kind is str:
            return str(part)
        if kind is ast.UnaryOp:
            part = _without_not(part)
        if isinstance(part, ast.Name):
            part = named.get(part.id, part)
        kind = type(part)
        if kind is ast.Constant and constants:
            return repr(part.value)
        if not constants and kind in _LITERALS and _is_constant(part):
            return _kind(part)
        if kind is ast.Name:
            return "v" if part.id in bound else str(part.id)
        if kind is ast.arguments:
            return f"(arguments {' '.join(map(write, _parameters(part, named)))} )"
        if isinstance(part, ast.AST):
            return f"({kind.__name__} {' '.join(map(write, _movable_parts(part)))} )"
        if isinstance(part, list):
            texts = map(write, part)
            return " ".join(sorted(texts) if kind is _Bag else texts)
        return "-" if part is None else str(part)

    return write


def _named_constants(tree: ast.AST) -> dict[str, ast.expr]:
    """The constants of parameters that have a constant as their default and are bound nowhere else, by name."""
    given: dict[str, ast.expr] = {}
    names: Counter[str] = Counter()
    for node in walk(tree):
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            defaults = zip(positional[len(positional) - len(node.defaults) :], node.defaults, strict=True)
            given |= {argument.arg: default for argument, default in defaults if _is_constant(default)}
        elif isinstance(node, ast.arg):
            names[node.arg] += 1
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] += 1
    return {name: default for name, default in given.items() if names[name] == 1}


_LITERALS = {ast.Constant, ast.UnaryOp, ast.List, ast.Tuple, ast.Set, ast.Dict}


def _is_constant(part: object) -> bool:
    """Whether this is a literal: a number with its sign, a text, or a list, tuple, set or dict of literals."""
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


def _movable_parts(node: ast.AST) -> Iterable[object]:
    """The parts of a node. Parts whose order does not matter are in a `_Bag`."""
    if isinstance(node, ast.BoolOp):
        return (node.op, _Bag(_clauses(node, type(node.op))))
    if isinstance(node, ast.BinOp) and isinstance(node.op, _COMMUTATIVE):
        return (node.op, _Bag(_operands(node, type(node.op))))
    if isinstance(node, ast.Compare):
        return _sides(node)
    if isinstance(node, ast.Set):
        return (_Bag(node.elts),)
    if isinstance(node, ast.Dict):
        return (_Bag([key, value] for key, value in zip(node.keys, node.values, strict=True)),)
    return _fields(node)


def _fields(node: ast.AST) -> Iterator[object]:
    for field_name, value, is_told in _filled(node):
        if field_name == "annotation":
            continue
        if is_told:
            yield f"{field_name}:"
        if isinstance(node, ast.FunctionDef) and field_name == "body":
            yield _Bag(_folded(value))
        elif isinstance(value, list) and field_name in _MOVABLE_FIELDS:
            yield _Bag(value)
        else:
            yield ast.Name(value) if field_name in _NAME_FIELDS and isinstance(value, str) else value


def _operands(node: ast.expr, operator: type[ast.operator]) -> Iterator[ast.expr]:
    """The operands of nested uses of one operator: `a + (b + c)` and `(c + b) + a` have the same three."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, operator):
            waiting += [part.left, part.right]
        else:
            yield part


def _clauses(node: ast.expr, operator: type[ast.boolop]) -> Iterator[ast.expr]:
    """The clauses of nested uses of `and`, or of `or`: `a and (b and c)` has three."""
    waiting = [node]
    while waiting:
        part = _without_not(waiting.pop())
        if isinstance(part, ast.BoolOp) and isinstance(part.op, operator):
            waiting += part.values
        else:
            yield part


def _folded(body: list[ast.stmt]) -> list[ast.stmt]:
    """A function's body, with every early `return False` turned into a clause of its last `return`."""
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
    """A part of a program without its `not`, if the negated part can be written without one."""
    if not (isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not)):
        return part
    turned = _negated(part.operand)
    return part if isinstance(turned, ast.UnaryOp) else _without_not(turned)


def _negated(test: ast.expr) -> ast.expr:
    """The negation of a test."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return ast.Compare(test.left, [_OPPOSITES[type(test.ops[0])]], test.comparators)
    if isinstance(test, ast.BoolOp):
        return ast.BoolOp(ast.Or() if isinstance(test.op, ast.And) else ast.And(), [*map(_negated, test.values)])
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), test)


def _sides(node: ast.Compare) -> Iterator[object]:
    """The parts of a comparison: the sides of `==` have no order, and `a > b` is written as `b < a`."""
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
    """Names that the program binds, except those of a class's own members, which are reached as attributes."""
    nodes = walk(tree)
    members = {
        id(part)
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for member in node.body
        for part in ([member] if isinstance(member, ast.FunctionDef | ast.ClassDef) else walk(member))
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
    """The hashes of all runs of five tokens in a normal form."""
    tokens = text.split()
    runs = range(max(1, len(tokens) - SHINGLE_TOKENS + 1))
    return frozenset(zlib.crc32(" ".join(tokens[i : i + SHINGLE_TOKENS]).encode("utf-8", "replace")) for i in runs)


def jaccard(first: frozenset[int], second: frozenset[int]) -> float:
    """Jaccard similarity in [0, 1]: the number of shared shingles divided by the number of all shingles."""
    return len(first & second) / len(first | second) if first or second else 1.0
