"""The client of the judge: verdicts for any thread, process and event loop, from a service or one of its own.

A `Judge` has a few sender threads. Each sends what waits, up to a bound, in one request over a connection that stays
open. So single calls gather while the senders are busy, and no call waits for a clock. A forked process has senders of
its own, and a pickled `Judge` finds the same service.

Where no service is named, one is started at the first call, in a process that shares nothing with this one: it may hold
a GPU, or any number of threads. That service ends when this process and those forked from it have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import queue
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from puzzles.foreign import parse_json
from puzzles.puzzle import InputError
from selfplay.config import SandboxConfig
from selfplay.judge import own
from selfplay.judge.pairs import Judged, Pair, as_pair, from_json, to_line
from selfplay.judge.places import (
    ADDRESS_VARIABLE,
    MOST_REQUEST_BYTES,
    TOKEN_VARIABLE,
    VERSION_HEADER,
    Place,
    place_of,
    version,
)

SENDERS = 4
"""Requests that one process sends at the same time."""
MOST_PAIRS = 256
"""Most pairs of a request."""
MOST_BYTES = 4 * 1024**2
"""Bytes of a request above which no further pair is put into it."""
PATIENCE_SECONDS = 30.0
"""Time for which a service that was there before is looked for again: it may be begun anew, or be busy."""
BUSY = 503
"""Status of a service that is ending, or has too many callers."""

GivenPair = Pair | tuple[str, str] | Mapping[str, Any]


class JudgeError(Exception):
    """There is no verdict: no service, another version, a lost connection, a refused request, or a failed sandbox.

    This says nothing about the pair. Nothing was scored.
    """


class _Broken(Exception):
    """The connection broke: the same request may be sent again."""


class _Busy(_Broken):
    """The service is there, and has too many callers or is ending."""


class Judge:
    """Gives verdicts. May be used by many threads and event loops at once, be forked, and be pickled.

    Args:
        address: Path of a service's socket, or `http://HOST:PORT`. By default the one in the environment variable
            SELFPLAY_JUDGE; without that, a service of its own is started.
        sandbox: Limits of the service that is started.
        token: What the service asks for; by default the environment variable SELFPLAY_JUDGE_TOKEN.
        timeout_seconds: Longest time that a request may take.

    Raises:
        InputError: The address is none, or limits are given beside an address.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        sandbox: SandboxConfig | None = None,
        token: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        address = address or os.environ.get(ADDRESS_VARIABLE) or None
        if address is not None and sandbox is not None:
            raise InputError(
                f"the judge at {address} has limits of its own: leave out either the address or the limits"
            )
        self._own = own.OwnService(sandbox or SandboxConfig()) if address is None else None
        self._place = None if address is None else place_of(address)
        self._token = token or os.environ.get(TOKEN_VARIABLE) or None
        self._timeout_seconds = timeout_seconds
        self._begin()

    def _begin(self) -> None:
        """Begin without threads and connections: at first, and in a forked or unpickled copy."""
        self._lock = threading.Lock()
        self._senders: list[threading.Thread] = []
        self._items: queue.SimpleQueue[tuple[Pair, bytes, Future[Judged]] | None] = queue.SimpleQueue()
        self._was_there = False
        _ALL.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """The place and the token; an own service is started first, so that both sides have the same one."""
        return {"place": self._found(), "token": self._token, "timeout_seconds": self._timeout_seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._own, self._place, self._token = None, state["place"], state["token"]
        self._timeout_seconds = state["timeout_seconds"]
        self._begin()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the senders, and the service if it is one's own."""
        with self._lock:
            senders, self._senders = self._senders, []
        for _ in senders:
            self._items.put(None)
        for sender in senders:
            sender.join()
        if self._own:
            self._own.close()

    @property
    def address(self) -> str:
        """Where the service is; an own one is started first."""
        return str(self._found())

    def verdict(self, puzzle: str, solution: str) -> Judged:
        """The verdict on one pair. Raises what `verify` raises."""
        return self.verify([(puzzle, solution)])[0]

    def verify(self, pairs: Iterable[GivenPair]) -> list[Judged]:
        """The verdicts on pairs, in order. A model's whole reply may stand for a solution.

        Raises:
            InputError: What was given is no pair.
            JudgeError: There is no verdict on one of them.
        """
        futures = self._submit(pairs)
        return [_numbered(number, future.result()) for number, future in enumerate(futures)]

    async def averify(self, pairs: Iterable[GivenPair]) -> list[Judged]:
        """The same for an event loop, which goes on meanwhile."""
        found = await asyncio.gather(*map(asyncio.wrap_future, self._submit(pairs)))
        return [_numbered(number, each) for number, each in enumerate(found)]

    def _submit(self, pairs: Iterable[GivenPair]) -> list[Future[Judged]]:
        items = [(pair, to_line(pair), Future[Judged]()) for pair in map(as_pair, pairs)]
        for number, (_, line, _) in enumerate(items):
            if len(line) > MOST_REQUEST_BYTES:
                told = f"expected at most {MOST_REQUEST_BYTES:,} bytes, got {len(line):,}"
                raise JudgeError(f"pair {number} is too large to be sent to the judge: {told}; nothing was scored")
        with self._lock:
            if not self._senders:
                self._senders = [
                    threading.Thread(target=self._send, name=f"judge-sender-{number}", daemon=True)
                    for number in range(SENDERS)
                ]
                for sender in self._senders:
                    sender.start()
        for item in items:
            self._items.put(item)
        return [future for _, _, future in items]

    def _send(self) -> None:
        """Send what waits, request after request, until the end."""
        connection = _Connection()
        while item := self._items.get():
            batch, size, is_last = [item], len(item[1]), False
            while len(batch) < MOST_PAIRS and size < MOST_BYTES and not is_last:
                try:
                    more = self._items.get_nowait()
                except queue.Empty:
                    break
                is_last = more is None
                if more is not None:
                    batch.append(more)
                    size += len(more[1])
            batch = [each for each in batch if each[2].set_running_or_notify_cancel()]
            try:
                found = self._asked(connection, [line for _, line, _ in batch])
            except Exception as error:  # noqa: BLE001  # whatever it is, the callers hear it
                for _, _, future in batch:
                    future.set_exception(error)
            else:
                for (_, _, future), outcome in zip(batch, found, strict=True):
                    future.set_exception(outcome) if isinstance(outcome, JudgeError) else future.set_result(outcome)
            if is_last:
                break
        connection.close()

    def _found(self) -> Place:
        if self._place is not None:
            return self._place
        assert self._own is not None
        try:
            return self._own.place()
        except own.NotStarted as error:
            raise JudgeError(str(error)) from None

    def _asked(self, connection: _Connection, lines: list[bytes]) -> list[Judged | JudgeError]:
        """What the service says about each line. What breaks is tried again for a while, if it was there before."""
        if not lines:
            return []
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            place = self._found()
            try:
                found = connection.exchange(place, lines, self._token, self._timeout_seconds)
            except _Broken as error:
                connection.close()
                self._was_there |= isinstance(error, _Busy)
                if time.monotonic() > until or not (self._was_there or self._own):
                    raise JudgeError(f"the judge at {place}: {error}; nothing was scored") from None
                time.sleep(0.2)
            except BaseException:
                connection.close()
                raise
            else:
                self._was_there = True
                return found


class _Connection:
    """One sender's connection, which stays open between requests."""

    def __init__(self) -> None:
        self._open: http.client.HTTPConnection | None = None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None

    def exchange(
        self, place: Place, lines: list[bytes], token: str | None, timeout_seconds: float
    ) -> list[Judged | JudgeError]:
        """What the service says about each line.

        Raises:
            _Broken: The connection could not be made, or broke; or the service is busy.
            JudgeError: The service refuses the request, or is none of this version.
        """
        headers = {"Content-Type": "application/x-ndjson", VERSION_HEADER: version()}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            if self._open is None:
                self._open = _to(place, timeout_seconds)
            self._open.request("POST", "/verify", b"".join(lines), headers)
            reply = self._open.getresponse()
            body = reply.read()
        except TimeoutError:
            raise JudgeError(f"the judge at {place} did not answer within {timeout_seconds:g} seconds") from None
        except FileNotFoundError:
            raise _Broken("there is no service: start one with `selfplay judge`") from None
        except ConnectionRefusedError:
            raise _Broken("no service answers there: start one with `selfplay judge`") from None
        except BlockingIOError:  # so many wait at a Unix socket that the system lets nobody else wait
            raise _Busy("too many wait to connect") from None
        except (http.client.HTTPException, OSError) as error:
            raise _Broken(f"the connection broke ({type(error).__name__}: {error})") from None
        theirs = reply.getheader(VERSION_HEADER)
        if theirs != version():
            told = f"the service has version {theirs}" if theirs else "what answers there is no judge"
            raise JudgeError(f"the judge at {place}: {told}, this is version {version()}: start one of this version")
        if reply.status == BUSY:
            raise _Busy(_said(body))
        if reply.status not in (200, 500):
            raise JudgeError(f"the judge at {place} refused the request: {_said(body)}")
        return _read(place, body, len(lines))


def _read(place: Place, body: bytes, count: int) -> list[Judged | JudgeError]:
    try:
        records = [parse_json(line, f"line {number}") for number, line in enumerate(body.splitlines(), 1)]
        found = [_outcome(number, record) for number, record in enumerate(records)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JudgeError(f"the judge at {place} gave an answer that is none: {type(error).__name__}: {error}") from None
    if len(found) != count:
        raise JudgeError(f"the judge at {place} gave {len(found)} answers to {count} questions: {_said(body)}")
    return found


def _outcome(number: int, record: Mapping[str, Any]) -> Judged | JudgeError:
    if "error" in record:
        return JudgeError(f"the sandbox failed, so there is no verdict: {record['error']}")
    return from_json(number, record)


def _said(body: bytes) -> str:
    """The error in a reply."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(parse_json(body.splitlines()[0], "its reply")["error"]) if body else "it said nothing"
    return repr(body[:200])


def _to(place: Place, timeout_seconds: float) -> http.client.HTTPConnection:
    if not place.socket:
        return http.client.HTTPConnection(place.host, place.port, timeout=timeout_seconds)
    connection = http.client.HTTPConnection("localhost", timeout=timeout_seconds)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.settimeout(timeout_seconds)
        connection.sock.connect(place.socket)
    except OSError:
        connection.close()
        raise
    return connection


def _numbered(number: int, judged: Judged) -> Judged:
    """A verdict with its place in the caller's list in place of that in the request."""
    return judged if judged.id == number else Judged(**{**vars(judged), "id": number})


_ALL: weakref.WeakSet[Judge] = weakref.WeakSet()
"""Every client of this process. A fork takes their threads and connections away."""


class _Usual:
    """The client of `verify`, made at its first call."""

    judge: Judge | None = None
    lock = threading.Lock()


def _after_fork() -> None:
    _Usual.lock = threading.Lock()
    for judge in list(_ALL):
        if judge._own:
            judge._own.after_fork()
        judge._begin()


os.register_at_fork(after_in_child=_after_fork)


def verify(pairs: Iterable[GivenPair]) -> list[Judged]:
    """The verdicts on pairs, in order, by the service in SELFPLAY_JUDGE or one that is started at the first call.

    `pandas.DataFrame` takes the list as it is.

    Raises:
        InputError: What was given is no pair.
        JudgeError: There is no verdict on one of them.
    """
    with _Usual.lock:
        _Usual.judge = _Usual.judge or Judge()
    return _Usual.judge.verify(pairs)
