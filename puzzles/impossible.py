"""Proves of some puzzles from their text that they never return True, so that no attempt is wasted on them.

Only what is certain counts: a function that returns nothing, only constants, or only values that are no bools; and a
condition that contradicts itself. What the text does not prove, `verify.admit` tries on probes.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Iterator
from typing import Any

from puzzles import scopes
from sandbox.syntax import children, walk

NEVER_BOOL = (
    ast.Tuple, ast.List, ast.Set, ast.Dict, ast.JoinedStr, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp,
)  # fmt: skip
"""Expressions whose value is never a bool."""
NO_BOOL_CALLS = frozenset({
    "len", "sum", "str", "repr", "sorted", "upper", "lower", "strip", "join", "split", "replace", "count", "find",
    "match", "fullmatch", "search", "findall",
})  # fmt: skip
"""Functions and methods of builtin types and of `re` that give no bool."""
NO_BOOL = "it returns no bool"
"""The proof of a puzzle whose values are all of another type."""
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPARISONS: dict[type[ast.cmpop], Any] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
}  # fmt: skip
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


def never_true(tree: ast.Module, function: ast.FunctionDef, answer_type: str) -> str:
    """Why a puzzle never returns True, or an empty text if its text does not prove that.

    Args:
        tree: The program.
        function: The puzzle in it.
        answer_type: The type of its answer, in the canonical spelling.
    """
    if function.decorator_list or _is_changed(tree, function):
        return ""
    own = list(_own_nodes(function))
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in own):
        return "it is a generator"
    returns = [node.value for node in own if isinstance(node, ast.Return) and node.value is not None]
    if not returns:
        return "it returns nothing"
    if all(isinstance(value, ast.Constant) and value.value is not True for value in returns):
        return "it returns " + " or ".join(sorted({ast.unparse(value)[:40] for value in returns}))
    if not any(isinstance(node, ast.ClassDef) for node in walk(tree)) and all(map(_is_no_bool, returns)):
        return NO_BOOL
    if len(function.body) == 1 and isinstance(function.body[0], ast.Return):
        return _contradiction(tree, function, returns[0], answer_type)
    return ""


def _is_no_bool(value: ast.expr) -> bool:
    """Whether an expression gives no bool, in a program whose values are of builtin types."""
    if isinstance(value, ast.BinOp):
        return not isinstance(value.op, ast.BitAnd | ast.BitOr | ast.BitXor)
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        return name in NO_BOOL_CALLS
    return isinstance(value, NEVER_BOOL) or (isinstance(value, ast.Constant) and value.value is not True)


def _is_changed(tree: ast.Module, function: ast.FunctionDef) -> bool:
    """Whether the program may put something else in the function's place, or look at itself."""
    others = [node for node in walk(tree) if node is not function]
    return scopes.is_reflective(others) or any(bound_name(node) == function.name for node in others)


def _binds(tree: ast.Module, name: str) -> bool:
    return any(bound_name(node) == name for node in walk(tree))


def bound_name(node: ast.AST) -> str | None:
    """The name that a node binds or deletes; None if there is none."""
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.alias):
        return node.asname or node.name
    return getattr(node, "name", None)


def _own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions and classes in it."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, _INNER):
            yield node
            waiting += children(node)


def _contradiction(tree: ast.Module, function: ast.FunctionDef, condition: ast.expr, answer_type: str) -> str:
    """Two parts of a conjunction that no answer fulfils, such as `x > 5 and x < 3`."""
    if any(isinstance(node, ast.NamedExpr) for node in walk(condition)):
        return ""
    answer = [*function.args.posonlyargs, *function.args.args][0].arg
    terms = {answer: {"int": int, "float": float, "str": str}.get(answer_type)}
    if not _binds(tree, "len"):
        terms[f"len({answer})"] = int
    known = _defaults(function)
    parts: list[tuple[str, type[ast.cmpop], Any, str]] = []
    for left, sign, right in _comparisons(condition):
        text = ast.unparse(ast.Compare(left, [sign()], [right]))
        if sign in _MIRRORED and ast.unparse(left) not in terms:
            left, sign, right = right, _MIRRORED[sign], left
        elif sign is ast.Eq and ast.unparse(left) not in terms:
            left, right = right, left
        term, value = ast.unparse(left), _value(right, known)
        kind = terms.get(term)
        if kind and sign in _COMPARISONS and (type(value) is kind or (kind is not str and type(value) in (int, float))):
            parts.append((term, sign, value, text))
    for place, first in enumerate(parts):
        for second in parts[:place]:
            if first[0] == second[0] and _exclude(first[1:3], second[1:3], terms[first[0]] is int):
                return f"no answer has {second[3]} and {first[3]}"
    return ""


def _comparisons(condition: ast.expr) -> Iterator[tuple[ast.expr, type[ast.cmpop], ast.expr]]:
    """The comparisons that all must hold, those of a chain one by one."""
    if isinstance(condition, ast.BoolOp) and isinstance(condition.op, ast.And):
        for value in condition.values:
            yield from _comparisons(value)
    elif isinstance(condition, ast.Compare):
        sides = [condition.left, *condition.comparators]
        for left, sign, right in zip(sides, condition.ops, sides[1:], strict=False):
            yield left, type(sign), right


def _exclude(first: tuple[Any, Any], second: tuple[Any, Any], whole: bool) -> bool:
    """Whether no value of a term fulfils both of two comparisons; `whole`: of a term that is an integer."""
    for (sign, value), (other, bound) in ((first, second), (second, first)):
        if sign is ast.Eq:
            return not _COMPARISONS[other](value, bound)
        if sign in (ast.Gt, ast.GtE) and other in (ast.Lt, ast.LtE):
            if whole:
                lowest = math.floor(value) + 1 if sign is ast.Gt else math.ceil(value)
                return not _COMPARISONS[other](lowest, bound)
            return bool(value > bound or (value == bound and (sign is ast.Gt or other is ast.Lt)))
    return False


def _defaults(function: ast.FunctionDef) -> dict[str, Any]:
    """The values of the further parameters that have a literal as default."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True)]
    pairs += [(name, value) for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    return {name.arg: _value(value, {}) for name, value in pairs if name is not positional[0]}


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """The value of a literal or of a parameter; None if it is not certain."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if type(value) in (int, str) or (type(value) is float and math.isfinite(value)) else None
