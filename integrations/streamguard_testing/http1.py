"""HTTP/1.1 without I/O: as much of it as a loopback engine and its clients need, within bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, urlsplit

_MAX_HEAD: Final = 64 * 1024
_MAX_CHUNK_LINE: Final = 1024
LAST_CHUNK: Final = b"0\r\n\r\n"


class HttpError(Exception):
    """The other side broke HTTP or a bound; `status` is what a server answers."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request, complete."""

    method: str
    target: str
    version: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def url(self) -> SplitResult:
        """The target in its parts."""
        return urlsplit(self.target)

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open for another request."""
        wish = self.headers.get("connection", "").lower()
        return wish != "close" if self.version == "HTTP/1.1" else wish == "keep-alive"


class Body:
    """Takes the framing off a body: by length, by chunks, or up to the end of the connection."""

    def __init__(self, headers: Mapping[str, str], *, max_bytes: int, to_eof: bool = False) -> None:
        self._max_bytes = max_bytes
        self._taken = 0
        self.chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self.to_eof = to_eof and not self.chunked and "content-length" not in headers
        self._left = 0 if self.chunked or self.to_eof else _length(headers, max_bytes)
        self._between = True
        self.complete = not self.chunked and not self.to_eof and self._left == 0

    def feed(self, buffer: bytearray) -> bytes:
        """Take what belongs to the body out of `buffer` and return it without framing.

        Raises:
            HttpError: When the framing is broken or the body is larger than allowed.
        """
        data = b"".join(self._feed_chunks(buffer)) if self.chunked else self._feed_plain(buffer)
        self._taken += len(data)
        if self._taken > self._max_bytes:
            raise HttpError(413, f"the body is larger than {self._max_bytes} bytes")
        return data

    def _feed_plain(self, buffer: bytearray) -> bytes:
        size = len(buffer) if self.to_eof else min(self._left, len(buffer))
        data = _take(buffer, size)
        if not self.to_eof:
            self._left -= size
            self.complete = self._left == 0
        return data

    def _feed_chunks(self, buffer: bytearray) -> Iterator[bytes]:
        while not self.complete:
            if self._between and not self._chunk_head(buffer):
                return
            size = min(self._left, len(buffer))
            self._left -= size
            yield _take(buffer, size)
            if self._left or len(buffer) < 2:
                return
            if _take(buffer, 2) != b"\r\n":
                raise HttpError(400, "a chunk is longer than it says")
            self._between = True

    def _chunk_head(self, buffer: bytearray) -> bool:
        """Read the line before a chunk; tell whether a chunk follows."""
        end = buffer.find(b"\r\n")
        if end < 0:
            if len(buffer) > _MAX_CHUNK_LINE:
                raise HttpError(400, "the size of a chunk does not end")
            return False
        digits = bytes(buffer[:end]).partition(b";")[0].strip()
        try:
            size = int(digits, 16)
        except ValueError:
            size = -1
        if size < 0:
            raise HttpError(400, "the size of a chunk is not a number")
        if size == 0:
            self._last_chunk(buffer, end)
            return False
        del buffer[: end + 2]
        self._left, self._between = size, False
        return True

    def _last_chunk(self, buffer: bytearray, end: int) -> None:
        """Read the trailers up to their blank line, with which the body is complete."""
        stop = buffer.find(b"\r\n\r\n", end)
        if stop < 0:
            if len(buffer) > _MAX_HEAD:
                raise HttpError(431, "the trailers do not end")
            return
        del buffer[: stop + 4]
        self.complete = True


class RequestParser:
    """Turns bytes into requests, in pieces of any size.

    Args:
        max_body_bytes: Largest body that is accepted.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray()
        self._head: Request | None = None
        self._framing: Body | None = None
        self._body = bytearray()
        #: Set when the client waits for a "100 Continue" before it sends its body.
        self.wants_continue = False

    @property
    def buffered(self) -> int:
        """Bytes that are not part of a complete request yet."""
        return len(self._buffer) + len(self._body)

    def feed(self, data: bytes) -> None:
        """Take bytes in."""
        self._buffer += data

    def next_request(self) -> Request | None:
        """Return the next complete request; None when more bytes are needed.

        Raises:
            HttpError: When this is not HTTP, or too large.
        """
        if self._head is None and not self._read_head():
            return None
        assert self._head is not None
        assert self._framing is not None
        if not self._framing.complete:
            self._body += self._framing.feed(self._buffer)
        if not self._framing.complete:
            return None
        head, body = self._head, bytes(self._body)
        self._head, self._framing, self._body = None, None, bytearray()
        self.wants_continue = False
        return Request(head.method, head.target, head.version, head.headers, body)

    def _read_head(self) -> bool:
        while self._buffer.startswith(b"\r\n"):  # RFC 9112 2.2: tolerate blank lines in front
            del self._buffer[:2]
        lines = _head_lines(self._buffer)
        if lines is None:
            return False
        method, _, rest = lines[0].partition(" ")
        target, _, version = rest.rpartition(" ")
        if not target or version not in {"HTTP/1.1", "HTTP/1.0"}:
            raise HttpError(400, "this is not an HTTP/1.1 request")
        headers = _headers(lines[1:])
        self._head = Request(method, target, version, headers)
        self._framing = Body(headers, max_bytes=self._max_body_bytes)
        self.wants_continue = (
            headers.get("expect", "").lower() == "100-continue" and not self._framing.complete
        )
        return True


class ResponseParser:
    """Turns bytes into one response: first its head, then its body without framing.

    Args:
        max_body_bytes: Largest body that is accepted.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray()
        self._framing: Body | None = None
        self.status = 0
        self.headers: Mapping[str, str] = {}

    @property
    def head_complete(self) -> bool:
        """Whether the head has been read."""
        return self._framing is not None

    @property
    def complete(self) -> bool:
        """Whether the body came to the end that HTTP demands."""
        return self._framing is not None and self._framing.complete

    def feed(self, data: bytes) -> bytes:
        """Take bytes in and return what of the body is in them.

        Raises:
            HttpError: When this is not HTTP, or too large.
        """
        self._buffer += data
        while self._framing is None:
            lines = _head_lines(self._buffer)
            if lines is None:
                return b""
            self._read_head(lines)
        return self._framing.feed(self._buffer)

    def eof(self) -> None:
        """Take the end of the connection in: it completes a body that has no other end."""
        if self._framing is not None and self._framing.to_eof:
            self._framing.complete = True

    def _read_head(self, lines: list[str]) -> None:
        version, _, rest = lines[0].partition(" ")
        code = rest.partition(" ")[0]
        if not version.startswith("HTTP/1.") or not (code.isdecimal() and len(code) == 3):
            raise HttpError(502, "this is not an HTTP/1.1 response")
        if code.startswith("1"):  # 100 Continue: the real head follows
            return
        self.status, self.headers = int(code), _headers(lines[1:])
        self._framing = Body(self.headers, max_bytes=self._max_body_bytes, to_eof=True)
        if self.status in {204, 304}:
            self._framing.complete = True


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return the head of a response."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {text}" for name, text in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def request(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a request, with its `content-length`."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    lines += [f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def chunk(data: bytes) -> bytes:
    """Return data framed as one chunk; nothing for no data, since an empty chunk is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _head_lines(buffer: bytearray) -> list[str] | None:
    end = buffer.find(b"\r\n\r\n")
    if end < 0 and len(buffer) <= _MAX_HEAD:
        return None
    if not 0 <= end <= _MAX_HEAD:
        raise HttpError(431, f"the head is larger than {_MAX_HEAD} bytes")
    return _take(buffer, end + 4)[:-4].decode("latin-1").split("\r\n")


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, text = line.partition(":")
        if not colon or not name or name != name.strip():
            raise HttpError(400, "a header line has no name")
        key = name.lower()
        if key == "content-length" and headers.get(key, text.strip()) != text.strip():
            raise HttpError(400, "two content-length headers contradict each other")
        headers[key] = text.strip()
    if "content-length" in headers and "transfer-encoding" in headers:
        raise HttpError(400, "a message has content-length or transfer-encoding, not both")
    return headers


def _length(headers: Mapping[str, str], max_bytes: int) -> int:
    text = headers.get("content-length", "0")
    # Not int() alone: it takes signs, underscores and foreign digits.
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HttpError(400, "content-length is not a number")
    if int(text) > max_bytes:
        raise HttpError(413, f"the body is larger than {max_bytes} bytes")
    return int(text)


def _take(buffer: bytearray, size: int) -> bytes:
    data = bytes(buffer[:size])
    del buffer[:size]
    return data
