"""The cheapest ways to read a stream, which take it on trust: what ours are measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec


def split(pieces: Iterable[bytes], separator: bytes) -> Iterator[bytes]:
    """Cut at `separator`, and trust that nothing else ever ends an event."""
    rest = b""
    for piece in pieces:
        parts = (rest + piece).split(separator)
        rest = parts.pop()
        yield from parts


def events(pieces: Iterable[bytes], separator: bytes) -> int:
    """Split only: each event's bytes as they lie there."""
    return sum(1 for _ in split(pieces, separator))


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class Chat(msgspec.Struct, gc=False):
    """The fields of a chat chunk that a unified stream needs."""

    model: str | None = None
    choices: list[_Choice] = []
    usage: dict[str, Any] | None = None


class Responses(msgspec.Struct, gc=False):
    """Those of a Responses event."""

    type: str | None = None
    delta: Any = None
    response: msgspec.Raw = msgspec.Raw()


class _AnthropicDelta(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class Anthropic(msgspec.Struct, gc=False):
    """Those of an Anthropic event."""

    type: str | None = None
    index: int = 0
    delta: _AnthropicDelta | None = None
    usage: dict[str, Any] | None = None


class _Part(msgspec.Struct, gc=False):
    text: str | None = None
    thought: bool = False


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] = []


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class Gemini(msgspec.Struct, gc=False, rename="camel"):
    """Those of a Gemini chunk."""

    candidates: list[_Candidate] = []
    usage_metadata: dict[str, Any] | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None


class Ollama(msgspec.Struct, gc=False):
    """Those of an Ollama line."""

    message: _Message | None = None
    response: str | None = None
    done: bool = False
    done_reason: str | None = None


DECODERS: Final[Mapping[str, Callable[[bytes], object]]] = {
    "openai-chat": msgspec.json.Decoder(Chat).decode,
    "openai-responses": msgspec.json.Decoder(Responses).decode,
    "anthropic": msgspec.json.Decoder(Anthropic).decode,
    "gemini": msgspec.json.Decoder(Gemini).decode,
    "ollama": msgspec.json.Decoder(Ollama).decode,
}


def typed(pieces: Iterable[bytes], separator: bytes, dialect: str) -> int:
    """Split, then decode each payload into one flat struct; nothing is unified, nothing is checked."""
    decode, count = DECODERS[dialect], 0
    for event in split(pieces, separator):
        payload = event if dialect == "ollama" else event.partition(b"data: ")[2]
        if payload != b"[DONE]":
            decode(payload)
        count += 1
    return count
