"""`status.json` says whether a run is alive, what it is doing, and why it ended. For people and for schedulers.

    {"state": "running", "reason": "", "process": 4711, "host": "node7", "user": "ada", "since": "…", "beat_at": "…",
     "moved_at": "…", "doing": "iteration 2: solve", "done": 12000, "of": 22872}

`beat_at` is renewed while the process is alive, `moved_at` when its work progresses. At the end `state` is `ended`,
and `reason` is `finished`, `interrupted`, the spent budget, or the error. A run that was killed leaves `running` and
an old beat.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from puzzles.foreign import NATURAL, TEXT, an_object, read_json
from puzzles.puzzle import InputError
from puzzles.writing import file_atomically, open_in_place
from selfplay.run import ending
from selfplay.run.progress import Progress

BEAT_SECONDS = 10.0
ALIVE_SECONDS = 60.0
"""A process with no beat for this long counts as dead, where nothing better is known."""


@dataclass(frozen=True)
class Status:
    """Content of the status file. Times are in UTC."""

    state: str
    reason: str
    process: int
    host: str
    user: str
    since: str
    beat_at: str
    moved_at: str
    doing: str = "starting"
    done: int = 0
    of: int = 0

    def __str__(self) -> str:
        return f"process {self.process} of {self.user} on {self.host} since {self.since}"

    @property
    def beats(self) -> bool:
        """Whether the process seems alive, as far as the clocks of two machines agree."""
        return self.state == "running" and abs(seconds_since(self.beat_at)) < ALIVE_SECONDS


_TEXTS = ("state", "reason", "host", "user", "since", "beat_at", "moved_at", "doing")
SHAPE = an_object(**dict.fromkeys(_TEXTS, TEXT), **dict.fromkeys(("process", "done", "of"), NATURAL))
"""JSON shape of the status file."""


def now() -> str:
    """The present time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(file: Path) -> Status | None:
    """The status that a run last wrote; None if there is none, or another version wrote it in another form."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        status = Status(**read_json(file, SHAPE))
        seconds_since(status.beat_at), seconds_since(status.since)
        return status
    return None


def is_another(status: Status) -> bool:
    """Whether the status is of another process that may be alive. A process of another machine counts as alive."""
    if status.host != socket.gethostname():
        return True
    began_at = _began_at(status.process)
    known_since = datetime.fromisoformat(status.since).timestamp()
    return status.process != os.getpid() and began_at is not None and began_at <= known_since + 1


def _began_at(process: int) -> float | None:
    """When a process began, in seconds since 1970; None if there is no such process, or the system does not say.

    A process number may have been given to a newer process since.
    """
    try:
        stat = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":  # dead, but its parent has not collected its exit status
        return None
    ticks = int(fields[19])
    ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - ago


def seconds_since(moment: str) -> float:
    """Seconds since a moment, by this machine's clock."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def starting() -> Status:
    """The first status of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user number without a name
        user = str(os.getuid())
    moment = now()
    return Status("running", "", os.getpid(), socket.gethostname(), user, moment, moment, moment)


class Heartbeat:
    """Keeps a run's status file up to date. A file that cannot be written does not end the run."""

    def __init__(self, file: Path, status: Status) -> None:
        self._file, self._status = file, status
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._write()
        ending.last_acts.append(self._interrupted)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        ending.last_acts.remove(self._interrupted)
        self.end("finished" if error is None else reason_of(error))

    def watching(self, progress: Progress) -> Progress:
        """The same progress, whose counters also update the status."""

        def counter(total: int, description: str, unit: str) -> Callable[..., object]:
            shown = progress.counter(total, description, unit)
            self._move(description, 0, total)

            def count(done: int, *notes: Any) -> None:
                self._move(description, self._status.done + done, total)
                shown(done, *notes)

            return count

        return replace(progress, counter=counter)

    def end(self, reason: str) -> None:
        """Write the final status."""
        with self._lock:
            self._status = replace(self._status, state="ended", reason=reason, beat_at=now())
        self._write()

    def _interrupted(self) -> None:
        self.end("interrupted")

    def _move(self, doing: str, done: int, of: int) -> None:
        with self._lock:
            self._status = replace(self._status, moved_at=now(), doing=doing, done=done, of=of)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with self._lock:
                self._status = replace(self._status, beat_at=now())
            self._write()

    def _write(self) -> None:
        content = f"{json.dumps(asdict(self._status))}\n".encode("ascii")
        with self._lock, contextlib.suppress(OSError, InputError):
            try:
                with file_atomically(self._file, sync=False) as file:
                    file.write(content)
            except OSError:
                # A full disk has no room for a new file, but the old one already has a block.
                with open_in_place(self._file, create=False, append=False) as file:
                    file.write(content)
                    file.truncate()


def reason_of(error: BaseException) -> str:
    """Why an exception ended the run, in one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return " ".join(str(error).split()) or type(error).__name__
