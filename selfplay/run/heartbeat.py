"""Whether a run lives, what it does, and why it ended: `status.json`, for people and for schedulers.

    {"state": "running", "reason": "", "process": 4711, "host": "node7", "user": "ada", "since": "…", "beat_at": "…",
     "moved_at": "…", "doing": "iteration 2: solve", "done": 12000, "of": 22872}

`beat_at` is renewed while the process lives, `moved_at` when it gets on. At the end `state` is `ended`, and
`reason` is `finished`, `interrupted`, what was spent, or the error. A run that was killed leaves `running` and an old
beat.
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

from puzzles.foreign import NATURAL, TEXT, an_object, expect
from selfplay.run import ending
from selfplay.run.progress import Progress

BEAT_SECONDS = 10.0
ALIVE_SECONDS = 60.0
"""With no younger beat the process is taken for dead, where nothing better is known."""


@dataclass(frozen=True)
class Status:
    """What the file says; times are in UTC."""

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
        """Whether it seems to live, as far as clocks of two machines agree."""
        return self.state == "running" and abs(seconds_since(self.beat_at)) < ALIVE_SECONDS


_TEXTS = ("state", "reason", "host", "user", "since", "beat_at", "moved_at", "doing")
SHAPE = an_object(**dict.fromkeys(_TEXTS, TEXT), **dict.fromkeys(("process", "done", "of"), NATURAL))
"""Of the file."""


def now() -> str:
    """To the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(file: Path) -> Status | None:
    """What a run last said of itself; None if it never did, or in another version's words."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        said = json.loads(file.read_text("utf-8"))
        expect(said, SHAPE, str(file))
        status = Status(**said)
        seconds_since(status.beat_at), seconds_since(status.since)
        return status
    return None


def is_another(status: Status) -> bool:
    """Whether this is of a process that is not this one and may live: on this machine it is seen, on others not."""
    if status.host != socket.gethostname():
        return True
    began_at = _began_at(status.process)
    known_since = datetime.fromisoformat(status.since).timestamp()
    return status.process != os.getpid() and began_at is not None and began_at <= known_since + 1


def _began_at(process: int) -> float | None:
    """Since 1970; None if there is no such process, or nobody says. A number may have gone to another one."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":  # dead, and nobody has asked for its status yet
        return None
    ticks = int(fields[19])
    ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - ago


def seconds_since(moment: str) -> float:
    """By this machine's clock."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def starting() -> Status:
    """Of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        user = str(os.getuid())
    moment = now()
    return Status("running", "", os.getpid(), socket.gethostname(), user, moment, moment, moment)


class Heartbeat:
    """Keeps a run's status file while the run goes on. A file that cannot be written does not end the run."""

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
        """The same, whose counters are seen here as well."""

        def counter(total: int, description: str, unit: str) -> Callable[..., object]:
            shown = progress.counter(total, description, unit)
            self._move(description, 0, total)

            def count(done: int, *notes: Any) -> None:
                self._move(description, self._status.done + done, total)
                shown(done, *notes)

            return count

        return replace(progress, counter=counter)

    def end(self, reason: str) -> None:
        """The last word."""
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
        beside = self._file.with_name(f".{self._file.name}.part")
        content = f"{json.dumps(asdict(self._status))}\n".encode("ascii")
        with self._lock, contextlib.suppress(OSError):
            try:
                beside.write_bytes(content)
                beside.replace(self._file)
            except OSError:
                # A full disk has no room for another file, and the old one has a whole block.
                beside.unlink(missing_ok=True)
                with self._file.open("r+b") as file:
                    file.write(content)
                    file.truncate()


def reason_of(error: BaseException) -> str:
    """Of an end that was not planned, in one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return " ".join(str(error).split()) or type(error).__name__
