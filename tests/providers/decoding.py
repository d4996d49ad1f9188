"""Recorded responses, ways to cut their bytes, and what a decoder made of the pieces."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from streamguard_core import AnyChunk, Chunk, ChunkKind, text_of
from streamguard_providers import (
    StreamDecoder,
    ToolFragment,
)

FIXTURES = Path(__file__).parent / "fixtures"


_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "corpora"


CORPORA = Path(os.environ.get("STREAMGUARD_CORPORA", _BESIDE))


def cuts(data: bytes, how: str, seed: int = 7) -> Iterator[bytes]:
    """Pieces of the data: whole, byte by byte, or of random sizes."""
    if how == "whole":
        yield data
        return
    sizes = random.Random(seed)
    at = 0
    while at < len(data):
        size = 1 if how == "bytes" else sizes.choice((1, 2, 3, 7, 40, 300, 2000))
        yield data[at : at + size]
        at += size


class Decoded:
    """Everything a decoder made of a response."""

    def __init__(self, decoder: StreamDecoder, pieces: Iterable[bytes]) -> None:
        self.decoder = decoder
        self.chunks: list[AnyChunk] = []
        for piece in pieces:
            if decoder.done:
                break
            self.chunks += decoder.feed(piece)
        else:
            if not decoder.done:
                self.chunks += decoder.close()
        self.failure: Exception | None = None
        try:
            decoder.check()
        except Exception as error:  # noqa: BLE001 - the tests look at it
            self.failure = error

    def text(self, kind: ChunkKind = ChunkKind.TEXT, choice: int = 0) -> str:
        """The text of one kind, of one choice."""
        return "".join(
            text_of(chunk)
            for chunk in self.chunks
            if (isinstance(chunk, str) and kind is ChunkKind.TEXT and choice == 0)
            or (isinstance(chunk, Chunk) and chunk.kind is kind and chunk.choice == choice)
        )

    def tools(self, *, own: bool = False) -> list[tuple[str | None, str | None, str]]:
        """Id, name and arguments of each tool call of the first choice; or of the functions' only."""
        calls: dict[int, list[Any]] = {}
        for chunk in self.chunks:
            if isinstance(chunk, Chunk) and chunk.kind is ChunkKind.TOOL and chunk.choice == 0:
                fragment = ToolFragment.of(chunk)
                call = calls.setdefault(fragment.index, [None, None, "", None])
                call[0] = call[0] or fragment.id
                call[1] = call[1] or fragment.name
                call[2] += chunk.text
                call[3] = call[3] or fragment.kind
        found = [call for call in calls.values() if not (own and call[3])]
        return [(call[0], call[1], call[2]) for call in found]

    def summary(self) -> tuple[object, ...]:
        """All that must not depend on how the bytes were cut."""
        decoder = self.decoder
        joined = tuple((kind, self.text(kind), self.text(kind, 1)) for kind in ChunkKind)
        return joined, self.tools(), decoder.finish, decoder.usage, decoder.model, decoder.malformed


def decoder_for(name: str) -> StreamDecoder:
    """A new decoder for a fixture, by its name."""
    if name.endswith(".ndjson"):
        return StreamDecoder.ollama()
    make = {
        "completions": StreamDecoder.openai_completions,
        "responses": StreamDecoder.openai_responses,
        "anthropic": StreamDecoder.anthropic,
        "gemini": StreamDecoder.gemini,
    }
    return make.get(name.partition(".")[0], StreamDecoder.openai_chat)()
