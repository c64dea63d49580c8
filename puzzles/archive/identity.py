"""Gives the puzzles and solutions of an older archive the ids of today's normal form.

Until schema 3 the normal form renamed names with a meaning, such as keywords. So puzzles that differ could count as
one, and an archive could hold a solution that had been judged on another puzzle's text. And puzzles that differ in idle
parts alone counted as two. The upgrade reads every text again. Equal puzzles become one. Every pair whose puzzle got
another id is judged again on the text that the archive holds. A pair that does not hold goes into quarantine: the
table `refusals`, with the reason.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from puzzles.foreign import MOST_JSON_BYTES, parse_json, unpacked
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, InputError, Puzzle, Verdict
from puzzles.verify import truth_pool, verify
from sandbox.pool import Pool

logger = logging.getLogger(__name__)

ROWS = 2000
"""Texts read at once."""
QUARANTINED = "does_not_hold"
"""The reason under which `refusals` keeps a pair that had been judged on another puzzle's text."""


def renew(connection: sqlite3.Connection, path: Path) -> None:
    """Give all puzzles and solutions today's ids, inside the transaction that the caller has begun.

    Args:
        connection: Connection to the archive.
        path: The archive's path, for messages.
    """
    (count,) = connection.execute("SELECT (SELECT count(*) FROM puzzles) + (SELECT count(*) FROM solutions)").fetchone()
    if not count:
        return
    logger.warning("%s: reading %d texts again, to give them the ids of this version", path, count)
    with truth_pool() as pool:
        puzzles = _renew_puzzles(connection, pool)
        solutions = _renew_solutions(connection, pool)
        follow(connection, puzzles, solutions)
        quarantined = _judge_again(connection, pool, {*puzzles.values()})
    logger.warning(
        "%s: %d puzzles and %d solutions have another id; %d pairs do not hold and are in quarantine",
        path, len(puzzles), len(solutions), quarantined,
    )  # fmt: skip


def _rows(connection: sqlite3.Connection, sql: str) -> Iterator[list[Any]]:
    """The rows of a query that numbers them, in batches."""
    number = -1
    while rows := connection.execute(f"{sql} WHERE number > ? ORDER BY number LIMIT {ROWS}", (number,)).fetchall():
        number = rows[-1][0]
        yield rows


def _renew_puzzles(connection: sqlite3.Connection, pool: Pool) -> dict[str, str]:
    """New ids of puzzles by the old ones. Of puzzles that are now equal one stays, with its history: the one that has
    the id already, or else the first.
    """
    renewed: dict[str, str] = {}
    for rows in _rows(connection, "SELECT number, id, source FROM puzzles"):
        parsed = parse_puzzles(pool, [Text(source) for _, _, source in rows])
        for (number, old, _), puzzle in zip(rows, parsed, strict=True):
            if not isinstance(puzzle, Puzzle):
                continue  # a text that today's rules refuse keeps its id, and `reverify` tells it
            connection.execute("UPDATE puzzles SET skeleton = ? WHERE number = ?", (puzzle.skeleton, number))
            if puzzle.id == old:
                continue
            renewed[old] = puzzle.id
            if connection.execute("SELECT 1 FROM puzzles WHERE id = ?", (puzzle.id,)).fetchone():
                connection.execute("DELETE FROM puzzles WHERE number = ?", (number,))
            else:
                connection.execute("UPDATE puzzles SET id = ? WHERE number = ?", (puzzle.id, number))
    return renewed


def _renew_solutions(connection: sqlite3.Connection, pool: Pool) -> dict[tuple[str, str], str]:
    """New ids of solutions by the puzzle's old id and their own. One id may have stood for solutions that differ."""
    renewed: dict[tuple[str, str], str] = {}
    for rows in _rows(connection, "SELECT number, puzzle, id, source FROM solutions"):
        parsed = parse_candidates(pool, [Text(source) for *_, source in rows])
        for (_, puzzle, old, _), candidate in zip(rows, parsed, strict=True):
            if isinstance(candidate, Candidate) and candidate.id != old:
                renewed[puzzle, old] = candidate.id
    return renewed


def follow(
    connection: sqlite3.Connection, puzzles: Mapping[str, str], solutions: Mapping[tuple[str, str], str]
) -> None:
    """Use new ids everywhere but in `puzzles`. A row that has become equal to an earlier one is left out.

    Args:
        connection: Connection to the archive, in a transaction.
        puzzles: New ids of puzzles by the old ones.
        solutions: New ids of solutions by the old ids of puzzle and solution.
    """
    connection.execute("CREATE TEMP TABLE renewed (puzzle TEXT, old TEXT, new TEXT, PRIMARY KEY (puzzle, old))")
    rows = [(puzzle, old, new) for (puzzle, old), new in solutions.items()]
    connection.executemany("INSERT INTO temp.renewed VALUES (?, ?, ?)", rows)
    for table, column in (("solutions", "id"), ("candidates", "candidate"), ("trained", "solution")):
        _replace(connection, table, column, f"r.puzzle = {table}.puzzle AND r.old = {table}.{column}")
    connection.execute("DELETE FROM temp.renewed")
    connection.executemany("INSERT INTO temp.renewed VALUES ('', ?, ?)", [*puzzles.items()])
    for table in ("solutions", "candidates", "proposals", "trained", "contamination"):
        _replace(connection, table, "puzzle", f"r.puzzle = '' AND r.old = {table}.puzzle")
    connection.execute("DROP TABLE temp.renewed")
    if puzzles:
        _follow_in_lists(connection, puzzles)


def _replace(connection: sqlite3.Connection, table: str, column: str, which: str) -> None:
    """Give rows their new ids, by way of ids that no row has: a new id may be the old one of another row."""
    renewed = f"(SELECT r.new FROM temp.renewed r WHERE {which})"
    aside = f"renewed-{secrets.token_hex(8)}-"
    moved = f"substr({column}, 1, {len(aside)}) = '{aside}'"
    connection.execute(f"UPDATE OR IGNORE {table} SET {column} = '{aside}' || {renewed} WHERE {renewed} IS NOT NULL")
    if table in ("solutions", "trained", "contamination"):
        connection.execute(f"DELETE FROM {table} WHERE {renewed} IS NOT NULL")
    connection.execute(f"UPDATE OR IGNORE {table} SET {column} = substr({column}, {len(aside) + 1}) WHERE {moved}")
    connection.execute(f"DELETE FROM {table} WHERE {moved}")


def _follow_in_lists(connection: sqlite3.Connection, puzzles: Mapping[str, str]) -> None:
    """Use the new ids in the lists of parents and in the plans of chunks."""
    for number, parents in connection.execute("SELECT number, parents FROM puzzles WHERE parents != '[]'").fetchall():
        old = parse_json(parents, f"puzzle {number}, parents")
        if (now := json.dumps(_replaced(old, puzzles))) != parents:
            connection.execute("UPDATE puzzles SET parents = ? WHERE number = ?", (now, number))
    for (chunk,) in connection.execute("SELECT id FROM chunks").fetchall():
        (blob,) = connection.execute("SELECT plan FROM chunks WHERE id = ?", (chunk,)).fetchone()
        try:
            plan = parse_json(unpacked(blob, MOST_JSON_BYTES, f"chunk {chunk}"), f"chunk {chunk}")
        except InputError:
            continue  # whoever reads the plan is told that it is damaged
        if (now := _replaced(plan, puzzles)) != plan:
            packed = zlib.compress(json.dumps(now).encode())
            connection.execute("UPDATE chunks SET plan = ? WHERE id = ?", (packed, chunk))


def _replaced(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_replaced(each, ids) for each in value]
    if isinstance(value, dict):
        return {key: _replaced(each, ids) for key, each in value.items()}
    return ids.get(value, value) if isinstance(value, str) else value


def _judge_again(connection: sqlite3.Connection, pool: Pool, puzzles: set[str]) -> int:
    """Judge the pairs of some puzzles on the texts that are stored; those that do not hold go into quarantine."""
    asked: list[tuple[int, str, str, str]] = []
    for puzzle in sorted(puzzles):
        asked += connection.execute(
            "SELECT s.number, p.name, p.source, s.source FROM solutions s JOIN puzzles p ON p.id = s.puzzle"
            " WHERE s.puzzle = ? ORDER BY s.number",
            (puzzle,),
        ).fetchall()
    return sum(_judge_batch(connection, pool, asked[start : start + ROWS]) for start in range(0, len(asked), ROWS))


def _judge_batch(connection: sqlite3.Connection, pool: Pool, rows: Sequence[tuple[int, str, str, str]]) -> int:
    puzzles = parse_puzzles(pool, [Text(puzzle) for _, _, puzzle, _ in rows])
    candidates = parse_candidates(pool, [Text(solution) for *_, solution in rows])
    pairs = [
        (row, (puzzle, candidate))
        for row, puzzle, candidate in zip(rows, puzzles, candidates, strict=True)
        if isinstance(puzzle, Puzzle) and isinstance(candidate, Candidate)
    ]
    quarantined = 0
    for ((number, name, _, source), _), judgement in zip(pairs, verify(pool, [pair for _, pair in pairs]), strict=True):
        if judgement.verdict == Verdict.ACCEPTED:
            continue
        detail = f"{judgement.verdict}, {judgement.detail}: it was judged on another puzzle that counted as the same"
        refusal = (name, "solution", QUARANTINED, detail, source)
        connection.execute("INSERT OR IGNORE INTO refusals VALUES (?, ?, ?, ?, ?)", refusal)
        connection.execute("DELETE FROM solutions WHERE number = ?", (number,))
        quarantined += 1
    return quarantined
