"""Leaves out the statements of a program's top level that its function does not need: checks, prints, main guards.

Chat models put such statements around an answer. An answer should not fail by a check, or by an import of a module that
it does not use. What the function may need stays: the definitions, the constants before it, and whatever binds or may
change something that it uses.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection

from puzzles import scopes
from puzzles.pruning import HARMLESS_MODULES
from sandbox.syntax import walk

_CALLABLES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
_GUARD = tuple(ast.dump(ast.parse(side, mode="eval").body) for side in ("__name__", "'__main__'"))
"""The two sides of what a main guard asks."""
_SHOWING = frozenset({"print", "input"})


def leave_out_needless(tree: ast.Module, entry: ast.FunctionDef, others: Collection[str] = ()) -> list[str]:
    """Leave out what the entry does not need. The tree is changed in place.

    Args:
        tree: The program.
        entry: Its function.
        others: Names of functions that are left out too unless the entry needs them: in a puzzle, those of solutions.

    Returns:
        The first line of each statement that was left out, with its line number.
    """
    if len(tree.body) == 1:
        return []
    program = _Program(tree, entry, others)
    kept = [statement for statement in tree.body if program.stays(statement)]
    used = {name for statement in kept for name in _names(statement)}
    left_out = [statement for statement in tree.body if all(statement is not each for each in kept)]
    if not program.is_reflective:
        left_out += [part for each in kept for part in _unused_part(each, used)]
        kept = [part for each in kept for part in _used_part(each, used)]
    tree.body = kept
    left_out.sort(key=lambda each: each.lineno)
    return [f"line {each.lineno}: {ast.unparse(each).splitlines()[0][:80]}" for each in left_out]


def _used_part(statement: ast.stmt, used: set[str], wanted: bool = True) -> list[ast.stmt]:
    """The statement; of an import only the modules that are always there, and those that the program uses."""
    if not isinstance(statement, _IMPORTS) or (isinstance(statement, ast.ImportFrom) and _is_harmless(statement)):
        return [statement] if wanted else []
    names = [alias for alias in statement.names if (_is_there(alias) or bool({_name(alias)} & used)) is wanted]
    if len(names) == len(statement.names):
        return [statement]
    part = copy.copy(statement)
    part.names = names
    return [part] if names else []


def _is_there(alias: ast.alias) -> bool:
    return alias.name == "*" or alias.name in HARMLESS_MODULES


def _name(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _unused_part(statement: ast.stmt, used: set[str]) -> list[ast.stmt]:
    return _used_part(statement, used, wanted=False)


class _Program:
    """What the statements of a top level bind, use and change, and what of it the entry needs."""

    def __init__(self, tree: ast.Module, entry: ast.FunctionDef, others: Collection[str]) -> None:
        self.entry, self.others = entry, others
        self.behind = tree.body[tree.body.index(entry) + 1 :]
        self.callables = {each.name: _names(each) for each in tree.body if isinstance(each, _CALLABLES)}
        rest = [each for each in tree.body if not isinstance(each, _CALLABLES + _IMPORTS)]
        self.data = {name for each in rest for name in _bound(each)} | _globals(tree)
        imports = [each for each in tree.body if isinstance(each, _IMPORTS)]
        self.modules = {name: module for each in imports for name, module in _modules(each)}
        """Modules by the names that imports bind."""
        self.missing = {name for each in imports if not _is_harmless(each) for name in _bound(each)}
        plain = [each for each in tree.body if not self._is_check(each)]
        self.is_reflective = scopes.is_reflective([node for each in plain for node in walk(each)])
        self.needed = self._mentioned(entry) | {entry.name}
        grown = True
        while grown:
            before = len(self.needed)
            for statement in tree.body:
                if not isinstance(statement, _CALLABLES) and self._touched(statement) & self.needed:
                    self.needed |= self._mentioned(statement)
            grown = len(self.needed) > before

    def stays(self, statement: ast.stmt) -> bool:
        """Whether a statement is kept."""
        if isinstance(statement, _IMPORTS) or statement is self.entry:
            return True
        if isinstance(statement, _CALLABLES):
            if statement.name in self.needed or self.is_reflective:
                return True
            return statement.name not in self.others and not self._mentioned(statement) & self.missing
        if self._touched(statement) & self.needed:
            return True
        if self.is_reflective:
            return not self._is_check(statement)
        return statement not in self.behind and _is_constant(statement)

    def _mentioned(self, statement: ast.stmt) -> set[str]:
        """Names in a statement, and in the program's functions and classes that it leads to."""
        found, waiting = set[str](), _names(statement)
        while waiting:
            found |= waiting
            waiting = {name for each in waiting for name in self.callables.get(each, ())} - found
        return found

    def _is_check(self, statement: ast.stmt) -> bool:
        """Whether a statement only shows or checks something: a main guard, an assertion, a print, a call."""
        if isinstance(statement, _CALLABLES + _IMPORTS):
            return False
        if isinstance(statement, ast.Assert) or _is_guard(statement) or _names(statement) & _SHOWING:
            return True
        return self.entry.name in self._mentioned(statement)

    def _touched(self, statement: ast.stmt) -> set[str]:
        """Names that a statement binds, or whose values it may change."""
        if _is_guard(statement):
            return set()
        touched = _bound(statement)
        if isinstance(statement, _CALLABLES + _IMPORTS):
            return touched
        if isinstance(statement, ast.Assert):
            return touched
        touched |= (_roots(statement) & self.data) | (_roots(statement, set_only=True) & self.callables.keys())
        if not self._is_check(statement):
            touched |= self._mentioned(statement) & (self.data | self._changed_by_calls(statement))
            # random.seed(0) changes what `from random import …` gives.
            modules = {self.modules[name] for name in _names(statement) & self.modules.keys()}
            touched |= {name for name, module in self.modules.items() if module in modules}
        return touched

    def _changed_by_calls(self, statement: ast.stmt) -> set[str]:
        """Functions and classes that keep a value which the statement may change: it calls, or hands them on."""
        calls = any(isinstance(node, ast.Call) for node in walk(statement))
        return {*self.callables} if calls else set()


def _is_guard(statement: ast.stmt) -> bool:
    """Whether it runs only where the text is a program of its own. With an `else`, or asked otherwise, it may run."""
    if not isinstance(statement, ast.If) or statement.orelse or not isinstance(statement.test, ast.Compare):
        return False
    sides = [ast.dump(side) for side in (statement.test.left, *statement.test.comparators)]
    return isinstance(statement.test.ops[0], ast.Eq) and sorted(sides) == sorted(_GUARD)


def _is_harmless(statement: ast.Import | ast.ImportFrom) -> bool:
    """Whether an import can be left alone: of modules that are always there, or of names that nobody can tell."""
    modules = [statement.module or ""] if isinstance(statement, ast.ImportFrom) else [a.name for a in statement.names]
    return {*modules} <= HARMLESS_MODULES or any(alias.name == "*" for alias in statement.names)


def _names(statement: ast.stmt) -> set[str]:
    return {node.id for node in walk(statement) if isinstance(node, ast.Name)}


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement of the top level binds or deletes there."""
    if isinstance(statement, _CALLABLES):
        return {statement.name}
    names: set[str] = set()
    for node in walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, _CALLABLES):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.MatchAs | ast.MatchStar | ast.ExceptHandler):
            names.add(node.name or "")
        elif isinstance(node, ast.MatchMapping):
            names.add(node.rest or "")
    return names - {""}


def _globals(tree: ast.Module) -> set[str]:
    return {name for node in walk(tree) if isinstance(node, ast.Global) for name in node.names}


def _modules(statement: ast.Import | ast.ImportFrom) -> list[tuple[str, str]]:
    if isinstance(statement, ast.ImportFrom):
        return [(alias.asname or alias.name, statement.module or "") for alias in statement.names]
    return [(alias.asname or alias.name.partition(".")[0], alias.name) for alias in statement.names]


def _is_constant(statement: ast.stmt) -> bool:
    """Whether a statement gives a literal a name. To keep it costs nothing."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return False
    try:
        ast.literal_eval(statement.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _roots(statement: ast.stmt, set_only: bool = False) -> set[str]:
    """Names on which a statement calls methods, or whose items or attributes it sets, such as T in `T.append(1)`."""
    roots: set[str] = set()
    for node in walk(statement):
        is_set = not isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        if isinstance(node, ast.Attribute | ast.Subscript) and (
            is_set or (isinstance(node, ast.Attribute) and not set_only)
        ):
            root: ast.AST = node
            while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
                root = root.func if isinstance(root, ast.Call) else root.value
            roots |= {root.id} if isinstance(root, ast.Name) else set()
    return roots
