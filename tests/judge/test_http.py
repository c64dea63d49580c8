"""Requests are read strictly: what two readers could understand differently is refused."""

import asyncio

import pytest

from selfplay.judge.http import Refused, parse_head, read_head, reply


def test_a_head_is_its_parts():
    head = parse_head(
        b"POST /verify HTTP/1.1\r\nHost: localhost\r\ncontent-LENGTH:  12\r\nExpect: 100-Continue\r\n\r\n"
    )
    assert (head.method, head.path, head.length, head.waits_for_a_sign) == ("POST", "/verify", 12, True)
    assert head.headers["host"] == "localhost"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /verify\r\n\r\n", 400),
        (b"POST verify HTTP/1.1\r\n\r\n", 400),
        (b"POST  /verify HTTP/1.1\r\n\r\n", 400),
        (b"POST /verify HTTP/2.0\r\n\r\n", 400),
        (b"POST http://elsewhere/verify HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nhost: evil\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 5_0\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    ],
)
def test_another_head_is_refused(head, status):
    with pytest.raises(Refused) as refused:
        parse_head(head)
    assert refused.value.status == status


def read(content):
    async def reading():
        reader = asyncio.StreamReader(limit=16 * 1024)
        reader.feed_data(content)
        reader.feed_eof()
        return await read_head(reader)

    return asyncio.run(reading())


@pytest.mark.parametrize("content", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\n"])
def test_no_request_comes_from_a_caller_who_has_gone(content):
    assert read(content) is None


def test_a_head_without_an_end_is_refused():
    with pytest.raises(Refused, match="at most 16384 bytes"):
        read(b"POST / HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n")


def test_a_reply_is_one_that_the_standard_library_reads():
    assert reply(413, b"no\n", {"X": "1"}) == (
        b"HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 3\r\nX: 1\r\n\r\nno\n"
    )
