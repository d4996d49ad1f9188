"""Server-sent events as bytes: what the HTML standard (9.2.6) lets a line hold, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from streamguard_core.chunks import AnyChunk, Chunk, ChunkKind
from streamguard_core.errors import UsageError

PING: Final = b": ping\n\n"
"""A comment: keeps proxies from closing a silent connection; no client shows it."""


def encode_event(data: str, *, event: str | None = None, id: str | None = None) -> bytes:  # noqa: A002
    r"""Return one event.

    Args:
        data: any text; each of its lines gets a `data:` line of its own.
        event: the event's name.
        id: what a client sends back as `Last-Event-ID`.

    Raises:
        UsageError: when name or id hold a CR, LF or NUL, which would forge a field or be dropped.

    Example:
        >>> encode_event("two\nlines", event="note", id="7")
        b'event: note\nid: 7\ndata: two\ndata: lines\n\n'
    """
    head = f"event: {_one_line('event', event)}\n" if event is not None else ""
    if id is not None:
        head += f"id: {_one_line('id', id)}\n"
    return to_bytes(f"{head}{data_lines(data)}\n")


def data_lines(text: str) -> str:
    """Return the `data:` lines of `text`, split where the standard splits: at CR, LF and CRLF."""
    if "\n" in text or "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\ndata: ")
    return f"data: {text}\n"


def encode_batch(batch: Sequence[AnyChunk]) -> bytes:
    """Return the events of a whole batch, to be sent at once. Empty chunks have none."""
    if len(batch) == 1:
        # Where chunks come one at a time this is all there is to do, for every chunk.
        chunk = batch[0]
        if chunk.__class__ is str and chunk and "\n" not in chunk and "\r" not in chunk:
            frame = f"data: {chunk}\n\n"
            return frame.encode() if frame.isascii() else to_bytes(frame)
    frames = []
    for chunk in batch:
        if chunk.__class__ is not str:
            return b"".join(map(encode_chunk, batch))
        if "\n" in chunk or "\r" in chunk:
            frames.append(f"{data_lines(chunk)}\n")
        elif chunk:
            frames.append(f"data: {chunk}\n\n")
    return to_bytes("".join(frames))


def encode_chunk(chunk: AnyChunk, id: str | None = None) -> bytes:  # noqa: A002
    """Return the event of one chunk; raw bytes are taken to be framed already.

    Args:
        chunk: a text, a `Chunk` or bytes.
        id: the event's id, by which a reader resumes.

    Raises:
        UsageError: when `id` has a CR, LF or NUL.
    """
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, str):
        return encode_event(chunk, id=id) if chunk else b""
    if not chunk:
        return b""
    text = chunk.text or chunk.data.decode("utf-8", "replace")
    return encode_event(text, event=name_of(chunk), id=id)


def name_of(chunk: Chunk) -> str | None:
    """Return the event's name: none for the text of the first choice, so that plain clients see it."""
    if not chunk.choice:
        return None if chunk.kind is ChunkKind.TEXT else str(chunk.kind)
    return f"{chunk.kind}.{chunk.choice}"


def to_bytes(text: str) -> bytes:
    """Return UTF-8; half of a surrogate pair, which no UTF-8 can hold, becomes a question mark."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _one_line(field: str, value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise UsageError(
            f"an event was to be encoded whose {field} has a CR, LF or NUL; put such text into its data"
        )
    return value
