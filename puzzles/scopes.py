"""Says which names of a program can be renamed without a change of its behaviour.

This decides when two programs count as the same (`similarity.normal_form`). Where there is a doubt a name is kept. Two
programs that count as different although they are the same are a duplicate too many. Two that count as the same
although they differ would put a wrong pair into an archive.
"""

from __future__ import annotations

import ast
import builtins
import typing
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sandbox.syntax import children, walk

AMBIENT = frozenset({*dir(builtins), *typing.__all__})
"""Names that a program finds without binding them."""
_REFLECTIVE_NAMES = frozenset({
    "locals", "globals", "vars", "eval", "exec", "compile", "dir", "breakpoint", "help", "get_type_hints",
})  # fmt: skip
"""Functions through which a program can see its own names, or objects that show them."""
_PLAIN_DUNDERS = frozenset({
    "__init__", "__len__", "__getitem__", "__setitem__", "__delitem__", "__contains__", "__iter__", "__next__",
    "__call__", "__bool__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__add__",
    "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__floordiv__", "__mod__", "__pow__",
    "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__neg__", "__pos__", "__abs__", "__invert__",
    "__int__", "__float__", "__index__", "__round__", "__enter__", "__exit__", "__missing__", "__reversed__",
})  # fmt: skip
"""Methods with two underscores that show no name."""
_FRAME_PREFIXES = ("f_", "co_", "gi_", "cr_", "ag_", "tb_", "func_")


def is_reflective(nodes: Collection[ast.AST]) -> bool:
    """Whether a program may look at its own names, so that no renaming is certain to leave its behaviour alone.

    It may if it uses a function such as `locals`, an attribute such as `__name__`, or an attribute whose name is
    computed; or if it binds an exception, whose message can hold names.

    Args:
        nodes: All nodes of the program.
    """
    by_text: list[ast.AST] = []
    plain: set[int] = set()
    for node in nodes:
        kind = type(node)
        if kind is ast.Name:
            name = node.id  # type: ignore[attr-defined]
            if name in _REFLECTIVE_NAMES or name.startswith("__"):
                return True
            if name in _BY_TEXT and name != "format":
                by_text.append(node)
        elif kind is ast.Attribute:
            if _shows_names(node.attr):  # type: ignore[attr-defined]
                return True
            if node.attr in _BY_TEXT:  # type: ignore[attr-defined]
                by_text.append(node)
        elif kind is ast.Call:
            assert isinstance(node, ast.Call)
            if (_called_name(node.func) or "") in _BY_TEXT and _names_plainly(node):
                plain.add(id(node.func))
        elif kind is ast.ExceptHandler:
            if node.name:  # type: ignore[attr-defined]
                return True
        elif kind is ast.ImportFrom and {alias.name for alias in node.names} & _REFLECTIVE_NAMES:  # type: ignore[attr-defined]
            return True
    return any(id(node) not in plain for node in by_text)


_BY_TEXT = frozenset({"getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller", "format", "format_map"})
"""Functions and methods that reach attributes by a text."""


def _called_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) and node.id != "format" else None


def _names_plainly(call: ast.Call) -> bool:
    """Whether a call of one of `_BY_TEXT` says in a literal which attributes it reaches, none with two underscores."""
    if isinstance(call.func, ast.Attribute) and call.func.attr in ("format", "format_map"):
        texts: list[ast.expr] = [call.func.value]
    else:
        texts = call.args[1:2] if _called_name(call.func) not in ("attrgetter", "methodcaller") else call.args
    plain = [text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)]
    return len(plain) == len(texts) > 0 and not any(sign in text for text in plain for sign in ("__", *_FRAME_PREFIXES))


def _shows_names(attribute: str) -> bool:
    if attribute in _REFLECTIVE_NAMES or attribute.startswith(_FRAME_PREFIXES):
        return True
    return attribute.startswith("__") and attribute not in _PLAIN_DUNDERS


def renamable_names(tree: ast.AST) -> frozenset[str]:
    """The names that can be renamed everywhere in a program, one by one, without a change of its behaviour.

    A name is none of them if some use of it is bound by nobody, or if it means something in another place: as a keyword
    of a function that is not this program's, a member of a class, a module, a function that is shown. No name is one if
    the program may look at its own names.
    """
    nodes = walk(tree)
    if is_reflective(nodes):
        return frozenset()
    bound = _bound(nodes)
    return frozenset(bound - _meaningful(tree, nodes, bound))


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    return {*_bindings(nodes)}


def _bindings(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The name that each of the nodes binds, as often as they do."""
    for node in nodes:
        attribute = _BINDERS.get(type(node))
        if attribute and (attribute != "id" or type(node.ctx) is ast.Store) and (name := getattr(node, attribute)):  # type: ignore[attr-defined]
            yield name


_BINDERS: dict[type[ast.AST], str] = {
    ast.FunctionDef: "name", ast.AsyncFunctionDef: "name", ast.arg: "arg", ast.Name: "id", ast.MatchAs: "name",
    ast.MatchStar: "name", ast.MatchMapping: "rest",
}  # fmt: skip
"""Nodes that bind a name, and the field that holds it."""


class _ByKind:
    """Nodes by their type, in order."""

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        self._found: dict[type[ast.AST], list[Any]] = {}
        for node in nodes:
            self._found.setdefault(type(node), []).append(node)

    def __call__(self, *kinds: type[ast.AST]) -> list[Any]:
        """The nodes of these types."""
        if len(kinds) == 1:
            return self._found.get(kinds[0], [])
        return [node for kind in kinds for node in self._found.get(kind, ())]


def _meaningful(tree: ast.AST, nodes: Collection[ast.AST], bound: set[str]) -> set[str]:
    """Names that mean something beyond their binding."""
    of = _ByKind(nodes)
    kept = _free(tree) | _shown_functions(of, bound) | _makers(of)
    if isinstance(tree, ast.Module):  # a module's statements may use a builtin before they bind its name
        kept |= AMBIENT & set(_members(tree))
    for node in of(ast.ClassDef):
        kept |= {node.name, *_members(node)}
        kept |= {keyword.arg for keyword in node.keywords if keyword.arg}
    for node in of(ast.Import, ast.ImportFrom):
        for alias in node.names:
            kept |= {alias.name.partition(".")[0], alias.asname or alias.name}
    if of(ast.keyword):
        parameters = {} if any(each.kwarg for each in of(ast.arguments)) else _parameters(nodes)
        for node in of(ast.Call):
            own = parameters.get(node.func.id, set()) if isinstance(node.func, ast.Name) else set()
            kept |= {keyword.arg for keyword in node.keywords if keyword.arg and keyword.arg not in own}
            if any(keyword.arg is None for keyword in node.keywords):  # `**`: the keywords are texts
                kept |= {each.arg for each in of(ast.arg)}
    return kept | {name for name in kept | bound if name.startswith("__")}


def _parameters(nodes: Collection[ast.AST]) -> dict[str, set[str]]:
    """The parameters of each function that is bound once in the whole program, by the function's name."""
    times = Counter(_bindings(nodes))
    found = {
        node.name: {each.arg for each in [*node.args.args, *node.args.kwonlyargs]}
        for node in nodes
        if isinstance(node, ast.FunctionDef)
    }
    return {name: own for name, own in found.items() if times[name] == 1}


def _shown_functions(of: _ByKind, bound: Collection[str]) -> set[str]:
    """Functions that are used as values, not only called: a text of one shows its name."""
    functions = {node.name for node in of(ast.FunctionDef, ast.AsyncFunctionDef)}
    named = [node for node in of(ast.Name) if node.id in functions and type(node.ctx) is ast.Load]
    if not named:
        return set()
    plain = set()
    for call in of(ast.Call):
        plain.add(id(call.func))
        if (name := _called_name(call.func)) in _CALLERS and name not in bound:
            plain |= {id(each) for each in [*call.args[:1], *(keyword.value for keyword in call.keywords)]}
    return {node.id for node in named if id(node) not in plain}


def _makers(of: _ByKind) -> set[str]:
    """Functions that give generators or functions, where the program makes texts: those show the maker's name."""
    makers = {node.name for node in of(ast.FunctionDef) if _makes(node)}
    makes_texts = makers and (
        of(ast.JoinedStr)
        or any(isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant) for node in of(ast.BinOp))
        or any(node.id in ("str", "repr", "ascii", "format", "print") for node in of(ast.Name))
        or any(node.attr in ("format", "format_map") for node in of(ast.Attribute))
    )
    return makers if makes_texts else set()


def _makes(function: ast.FunctionDef) -> bool:
    of = _ByKind(walk(function)[1:])
    if of(ast.Yield, ast.YieldFrom):
        return True
    inner = {node.name for node in of(ast.FunctionDef)}
    return any(
        isinstance(node.value, ast.Lambda | ast.GeneratorExp)
        or (isinstance(node.value, ast.Name) and node.value.id in inner)
        for node in of(ast.Return)
    )


_CALLERS = frozenset({
    "map", "filter", "sorted", "min", "max", "sort", "reduce", "accumulate", "starmap", "takewhile", "dropwhile",
    "filterfalse", "cmp_to_key",
})  # fmt: skip
"""Functions that call the function which they are given first or as a keyword, and show nothing of it."""


def _members(definition: ast.ClassDef | ast.Module) -> Iterator[str]:
    """Names bound in the own scope of a class, where they are reached as attributes too, or of a module."""
    waiting: list[ast.AST] = list(definition.body)
    while waiting:
        node = waiting.pop()
        yield from _bindings([node])
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += children(node)


def _free(tree: ast.AST) -> set[str]:
    """Names that some scope uses and no enclosing scope binds."""
    free: set[str] = set()

    def visit(scope: ast.AST, visible: frozenset[str]) -> None:
        inner: list[ast.AST] = []
        own: list[ast.AST] = []
        waiting = _inside(scope)
        while waiting:
            node = waiting.pop()
            own.append(node)
            if isinstance(node, _SCOPES):
                inner.append(node)
                waiting += _outside(node)
            else:
                waiting += children(node)
        elsewhere = {name for node in own if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
        bound = (_bound(own) | _imported(own) | {n.name for n in own if isinstance(n, ast.ClassDef)}) - elsewhere
        seen = visible | bound
        free.update(node.id for node in own if isinstance(node, ast.Name) and node.id not in seen)
        below = visible if isinstance(scope, ast.ClassDef) else seen
        for each in inner:
            visit(each, below)

    visit(tree, frozenset())
    return free


_SCOPES = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp,
)  # fmt: skip


def _inside(scope: ast.AST) -> list[ast.AST]:
    """The parts of a scope that are evaluated in it."""
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
        return [*_arguments(scope.args), *scope.body]
    if isinstance(scope, ast.Lambda):
        return [*_arguments(scope.args), scope.body]
    if isinstance(scope, ast.ClassDef):
        return list(scope.body)
    return children(scope)


def _outside(scope: ast.AST) -> list[ast.AST]:
    """The parts of a scope that are evaluated in the scope around it: defaults, decorators, annotations and bases."""
    if isinstance(scope, ast.ClassDef):
        return [*scope.decorator_list, *scope.bases, *(keyword.value for keyword in scope.keywords)]
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        arguments = scope.args
        notes = [each.annotation for each in _arguments(arguments) if each.annotation]
        decorators = [] if isinstance(scope, ast.Lambda) else scope.decorator_list
        return [*arguments.defaults, *(each for each in arguments.kw_defaults if each), *notes, *decorators]
    return []  # a comprehension's first iterable is outside too; counted inside, a name only looks bound more often


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    stars = [each for each in (arguments.vararg, arguments.kwarg) if each]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *stars]


def _imported(nodes: Collection[ast.AST]) -> set[str]:
    aliases = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return {alias.asname or alias.name.partition(".")[0] for alias in aliases}
