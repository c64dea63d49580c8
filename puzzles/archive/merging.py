"""Two archives beside each other: what differs, and one taken into the other."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from puzzles.archive.store import Archive


@dataclass
class Differences:
    """Ids that only one of two archives has; of pairs `PUZZLE/SOLUTION`."""

    only: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    """By `puzzles` and `pairs`: in the first alone, in the second alone."""
    answers: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """Pairs of both whose stored answers differ, with both."""
    common: dict[str, int] = field(default_factory=dict)
    """How many puzzles and pairs both have."""

    def __bool__(self) -> bool:
        return bool(self.answers) or any(first or second for first, second in self.only.values())


@contextmanager
def _beside(first: Archive, second: Archive) -> Iterator[sqlite3.Connection]:
    """The first's connection with the second's tables under `other`."""
    first.connection.execute("ATTACH ? AS other", (second.path.absolute().as_uri(),))
    try:
        yield first.connection
    finally:
        first.connection.execute("DETACH other")


_IDS = {"puzzles": "SELECT id FROM {}.puzzles", "pairs": "SELECT puzzle || '/' || id FROM {}.solutions"}


def compare(first: Archive, second: Archive) -> Differences:
    """Which puzzles and pairs only one has, and whose answers differ."""
    found = Differences()
    with _beside(first, second) as connection:
        for what, ids in _IDS.items():
            one, other = ids.format("main"), ids.format("other")
            found.only[what] = (_without(connection, one, other), _without(connection, other, one))
            found.common[what] = connection.execute(f"SELECT count(*) FROM ({one} INTERSECT {other})").fetchone()[0]
        rows = connection.execute(
            "SELECT s.puzzle || '/' || s.id, s.answer, o.answer FROM main.solutions s"
            " JOIN other.solutions o ON o.puzzle = s.puzzle AND o.id = s.id WHERE s.answer IS NOT o.answer ORDER BY 1"
        )
        found.answers = [(row[0], row[1], row[2]) for row in rows]
    return found


def _without(connection: sqlite3.Connection, ids: str, others: str) -> list[str]:
    return [row[0] for row in connection.execute(f"{ids} EXCEPT {others} ORDER BY 1")]


@dataclass(frozen=True)
class Merged:
    """How many rows the archive grew by."""

    puzzles: int
    solutions: int
    chunks: int
    candidates: int


_COUNTED = ("puzzles", "solutions", "chunks", "candidates")
_SAME_CHUNK = (
    "m.iteration = o.iteration AND m.stage = o.stage AND m.checkpoint = o.checkpoint AND m.seed = o.seed"
    " AND m.plan = o.plan"
)
_COLUMNS = {
    "puzzles": "id, source, answer_type, header, skeleton, name, description, original, origin, skills, difficulty,"
    " iteration, {chunk}, position, parents, added_at",
    "solutions": "puzzle, id, source, answer, origin, iteration, {chunk}, position, protections, cpu_seconds,"
    " judge_cpu_seconds, added_at",
    "proposals": "{chunk}, position, outcome, detail, puzzle",
    "candidates": "{chunk}, position, puzzle, candidate, verdict, detail, answer, cpu_seconds",
}
"""Of tables whose rows are of chunks, which get other ids."""


def merge(into: Archive, other: Archive) -> Merged:
    """Take all of another archive in: its puzzles, pairs, chunks and candidates, with their history.

    A puzzle or pair that is there keeps the history it has. A chunk is the same if it was planned from the same weights
    with the same seed and plan; others that have its place are numbered after those that are there. Doing it again
    adds nothing. It takes as long as the other is large, whatever is there already.

    Args:
        into: An archive that was found whole (`Archive.check`).
        other: It is read first, to see that it is.
    """
    other.check()
    with _beside(into, other) as connection, into.transaction():
        grown = _take_in(connection)
        if into.mark("guard") != other.mark("guard") or other.mark("added_past_guard"):
            into.set_mark("added_past_guard", "yes")
    into.index()
    return Merged(*(grown[table] for table in _COUNTED))


def _take_in(connection: sqlite3.Connection) -> dict[str, int]:
    """By table, how many rows came."""
    connection.execute(
        "CREATE TEMP TABLE places (old INTEGER PRIMARY KEY, new INTEGER NOT NULL, known INTEGER NOT NULL)"
    )
    grown = {"chunks": _place_chunks(connection)}
    for table in ("protections", "refusals", "trained", "contamination"):
        connection.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}")
    for table, columns in _COLUMNS.items():
        new = "(SELECT new FROM temp.places WHERE old = o.chunk)"
        known = "(SELECT known FROM temp.places WHERE old = o.chunk)"
        fresh = f"NOT {known}" if table in ("proposals", "candidates") else "1"
        grown[table] = connection.execute(
            f"INSERT OR IGNORE INTO main.{table} ({columns.format(chunk='chunk')})"
            f" SELECT {columns.format(chunk=new)} FROM other.{table} o WHERE {fresh} ORDER BY o.rowid"
        ).rowcount
    # Of two chunks that know nothing of each other both may have admitted the same puzzle.
    connection.execute(
        "UPDATE main.proposals AS r SET outcome = 'duplicate' WHERE outcome = 'admitted'"
        " AND chunk IN (SELECT new FROM temp.places WHERE NOT known) AND NOT EXISTS"
        " (SELECT 1 FROM main.puzzles p WHERE (p.id, p.chunk, p.position) = (r.puzzle, r.chunk, r.position))"
    )
    connection.execute("DROP TABLE temp.places")
    return grown


def _place_chunks(connection: sqlite3.Connection) -> int:
    """Give each of the other's chunks its id here: that of the same chunk, or a new one; returns how many are new."""
    names = [row[1] for row in connection.execute("PRAGMA main.table_info(chunks)") if row[1] not in ("id", "number")]
    columns = ", ".join(names)
    same = f"SELECT m.id FROM main.chunks m JOIN other.chunks o ON {_SAME_CHUNK} WHERE o.id = ?"
    # Its own number, or the first after all others of its stage where that is taken.
    number = (
        "CASE WHEN EXISTS (SELECT 1 FROM main.chunks m WHERE (m.iteration, m.stage, m.number) ="
        " (o.iteration, o.stage, o.number)) THEN (SELECT max(m.number) + 1 FROM main.chunks m"
        " WHERE (m.iteration, m.stage) = (o.iteration, o.stage)) ELSE o.number END"
    )
    in_its_place = f"{same} AND m.number = o.number"  # found at once, and where most are
    fresh = 0
    for (old,) in connection.execute("SELECT id FROM other.chunks ORDER BY id").fetchall():
        known = connection.execute(in_its_place, (old,)).fetchone() or connection.execute(same, (old,)).fetchone()
        if known:
            new = known[0]
            values = f"SELECT {columns} FROM other.chunks WHERE id = ?"
            # It was only planned here, and there it has been sampled and judged.
            done = f"UPDATE main.chunks SET ({columns}) = ({values} AND judged) WHERE id = ? AND NOT judged"
            further = f" AND EXISTS ({values} AND judged)"
            if connection.execute(done + further, (old, new, old)).rowcount:
                known = None
        else:
            chunk = f"SELECT {number}, {columns} FROM other.chunks o WHERE id = ?"
            new = connection.execute(f"INSERT INTO main.chunks (number, {columns}) {chunk}", (old,)).lastrowid
            fresh += 1
        connection.execute("INSERT INTO temp.places VALUES (?, ?, ?)", (old, new, known is not None))
    return fresh
