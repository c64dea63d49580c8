"""Parts of a run's work, for jobs that do not communicate, such as those of Slurm arrays and Kubernetes.

A run plans its chunks before they are sampled, so several jobs can share them. A part samples and judges its own share
in a folder of its own. A share is a series of consecutive chunks. So the parts, merged in order, are row by row what
the run itself would have written. The next stage builds on all parts of this one, so it needs another call.

If the run has planned the stage (`run --plan`), a part takes from the run's archive only its chunks and their puzzles.
Otherwise each part plans the stage from a copy of the whole archive, and all parts make the same plan.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from puzzles.archive import copying, opening
from puzzles.archive.opening import SIDE_FILES
from puzzles.archive.schema import SCHEMA_VERSION, SEARCHED, tables
from puzzles.archive.store import Archive
from puzzles.foreign import expect, parse_json
from puzzles.puzzle import InputError, content_hash
from puzzles.writing import path_atomically
from selfplay.config import MAY_CHANGE, RunConfig, flatten

MOST_PARTS = 100_000
TAKEN_OVER, GOES_ON_FROM, FINISHED = "part_taken_over", "part_goes_on_from", "part_finished"
"""Marks in a part's archive: ids of the chunks that were already judged in the run's archive; hash of the run's last
record; message of the call that finished the share."""
SHARE_OF = "part_share_of"
"""Mark in a part's archive that has only what its share of a planned stage needs: the stage."""
KNOWN = "part_known"
"""Mark in such an archive: ids of the run's puzzles, as JSON."""
SETTINGS = "part_settings"
"""Mark in a part's archive: the settings that it was made with, as JSON."""
SAMPLED_BY = ("temperature", "top_p", "max_tokens", "protocol", "chat_time")
"""Settings of a chunk that all parts share. The others tell about the machine, which may be another for each part."""
T = TypeVar("T")


class PartDone(Exception):
    """A part has done its share of a stage, and as far as its archive shows, other parts have not."""


class Planned(Exception):
    """A run that only plans has done so: parts can sample and judge its next chunks."""


@dataclass(frozen=True)
class Part:
    """Part `number` of `parts`, counted from 1."""

    number: int
    parts: int

    @property
    def name(self) -> str:
        """Name of the part. Names in alphabetical order are parts in order."""
        return f"{self.number:0{len(str(self.parts))}d}-of-{self.parts}"

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This part's share: consecutive items. Shares differ in length by at most one."""
        return items[len(items) * (self.number - 1) // self.parts : len(items) * self.number // self.parts]


def parse_part(text: str) -> Part:
    """Read a part from a text such as `2/8`.

    Raises:
        InputError: The text has another form, or a number is out of range.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    part = Part(int(found[1]), int(found[2])) if found else Part(0, 0)
    if not 1 <= part.number <= part.parts <= MOST_PARTS:
        raise InputError(f"--shard: expected I/N, with I from 1 to N and N at most {MOST_PARTS:,}, got {text!r}")
    return part


@contextlib.contextmanager
def closed_archive(path: Path) -> Iterator[Archive]:
    """A run's archive, which nobody writes meanwhile, to be read. Many parts may read it at once.

    Raises:
        InputError: The run is being written, or its archive is of an older version.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise InputError(f"{path}: a process is writing it, or died while it wrote: wait for its end, or run it again")
    with contextlib.closing(opening.connect(path, "immutable=1")) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if 0 < version < SCHEMA_VERSION:
        raise InputError(
            f"{path}: an archive of an older version (schema {version}): the same command without --shard upgrades it"
        )
    with Archive(path, read_only=True, trust=True, frozen=True) as archive:
        yield archive


def take_over(theirs: Archive, own: Path, record: Mapping[str, Any]) -> None:
    """Copy a run's archive for a part.

    The part's own archive is kept if it was copied after the same record, with the same chunks judged.
    """
    with _made_anew(own, record) as beside:
        # Not by SQLite, which would write every row again.
        shutil.copyfile(theirs.path, beside)


def take_share(
    theirs: Archive, own: Path, record: Mapping[str, Any], part: Part, stage: str, puzzles: Collection[str],
    known: Sequence[str] = (),
) -> None:  # fmt: skip
    """Copy from a run's archive what a part needs for its share of a stage's planned chunks.

    That is: all chunks of the iteration, without the texts of those that are done; the puzzles that the part's own
    chunks ask for, with their solutions; and the marks.

    Args:
        theirs: The run's archive.
        own: Where the part's archive is to be. It is kept if it was made of the same.
        record: The run's last record.
        part: The part.
        stage: Name of the stage.
        puzzles: Ids of the puzzles that the part's chunks ask for.
        known: Ids of puzzles that are no news, although the part does not have them (`known_elsewhere`).
    """
    with _made_anew(own, record) as beside, Archive(beside, theirs.guard, create=True) as made:
        columns = tables()
        with copying.beside(made, theirs) as connection, made.transaction():
            connection.execute(
                "CREATE TEMP TABLE asked AS SELECT value AS id FROM json_each(?)", (json.dumps([*puzzles]),)
            )
            connection.execute("DELETE FROM main.marks")  # a new archive has one
            for table, condition in _TAKEN.items():
                names = ", ".join(columns[table])  # an upgraded archive may have them in another order
                connection.execute(
                    f"INSERT INTO main.{table} ({names}) SELECT {names} FROM other.{table} WHERE {condition}"
                )
            _take_chunks(connection, int(record["iteration"]) + 1, stage, part)
        made.set_mark(SHARE_OF, stage)
        made.set_mark(KNOWN, json.dumps([*known]))


def known_elsewhere(archive: Archive) -> set[str]:
    """Ids of puzzles of the run that a part's archive does not have; empty if it is no part's, or has them all."""
    return {*parse_json(archive.mark(KNOWN) or "[]", f"{archive.path}, mark {KNOWN}")}


_TAKEN = {
    "marks": "1", "protections": "1", "puzzles": "id IN (SELECT id FROM temp.asked)",
    "solutions": "puzzle IN (SELECT id FROM temp.asked)", "contamination": "puzzle IN (SELECT id FROM temp.asked)",
}  # fmt: skip
"""Tables from which a part takes rows for its share, and which rows."""


def _take_chunks(connection: sqlite3.Connection, iteration: int, stage: str, part: Part) -> None:
    """Copy the chunks of an iteration from `other`: the part's own as they are, the others without their texts."""
    names = tables()["chunks"]
    empty = dict.fromkeys(("completions", "token_ids"), "NULL")
    # All chunks of earlier stages are done, and of a large one it takes long to read so.
    bare = ", ".join(({"judged": f"iif(stage = '{stage}', judged, 1)"} | empty).get(name, name) for name in names)
    here = "SELECT id FROM other.chunks WHERE (iteration, stage) = (?, ?) ORDER BY number"
    own = json.dumps([*part.share([number for (number,) in connection.execute(here, (iteration, stage))])])
    for columns, which in ((bare, "NOT IN"), (", ".join(names), "IN")):
        connection.execute(
            f"INSERT INTO main.chunks ({', '.join(names)}) SELECT {columns} FROM other.chunks"
            f" WHERE iteration = ? AND id {which} (SELECT value FROM json_each(?))",
            (iteration, own),
        )


@contextlib.contextmanager
def _made_anew(own: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """A place for a part's archive, which becomes the part's own unless that was made of the same."""
    with contextlib.suppress(_AsItWas), path_atomically(own) as beside:
        yield beside
        with Archive(beside, trust=True) as archive:
            numbers = archive.query("SELECT id FROM chunks WHERE judged ORDER BY id")
            judged = json.dumps([number for (number,) in numbers])
            archive.set_mark(TAKEN_OVER, judged)
            archive.set_mark(GOES_ON_FROM, _hash(record))
        if own.exists() and _made_of(own) == (judged, _hash(record)):
            raise _AsItWas
        for end in SIDE_FILES:  # a write-ahead log is valid only with its own file
            own.with_name(f"{own.name}{end}").unlink(missing_ok=True)


class _AsItWas(Exception):
    """The part's archive was already made of this, so it is kept."""


def _made_of(own: Path) -> tuple[str | None, str | None]:
    with Archive(own, trust=True) as archive:
        return archive.mark(TAKEN_OVER), archive.mark(GOES_ON_FROM)


def _hash(record: Mapping[str, Any]) -> str:
    """Hash of a run's record. No other run has the same, because times are in it."""
    return content_hash(json.dumps(record))


def note_settings(archive: Archive, config: RunConfig) -> None:
    """Note in a part's archive the settings that it is made with."""
    archive.set_mark(SETTINGS, json.dumps(_compared(config)))


def _compared(config: RunConfig) -> dict[str, Any]:
    """The settings that a part must share with its run. After a stop of the run `collapse.action` may be another."""
    return {key: value for key, value in flatten(config).items() if key not in {*MAY_CHANGE, "collapse.action"}}


class Joining:
    """Checks of the parts that are about to be merged into a run's archive, one after the other.

    Args:
        run: The run's archive.
        config: The run's settings.
        records: The run's records.
    """

    def __init__(self, run: Archive, config: RunConfig, records: Sequence[Mapping[str, Any]]) -> None:
        self._folder, self._seed = run.path.parent, config.seed
        self._settings = json.loads(json.dumps(_compared(config)))
        self._hashes = [_hash(record) for record in records]
        self._checkpoints = {record["checkpoint"] for record in records}
        self._known = dict(_chunks(run))

    def check(self, part: Archive) -> None:
        """Check that an archive is a part of the run, made with its settings, and that its chunks are the run's.

        Raises:
            InputError: It is not; the message says what to do.
        """
        goes_on_from = part.mark(GOES_ON_FROM)
        if goes_on_from is None:
            raise InputError(
                f"{part.path}: expected a part (--shard) of the run {self._folder}, got another archive: "
                "merge both into a new file instead"
            )
        if goes_on_from not in self._hashes:
            raise InputError(
                f"{part.path}: a part of another run, or of an earlier run of this name: leave it out or delete it"
            )
        settings = parse_json(part.mark(SETTINGS) or "{}", str(part.path))
        expect(settings, {"type": "object"}, str(part.path))
        if different := [key for key, value in settings.items() if self._settings.get(key, value) != value]:
            raise self._unlike(part, f"its settings ({', '.join(different)})")
        for place, chunk in _chunks(part):
            self._check_chunk(part, place, chunk, self._hashes.index(goes_on_from) + 1)

    def _check_chunk(self, part: Archive, place: _Place, chunk: _Chunk, next_iteration: int) -> None:
        """Check a chunk against the run's in its place or, if the run has none there, against the run's records."""
        iteration, stage, number = place
        where = f"chunk {number} of iteration {iteration}, {stage}"
        known = self._known.setdefault(place, chunk)
        if known != chunk:
            what = next(item.name for item in fields(chunk) if getattr(known, item.name) != getattr(chunk, item.name))
            raise self._unlike(part, f"the {what} of {where}")
        if known is not chunk:
            return
        if not iteration == next_iteration == len(self._hashes):
            raise self._unlike(part, f"{where}, which this run does not have,")
        if not chunk.seed.startswith(f"{self._seed}/{iteration}/"):
            raise self._unlike(part, f"the seed of {where}")
        if chunk.checkpoint not in self._checkpoints:
            raise self._unlike(part, f"the checkpoint of {where}")

    def _unlike(self, part: Archive, what: str) -> InputError:
        return InputError(
            f"{part.path}: not made as a part of the run {self._folder} as it is: {what} would not fit: "
            "delete it, and do this part again"
        )


_Place = tuple[int, str, int]
"""A chunk's iteration, stage and number."""


@dataclass(frozen=True)
class _Chunk:
    """What must be the same in two archives for a chunk to be the same."""

    checkpoint: str
    seed: str
    plan: str
    settings: str


def _chunks(archive: Archive) -> Iterator[tuple[_Place, _Chunk]]:
    """The chunks of an archive, with hashes of their plans."""
    rows = archive.query("SELECT iteration, stage, number, checkpoint, seed, plan, settings FROM chunks ORDER BY id")
    for iteration, stage, number, checkpoint, seed, plan, settings in rows:
        told = parse_json(settings, f"{archive.path}, settings of a chunk")
        shared = json.dumps([told.get(key) for key in SAMPLED_BY])
        chunk = _Chunk(checkpoint, seed, hashlib.sha256(plan).hexdigest(), shared)
        yield (iteration, stage, number), chunk


def finish(archive: Archive, said: str) -> None:
    """Keep in a part's archive only the rows that it adds and those that they refer to, so that it merges fast.

    The plans of the other parts' chunks stay. So if a part is missing, its chunks count as not done in the run.
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
        archive.set_mark(KNOWN, "[]")
        archive.set_mark(FINISHED, said)
    archive.connection.execute("VACUUM")
