"""As much of HTTP/1.1 as the judge's service needs, and strict about it (RFC 9112). What is unusual is refused.

A request is read up to bounds and within a time. Its body has a length that is told before it; nothing comes in pieces.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from http import HTTPStatus

MOST_HEAD_BYTES = 16 * 1024
"""Longest request line with its headers."""
REST_SECONDS = 60.0
"""Time that the rest of a request may take, once it has begun, and that a reader may take for its reply."""
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LENGTH = re.compile(r"[0-9]{1,12}")


class Refused(Exception):
    """A request is not answered. The connection ends with the reply, unless it is clear where the next begins."""

    def __init__(self, status: int, told: str, closes: bool = True) -> None:
        super().__init__(told)
        self.status, self.closes = status, closes


@dataclass(frozen=True)
class Head:
    """What stands before a request's body."""

    method: str
    path: str
    headers: dict[str, str]
    """By names in small letters. No name comes twice."""

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return int(self.headers.get("content-length", "0"))

    @property
    def waits_for_a_sign(self) -> bool:
        """Whether the body comes only after a 100 (curl does this with large ones)."""
        return self.headers.get("expect", "").lower() == "100-continue"


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next request's head; None if no further one comes.

    Raises:
        Refused: It is none, or not whole in time.
    """
    try:
        begun = await reader.read(1)  # a connection may stay open without a request for as long as it likes
        if not begun:
            return None
        async with asyncio.timeout(REST_SECONDS):
            text = begun + await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        raise Refused(408, f"the request was not whole after {REST_SECONDS:g} seconds") from None
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise Refused(431, f"expected headers of at most {MOST_HEAD_BYTES} bytes") from None
    return parse_head(text)


def parse_head(text: bytes) -> Head:
    """A head that ends with an empty line.

    Raises:
        Refused: It is none that we answer.
    """
    first, *lines = text[:-4].split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0") or not parts[1].startswith(b"/"):
        raise Refused(400, "expected a request of HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        key = name.decode("latin-1").lower()
        if not colon or not NAME.fullmatch(name) or key in headers:
            raise Refused(400, "expected headers `Name: value`, each once")
        headers[key] = value.decode("latin-1").strip(" \t")
    if "transfer-encoding" in headers or not LENGTH.fullmatch(headers.get("content-length", "0")):
        raise Refused(411, "expected a body with its length in Content-Length")
    return Head(parts[0].decode("latin-1"), parts[1].decode("latin-1"), headers)


def reply(status: int, body: bytes, headers: dict[str, str]) -> bytes:
    """A reply as it is sent."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def error(told: str) -> bytes:
    """The body of a reply that says what is wrong."""
    return json.dumps({"error": told}).encode() + b"\n"
