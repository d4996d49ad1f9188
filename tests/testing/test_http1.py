"""HTTP without I/O: any pieces give the same message; what is broken or too large is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_testing.http1 import (
    LAST_CHUNK,
    HttpError,
    RequestParser,
    ResponseParser,
    chunk,
    head,
    request,
)


def _parse(data: bytes, max_body_bytes: int = 1000) -> RequestParser:
    parser = RequestParser(max_body_bytes)
    parser.feed(data)
    return parser


@given(
    bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=3),
    size=st.integers(1, 50),
    chunked=st.booleans(),
)
def test_pieces_do_not_matter(bodies: list[bytes], size: int, chunked: bool) -> None:
    """Requests one behind the other come out the same, in whatever pieces they come in."""
    data = b""
    for body in bodies:
        if chunked:
            data += b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            data += b"".join(chunk(body[at : at + 7]) for at in range(0, len(body), 7))
            data += LAST_CHUNK
        else:
            data += request("POST", "/x", {"Host": "h"}, body)
    parser, found = RequestParser(1000), []
    for at in range(0, len(data), size):
        parser.feed(data[at : at + size])
        while (one := parser.next_request()) is not None:
            found.append(one)
    assert [(one.method, one.target, one.body) for one in found] == [
        ("POST", "/x", body) for body in bodies
    ]
    assert parser.buffered == 0


@given(body=st.binary(min_size=1, max_size=60), size=st.integers(1, 50), chunked=st.booleans())
def test_pieces_of_a_response_do_not_matter(body: bytes, size: int, chunked: bool) -> None:
    """A response comes out the same, in whatever pieces it comes in, also after a 100 Continue."""
    framing = {"transfer-encoding": "chunked"} if chunked else {"content-length": str(len(body))}
    framed = chunk(body[:3]) + chunk(body[3:]) + LAST_CHUNK if chunked else body
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + head(200, framing) + framed
    parser, found = ResponseParser(1000), b""
    for at in range(0, len(data), size):
        assert not parser.complete
        found += parser.feed(data[at : at + size])
    assert (parser.status, found, parser.complete) == (200, body, True)


def test_body_up_to_the_end_of_the_connection() -> None:
    """A response without any framing is complete once the connection has ended, not before."""
    parser = ResponseParser(1000)
    assert parser.feed(head(200, {}) + b"some") == b"some"
    assert not parser.complete
    parser.eof()
    assert parser.complete


def test_a_cut_response_stays_incomplete() -> None:
    """The end of the connection does not complete a body that says how long it is."""
    parser = ResponseParser(1000)
    parser.feed(head(200, {"content-length": "10"}) + b"some")
    parser.eof()
    assert not parser.complete


def test_a_response_that_has_no_body_is_complete() -> None:
    """A 204 has no body to wait for."""
    parser = ResponseParser(1000)
    parser.feed(head(204, {}))
    assert parser.complete


def test_trailers_are_skipped() -> None:
    """Trailers after the last chunk belong to the message."""
    data = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\nA: b\r\n\r\n"
    parser = _parse(data)
    parsed = parser.next_request()
    assert parsed is not None
    assert parsed.body == b"a"
    assert parser.buffered == 0


def test_blank_lines_in_front_are_tolerated() -> None:
    """Blank lines before a request line are skipped (RFC 9112, 2.2)."""
    parsed = _parse(b"\r\n\r\nGET /x HTTP/1.0\r\n\r\n").next_request()
    assert parsed is not None
    assert not parsed.keep_alive


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("HTTP/1.1", "", True),
        ("HTTP/1.1", "Connection: close\r\n", False),
        ("HTTP/1.0", "", False),
        ("HTTP/1.0", "Connection: keep-alive\r\n", True),
    ],
)
def test_keep_alive(version: str, connection: str, kept: bool) -> None:
    """A connection is kept by default in HTTP/1.1, and on request in HTTP/1.0."""
    parsed = _parse(f"GET / {version}\r\n{connection}\r\n".encode()).next_request()
    assert parsed is not None
    assert parsed.keep_alive is kept


def test_a_client_may_wait_for_continue() -> None:
    """A request that waits for "100 Continue" says so until its body is there."""
    parser = _parse(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert parser.next_request() is None
    assert parser.wants_continue
    parser.feed(b"ab")
    assert parser.next_request() is not None
    assert not parser.wants_continue


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/3\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: nameless\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nfolded : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x" * 70_000, 431),
        (
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunk(b"x" * 600)
            + chunk(b"x" * 600),
            413,
        ),
    ],
)
def test_broken_requests_are_refused(data: bytes, status: int) -> None:
    """What is no HTTP, contradicts itself or is larger than allowed gets an error status."""
    with pytest.raises(HttpError) as caught:
        _parse(data).next_request()
    assert caught.value.status == status


def test_what_is_no_response_is_refused() -> None:
    """A client does not take anything but HTTP/1 for a response."""
    with pytest.raises(HttpError, match="not an HTTP"):
        ResponseParser(10).feed(b"SSH-2.0 hello\r\n\r\n")


def test_an_empty_chunk_is_never_written() -> None:
    """No data gives no chunk: an empty one would end the body."""
    assert chunk(b"") == b""


def test_an_unknown_status_has_a_head() -> None:
    """A status that HTTP does not know can be sent all the same."""
    assert head(599, {}).startswith(b"HTTP/1.1 599 Unknown\r\n")
