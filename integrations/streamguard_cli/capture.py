"""Reads a captured response in pieces: takes `curl -i`'s headers off, and undoes the compression."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from streamguard_core import UsageError
from streamguard_providers.encodings import inflate_for

_PIECE: Final = 64 * 1024
_STATUS: Final = re.compile(rb"HTTP/[0-9.]+ +([0-9]{3})")
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")
_BEFORE: Final = b"\xef\xbb\xbf \t\r\n"
_SAMPLE: Final = 4096
_SPACE: Final = 32
_GZIP: Final = b"\x1f\x8b"
#: Control characters that a text has.
_IN_TEXT: Final = frozenset(b"\t\n\v\f\r\x1b")


@dataclass(slots=True)
class Capture:
    """A captured response.

    Args:
        pieces: the body, with its compression undone.
        status: the HTTP status, where the capture has headers.
        headers: those of the last response in it, by lower-case name.
    """

    pieces: Iterator[bytes]
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str | None:
        """What the response says it is."""
        return self.headers.get("content-type")


def read_capture(file: BinaryIO) -> Capture:
    """Begin to read a capture; the body is read when its pieces are asked for, 64 KiB at a time.

    Args:
        file: the raw body, or what `curl -i` wrote.

    Raises:
        UsageError: when it is empty or no text; says what it is and what to do.
        OSError: when it cannot be read.
    """
    start = _read(file, b"")
    if not start:
        raise UsageError("there is nothing in it")
    status, headers, start = _heads(start)
    if not start and not (start := _read(file, b"")):
        raise UsageError("there are headers in it, and no body")
    encoding = headers.get("content-encoding", "").strip().lower()
    inflate = inflate_for(encoding) if encoding and not _is_text(start) else None
    if inflate is None:
        _refuse(start, encoding)
        return Capture(_pieces(start, file), status, headers)
    inflated = (piece for raw in _pieces(start, file) for piece in inflate(raw))
    return Capture(inflated, status, headers)


def _read(file: BinaryIO, so_far: bytes) -> bytes:
    """More bytes, until there are enough to tell what it is; a pipe gives what is in it."""
    while len(so_far) < _SAMPLE:
        piece = file.read(_PIECE - len(so_far))
        if not piece:
            break
        so_far += piece
    return so_far


def _pieces(start: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield start
    while piece := file.read(_PIECE):
        yield piece


def _heads(start: bytes) -> tuple[int | None, dict[str, str], bytes]:
    """Take all heads off; there are several after a redirect or `100 Continue`."""
    status: int | None = None
    headers: dict[str, str] = {}
    while found := _STATUS.match(start):
        end = _END_OF_HEAD.search(start)
        if end is None:
            raise UsageError("it begins with the headers of a response that do not end")
        status = int(found[1])
        lines = start[: end.start()].decode("latin-1").splitlines()[1:]
        fields = [line.partition(":") for line in lines]
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        start = start[end.end() :]
    return status, headers, start


def _is_text(start: bytes) -> bool:
    """Whether these bytes may be a stream's; a few control characters are no reason against it."""
    sample = start[:_SAMPLE]
    controls = sum(byte < _SPACE and byte not in _IN_TEXT for byte in sample)
    return not start.startswith(_GZIP) and b"\0" not in sample and controls * 50 <= len(sample)


def _refuse(start: bytes, encoding: str) -> None:
    """Say what a body is that is none of a stream.

    Raises:
        UsageError: when it is none.
    """
    if start.startswith(_GZIP):
        raise UsageError(
            "it is compressed with gzip; undo that first: gzip -dc FILE | ... inspect -"
        )
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError("it is UTF-16, as some shells write it; capture with curl -o FILE")
    if not _is_text(start):
        what = (
            f"is compressed ({encoding}), which cannot be undone here" if encoding else "is no text"
        )
        raise UsageError(f"it {what}; a stream is server-sent events, lines of JSON or an array")
    if start.lstrip(_BEFORE).startswith(b"<"):
        raise UsageError("it is HTML or XML: a page of something in between, not of the provider")
    if not start.strip(_BEFORE):
        raise UsageError("there are only blanks in it")
