"""The unit a producer emits: a `Chunk`, for which a plain `str` may always stand."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ChunkKind(StrEnum):
    """What a chunk carries; all kinds are billed, not all are shown to the reader."""

    TEXT = "text"
    REASONING = "reasoning"
    REFUSAL = "refusal"
    TOOL = "tool"
    DATA = "data"


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """What is handed over at once; may hold several model tokens or half of one.

    Args:
        text: the text of the chunk, in the model's words; may be empty for `data` chunks.
        kind: what the text is.
        data: opaque bytes for the consumer (a provider's own frame, a tool call's arguments).
        choice: index of the choice (OpenAI `n > 1`); 0 where there is one.
    """

    text: str = ""
    kind: ChunkKind = ChunkKind.TEXT
    data: bytes = b""
    choice: int = 0

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return len(self.text) + len(self.data)

    def __bool__(self) -> bool:
        """True when there is content; a chunk without any does not reset the idle deadline."""
        return bool(self.text or self.data)


AnyChunk = Chunk | str | bytes
"""What a producer may emit: a `Chunk`, its text alone, or raw bytes."""


def text_of(chunk: AnyChunk) -> str:
    """The text of a chunk; empty for raw bytes, which only the adapter that sent them understands."""
    if isinstance(chunk, str):
        return chunk
    return chunk.text if isinstance(chunk, Chunk) else ""


def size_of(chunk: AnyChunk) -> int:
    """Bytes a chunk occupies in a buffer: UTF-8 length of its text plus its data."""
    if isinstance(chunk, str):
        # ASCII strings (most tokens) know their UTF-8 length without encoding.
        return len(chunk) if chunk.isascii() else len(chunk.encode("utf-8", "surrogatepass"))
    if isinstance(chunk, Chunk):
        return size_of(chunk.text) + len(chunk.data)
    return len(chunk)


def buffer_size(item: object) -> int:
    """`size_of` a chunk; 0 for anything else a pulled iterator may yield (an SDK's event object)."""
    return size_of(item) if isinstance(item, str | bytes | Chunk) else 0
