"""Compares two archives, and merges one into the other."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from puzzles.archive.believing import compute_identities, judge_pairs
from puzzles.archive.copying import beside, copy
from puzzles.archive.store import Archive
from sandbox.pool import Pool


@dataclass
class Differences:
    """The differences between two archives. The id of a pair is `PUZZLE/SOLUTION`."""

    only: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    """For `puzzles` and for `pairs`: ids that only the first archive has, and ids that only the second has."""
    answers: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """Ids of pairs in both archives whose stored answers differ, with the two answers."""
    common: dict[str, int] = field(default_factory=dict)
    """Number of `puzzles` and of `pairs` that both archives have."""

    def __bool__(self) -> bool:
        return bool(self.answers) or any(first or second for first, second in self.only.values())


_IDS = {"puzzles": "SELECT id FROM {}.puzzles", "pairs": "SELECT puzzle || '/' || id FROM {}.solutions"}


def compare(first: Archive, second: Archive) -> Differences:
    """The puzzles and pairs that only one of two archives has, and the pairs whose answers differ."""
    found = Differences()
    with beside(first, second) as connection:
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
    """The number of rows that a merge added to the archive, by table."""

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
    " iteration, {chunk}, position, parents, added_at, program, entry",
    "solutions": "puzzle, id, source, answer, origin, iteration, {chunk}, position, protections, cpu_seconds,"
    " judge_cpu_seconds, added_at, program, entry, puzzle_name",
    "proposals": "{chunk}, position, outcome, detail, puzzle",
    "candidates": "{chunk}, position, puzzle, candidate, verdict, detail, answer, cpu_seconds",
}
"""Columns of tables whose rows belong to a chunk. Chunks get other ids here, so `{chunk}` is translated."""


def merge(into: Archive, other: Archive) -> Merged:
    """Copy everything from an archive of one's own: its puzzles, pairs, chunks and candidates, with their history.

    Nothing is computed or judged again; `merge_foreign` does that.

    A puzzle or pair that `into` already has keeps its history. Two chunks of one iteration and stage are the same if
    they have the same weights, seed and plan. If another chunk already has a new chunk's number, the new one is
    numbered after all others of its stage. A second merge of the same archive adds nothing. The time it takes grows
    with the size of `other`, not with the size of `into`.

    Args:
        into: An archive that has passed `Archive.check`.
        other: The archive to copy from; it is checked first.

    Raises:
        InputError: `other` is damaged.
    """
    other.check()
    with beside(into, other) as connection, into.transaction():
        grown = _take_in(connection)
        if into.mark("guard") != other.mark("guard") or other.mark("added_past_guard"):
            into.set_mark("added_past_guard", "yes")
    into.index()
    return Merged(*(grown[table] for table in _COUNTED))


def merge_foreign(
    into: Archive, other: Archive, pool: Pool, protections: Mapping[str, object] | None
) -> tuple[Merged, Counter[str]]:
    """Copy everything that holds from an archive that somebody else may have made.

    All ids are computed from the texts. Texts that are no puzzles or solutions and pairs that the sandbox does not
    accept are left out; they are in the table `refusals` of `into` afterwards. The guard that `other` names is not
    believed: the next run with a guard examines all puzzles.

    Args:
        into: An archive that has passed `Archive.check`.
        other: The archive to copy from; it is checked first, and only read.
        pool: The sandbox.
        protections: The sandbox's verified protections; None if pairs are not judged, because they are one's own.

    Returns:
        What came in, and the number of what was left out by reason.

    Raises:
        InputError: `other` is damaged.
    """
    other.check()
    with tempfile.TemporaryDirectory(prefix=f".{into.path.name}.", dir=into.path.parent) as folder:
        path = Path(folder, "copy.sqlite")
        copy(other, path)
        with Archive(path, trust=True) as examined:
            refused = compute_identities(examined, pool)
            if protections is not None:
                refused += judge_pairs(examined, pool, protections)
                with examined.transaction():
                    examined.connection.execute("DELETE FROM contamination")
                    examined.set_mark("added_past_guard", "yes")
            return merge(into, examined), refused


def _take_in(connection: sqlite3.Connection) -> dict[str, int]:
    """Copy all rows from `other`, and count the new ones by table."""
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
    # Two chunks that were judged in different archives may both have admitted the same puzzle.
    connection.execute(
        "UPDATE main.proposals AS r SET outcome = 'duplicate' WHERE outcome = 'admitted'"
        " AND chunk IN (SELECT new FROM temp.places WHERE NOT known) AND NOT EXISTS"
        " (SELECT 1 FROM main.puzzles p WHERE (p.id, p.chunk, p.position) = (r.puzzle, r.chunk, r.position))"
    )
    connection.execute("DROP TABLE temp.places")
    return grown


def _place_chunks(connection: sqlite3.Connection) -> int:
    """Give each chunk of `other` its id here, that of the same chunk or a new one; returns the number of new chunks."""
    names = [row[1] for row in connection.execute("PRAGMA main.table_info(chunks)") if row[1] not in ("id", "number")]
    columns = ", ".join(names)
    same = f"SELECT m.id FROM main.chunks m JOIN other.chunks o ON {_SAME_CHUNK} WHERE o.id = ?"
    # A chunk keeps its number, or gets the first one after all others of its stage if its own is taken.
    number = (
        "CASE WHEN EXISTS (SELECT 1 FROM main.chunks m WHERE (m.iteration, m.stage, m.number) ="
        " (o.iteration, o.stage, o.number)) THEN (SELECT max(m.number) + 1 FROM main.chunks m"
        " WHERE (m.iteration, m.stage) = (o.iteration, o.stage)) ELSE o.number END"
    )
    in_its_place = f"{same} AND m.number = o.number"  # tried first: most chunks are there, and an index finds them
    fresh = 0
    for (old,) in connection.execute("SELECT id FROM other.chunks ORDER BY id").fetchall():
        known = connection.execute(in_its_place, (old,)).fetchone() or connection.execute(same, (old,)).fetchone()
        if known:
            new = known[0]
            values = f"SELECT {columns} FROM other.chunks WHERE id = ?"
            # A chunk that is only planned here, but sampled and judged there, is taken from there.
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
