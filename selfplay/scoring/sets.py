"""Puzzle sets as files name them: an embedded set, a puzzle file, an archive or a run's archive."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from puzzles.archive.formats import EMBEDDED_SETS, read_puzzles
from puzzles.archive.store import Archive
from puzzles.parse import ParseFailure, Text, parse_puzzles
from puzzles.puzzle import InputError, Puzzle, content_hash
from sandbox.pool import Pool
from selfplay.run.rundir import is_archive
from selfplay.run.sessions import file_hash


@dataclass(frozen=True)
class NamedPuzzle:
    """A puzzle of a scored set."""

    name: str
    puzzle: Puzzle
    solutions: tuple[str, ...] = ()
    """Reference solutions as they came."""
    skills: tuple[str, ...] = ()
    difficulty: int | None = None


_READ: dict[str, list[NamedPuzzle]] = {}
"""The embedded sets that this process has read."""


def scored_puzzles(pool: Pool, path: str) -> list[NamedPuzzle]:
    """A puzzle file (or an archive's puzzles) as a set to be scored.

    Raises:
        InputError: Texts in it are no puzzles.
    """
    named, wrong = read_set(pool, path)
    if wrong:
        name, why = next(iter(wrong.items()))
        rest = [*wrong][1:]
        more = f"; nor are {', '.join(rest[:20])}{' and others' * (len(rest) > 20)}" if rest else ""
        raise InputError(f"{path}: {name}: this is no puzzle: {why}{more}")
    return named


def read_set(pool: Pool, path: str) -> tuple[list[NamedPuzzle], dict[str, str]]:
    """The puzzles of a set, and for each text in it that is no puzzle its name and what is wrong.

    Raises:
        InputError: There is no such set, or no puzzle in it.
    """
    if path in _READ:
        return list(_READ[path]), {}
    raws = read_any(path)
    parsed = parse_puzzles(pool, [Text(raw.puzzle, raw.form) for raw in raws])
    named, wrong = [], {}
    for raw, puzzle in zip(raws, parsed, strict=True):
        if isinstance(puzzle, ParseFailure):
            wrong[raw.name] = str(puzzle)
        else:
            named.append(NamedPuzzle(raw.name, puzzle, raw.solutions, raw.skills, raw.difficulty))
    if not named:
        found = "; ".join(f"{name}: {why}" for name, why in [*wrong.items()][:3])
        raise InputError(f"{path}: expected puzzles, there are none" + (f": {found}" if found else ""))
    if path in EMBEDDED_SETS:  # they do not change while a process runs
        _READ[path] = named
    return list(named), wrong


def read_any(path: str) -> list[Any]:
    """The raw puzzles of an embedded set, a puzzle file, an archive file or a run's archive."""
    if file := _archive_file(path):
        with Archive(file) as archive:
            return archive.raw_puzzles()
    return list(read_puzzles(path))


def content_hash_of(path: str) -> str | None:
    """Sixteen digits over the file that `read_any` reads; of an archive, whose file changes, over its puzzles' ids.

    None of a file that is not there: once a training set is imported, it is not needed any more.
    """
    if file := _archive_file(path):
        with Archive(file, trust=True) as archive:  # only ids are read
            return content_hash("\n".join(archive.puzzle_ids()))
    embedded = Path(str(files("puzzles") / f"{path}.jsonl"))
    file = embedded if path in EMBEDDED_SETS else Path(path)
    return file_hash(file) if file.is_file() else None


def _archive_file(path: str) -> Path | None:
    place = Path(path)
    if path in EMBEDDED_SETS:
        return None
    if (place / "archive.sqlite").is_file():
        return place / "archive.sqlite"
    return place if is_archive(place) else None
