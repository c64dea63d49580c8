"""Leaves out the parts of a program that do nothing: unused imports, helpers and constants, and dead statements.

Two programs that differ in such parts alone count as the same (`similarity.normal_form`). A part is left out only if
nothing can tell: it binds no name that is used, runs no code that may fail or take long, and decides no scope.
"""

from __future__ import annotations

import ast
import importlib
import typing
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from puzzles import scopes
from sandbox.syntax import copied, same, walk

HARMLESS_MODULES = frozenset({
    "math", "itertools", "functools", "collections", "heapq", "bisect", "string", "re", "operator", "typing", "copy",
    "fractions", "statistics",
})  # fmt: skip
"""Modules whose import changes nothing. They are the pure ones, which every sandbox child has. An unused import of any
other module stays, because it fails where that module is missing."""


def pruned(tree: ast.Module, entry: str) -> ast.Module:
    """A program without the parts that do nothing: a copy, or the program itself if there are none.

    Args:
        tree: The program, without docstrings.
        entry: Name of the function that is called from outside.
    """
    nodes = walk(tree)
    if not _may_have_idle_parts(tree, nodes) or scopes.is_reflective(nodes):
        return tree
    live = copied(tree)
    _leave_out_idle_parts(live, entry)
    return tree if same(live, tree) else live


def _leave_out_idle_parts(tree: ast.Module, entry: str) -> None:
    for node in walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_unused_constants(node)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and node is not tree:
                setattr(node, name, _live(block, name == "body"))
    _drop_ambient_imports(tree)
    used = _used_from(tree, entry)
    tree.body = [kept for statement in tree.body for kept in _used_part(statement, used)]


def _may_have_idle_parts(tree: ast.Module, nodes: Collection[ast.AST]) -> bool:
    """Whether a closer look is worth its time: most programs are one function without a statement that does nothing."""
    if len(tree.body) > 1 or sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes) > 1:
        return True
    read = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)}
    for node in nodes:
        if isinstance(node, ast.stmt):
            if _does_nothing(node) or _assigns_unread(node, read):
                return True
            block = getattr(node, "body", ())
            if any(isinstance(each, _ENDS) for each in block[:-1]):
                return True
    return False


_ENDS = (ast.Return, ast.Raise, ast.Break, ast.Continue)


def _drop_ambient_imports(tree: ast.Module) -> None:
    """Leave out imports of the names of `typing` that are in scope anyway, unless the program binds them again."""
    bound = {node.id for node in walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {
        getattr(node, "name", None) or "" for node in walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for node in walk(tree):
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != "typing"):
            bound |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    kept: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "typing":
            statement.names = [
                alias for alias in statement.names
                if alias.name not in typing.__all__ or alias.asname not in (None, alias.name) or alias.name in bound
            ]  # fmt: skip
            if not statement.names:
                continue
        kept.append(statement)
    tree.body = kept


def _live(block: list[ast.stmt], needs_one: bool) -> list[ast.stmt]:
    """A block without statements that do nothing, and without what stands behind its end."""
    kept: list[ast.stmt] = []
    for place, statement in enumerate(block):
        if not (_does_nothing(statement) and _binds_nothing([statement])):
            kept.append(statement)
        if isinstance(statement, _ENDS):
            rest = block[place + 1 :]
            kept += [] if _binds_nothing(rest) else rest
            break
    return kept or ([ast.Pass()] if needs_one else [])


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.If | ast.While):
        return isinstance(statement.test, ast.Constant) and not statement.test.value and not statement.orelse
    return isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Constant) and bool(statement.test.value)


def _binds_nothing(statements: Iterable[ast.stmt]) -> bool:
    """Whether the statements bind no name and make no generator: otherwise they matter although they never run."""
    for statement in statements:
        for node in walk(statement):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                return False
            if isinstance(node, _BINDING):
                return False
    return True


_BINDING = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal,
    ast.Yield, ast.YieldFrom, ast.Await, ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping, ast.NamedExpr,
)  # fmt: skip


def _drop_unused_constants(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Leave out assignments of a constant to a local name that nothing reads."""
    nodes = walk(function)
    read = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)}
    read |= {name for node in nodes if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    read |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    read |= {n.target.id for n in nodes if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)}
    if any(isinstance(node, ast.ClassDef) for node in nodes):
        return
    for node in nodes:
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                kept = [each for each in block if not _assigns_unread(each, read)]
                setattr(node, name, kept or ([ast.Pass()] if block and name == "body" else []))


def _assigns_unread(statement: ast.stmt, read: set[str]) -> bool:
    if not (isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)):
        return False
    return all(isinstance(target, ast.Name) and target.id not in read for target in statement.targets)


def _used_from(tree: ast.Module, entry: str) -> set[str]:
    """Names that the entry uses, or a statement of the top level that does more than bind, and what these use."""
    uses: dict[str, set[str]] = {}
    used = {entry}
    for statement in tree.body:
        names = {node.id for node in walk(statement) if isinstance(node, ast.Name)}
        names |= {name for node in walk(statement) if isinstance(node, ast.Global) for name in node.names}
        bound = set(_bound_by(statement))
        if bound and _is_idle(statement):
            for name in bound:
                uses.setdefault(name, set()).update(names - bound)
        else:
            used |= names
    waiting = list(used)
    while waiting:
        for name in uses.get(waiting.pop(), ()):
            if name not in used:
                used.add(name)
                waiting.append(name)
    return used


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
    elif isinstance(statement, ast.Assign):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _is_idle(statement: ast.stmt) -> bool:
    """Whether a statement of the top level does nothing but bind its names."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        defaults = [*statement.args.defaults, *(each for each in statement.args.kw_defaults if each)]
        return not statement.decorator_list and all(map(_is_literal, defaults)) and not _annotations(statement)
    if isinstance(statement, ast.Import):
        return all(alias.name.partition(".")[0] in HARMLESS_MODULES for alias in statement.names)
    if isinstance(statement, ast.ImportFrom):
        return statement.module in HARMLESS_MODULES and all(
            _is_there(statement.module, a.name) for a in statement.names
        )
    if isinstance(statement, ast.Assign):
        return all(isinstance(target, ast.Name) for target in statement.targets) and _is_literal(statement.value)
    if isinstance(statement, ast.AnnAssign):
        plain = isinstance(statement.target, ast.Name) and _is_plain_annotation(statement.annotation)
        return plain and (statement.value is None or _is_literal(statement.value))
    return False


def _is_plain_annotation(annotation: ast.expr) -> bool:
    """Whether an annotation is certain to be evaluated without an error."""
    if isinstance(annotation, ast.Name):
        return annotation.id in scopes.AMBIENT
    return isinstance(annotation, ast.Constant)


def _is_there(module: str, name: str) -> bool:
    return name != "*" and hasattr(importlib.import_module(module), name)


def _annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    """Annotations that may fail when the function is defined: those that are not made of ambient names alone."""
    own = [each.annotation for each in walk(function.args) if isinstance(each, ast.arg) and each.annotation]
    names = [node for each in own for node in walk(each)]
    allowed = (ast.Name, ast.Constant, ast.Subscript, ast.Tuple, ast.List, ast.Load)
    return (
        own
        if any(not isinstance(node, allowed) for node in names)
        or any(isinstance(node, ast.Name) and node.id not in scopes.AMBIENT for node in names)
        or any(isinstance(node, ast.Subscript) and not _is_type(node) for node in names)
        else []
    )


def _is_type(node: ast.Subscript) -> bool:
    name = node.value.id if isinstance(node.value, ast.Name) else ""
    if name in ("Dict", "dict"):
        return isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 2
    return name in ("List", "Set", "Tuple", "Optional", "list", "set", "tuple")


def _is_literal(value: Any) -> bool:
    if isinstance(value, ast.UnaryOp):
        return isinstance(value.op, ast.USub) and isinstance(value.operand, ast.Constant)
    if isinstance(value, ast.List | ast.Tuple):
        return all(map(_is_literal, value.elts))
    return isinstance(value, ast.Constant)


def _used_part(statement: ast.stmt, used: set[str]) -> Iterator[ast.stmt]:
    """A statement of the top level without the names that nobody uses; nothing if it binds no other."""
    names = list(_bound_by(statement))
    if not names or not _is_idle(statement) or used.issuperset(names):
        yield statement
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        kept = [alias for alias in statement.names if (alias.asname or alias.name.partition(".")[0]) in used]
        if kept:
            statement.names = kept
            yield statement
    elif used & set(names):
        yield statement
