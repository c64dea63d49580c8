"""`selfplay view`: an archive in the browser, on this machine only and read only.

`pages.py` makes the pages, on top of datasette. This file decides who may read them: requests over the loopback device
whose host is this machine. A foreign web page can point its own name at 127.0.0.1 and could then read and query the
archive. Its requests carry that name and are refused.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import webbrowser
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

ADDRESS = "127.0.0.1"
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
        raise InputError("view: the package datasette is not installed: pip install 'selfplay-puzzles[view]'")


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
    import uvicorn

    from selfplay.inspecting import pages

    Archive(path).close()
    listening = _listen(port)
    address = f"http://{ADDRESS}:{listening.getsockname()[1]}/"
    shown = pages.over(path)
    config = uvicorn.Config(
        only_here(shown.app()), log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1
    )
    print(f"{path}: {address} (Ctrl-C ends it)", flush=True)
    if opened:
        webbrowser.open(address)
    # The server ends within a second and raises the signal again. `ending` would count that as a second signal.
    signal.set_wakeup_fd(-1)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # the server has stopped, and raises the signal again
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        pages.close(shown)
        with contextlib.suppress(InputError):  # the file may be gone
            Archive(path).close()  # the last connection to close may write, so that SQLite leaves one file


def _listen(port: int) -> socket.socket:
    if port > 65535:
        raise InputError(f"--port {port}: expected at most 65535")
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise InputError(f"--port {port}: the port is not available ({reason}): name another, or 0 for any") from None


def only_here(application: Application) -> Application:
    """An application that refuses requests for another host, and adds the protective HEADERS to its responses."""

    async def guarded(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await application(scope, receive, send)
        names = [value for name, value in scope["headers"] if name == b"host"]

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {bytes(name).lower() for name, _ in message["headers"]}
                more = [[name, value] for name, value in HEADERS.items() if name not in given]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        sites = [value for name, value in scope["headers"] if name == b"sec-fetch-site"]
        if len(names) != 1 or not OWN_NAMES.fullmatch(names[0].lower()) or {*sites} - OWN_SITES:
            return await _refuse(send_guarded)
        return await application(scope, receive, send_guarded)

    return guarded


async def _refuse(send: Send) -> None:
    headers = [[b"content-type", b"text/plain; charset=utf-8"]]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": b"This archive is shown to this machine only.\n"})
