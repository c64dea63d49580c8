"""When are two puzzles the same? Normal forms of syntax trees, and near-duplicates.

`normal_form` runs in a sandbox child (a syntax tree of model text can be a bomb); its text is
plain data and everything else here works on that.
"""

from __future__ import annotations

import ast
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from puzzles.puzzle import Puzzle

SHINGLE_TOKENS = 5
NEAR_DUPLICATE = 0.8
"""Jaccard similarity of shingles from which two puzzles count as near-duplicates; 0.7 to 0.85 is
usual for code (SelfCodeAlign uses 0.7 on 5-grams of text, which normal forms sharpen)."""
MIN_SHINGLES = 8
"""Shorter puzzles are compared by normal form and skeleton only: they share most shingles by chance."""

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


_NAME_FIELDS = {"name", "arg", "asname", "id"}


def _bound_names(tree: ast.AST) -> set[str]:
    """Names that the program gives; not those of a class's own members, which are reached as attributes."""
    members = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for member in node.body
        for part in ([member] if isinstance(member, ast.FunctionDef | ast.ClassDef) else ast.walk(member))
    }
    bound = set()
    for node in ast.walk(tree):
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


@dataclass
class Guard:
    """The held-out and dev puzzles that must never be trained on."""

    ids: dict[str, str] = field(default_factory=dict)
    skeletons: dict[str, str] = field(default_factory=dict)
    near: list[tuple[str, frozenset[int]]] = field(default_factory=list)

    @classmethod
    def of(cls, named_puzzles: Iterable[tuple[str, Puzzle]]) -> Guard:
        """Guard these puzzles; the name is what a refusal says."""
        guard = cls()
        for name, puzzle in named_puzzles:
            guard.ids[puzzle.id] = name
            guard.skeletons[puzzle.skeleton] = name
            guard.near.append((name, puzzle.shingles))
        return guard

    def hit(self, puzzle: Puzzle) -> str | None:
        """Which guarded puzzle this one is, or is too near to; None when it is neither."""
        if puzzle.id in self.ids:
            return f"the same as {self.ids[puzzle.id]}"
        if puzzle.skeleton in self.skeletons:
            return f"{self.skeletons[puzzle.skeleton]} with other constants"
        if len(puzzle.shingles) >= MIN_SHINGLES:
            for name, guarded in self.near:
                if jaccard(puzzle.shingles, guarded) >= NEAR_DUPLICATE:
                    return f"a near-duplicate of {name}"
        return None
