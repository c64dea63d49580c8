"""Walks, compares and copies syntax trees several times as fast as the module `ast` does.

Reading a model's text is mostly this: each rule looks at all nodes of a small program.
"""

from __future__ import annotations

import ast
from typing import TypeVar

Node = TypeVar("Node", bound=ast.AST)


def children(node: ast.AST) -> list[ast.AST]:
    """The nodes directly below a node, in the order of `ast.iter_child_nodes`."""
    found: list[ast.AST] = []
    own = node.__dict__
    for name in node._fields:
        value = own.get(name)
        if type(value) is list:
            found += [each for each in value if isinstance(each, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return found


def walk(tree: ast.AST) -> list[ast.AST]:
    """A node and all nodes below it, in the order of `ast.walk`."""
    found = [tree]
    add = found.append
    for node in found:
        own = node.__dict__
        for name in node._fields:
            value = own.get(name)
            if type(value) is list:
                for each in value:
                    if isinstance(each, ast.AST):
                        add(each)
            elif isinstance(value, ast.AST):
                add(value)
    return found


def same(one: ast.AST, other: ast.AST) -> bool:
    """Whether two trees have equal texts of `ast.dump`: they differ at most in places and layout."""
    waiting: list[tuple[object, object]] = [(one, other)]
    while waiting:
        mine, theirs = waiting.pop()
        kind = type(mine)
        if kind is not type(theirs):
            return False
        if kind is list:
            if len(mine) != len(theirs):  # type: ignore[arg-type]
                return False
            waiting += zip(mine, theirs, strict=True)  # type: ignore[call-overload]
        elif isinstance(mine, ast.AST):
            first, second = mine.__dict__, theirs.__dict__
            for name in mine._fields:
                left, right = first.get(name), second.get(name)
                if left is not right:
                    waiting.append((left, right))
        elif repr(mine) != repr(theirs):
            return False
    return True


def copied(tree: Node) -> Node:
    """A copy of a tree. Constants in it are not copied."""
    made = type(tree).__new__(type(tree))
    own = made.__dict__
    for name, value in tree.__dict__.items():
        if type(value) is list:
            own[name] = [copied(each) if isinstance(each, ast.AST) else each for each in value]
        else:
            own[name] = copied(value) if isinstance(value, ast.AST) else value
    return made
