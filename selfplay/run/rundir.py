"""A run is a folder of ordinary files. Only this module knows their names.

    config.toml  archive.sqlite  records.jsonl  checkpoints/iteration-001/  scores/  report.html
    sessions.jsonl  status.json  log.txt  lock

A file that is replaced is first written under another name and then renamed, so it is always whole. A file that grows
can lose only its last line in a crash.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from puzzles.foreign import (
    ANY,
    NATURAL,
    NUMBER,
    TEXT,
    TEXTS,
    an_object,
    each,
    expect,
    lines_of,
    open_regular,
    parse_json,
    shown,
)
from puzzles.puzzle import InputError
from puzzles.writing import check_folder, open_in_place
from puzzles.writing import folder_atomically as folder_atomically
from puzzles.writing import write_atomically as write_atomically
from selfplay.run.heartbeat import ALIVE_SECONDS, Status, is_another, read_status, seconds_since, starting

logger = logging.getLogger(__name__)
HOLDER_BYTES = 1000
"""Most bytes of the lock file that are shown."""


@dataclass(frozen=True)
class RunDir:
    """Paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        """All settings, as resolved."""
        return self.path / "config.toml"

    @property
    def archive(self) -> Path:
        """Every puzzle, candidate and pair."""
        return self.path / "archive.sqlite"

    @property
    def records(self) -> Path:
        """One line per finished iteration."""
        return self.path / "records.jsonl"

    @property
    def sessions(self) -> Path:
        """One line per session: when, where, and with which versions, code, sets and base model. In a branch or a
        reproduction a line before them names the other run."""
        return self.path / "sessions.jsonl"

    @property
    def log(self) -> Path:
        """Log lines of the run, with times."""
        return self.path / "log.txt"

    @property
    def server_log(self) -> Path:
        """Output of the servers that the run has started."""
        return self.path / "servers.txt"

    @property
    def report(self) -> Path:
        """The run as a web page, if one was requested."""
        return self.path / "report.html"

    @property
    def status(self) -> Path:
        """Whether the run is alive, what it is doing, and why it ended."""
        return self.path / "status.json"

    def checkpoint(self, iteration: int) -> Path:
        """A plain Hugging Face folder; it exists only when it is complete."""
        return self.path / "checkpoints" / f"iteration-{iteration:03d}"

    def checkpoints(self) -> set[int]:
        """Numbers of the iterations whose weights are on disk."""
        names = (folder.name.removeprefix("iteration-") for folder in (self.path / "checkpoints").glob("iteration-*"))
        return {int(name) for name in names if name.isdecimal()}

    def samples(self, iteration: int, name: str) -> Path:
        """A scored set's candidates with their verdicts, one chunk per line."""
        return self.path / "scores" / f"iteration-{iteration:03d}-{name}.jsonl"

    def read_records(self) -> list[dict[str, Any]]:
        """The finished iterations, in order.

        Raises:
            InputError: A line is not the record of its iteration.
        """
        records = read_lines(self.records)
        for number, record in enumerate(records):
            where = f"{self.records}, line {number + 1}"
            expect(record, RECORD, where)
            if record["iteration"] != number:
                raise InputError(f"{where}: expected iteration {number}, got {record['iteration']}")
            ks, *others = (
                [key for key in record[name] if key.startswith("pass@")] for name in SCORED_SETS if name in record
            )
            if not ks or others not in ([], [ks]):
                raise InputError(f"{where}: expected pass@k of dev and the same of heldout, got {shown([ks, *others])}")
        return records

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds more than the files of a run that was refused before its settings were written."""
        return self.path.is_dir() and any(file.name not in OF_A_REFUSED_RUN for file in self.path.iterdir())

    def state(self, iterations: int) -> str:
        """`finished`, `running`, `killed`, or `stopped` with the reason.

        Args:
            iterations: Number of iterations that the run should have.
        """
        if len(self.read_records()) > iterations and not self.is_locked():
            return "finished"
        status = read_status(self.status)
        if self.is_locked() or (status and status.beats and status.host != socket.gethostname()):
            return "running"
        if status is None or status.reason == "finished":  # finished, but more iterations are asked for now
            return "stopped"
        return "killed" if status.state == "running" else f"stopped: {status.reason}"

    def is_locked(self) -> bool:
        """Whether some process of this machine is writing this run now."""
        try:
            with open_regular(self.path / "lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (OSError, InputError):
            return False
        return False

    @contextmanager
    def lock(self) -> Iterator[Status]:
        """Become the one writer of this run. The lock is released when the process ends, however it ends.

        Yields:
            The status of the new holder: this process.

        Raises:
            InputError: Another process holds the lock. Or another process seems alive whose lock cannot be seen here,
                because it is on another machine or its lock file was removed. Or the folder cannot be written.
        """
        with self._opened_lock() as file:
            try:
                _lock(file)
            except BlockingIOError:
                file.seek(0)
                raise InputError(self._refusal(file.read(HOLDER_BYTES).decode("utf-8", "replace").strip())) from None
            except OSError as error:
                raise InputError(
                    f"{self.path}: this file system has no locks ({error.strerror}): put the run on one that has them"
                ) from None
            last, own = read_status(self.status), starting()
            if last and last.beats and is_another(last):
                raise InputError(
                    f"{self._refusal(str(last))}; if that process is gone, try again in {ALIVE_SECONDS:.0f} seconds"
                )
            file.truncate(0)
            file.write(f"{own}\n".encode("utf-8", "backslashreplace"))
            file.flush()
            yield own

    def check(self) -> None:
        """Check that the folder holds ordinary files and folders only, before anything is written into it.

        A file of another user is told about, because its owner may change it at any time.

        Raises:
            InputError: It holds a link, a pipe or a device; or a file that grows in its place has a second name.
        """
        for file in (self.log, self.server_log, self.records, self.sessions):
            if os.path.lexists(file):
                open_in_place(file, create=False).close()
        if others := check_folder(self.path):
            logger.warning(
                "%s: %d files belong to another user, who may change them, such as %s",
                self.path,
                len(others),
                others[0],
            )

    def _opened_lock(self) -> BinaryIO:
        with told_if_closed(self.path, "give another --name"):
            self.path.mkdir(parents=True, exist_ok=True)
            self.check()
            return open_in_place(self.path / "lock")

    def _refusal(self, holder: str) -> str:
        status = read_status(self.status)
        does = f", {status.doing}, last beat {seconds_since(status.beat_at):.0f} s ago" if status else ""
        return f"{self.path}: another process is writing this run: {holder}{does}"


def _lock(file: BinaryIO) -> None:
    """Take the lock. A second try follows the first, because `is_locked` holds the lock for a moment."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.1)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


OF_A_REFUSED_RUN = {"lock", "log.txt", "status.json"}
"""Files that a run may leave which was refused before its settings were written."""
SET_NAMES = {"dev": "dev", "heldout": "held-out"}
"""What the scored sets are called in text that people read."""
SCORED_SETS = ("dev", "heldout")
_COUNTS = (
    "proposed", "well_formed", "admitted", "held_out_refused", "contaminated", "solved", "training_solved",
    "candidates", "accepted", "new_pairs", "varied", "pairs", "trained_pairs",
)  # fmt: skip
_SCORE = {
    **an_object(
        ["not_told"], puzzles=NATURAL, samples_per_puzzle={"type": "integer", "minimum": 1}, solved=NATURAL,
        verdicts=each(NATURAL), truncated=NATURAL, tokens=NATURAL, not_told=each(NATURAL),
    ),
    "patternProperties": {r"^pass@[1-9]\d{0,9}$": {"type": "array", "items": NUMBER, "minItems": 3, "maxItems": 3}},
    "additionalProperties": False,
}  # fmt: skip
_SECONDS = {"type": "number", "minimum": 0}
_STAGE_SECONDS = an_object(
    model_seconds=_SECONDS, model_cpu_seconds=_SECONDS, judging_seconds=_SECONDS, judging_cpu_seconds=_SECONDS
)
_STAGE_COUNTS = an_object(
    ["flops", "untold_texts"], texts=NATURAL, tokens=NATURAL, prompt_tokens=NATURAL, flops=NUMBER, untold_texts=NATURAL
)
RECORD = an_object(
    ["heldout", "cost", "reigns", "collapse", "prompt_format_hash", "searched"],
    iteration=NATURAL, searched=NATURAL, reigns=NATURAL, checkpoint=TEXT, protocol=TEXT, prompt_format_hash=TEXT,
    **dict.fromkeys(_COUNTS, NATURAL),
    training=each(ANY) | {"properties": {"last_loss": NUMBER, "steps": NATURAL, "tokens": NATURAL}},
    collapse=each(ANY) | {"properties": {"alarms": TEXTS, "rolled_back_to": NATURAL}, "required": ["alarms"]},
    dev=_SCORE, heldout=_SCORE, sampler=each(ANY), cost=each(_STAGE_COUNTS),
    times=an_object(
        ["stages"], sampling=_SECONDS, judging=_SECONDS, training=_SECONDS, scoring=_SECONDS,
        stages=each(_STAGE_SECONDS),
    ),
)  # fmt: skip
"""JSON shape of the record of a finished iteration."""


CLOSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG,
)  # fmt: skip
"""Errors that mean that a place cannot be written."""


@contextmanager
def told_if_closed(path: Path, remedy: str) -> Iterator[None]:
    """Report it as an input error if a place that the user named cannot be written.

    Args:
        path: The place.
        remedy: What the user can do, for the error message.

    Raises:
        InputError: The place cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror}): {remedy}") from None


def spare(path: Path) -> None:
    """Check that a place to write to is neither an archive nor a file that a run needs.

    Raises:
        InputError: It is one of them.
    """
    run = RunDir(path.parent)
    own = {file.name for file in (run.config, run.records, run.sessions, run.log, run.status)} | {"lock"}
    needed = run.config.is_file() and path.name in own
    if needed or is_archive(path):
        raise InputError(f"{path}: this is an archive, or a file of a run: name another place")


SQLITE = b"SQLite format 3\0"
"""First bytes of every SQLite file."""


def is_archive(path: Path) -> bool:
    """Whether a file is an SQLite database, by its first bytes."""
    if not path.is_file():
        return False
    with open_regular(path) as file:
        return file.read(len(SQLITE)) == SQLITE


def read_lines(path: Path) -> list[Any]:
    """The JSON objects of a file that grows line by line. A last line that a crash has torn is left out.

    Raises:
        InputError: Another line is not JSON: another program wrote there.
    """
    if not path.exists():
        return []
    whole = (line for line in lines_of(path, "JSON objects") if line.endswith(b"\n"))
    return [parse_json(line, f"{path}, line {number}", "one JSON object") for number, line in enumerate(whole, 1)]


TAIL_BYTES = 1 << 16


def append_line(path: Path, record: Any) -> None:
    """Append one JSON object as a line. It is on disk when this returns. A torn line before it is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record).encode("ascii") + b"\n"
    with open_in_place(path) as file:
        file.truncate(_whole_bytes(file))
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _whole_bytes(file: BinaryIO) -> int:
    """Length of the file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - TAIL_BYTES)
        file.seek(start)
        if (found := file.read(end - start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0
