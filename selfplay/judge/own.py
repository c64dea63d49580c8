"""The service that a client starts for itself, and which ends with it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

from selfplay.config import SandboxConfig
from selfplay.judge.places import TOKEN_VARIABLE, Place

START_SECONDS = 120.0
"""Time that a service may take to prove its sandbox."""
END_SECONDS = 30.0
"""Time that it may take to end."""


class NotStarted(Exception):
    """The service did not start. The message has the line that it left."""


class OwnService:
    """A service that is started when its place is first asked for, and again if it died.

    It listens at a socket in a folder of its own. It ends when nobody holds its standard input any more: this process,
    and those that were forked from it.
    """

    def __init__(self, sandbox: SandboxConfig) -> None:
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def after_fork(self) -> None:
        """In a forked process: what its parent has started is used, and is the parent's to end."""
        self._lock = threading.Lock()
        if self._folder is None:
            self._owner = os.getpid()

    def place(self) -> Place:
        """Where it listens.

        Raises:
            NotStarted: It did not start.
        """
        with self._lock:
            if os.getpid() == self._owner and (self._process is None or self._process.poll() is not None):
                self._start()
            return Place(socket=str(self._socket()))

    def close(self) -> None:
        """End it, if this process has started it."""
        if os.getpid() == self._owner and self._process is not None:
            self._end()
            self._process, self._folder = None, None

    def _socket(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="selfplay-judge-"))
        return self._folder / "judge.sock"

    def _start(self) -> None:
        command = [sys.executable, "-m", "selfplay", "judge", "--until-closed", "--socket", str(self._socket())]
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                [*command, *_options(self._sandbox)], env=_environment(), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=said, start_new_session=True,
            )  # fmt: skip
            self._end = weakref.finalize(self, _end, self._process, self._socket().parent, self._owner)
            assert self._process.stdout is not None
            if select.select([self._process.stdout], [], [], START_SECONDS)[0] and self._process.stdout.readline():
                return
            # A service that leaves no line has ended, or is about to.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            status = self._process.poll()
            self._end()
            said.seek(0)
            line = " ".join(said.read().decode("utf-8", "replace").split())
        ended = "did not start in time" if status is None else f"ended with status {status}"
        raise NotStarted(f"the judge's service {ended}: {line or 'it said nothing'}")


def _end(process: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    """End a service that this process has started, and remove its folder. It may still have callers, and drains."""
    if os.getpid() != owner:
        return
    process.terminate()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    process.kill()
    process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _options(sandbox: SandboxConfig) -> list[str]:
    """The options of `selfplay judge` for these limits."""
    names = ("cpu_seconds", "wall_seconds", "memory_mb", "answer_kb", "recursion_limit", "lanes")
    given = [f"--{name.replace('_', '-')}={getattr(sandbox, name)}" for name in names]
    return [*given, *(f"--module={module}" for module in sandbox.modules)]


def _environment() -> dict[str, str]:
    """This process's environment, in which this package is found, and nobody is asked for a token."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    left_out = ("TORCHELASTIC_RUN_ID", TOKEN_VARIABLE)
    return {name: value for name, value in os.environ.items() if name not in left_out} | {"PYTHONPATH": path}
