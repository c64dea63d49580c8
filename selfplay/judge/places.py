"""Where a judge is, and which version it has: what the service and its client must agree on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from urllib.parse import urlsplit

from puzzles.puzzle import InputError

ADDRESS_VARIABLE = "SELFPLAY_JUDGE"
"""Environment variable with the address of the service that clients use where none is named."""
TOKEN_VARIABLE = "SELFPLAY_JUDGE_TOKEN"
"""Environment variable with the token that a service asks for and a client sends."""
VERSION_HEADER = "Selfplay-Version"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_REQUEST_BYTES = 32 * 1024**2
"""Largest body of a request."""
MOST_PATH_BYTES = 107
"""Longest path of a Unix socket (`sun_path` in unix(7) has 108 bytes)."""


def version() -> str:
    """The version of this package. A client and a service of different versions may differ in their verdicts."""
    try:
        return metadata.version("selfplay-puzzles")
    except metadata.PackageNotFoundError:  # the code runs from a folder that was not installed
        return "unknown"


@dataclass(frozen=True)
class Place:
    """Where a service listens: at a Unix socket, or at a host's port."""

    socket: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.socket or f"http://{host}:{self.port}"


def place_of(address: str) -> Place:
    """The place that an address names: the path of a Unix socket, or `http://HOST:PORT`.

    Raises:
        InputError: It is neither.
    """
    if address.startswith("http://"):
        try:
            parts = urlsplit(address)
            if parts.hostname and parts.port and parts.path in ("", "/") and not (parts.query or parts.username):
                return Place(host=parts.hostname, port=parts.port)
        except ValueError:
            pass
    elif "/" in address and "://" not in address:
        if len(os.fsencode(os.path.abspath(address))) > MOST_PATH_BYTES:
            raise InputError(f"{address}: expected the path of a socket, which has at most {MOST_PATH_BYTES} bytes")
        return Place(socket=os.path.abspath(address))
    raise InputError(f"the judge's address: expected the path of a socket or http://HOST:PORT, got {address!r}")
