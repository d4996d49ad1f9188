"""Joins the rest of an answer to what the reader has of it, so that nothing is there twice.

A provider that is asked to go on after a text may repeat it, or its last words. Whether it does shows
only after some characters, so the first ones are held back: as long as they stand somewhere in the
text and could lead up to its end. Most continuations differ after a word or two.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from streamguard_core import AnyChunk, Chunk, ChunkKind

SHORTEST_OVERLAP: Final = 24
"""Characters: fewer that are equal may well be meant (`very, very`)."""
SHORTEST_WHOLE: Final = 8
"""Characters of a text which a provider is believed to have begun again from its start."""


def is_text(chunk: AnyChunk) -> bool:
    """Whether a chunk is text of the answer's first choice: what can be gone on after."""
    if isinstance(chunk, Chunk):
        return chunk.kind is ChunkKind.TEXT and chunk.choice == 0
    return isinstance(chunk, str)


def overlap(prefix: str, rest: str, shortest: int = SHORTEST_OVERLAP) -> int:
    """How many characters at the start of `rest` repeat the end of `prefix`, or all of it.

    >>> overlap("It was the best of times, it was", "the best of times, it was the worst", 12)
    25
    >>> overlap("It was very", "very late")
    0
    """
    if len(prefix) >= SHORTEST_WHOLE and rest.startswith(prefix):
        return len(prefix)
    for length in range(min(len(prefix), len(rest)), shortest - 1, -1):
        if prefix.endswith(rest[:length]):
            return length
    return 0


class Seam:
    """The place where one attempt's chunks are joined to the text so far.

    Invariant: what comes out is what went in, less at most one repetition of the prefix's end.

    Args:
        prefix: the text the reader has; empty where the answer only begins.
        shortest: characters from which on equal ones are a repetition; 0 takes nothing for one.
        thought: the reader has been shown reasoning: a model that thinks again does so unseen.
    """

    def __init__(
        self, prefix: str, *, shortest: int = SHORTEST_OVERLAP, thought: bool = False
    ) -> None:
        self._prefix = prefix
        self._shortest = shortest
        self._thought = thought
        self._at = 0
        """Where in the prefix the held text stands first."""
        self._held: list[AnyChunk] = []
        self._text = ""
        self._open = bool(prefix) and shortest > 0

    def pass_on(self, batch: list[AnyChunk]) -> list[AnyChunk]:
        """The chunks that can be released now."""
        if self._thought:
            batch = [chunk for chunk in batch if not _is_reasoning(chunk)]
        if not self._open:
            return batch
        self._held += batch
        self._text += "".join(str(chunk) for chunk in batch if is_text(chunk))
        return [] if self._may_lead_on() else self._decide()

    def end(self) -> list[AnyChunk]:
        """The answer is over: what is still held."""
        return self._decide() if self._open else []

    def _may_lead_on(self) -> bool:
        """Whether more text could make what is held a repetition, or a longer one."""
        prefix, text = self._prefix, self._text
        if not text:
            return True
        # A place behind the first one cannot be one before it later on.
        if not prefix.startswith(text, self._at):
            self._at = prefix.find(text, self._at)
        whole = self._at == 0 and len(prefix) >= SHORTEST_WHOLE
        far = 0 <= self._at <= len(prefix) - self._shortest
        return (whole or far) and self._at + len(text) < len(prefix)

    def _decide(self) -> list[AnyChunk]:
        self._open = False
        held, self._held = self._held, []
        return without(held, overlap(self._prefix, self._text, self._shortest))


def without(chunks: list[AnyChunk], characters: int) -> list[AnyChunk]:
    """The chunks less so many characters of text at their start."""
    rest: list[AnyChunk] = []
    for chunk in chunks:
        if not characters or not is_text(chunk):
            rest.append(chunk)
            continue
        text = str(chunk)
        dropped = min(characters, len(text))
        characters -= dropped
        if dropped < len(text):
            kept = text[dropped:]
            rest.append(replace(chunk, text=kept) if isinstance(chunk, Chunk) else kept)
    return rest


def _is_reasoning(chunk: AnyChunk) -> bool:
    return isinstance(chunk, Chunk) and chunk.kind is ChunkKind.REASONING
