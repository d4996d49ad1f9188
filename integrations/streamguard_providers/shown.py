"""What a reader has been shown of an answer, as far as another attempt must know it to go on."""

from __future__ import annotations

from collections.abc import Sequence

from streamguard_core import AnyChunk, Chunk, ChunkKind
from streamguard_providers.seam import is_text, without


class Shown:
    """The chunks that are visible, as text and three facts."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.anything = False
        """Something is visible."""
        self.thought = False
        """Reasoning is visible."""
        self.joinable = True
        """All that is visible can be gone on after: no tool call, no refusal, no further choice."""

    @property
    def text(self) -> str:
        """The text of the first choice."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def add(self, batch: Sequence[AnyChunk]) -> None:
        """These were handed to the reader."""
        self.anything = True
        for chunk in batch:
            if is_text(chunk):
                self._parts.append(str(chunk))
            elif isinstance(chunk, Chunk) and chunk.kind is ChunkKind.REASONING:
                self.thought = True
            elif not isinstance(chunk, Chunk) or chunk.kind is not ChunkKind.DATA:
                self.joinable = False

    def rest_of(self, answer: str | Sequence[AnyChunk]) -> list[AnyChunk] | None:
        """What the reader has not been shown of a whole answer; None where it is another answer."""
        chunks: list[AnyChunk] = [answer] if isinstance(answer, str) else list(answer)
        text = "".join(str(chunk) for chunk in chunks if is_text(chunk))
        if self.anything and not (self.joinable and text.startswith(self.text)):
            return None
        return without(chunks, len(self.text))
