"""Servers that this run starts itself, one process group each: on a checkpoint, watched, and ended with their groups.

The engine lives in an environment of its own; all that is known of it is a command.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable
from pathlib import Path

from puzzles.puzzle import InputError

HOST = "127.0.0.1"
"""Of all of them; no proxy that the environment names is asked for it."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""
SHOWN_BYTES = 2000
"""Of a server's last words."""
WATCHED = """
trap : TERM
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
{
    trap "" TERM
    read -r _ <&3
    kill -TERM "-$$"
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$server" && sleep 1; done
    kill -KILL "-$$"
} >/dev/null 2>&1 &
while wait "$server"; status=$?; kill -0 "$server" 2>/dev/null; do :; done
exit "$status"
"""
"""A server leaves with who has begun it, however that ends: the pipe between them is closed then. (The kernel's own
signal for this comes when the thread ends that began it.)"""


class ServerDied(ConnectionError):
    """A server that was started here is gone, or never answered."""


class ManagedServer:
    """One server on one checkpoint.

    Args:
        command: With `{checkpoint}` and `{port}`; no shell reads it.
        checkpoint: A model folder or a name that the engine knows.
        log: What it prints goes there, after what others have.
        start_seconds: It has to answer by then.

    Raises:
        InputError: There is no such program.
        ServerDied: It ended, or did not answer in time; its last words are in the message.
    """

    def __init__(self, command: str, checkpoint: str, log: Path, start_seconds: float) -> None:
        self._command, self._checkpoint, self._log, self._start_seconds = command, checkpoint, log, start_seconds
        self._end: Callable[[], object] = lambda: None
        self.start()

    def start(self) -> None:
        """Also again, after it died; at another port, as the old one may linger."""
        self._answered = False
        self._end()  # what an old one has left of its group
        self.port = _free_port()
        arguments = arguments_of(self._command, self._checkpoint, self.port)
        if shutil.which(arguments[0]) is None:
            raise InputError(f"endpoint.serve: there is no program {arguments[0]!r} here")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                ["sh", "-c", WATCHED, "sh", *arguments], stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._end = weakref.finalize(self, end_group, self._process)
        self._wait()
        self._answered = True

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def lives(self) -> bool:
        """Whether it has answered, and its first process is there."""
        return self._answered and self._process.poll() is None

    def close(self) -> None:
        """End it and all it has started."""
        self._end()

    def _wait(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        while not answers(f"{self.url}/models"):
            late = time.monotonic() > deadline
            status = self._process.poll()
            if late or status is not None:
                told = f"it ended with {status}" if status is not None else "it did not answer in time"
                self.close()
                raise ServerDied(f"endpoint.serve: {told} ({self._command}); its log {self._log} ends: {self._said()}")
            time.sleep(POLL_SECONDS)

    def _said(self) -> str:
        said = self._log.read_bytes()[self._log_start :]
        return said[-SHOWN_BYTES:].decode("utf-8", "replace").strip() or "(nothing)"


def arguments_of(command: str, checkpoint: str, port: int) -> list[str]:
    """A command's words, each with its places filled in.

    Raises:
        InputError: It cannot be read, or does not say where a server is to listen.
    """
    try:
        words = [word.format(checkpoint=checkpoint, port=port) for word in shlex.split(command)]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"endpoint.serve: expected a command with {{checkpoint}} and {{port}}, {error}") from None
    if "{port}" not in command or "{checkpoint}" not in command:
        raise InputError(
            "endpoint.serve: expected {checkpoint} and {port} in it, such as 'vllm serve {checkpoint} ...'"
        )
    return words


def answers(url: str, seconds: float = 2.0) -> bool:
    """Whether a server has something to say there, be it a refusal of who has no key."""
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def end_group(process: subprocess.Popen[bytes]) -> None:
    """A process that leads a group, in good order if it can, and then all of the group; nobody else."""
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port
