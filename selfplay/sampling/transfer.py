"""Fetches a server's reply within bounds. A server may send anything, for ever, and packed a thousandfold.

A reply is read piece by piece, so what exceeds its bound is never in memory. No packing is asked for, and only what can
be unpacked piece by piece is. The key that a request carries is taken out of what comes back, before anything reads it.
"""

from __future__ import annotations

import zlib
from typing import Any

import httpx2 as httpx

MOST_LISTED_BYTES = 16 << 20
"""Largest reply that lists a server's models: those of brokers list hundreds."""
FRAME_BYTES = 8 << 20
"""Room in an answer for what is around its texts, and for some of what they should not hold: it is cut off."""
BYTES_PER_TOKEN = 2048
"""Room for a token: its text, escaped in JSON, and what servers may add about it, such as its probability."""
MOST_BYTES = 256 << 20
"""No answer may be larger, whatever was asked for."""
LEAST_KEY_CHARACTERS = 8
"""A shorter key is no secret, but a word such as `none`, which may be in any text."""
REDACTED = "(the key)"
OF_THE_PACKING = ("content-encoding", "content-length", "transfer-encoding")


class Unreadable(Exception):
    """A reply is too large, or packed in a way that was not asked for."""


def most_bytes(max_tokens: int, copies: int) -> int:
    """Largest answer of so many texts, in bytes."""
    return min(MOST_BYTES, FRAME_BYTES + BYTES_PER_TOKEN * max_tokens * copies)


async def fetch(client: httpx.AsyncClient, method: str, url: str, most: int, **body: Any) -> httpx.Response:
    """A whole reply, unpacked. Bounds of time are the caller's, who may cancel this at any time.

    Args:
        client: The client.
        method: `GET` or `POST`.
        url: The address. A redirect is not followed, because the key is for this address only.
        most: Largest number of bytes, packed or not.
        body: What is sent, as arguments of the client's `stream`.

    Raises:
        Unreadable: The reply is larger, or packed in another way than gzip or deflate.
    """
    headers = {"Accept-Encoding": "identity"}
    async with client.stream(method, url, headers=headers, follow_redirects=False, **body) as reply:
        unpacking, content = _Unpacking(reply.headers.get("content-encoding", ""), most), bytearray()
        came = 0
        async for part in reply.aiter_raw():
            came += len(part)
            if came > most:
                raise Unreadable(f"larger than {most:,} bytes")
            content += unpacking.unpacked(part)
        unpacking.end()
        kept = [(name, value) for name, value in reply.headers.multi_items() if name.lower() not in OF_THE_PACKING]
        key = key_of(reply.request)
        whole = bytes(content).replace(key.encode(), REDACTED.encode()) if key else bytes(content)
        return httpx.Response(reply.status_code, headers=kept, content=whole, request=reply.request)


class _Unpacking:
    """Unpacks a reply piece by piece, up to a number of bytes."""

    def __init__(self, packing: str, most: int) -> None:
        self._packing, self._room = packing.strip().lower(), most
        if self._packing not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Unreadable(f"packed as {self._packing[:20]!r}, which was not asked for")
        self._is_packed = self._packing not in ("", "identity")
        self._unpacker: Any = None

    def unpacked(self, part: bytes) -> bytes:
        if not self._is_packed or not part:
            return part
        if self._unpacker is None:
            # Some servers send `deflate` without the header that belongs to it.
            is_bare = self._packing == "deflate" and part[0] & 0x0F != 8
            self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else zlib.MAX_WBITS | 32)
        try:
            found: bytes = self._unpacker.decompress(part, self._room + 1)
        except zlib.error as error:
            raise Unreadable(f"not packed as {self._packing}, as it says: {error}") from None
        self._room -= len(found)
        if self._room < 0:
            raise Unreadable("larger than expected when unpacked")
        return found

    def end(self) -> None:
        """Check that the whole reply has come."""
        if self._unpacker is not None and not self._unpacker.eof:
            raise Unreadable(f"the end of the {self._packing} is missing")


def key_of(request: httpx.Request) -> str:
    """The key that a request carries; empty if it has none, or one that is no secret."""
    key: str = request.headers.get("authorization", "").removeprefix("Bearer ")
    return key if len(key) >= LEAST_KEY_CHARACTERS else ""


def without_key(value: Any, key: str) -> Any:
    """A JSON value whose texts do not hold the key, however it was escaped. Lists and objects are changed in place."""
    holder = [value]
    waiting: list[Any] = [holder] if key else []
    while waiting:
        each = waiting.pop()
        for place, member in list(each.items()) if isinstance(each, dict) else list(enumerate(each)):
            if isinstance(member, str) and key in member:
                each[place] = member.replace(key, REDACTED)
            elif isinstance(member, dict | list):
                waiting.append(member)
    return holder[0]
