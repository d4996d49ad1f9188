"""How a stream looks on the wire: events, lines of JSON, plain text, or bytes as they are."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final, Protocol

import msgspec

from streamguard_core import sse
from streamguard_core.causes import Category, Cause
from streamguard_core.chunks import AnyChunk, Chunk, ChunkKind, text_of

STREAM_ID_HEADER: Final = "streamguard-stream-id"
"""Names the stream to its reader, who can ask for the receipt with it, also after an abort."""

_ERRORS: Final[dict[Category, str]] = {
    Category.CONSUMER: "The answer could not be delivered.",
    Category.SHUTDOWN: "The server is shutting down.",
    Category.OPERATOR: "The stream was ended by the application.",
    Category.TIMEOUT: "The model took too long.",
    Category.POLICY: "The stream was ended by a policy.",
    Category.PRODUCER: "The model failed.",
    Category.SYSTEM: "The server failed.",
}
"""What a reader is told. Fixed words: a provider's own text may quote keys or prompts."""


class End(msgspec.Struct, frozen=True):
    """The data of `eos`: how the stream ended, for the reader. Without `error` nothing went wrong."""

    cause: str
    category: str
    finish: str | None
    committed: int
    stream_id: str
    error: str | msgspec.UnsetType = msgspec.UNSET
    retry: int | msgspec.UnsetType = msgspec.UNSET
    """After how many milliseconds it is worth asking again: another process serves by then."""

    @classmethod
    def of(cls, cause: Cause, finish: str | None, committed: int, stream_id: str) -> End:
        """Say how a stream ended; completion and what the reader itself chose are no errors.

        Args:
            cause: of the stream.
            finish: the provider's word at its end, if it said one.
            committed: how many chunks the reader is owed in all.
            stream_id: of the stream; readers resume by it.
        """
        error = _ERRORS.get(cause.category, msgspec.UNSET)
        retry = _retry(stream_id) if cause is Cause.SHUTDOWN else msgspec.UNSET
        return cls(str(cause), str(cause.category), finish, committed, stream_id, error, retry)


def _retry(stream_id: str) -> int:
    """From one to three seconds, different for each stream: readers must not come back all at once."""
    return 1000 + zlib.crc32(stream_id.encode()) % 2000


class Format(Protocol):
    """Turns batches of chunks into bytes for one reader."""

    media_type: str
    ping: bytes
    """What keeps a silent connection alive; empty where nothing could be sent unseen."""

    def encode(self, batch: Sequence[AnyChunk]) -> bytes:
        """The bytes of a batch."""

    def end(self, end: End) -> bytes | None:
        """The explicit end; None where the format cannot say that something went wrong."""


class Events:
    """Server-sent events: the default.

    Args:
        first_id: number the events with commit offsets from here on; None for events without ids.
        prefix: stands before each number, and names the stream (`ResumePoint.prefix`); then the end
            has an id as well, with which a reader that has everything says so.
    """

    media_type = "text/event-stream"
    ping = sse.PING

    def __init__(self, first_id: int | None = None, prefix: str = "") -> None:
        self._offset = first_id or 0
        self._prefix = prefix
        self.shown = self._offset
        """The offset of the last chunk that has a numbered event: empty ones have none."""
        # Called per batch: without ids there is nothing to do but to encode.
        self.encode = sse.encode_batch if first_id is None else self._encode_numbered

    def _encode_numbered(self, batch: Sequence[AnyChunk]) -> bytes:
        return b"".join(map(self._number, batch))

    def end(self, end: End) -> bytes:
        """The event `eos`; with the field that tells an `EventSource` when to reconnect, where it should."""
        if end.retry is not msgspec.UNSET:
            again = b"retry: %d\n" % end.retry
        else:
            # Who is not to come back says with this id that it has everything.
            again = f"id: {self._prefix}end\n".encode() if self._prefix else b""
        return b"event: eos\n" + again + b"data: " + msgspec.json.encode(end) + b"\n\n"

    def _number(self, chunk: AnyChunk) -> bytes:
        """The id is the resume point: how many chunks were committed up to and with this one."""
        self._offset += 1
        event = sse.encode_chunk(chunk, f"{self._prefix}{self._offset}")
        if event and chunk.__class__ is not bytes:
            self.shown = self._offset
        return event


class ToldEvents:
    """Numbered events, of which somebody is told before they are sent.

    Args:
        events: what is sent.
        sending: told up to which commit offset the reader will have events.
    """

    media_type = Events.media_type
    ping = Events.ping

    def __init__(self, events: Events, sending: Callable[[int], None]) -> None:
        self._events = events
        self._sending = sending

    def encode(self, batch: Sequence[AnyChunk]) -> bytes:
        """See `Format`."""
        body = self._events.encode(batch)
        self._sending(self._events.shown)
        return body

    def end(self, end: End) -> bytes:
        """See `Events`."""
        return self._events.end(end)


class Lines:
    """One JSON object per line: `{"text": ...}`, at the end `{"eos": {...}}`."""

    media_type = "application/x-ndjson"
    ping = b"\n"

    def encode(self, batch: Sequence[AnyChunk]) -> bytes:
        """See `Format`."""
        return b"".join(map(_line, batch))

    def end(self, end: End) -> bytes:
        """The line `eos`."""
        return msgspec.json.encode({"eos": end}) + b"\n"


class Text:
    """The text alone. A failure cannot be told apart in it, so the connection is broken off instead."""

    media_type = "text/plain"
    ping = b""

    def encode(self, batch: Sequence[AnyChunk]) -> bytes:
        """See `Format`."""
        if len(batch) == 1:
            return _text(batch[0])
        return b"".join(map(_text, batch))

    def end(self, end: End) -> bytes | None:
        """Nothing is added to a text."""
        return b"" if end.error is msgspec.UNSET else None


class Raw(Text):
    """What an application framed itself: passed on as it is, under its own headers.

    Args:
        ping: what may be sent between two chunks, if anything.
    """

    media_type = "application/octet-stream"

    def __init__(self, ping: bytes = b"") -> None:
        self.ping = ping


_LINES: Final = (Lines.media_type, "application/jsonl")


def messages(batch: Sequence[AnyChunk]) -> list[bytes]:
    """The lines of a batch as messages of their own, for a transport that has some.

    What stands together and is alike (text of one choice, say) is one message: each costs a send.
    Empty chunks have none.

    Example:
        >>> messages(["never ", "again"])
        [b'{"text":"never again"}']
    """
    found: list[bytes] = []
    for alike, chunks in groupby(batch, _kind_of):
        if alike is None:
            found += [line for line in map(_message, chunks) if line]
        elif text := "".join(map(text_of, chunks)):
            found.append(_message(Chunk(text, kind=alike[0], choice=alike[1])))
    return found


_RUNNING_ON: Final = (ChunkKind.TEXT, ChunkKind.REASONING, ChunkKind.REFUSAL)
"""Kinds whose chunks are parts of one text; each of the others is something by itself."""


def _kind_of(chunk: AnyChunk) -> tuple[ChunkKind, int] | None:
    """What two chunks have in common that may be one message; None for those that stay alone."""
    if isinstance(chunk, str):
        return ChunkKind.TEXT, 0
    if isinstance(chunk, Chunk) and chunk.kind in _RUNNING_ON and not chunk.data:
        return chunk.kind, chunk.choice
    return None


def _message(chunk: AnyChunk) -> bytes:
    return _line(chunk).removesuffix(b"\n")


def form_of(media_type: str, first_id: int | None = None) -> Format:
    """Return the format of a media type; what is none of ours is passed on as the bytes that are made.

    Args:
        media_type: as in a `Content-Type`, with or without parameters.
        first_id: see `Events`.
    """
    bare = media_type.partition(";")[0].strip().lower()
    if bare == Events.media_type:
        return Events(first_id)
    if bare in _LINES:
        return Lines()
    return Text() if bare == Text.media_type else Raw()


def id_header(stream_id: str | None) -> dict[str, str]:
    """The header that names the stream to its reader; none where the id cannot stand in a header."""
    if stream_id is None or not (stream_id.isascii() and stream_id.isprintable()):
        return {}
    return {STREAM_ID_HEADER: stream_id}


def choose(accept: str, first_id: int | None = None) -> Format:
    """Return the format a reader likes best; server-sent events where it does not care.

    Args:
        accept: the request's `Accept` header.
        first_id: see `Events`.
    """
    for wanted in _by_preference(accept.lower().split(",")):
        if wanted in _LINES:
            return Lines()
        if wanted == "text/plain":
            return Text()
        if wanted in ("text/event-stream", "text/*", "*/*"):
            break
    return Events(first_id)


def _by_preference(ranges: Iterable[str]) -> list[str]:
    """Media ranges by their `q`, best first; those refused with `q=0` are left out."""
    weighed = []
    for each in ranges:
        wanted, *parameters = (part.strip() for part in each.split(";"))
        weighed.append((_weight(parameters), wanted))
    return [wanted for weight, wanted in sorted(weighed, key=_first, reverse=True) if weight > 0]


def _first(weighed: tuple[float, str]) -> float:
    return weighed[0]


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _line(chunk: AnyChunk) -> bytes:
    if isinstance(chunk, bytes):
        return chunk
    if not chunk:
        return b""
    said: dict[str, str | int] = {"text": _clean(_shown(chunk))}
    if isinstance(chunk, Chunk):
        said |= {"kind": str(chunk.kind)} if chunk.kind is not ChunkKind.TEXT else {}
        said |= {"choice": chunk.choice} if chunk.choice else {}
    return msgspec.json.encode(said) + b"\n"


def _text(chunk: AnyChunk) -> bytes:
    if isinstance(chunk, str):
        return sse.to_bytes(chunk)
    if isinstance(chunk, bytes):
        return chunk
    return b"" if chunk.kind is not ChunkKind.TEXT else sse.to_bytes(_shown(chunk))


def _shown(chunk: Chunk | str) -> str:
    return chunk if isinstance(chunk, str) else chunk.text or chunk.data.decode("utf-8", "replace")


def _clean(text: str) -> str:
    """JSON is UTF-8 as well: see `sse.to_bytes`."""
    return text if text.isascii() else sse.to_bytes(text).decode()
