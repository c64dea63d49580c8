"""`selfplay view`: an archive or a benchmark in the browser, on this machine only and read only.

`pages.py` and `benchmark_pages.py` make the pages, on top of datasette. This file decides who may read them: requests
over the loopback device whose host is this machine, from whoever has the address that was printed. A foreign web page
can point its own name at 127.0.0.1 and could then read and query the archive. Its requests carry that name and are
refused. Another user of this machine does not know the token in the address.
"""

from __future__ import annotations

import contextlib
import hmac
import html
import importlib.util
import os
import re
import secrets
import signal
import socket
import tempfile
import threading
import urllib.parse
import webbrowser
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.text import printable

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

ADDRESS = "127.0.0.1"
TOKEN = "token"
"""Name of the address's parameter that has the token."""
COOKIE = "selfplay-view"
TOKEN_BYTES = 32
LAST_SECONDS = 7.0
"""Seconds from the signal that ends the server until the process ends in any case."""
OWN_NAMES = re.compile(rb"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
"""Values of the Host header that are accepted: from a browser on this machine, or through a forwarded port."""
OWN_SITES = {b"same-origin", b"none"}
"""Values of the Sec-Fetch-Site header that are accepted: our own pages and the user. Others could run SQL."""
HEADERS = {
    b"content-security-policy": b"default-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none';"
    b" base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"same-origin",
    b"x-content-type-options": b"nosniff",
}
"""Headers of every response that has no stricter ones. Datasette's pages contain inline scripts and styles."""


def require() -> None:
    """Check that datasette is installed.

    Raises:
        InputError: datasette is not installed.
    """
    if importlib.util.find_spec("datasette") is None:
        raise InputError("view: the package datasette is not installed: pip install '.[view]'")


class Ending:
    """Whether the server is ending. What still runs then is interrupted."""

    def __init__(self) -> None:
        self._ending = threading.Event()

    def begin(self) -> None:
        """End what runs. If something does not end, the process ends without it."""
        if not self._ending.is_set():
            self._ending.set()
            last = threading.Timer(LAST_SECONDS, os._exit, [1])
            last.daemon = True
            last.start()

    def has_begun(self) -> bool:
        """Whether the server is ending."""
        return self._ending.is_set()


def serve(path: Path, port: int, opened: bool = False) -> None:
    """Serve an archive until SIGINT or SIGTERM.

    An older archive is upgraded first, as by every command that opens it. After that it is only read.

    Args:
        path: The archive's file.
        port: The port on 127.0.0.1; 0 takes a free one.
        opened: Whether a browser is opened to show it.

    Raises:
        InputError: The file is no archive, or the port is not free.
    """
    from selfplay.inspecting import pages

    Archive(path).close()
    try:
        _serve(str(path), lambda is_ending: pages.over(path, is_ending), port, opened)
    finally:
        with contextlib.suppress(InputError):  # the file may be gone
            Archive(path, trust=True).close()  # the last connection to close may write, so that SQLite leaves one file


def serve_benchmarks(folders: Sequence[Path], puzzles: str | None, port: int, opened: bool = False) -> None:
    """Serve one result of `selfplay bench`, or two side by side, until SIGINT or SIGTERM.

    Args:
        folders: The folders of the results, which are only read.
        puzzles: The puzzle file that the user names, for sets that are not embedded.
        port: The port on 127.0.0.1; 0 takes a free one.
        opened: Whether a browser is opened to show it.

    Raises:
        InputError: A folder holds no whole result, two have nothing in common, or the port is not free.
    """
    from puzzles.verify import truth_pool
    from selfplay.inspecting import benchmark_pages, benchmarks

    with truth_pool() as pool:
        shown = benchmarks.read(folders, pool, puzzles)
    with tempfile.TemporaryDirectory(prefix="selfplay-view-") as folder:
        file = Path(folder) / "benchmark.sqlite"
        benchmarks.fill(file, shown)
        about = " and ".join(map(str, folders))
        _serve(about, lambda is_ending: benchmark_pages.over(file, shown, is_ending), port, opened)


def _serve(about: str, made: Callable[[Callable[[], bool]], Any], port: int, opened: bool) -> None:
    """Serve the pages that `made` makes; it is told how to ask whether the server is ending."""
    import uvicorn

    from selfplay.inspecting import serving

    listening = _listen(port)
    token, ending = secrets.token_urlsafe(TOKEN_BYTES), Ending()
    address = f"http://{ADDRESS}:{listening.getsockname()[1]}/?{TOKEN}={token}"
    shown = made(ending.has_begun)

    class Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn has no types
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            ending.begin()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        only_here(shown.app(), token), log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1
    )
    print(f"{printable(about)}: {address} (Ctrl-C ends it)", flush=True)
    # The server ends within a second and raises the signal again. `ending` would count that as a second signal.
    signal.set_wakeup_fd(-1)
    try:
        with (
            _in_browser(address) if opened else contextlib.nullcontext(),
            contextlib.suppress(KeyboardInterrupt),
        ):  # the server has stopped, and raises the signal again
            Server(config).run(sockets=[listening])
    finally:
        ending.begin()
        listening.close()
        serving.close(shown)


def _listen(port: int) -> socket.socket:
    if port > 65535:
        raise InputError(f"--port {port}: expected at most 65535")
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise InputError(f"--port {port}: the port is not available ({reason}): name another, or 0 for any") from None


def only_here(application: Application, token: str) -> Application:
    """An application for whoever knows a token.

    The first request has it in its address, and is answered with a cookie; the others have the cookie. Requests for
    another host or from another site are refused. All responses have the protective HEADERS.
    """

    async def guarded(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await application(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {bytes(name).lower() for name, _ in message["headers"]}
                more = [[name, value] for name, value in HEADERS.items() if name not in given]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        names, sites, cookies = (
            [value for name, value in scope["headers"] if name == asked]
            for asked in (b"host", b"sec-fetch-site", b"cookie")
        )
        if len(names) != 1 or not OWN_NAMES.fullmatch(names[0].lower()):
            return await _refuse(send_guarded, b"This archive is shown to this machine only.\n")
        asked = urllib.parse.parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and any(name == TOKEN and _is(token, value) for name, value in asked):
            rest = urllib.parse.urlencode([(name, value) for name, value in asked if name != TOKEN])
            return await _welcome(send_guarded, scope, token, rest)
        if {*sites} - OWN_SITES:
            return await _refuse(send_guarded, b"This archive is shown to this machine only.\n")
        if any(_is(token, value) for cookie in cookies for value in _values(cookie)):
            return await application(scope, receive, send_guarded)
        return await _refuse(send_guarded, b"Open the address that `selfplay view` has printed, with its token.\n")

    return guarded


def _is(token: str, given: str) -> bool:
    return hmac.compare_digest(token.encode(), given.encode("utf-8", "replace"))


def _values(cookie: bytes) -> list[str]:
    """The values of our cookie in a Cookie header. A browser sends those of all ports of a host."""
    pairs = (pair.strip().partition("=") for pair in cookie.decode("latin-1").split(";"))
    return [value for name, _, value in pairs if name == COOKIE]


async def _welcome(send: Send, scope: Message, token: str, rest: str) -> None:
    """Answer with the cookie, and with a page that opens the same page without the token in its address.

    It is no redirect, so that the browser takes the next request as one of our own pages, wherever this one came from.
    """
    place = "/" + urllib.parse.quote(scope["path"].lstrip("/\\"), safe="/~:") + (f"?{rest}" if rest else "")
    body = f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={html.escape(place)}"><title>selfplay</title>'
    headers = [
        [b"content-type", b"text/html; charset=utf-8"], [b"cache-control", b"no-store"],
        [b"set-cookie", f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict".encode()],
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})


@contextlib.contextmanager
def _in_browser(address: str) -> Iterator[None]:
    """Open a browser at an address that nobody else may learn.

    Everybody can read the arguments of a process. So the browser is given a file that only this user can read.
    """
    with tempfile.TemporaryDirectory(prefix="selfplay-view-") as folder:
        file = Path(folder) / "open.html"
        file.write_text(f'<!DOCTYPE html><meta http-equiv="refresh" content="0; url={html.escape(address)}">', "utf-8")
        webbrowser.open(file.as_uri())
        yield


async def _refuse(send: Send, told: bytes) -> None:
    headers = [[b"content-type", b"text/plain; charset=utf-8"]]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": told})
