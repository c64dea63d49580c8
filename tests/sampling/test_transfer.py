"""A server's reply has bounds, packed or not, and holds no key."""

import asyncio
import gzip
import json
import zlib

import httpx2 as httpx
import pytest

from selfplay.sampling.transfer import MOST_BYTES, Unreadable, fetch, most_bytes, without_key

URL = "http://here/v1/completions"
KEY = "sk-secret-0123456789"
MOST = 100_000
BARE = zlib.compressobj(wbits=-zlib.MAX_WBITS)
TEXT = json.dumps({"choices": [{"text": "x" * 5000}]}).encode()
PACKED = {
    "": TEXT, "identity": TEXT, "gzip": gzip.compress(TEXT), "x-gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT), "Deflate": BARE.compress(TEXT) + BARE.flush(),
}  # fmt: skip


def got(content, most=MOST, status=200, seen=None, **headers):
    """What is fetched from a server that sends this content, a text or pieces of it."""

    async def pieces():
        for piece in [content] if isinstance(content, bytes) else content:
            yield piece

    def reply(request):
        if seen is not None:
            seen.append(request)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Response(status, headers=named, content=pieces())

    async def asked():
        async with httpx.AsyncClient(
            transport=httpx.MockTransport(reply), headers={"Authorization": f"Bearer {KEY}"}
        ) as client:
            return await fetch(client, "POST", URL, most, json={})

    return asyncio.run(asked())


@pytest.mark.parametrize("packing", PACKED)
def test_an_honest_reply_is_whole_however_it_is_packed(packing):
    whole = PACKED[packing]
    for pieces in (whole, [whole[:1], b"", whole[1:100], whole[100:]]):
        reply = got(pieces, content_encoding=packing)
        assert (reply.content, reply.json(), reply.status_code) == (TEXT, json.loads(TEXT), 200)


def test_a_reply_without_an_end_is_read_up_to_its_bound_only():
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1000
            yield b" " * 1000

    with pytest.raises(Unreadable, match="larger than 100,000 bytes"):
        got(endless())
    assert read <= MOST + 2000


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_reply_that_unpacks_to_a_thousandfold_is_never_in_memory(packing):
    import tracemalloc

    pack = gzip.compress if packing == "gzip" else zlib.compress
    bomb = pack(b" " * 200_000_000, 9) if packing == "gzip" else pack(b" " * 200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="larger than expected when unpacked"):
            got(bomb, most=10_000_000, content_encoding=packing)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packing", ["br", "zstd", "gzip, gzip", "deflate, gzip", "\x1b[31m"])
def test_a_packing_that_cannot_be_bounded_is_refused(packing):
    with pytest.raises(Unreadable, match="which was not asked for"):
        got(b"x" * 100, content_encoding=packing)


@pytest.mark.parametrize(
    "content",
    [b"no packing", gzip.compress(TEXT)[:40], zlib.compress(TEXT)[:-8]],
    ids=["not packed", "cut", "another packing"],
)
def test_a_damaged_packing_is_refused(content):
    with pytest.raises(Unreadable, match=r"not packed as gzip|the end of the gzip is missing"):
        got(content, content_encoding="gzip")


def test_no_packing_is_asked_for_and_no_redirect_followed():
    seen = []
    reply = got(b"", status=302, seen=seen, location="http://127.0.0.1:18999/steal")
    assert reply.status_code == 302
    (request,) = seen
    assert request.headers["accept-encoding"] == "identity"


def test_the_key_is_taken_out_before_anything_reads_the_reply():
    reply = got(json.dumps({"choices": [{"text": f"it is {KEY}!"}]}).encode())
    assert reply.json() == {"choices": [{"text": "it is (the key)!"}]}
    escaped = "".join(f"\\u{ord(c):04x}" for c in KEY)
    assert KEY not in json.dumps(without_key(json.loads(f'[["{escaped}"], {{"a": {{"b": "<{escaped}>"}}}}]'), KEY))


def test_the_bound_grows_with_what_was_asked_for_but_not_for_ever():
    assert most_bytes(20, 1) < most_bytes(4096, 8) <= most_bytes(10**9, 10**9) == MOST_BYTES
