"""Copies an archive's rows into a database that this program makes. The file itself is never copied."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from puzzles.archive import schema
from puzzles.archive.store import Archive


@contextmanager
def beside(first: Archive, second: Archive) -> Iterator[sqlite3.Connection]:
    """The connection of the first archive, with the second archive attached as `other`, to be read only."""
    first.connection.execute("ATTACH ? AS other", (second.address(read_only=True),))
    try:
        yield first.connection
    finally:
        first.connection.execute("DETACH other")


def copy(source: Archive, path: Path, until: int | None = None) -> None:
    """Write a new archive file with the rows of another, in their order.

    Args:
        source: The archive to copy from.
        path: The new file.
        until: The iteration whose end the copy is to be at; None for all rows.
    """
    with Archive(path, create=True) as made, beside(made, source) as connection, made.transaction():
        connection.execute("DELETE FROM main.marks")  # a new archive has one
        for table, columns in schema.tables().items():
            names = ", ".join(columns)
            connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM other.{table} ORDER BY rowid")
        if until is not None:
            _leave_out_after(made, until)
        for table in schema.SEARCHED:
            connection.execute(f"INSERT INTO main.search_{table} (search_{table}) VALUES ('rebuild')")


def _leave_out_after(archive: Archive, iteration: int) -> None:
    """Delete the rows that came after an iteration had ended."""
    connection = archive.connection
    later = "(SELECT id FROM main.chunks WHERE iteration > ?)"
    for table in ("candidates", "proposals"):
        connection.execute(f"DELETE FROM main.{table} WHERE chunk IN {later}", (iteration,))
    for table in ("trained", "solutions", "puzzles", "chunks"):
        connection.execute(f"DELETE FROM main.{table} WHERE iteration > ?", (iteration,))
    connection.execute("DELETE FROM main.contamination WHERE puzzle NOT IN (SELECT id FROM main.puzzles)")
    kept = {number: since for number, since in archive.set_aside().items() if since <= iteration}
    connection.execute("UPDATE main.marks SET value = ? WHERE name = 'set_aside'", (json.dumps(kept),))
