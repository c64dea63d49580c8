"""Servers that a run starts itself, each on a checkpoint and in a process group of its own.

The engine is installed in another environment. The run knows only the command that starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx

from puzzles.puzzle import InputError

HOST = "127.0.0.1"
"""Address of all these servers. Requests to it ignore the proxies that the environment names."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0
"""Time from SIGTERM to SIGKILL."""
SHOWN_BYTES = 2000
"""How much of the end of a server's log an error message shows."""
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
"""Shell script that runs a server and ends it when the process that started it ends, however it ends: then the pipe
between them is closed. (The kernel's parent-death signal would come already when the starting thread ends.)"""


class ServerDied(ConnectionError):
    """A server that was started here has ended, or never answered."""


class ManagedServer:
    """One server on one checkpoint.

    Args:
        command: Command with `{checkpoint}` and `{port}`. No shell interprets it.
        checkpoint: A model folder or a name that the engine knows.
        log: File to which the server's output is appended.
        start_seconds: Time limit for the first answer.

    Raises:
        InputError: There is no such program.
        ServerDied: The server ended, or did not answer in time. The message shows the end of its log.
    """

    def __init__(self, command: str, checkpoint: str, log: Path, start_seconds: float) -> None:
        self._command, self._checkpoint, self._log, self._start_seconds = command, checkpoint, log, start_seconds
        self._end: Callable[[], object] = lambda: None
        self.start()

    def start(self) -> None:
        """Start the server, or restart it after it died. A restart uses another port, as the old server may linger."""
        self._answered = False
        self._end()  # processes that may be left of the old group
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
        """Base URL of the server."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def lives(self) -> bool:
        """Whether it has answered, and its first process is alive."""
        return self._answered and self._process.poll() is None

    def close(self) -> None:
        """End the server and every process that it has started."""
        self._end()

    def _wait(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        while not answers(f"{self.url}/models"):
            late = time.monotonic() > deadline
            status = self._process.poll()
            if late or status is not None:
                told = f"the server ended with {status}" if status is not None else "the server did not answer in time"
                self.close()
                raise ServerDied(f"endpoint.serve: {told} ({self._command}); its log {self._log} ends: {self._said()}")
            time.sleep(POLL_SECONDS)

    def _said(self) -> str:
        said = self._log.read_bytes()[self._log_start :]
        return said[-SHOWN_BYTES:].decode("utf-8", "replace").strip() or "(nothing)"


def arguments_of(command: str, checkpoint: str, port: int) -> list[str]:
    """A command's words, with its placeholders filled in.

    Raises:
        InputError: The command cannot be parsed, or a placeholder is missing.
    """
    try:
        words = [word.format(checkpoint=checkpoint, port=port) for word in shlex.split(command)]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"endpoint.serve: expected a command with {{checkpoint}} and {{port}} ({error})") from None
    if "{port}" not in command or "{checkpoint}" not in command:
        raise InputError(
            "endpoint.serve: expected {checkpoint} and {port} in the command, such as "
            "'vllm serve {checkpoint} --port {port}'"
        )
    return words


def answers(url: str, seconds: float = 2.0) -> bool:
    """Whether a server answers at this URL, within so many seconds in all. A refusal for want of a key is an answer."""

    async def status() -> int:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(trust_env=False, timeout=None) as client,
            client.stream("GET", url) as reply,
        ):
            return int(reply.status_code)

    try:
        found = asyncio.run(status())
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL):  # a TimeoutError is an OSError
        return False
    return found < 400 or found in (401, 403)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group: first by SIGTERM, then all of its group by SIGKILL. No other process is hit."""
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
