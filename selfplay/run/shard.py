"""Parts of work for jobs that know nothing of each other, as Slurm arrays and Kubernetes begin them.

A run's chunks are planned before they are sampled, so many can do them. Each part plans a stage's chunks from a copy
of the run's archive, all the same, and samples and judges its own in a folder of its own. Parts are of chunks that
follow each other: merged in order they are, row by row, what the run itself would have written. The next stage builds
on all of this one and is for the next call.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from puzzles.archive.schema import SEARCHED
from puzzles.archive.store import Archive
from puzzles.puzzle import InputError, content_hash

MOST_PARTS = 100_000
TAKEN_OVER, GOES_ON_FROM, FINISHED = "part_taken_over", "part_goes_on_from", "part_finished"
"""Marks of a part's archive: ids of the chunks that were judged in the run's; the run's last record; what was said when
its share was done."""
T = TypeVar("T")


class PartDone(Exception):
    """A part has done its share of a stage, and others have not, as far as its archive tells."""


@dataclass(frozen=True)
class Part:
    """The `number`th of `parts`, from 1."""

    number: int
    parts: int

    @property
    def name(self) -> str:
        """Such that names in order are parts in order."""
        return f"{self.number:0{len(str(self.parts))}d}-of-{self.parts}"

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Of all, neighbours; shares differ in length by one at most."""
        return items[len(items) * (self.number - 1) // self.parts : len(items) * self.number // self.parts]


def parse_part(text: str) -> Part:
    """Of `2/8`.

    Raises:
        InputError: It is no such text.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    part = Part(int(found[1]), int(found[2])) if found else Part(0, 0)
    if not 1 <= part.number <= part.parts <= MOST_PARTS:
        raise InputError(f"--shard: expected I/N, with I from 1 to N and N at most {MOST_PARTS:,}, got {text!r}")
    return part


def take_over(theirs: Path, own: Path, record: Mapping[str, Any]) -> None:
    """Make a run's archive a part's, unless it was made of one in which nothing more was judged, after the same record.

    Raises:
        InputError: The run is being written.
    """
    log = theirs.with_name(f"{theirs.name}-wal")
    if log.exists() and log.stat().st_size:
        raise InputError(
            f"{theirs}: it is being written, or was when its process died: wait for its end, or run it again"
        )
    beside = own.with_name(f".{own.name}.part")
    _remove(beside)
    shutil.copyfile(theirs, beside)  # many may read it at once, over a network: SQLite would keep files beside it
    with Archive(beside) as archive:
        judged = json.dumps([number for (number,) in archive.query("SELECT id FROM chunks WHERE judged ORDER BY id")])
        archive.set_mark(TAKEN_OVER, judged)
        archive.set_mark(GOES_ON_FROM, _hash(record))
    if own.exists() and _made_of(own) == (judged, _hash(record)):
        beside.unlink()
        return
    _remove(own)
    beside.replace(own)


def _remove(archive: Path) -> None:
    for suffix in ("-wal", "-shm", ""):  # a log belongs to its own file
        archive.with_name(f"{archive.name}{suffix}").unlink(missing_ok=True)


def _made_of(own: Path) -> tuple[str | None, str | None]:
    with Archive(own) as archive:
        return archive.mark(TAKEN_OVER), archive.mark(GOES_ON_FROM)


def _hash(record: Mapping[str, Any]) -> str:
    """Of a run's record, which no other run has: its times are in it."""
    return content_hash(json.dumps(record))


def check_part(archive: Archive, records: Sequence[Mapping[str, Any]]) -> None:
    """See that an archive is no part of another run than the one with these records, or of one that was there before.

    Raises:
        InputError: It is.
    """
    goes_on_from = archive.mark(GOES_ON_FROM)
    if goes_on_from and goes_on_from not in map(_hash, records):
        raise InputError(
            f"{archive.path}: it is a part of another run, or of an earlier one of this name: leave it out or delete it"
        )


def finish(archive: Archive, said: str) -> None:
    """Leave in a part's archive what it adds to the run's, and what that speaks of, so that merging it is quick.

    And the plan of what others do: where a part is missing, the run then has its chunks as not done yet.
    """
    own = "(SELECT id FROM chunks WHERE judged AND id NOT IN (SELECT value FROM json_each(?)))"
    taken_over = archive.mark(TAKEN_OVER)
    tried = f"SELECT puzzle FROM candidates WHERE chunk IN {own}"
    with archive.transaction():
        for table in ("solutions", "candidates", "proposals"):
            archive.connection.execute(f"DELETE FROM {table} WHERE chunk IS NULL OR chunk NOT IN {own}", (taken_over,))
        archive.connection.execute(
            f"DELETE FROM puzzles WHERE (chunk IS NULL OR chunk NOT IN {own}) AND id NOT IN ({tried})",
            (taken_over, taken_over),
        )
        archive.connection.execute(
            f"DELETE FROM chunks WHERE judged AND id NOT IN {own}"
            " AND id NOT IN (SELECT chunk FROM puzzles WHERE chunk NOT NULL)",
            (taken_over,),
        )
        archive.connection.execute("DELETE FROM trained")
        archive.connection.execute("DELETE FROM contamination WHERE puzzle NOT IN (SELECT id FROM puzzles)")
        for table in SEARCHED:
            archive.connection.execute(f"INSERT INTO search_{table} (search_{table}) VALUES ('rebuild')")
        archive.set_mark(FINISHED, said)
    archive.connection.execute("VACUUM")
