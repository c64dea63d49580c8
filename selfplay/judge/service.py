"""`selfplay judge`: verdicts over HTTP, at a Unix socket or a port.

    POST /verify    lines of {"id"?, "puzzle", "solution"}; as many lines back, as `selfplay verify` prints them
    GET /           what this service is, and how much it has to do

Status 200 means a verdict for each line. With 500 the sandbox has failed, and the lines without a verdict have an
`error` instead. Every other status has one line with an `error`, and nothing was judged: 400 no pairs, 401 no token,
403 from elsewhere, 409 a client of another version, 413 too much at once, 503 ending or too many callers.

*Whom it answers.* A Unix socket belongs to this user. On 127.0.0.1 a web page could send requests through the browser
of somebody who looks at it; so whatever has an Origin is refused, and so is another Host than this machine. On any
other address a token is asked for, which a web page does not have. The token is not encrypted on its way, nor is
anything else.

*Memory.* Bodies are read only while there is room for them. A caller whose body has no room yet waits, and its own
buffers fill: that is the back-pressure.

*Ending.* After SIGTERM or SIGINT no request is taken any more. Those that were taken are answered, for
`DRAIN_SECONDS` at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import re
import resource
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError
from sandbox.result import SandboxError
from selfplay.judge import http
from selfplay.judge.batching import Batcher
from selfplay.judge.http import Head, Refused
from selfplay.judge.pairs import Judged, Pair, from_lines
from selfplay.judge.places import LOOPBACK, MOST_REQUEST_BYTES, VERSION_HEADER, Place, version

MOST_WAITING_BYTES = 64 * 1024**2
"""Most bytes of all bodies that are read and not answered yet."""
MOST_REQUEST_PAIRS = 10_000
"""Most pairs of a request."""
MOST_CONNECTIONS = 4096
"""Most connections, if the system allows that many files; further ones are told to come again."""
OWN_FILES = 256
"""Files that the sandbox and the interpreter may need beside connections."""
DISCARD_SECONDS = 5.0
"""Time for which the rest of a refused request is read."""
DRAIN_SECONDS = 25.0
"""Time for what was taken before a signal. Slurm kills 30 s after its signal."""
OWN_HOSTS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
"""Values of the Host header that mean this machine."""


def listen(place: Place) -> socket.socket:
    """A socket that listens there.

    Raises:
        InputError: The place is taken, or cannot be listened at.
    """
    if place.socket:
        return _listen_at(Path(place.socket))
    if place.port > 65535:
        raise InputError(f"--port {place.port}: expected at most 65535")
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        return socket.create_server((place.host, place.port), family=family)
    except OSError as error:
        told = os.strerror(error.errno) if error.errno else error
        raise InputError(f"--port {place.port}: cannot listen at {place.host} ({told}): name another, or 0") from None


def _listen_at(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise InputError(f"--socket {path}: something else is there: name another place")
            with socket.socket(socket.AF_UNIX) as asked:
                try:
                    asked.connect(str(path))
                except ConnectionRefusedError:  # what was there has died
                    path.unlink()
                else:
                    raise InputError(f"--socket {path}: a judge serves there already: use it, or name another place")
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listening.listen(MOST_CONNECTIONS)  # at once: a second service must see that somebody is there
    except OSError as error:
        listening.close()
        raise InputError(f"--socket {path}: cannot listen there ({os.strerror(error.errno or 0)})") from None
    except InputError:
        listening.close()
        raise
    return listening


class _Room:
    """Room for the bodies of requests. Who does not fit waits, in the order of coming."""

    def __init__(self) -> None:
        self._used = 0
        self._changed = asyncio.Condition()
        self._queue = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Room for so many bytes."""
        async with self._queue, self._changed:
            await self._changed.wait_for(lambda: self._used + size <= MOST_WAITING_BYTES)
            self._used += size
        try:
            yield
        finally:
            async with self._changed:
                self._used -= size
                self._changed.notify_all()


class Service:
    """Answers requests with verdicts.

    Args:
        batcher: Judges.
        token: What a caller must have; None if nothing is asked for.
        about: What `GET /` says beside counts.
    """

    def __init__(self, batcher: Batcher, token: str | None, about: dict[str, Any]) -> None:
        self._batcher, self._token, self._about = batcher, token, about
        self._room = _Room()
        self._reading = ThreadPoolExecutor(1, "judge-reading")
        self._connections = 0
        self._most_connections = _most_connections()
        self._answering = 0
        self._settled = asyncio.Event()
        self._is_ending = False

    async def serve(self, listening: socket.socket, ready: Callable[[], None], ending: asyncio.Event) -> None:
        """Answer until `ending` is set, then drain."""
        start = asyncio.start_unix_server if listening.family == socket.AF_UNIX else asyncio.start_server
        server = await start(self._answer_all, sock=listening, limit=http.MOST_HEAD_BYTES, backlog=MOST_CONNECTIONS)
        ready()
        await ending.wait()
        self._is_ending = True
        server.close()
        if self._answering:
            self._settled.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), DRAIN_SECONDS)

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, until it ends."""
        self._connections += 1
        try:
            while await self._answer_next(reader, writer):
                pass
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the caller has gone
        except asyncio.CancelledError:
            pass  # the service ends, and this connection is idle or over its time. Python 3.11 would print a traceback
        finally:
            self._connections -= 1
            writer.close()

    async def _answer_next(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. False if the connection has ended."""
        try:
            head = await http.read_head(reader)
            if head is None:
                return False
            with self._counted():
                return await self._answer(head, reader, writer)
        except Refused as refused:
            await _send(writer, refused.status, http.error(str(refused)), refused.closes)
            if refused.closes:
                await _discard(reader)
            return not refused.closes

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count this request among those that are answered before the end."""
        self._answering += 1
        try:
            yield
        finally:
            self._answering -= 1
            if not self._answering:
                self._settled.set()

    async def _answer(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self._check(head)
        if (head.method, head.path) == ("GET", "/"):
            await _send(writer, 200, json.dumps(self._state()).encode() + b"\n")
            return True
        if (head.method, head.path) != ("POST", "/verify"):
            raise Refused(404, f"expected POST /verify or GET /, got {head.method} {head.path[:100]}")
        if head.length > MOST_REQUEST_BYTES:
            raise Refused(413, f"expected at most {MOST_REQUEST_BYTES:,} bytes in a request, got {head.length:,}")
        async with self._room.taken(head.length):
            if head.waits_for_a_sign:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async with asyncio.timeout(http.REST_SECONDS):
                body = await reader.readexactly(head.length)
            status, answer = await self._verdicts(body)
        await _send(writer, status, answer)
        return True

    def _check(self, head: Head) -> None:
        """Whether the request is answered at all.

        Raises:
            Refused: It is not.
        """
        if "origin" in head.headers or head.headers.get("sec-fetch-site", "none") != "none":
            raise Refused(403, "requests of web pages are not answered")
        if self._token is None:
            if not OWN_HOSTS.fullmatch(head.headers.get("host", "")):
                raise Refused(403, "expected the header Host to name this machine: localhost or 127.0.0.1")
        elif not hmac.compare_digest(f"Bearer {self._token}".encode(), head.headers.get("authorization", "").encode()):
            raise Refused(401, "expected the token of this service: set SELFPLAY_JUDGE_TOKEN")
        theirs = head.headers.get(VERSION_HEADER.lower())
        if theirs is not None and theirs != version():
            raise Refused(409, f"the client has version {theirs}, this service {version()}: start one of that version")
        if self._is_ending:
            raise Refused(503, "the service is ending")
        if self._connections > self._most_connections:
            raise Refused(503, f"the service has {self._most_connections} connections already")

    async def _verdicts(self, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a request with pairs."""
        try:
            asked = await self._read(body)
        except InputError as error:
            raise Refused(400, str(error), closes=False) from None
        if len(asked) > MOST_REQUEST_PAIRS:
            told = f"expected at most {MOST_REQUEST_PAIRS:,} pairs in a request, got {len(asked):,}"
            raise Refused(413, told, closes=False)
        # Others may wait for the same future, so it is shielded from the end of this task.
        futures = [asyncio.shield(asyncio.wrap_future(self._batcher.submit(pair))) for _, pair in asked]
        found = await asyncio.gather(*futures, return_exceptions=True)
        status, lines = 200, []
        for (identifier, _), outcome in zip(asked, found, strict=True):
            if isinstance(outcome, Judged):
                lines.append({**outcome.to_json(), "id": identifier})
            elif isinstance(outcome, SandboxError):
                status = 500
                lines.append({"id": identifier, "error": str(outcome)})
            else:
                raise outcome
        return status, b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    async def _read(self, body: bytes) -> list[tuple[Any, Pair]]:
        """The pairs of a body; a long one is read in a thread, so that others are answered meanwhile."""
        if len(body) <= 64 * 1024:
            return from_lines(body)
        return await asyncio.get_running_loop().run_in_executor(self._reading, from_lines, body)

    def _state(self) -> dict[str, Any]:
        counts = {"judged": self._batcher.judged, "undecided": self._batcher.undecided()}
        return {"service": "selfplay judge", "version": version(), **self._about, **counts}


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes, closes: bool = False) -> None:
    headers = {"Content-Type": "application/x-ndjson", VERSION_HEADER: version()}
    if closes:
        headers["Connection"] = "close"
    writer.write(http.reply(status, body, headers))
    async with asyncio.timeout(http.REST_SECONDS):
        await writer.drain()


async def _discard(reader: asyncio.StreamReader) -> None:
    """Read what a refused caller still sends: if the connection were closed before, it would not see the reply."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while await reader.read(64 * 1024):
                pass


def _most_connections() -> int:
    """Raise the limit of open files as far as it goes, and say how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, soft - OWN_FILES))


def is_open_to_others(place: Place) -> bool:
    """Whether others than this machine's users can reach it."""
    return not place.socket and place.host not in LOOPBACK


def run(
    batcher: Batcher, listening: socket.socket, token: str | None, about: dict[str, Any], ready: Callable[[], None],
    until_closed: bool = False,
) -> None:  # fmt: skip
    """Serve until SIGTERM, SIGINT or SIGHUP, or with `until_closed` until standard input ends; then drain."""

    async def serve() -> None:
        loop, ending = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, ending.set)
        if until_closed:
            loop.add_reader(sys.stdin.fileno(), ending.set)
        await Service(batcher, token, about).serve(listening, ready, ending)

    asyncio.run(serve())


def about(protections: dict[str, Any], limits: Any, modules: tuple[str, ...]) -> dict[str, Any]:
    """What a service says of how it judges."""
    return {"tier": protections.get("tier"), "limits": asdict(limits), "modules": list(modules)}
