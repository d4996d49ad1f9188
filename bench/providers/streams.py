"""The streams that are read: a recorded one of each dialect where the corpora are, else one of our own, made long."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CORPORA: Final = Path(
    os.environ.get("STREAMGUARD_CORPORA", Path(__file__).parents[3] / "shared" / "corpora")
)
_BLOCK: Final = 64 * 1024
_FRAME: Final = 3
"""Events at the beginning and the end of a stream that stand there once; what is between is repeated."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One long stream.

    Args:
        dialect: what it speaks.
        content_type: what its response says of it.
        separator: what ends an event on the wire.
        body: all of it.
        recorded: whether a provider wrote its events.
    """

    dialect: str
    content_type: str
    separator: bytes
    body: bytes
    recorded: bool

    @property
    def events(self) -> int:
        """How many events it has."""
        return self.body.count(self.separator)

    def block(self) -> list[bytes]:
        """As a fast network brings it: 64 KiB at a time."""
        return [self.body[at : at + _BLOCK] for at in range(0, len(self.body), _BLOCK)]

    def pieces(self) -> list[bytes]:
        """As a model brings it: an event or a few, or a part of one."""
        rng, at, cut = random.Random(7), 0, []
        while at < len(self.body):
            size = rng.randint(100, 1400)
            cut.append(self.body[at : at + size])
            at += size
        return cut


#: A recorded stream of each dialect, with many small deltas.
_RECORDED: Final[Mapping[str, str]] = {
    "openai-chat": "openai-chat.openai.75a0a5ca.sse",
    "openai-responses": "openai-responses.openai.43a7c91b.sse",
    "anthropic": "anthropic.anthropic.c6a584b9.sse",
    "gemini": "gemini.vertex.6145fbc6.sse",
    "ollama": "ollama.ollama.ad0c3395.ndjson",
}
_WORDS: Final = tuple(f"word{number} " for number in range(200))
_CHAT: Final = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
_USAGE: Final = {"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}


def stream(dialect: str, size: int) -> Stream:
    """A stream of a dialect, about `size` bytes long."""
    recorded = CORPORA / "streams" / _RECORDED[dialect]
    body = recorded.read_bytes() if recorded.exists() else b"".join(_MADE[dialect]())
    separator = b"\n" if dialect == "ollama" else b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
    events = [event + separator for event in body.split(separator) if event]
    head, middle, tail = events[:_FRAME], events[_FRAME:-_FRAME], events[-_FRAME:]
    times = max(1, size // sum(map(len, middle)))
    return Stream(
        dialect,
        "application/x-ndjson" if dialect == "ollama" else "text/event-stream",
        separator,
        b"".join(head + middle * times + tail),
        recorded.exists(),
    )


def one_event(size: int, line: int | None = None) -> bytes:
    """One event of `size` bytes of data, in one line or in lines of `line` bytes."""
    if line is None:
        return b"data: " + b"x" * size + b"\n\n"
    return (b"data: " + b"x" * line + b"\n") * (size // line) + b"\n"


def _made_chat() -> list[bytes]:
    def said(choice: Mapping[str, object]) -> bytes:
        return _data({**_CHAT, "choices": [{"index": 0, **choice}]})

    return [
        said({"delta": {"role": "assistant", "content": ""}}),
        *(said({"delta": {"content": word}, "finish_reason": None}) for word in _WORDS),
        said({"delta": {}, "finish_reason": "stop"}),
        b"data: [DONE]\n\n",
    ]


def _made_responses() -> list[bytes]:
    part = {"item_id": "i", "output_index": 0, "content_index": 0}
    return [
        _named("response.created", response={"id": "r", "status": "in_progress"}),
        *(_named("response.output_text.delta", **part, delta=word) for word in _WORDS),
        _named("response.completed", response={"id": "r", "status": "completed"}),
    ]


def _made_anthropic() -> list[bytes]:
    def block(what: str, **told: object) -> bytes:
        return _named(f"content_block_{what}", index=0, **told)

    usage = {"input_tokens": 9, "output_tokens": 1}
    stop = {"stop_reason": "end_turn"}
    return [
        _named("message_start", message={"id": "m", "model": "m", "usage": usage}),
        block("start", content_block={"type": "text", "text": ""}),
        *(block("delta", delta={"type": "text_delta", "text": word}) for word in _WORDS),
        block("stop"),
        _named("message_delta", delta=stop, usage={"output_tokens": 5}),
        _named("message_stop"),
    ]


def _made_gemini() -> list[bytes]:
    def said(candidate: Mapping[str, object]) -> bytes:
        return _data({"candidates": [candidate], "usageMetadata": _USAGE}, end=b"\r\n\r\n")

    texts = ({"content": {"role": "model", "parts": [{"text": word}]}} for word in _WORDS)
    return [*map(said, texts), said({"finishReason": "STOP"})]


def _made_ollama() -> list[bytes]:
    def line(response: str, **end: object) -> bytes:
        told = {"model": "m", "response": response, "done": bool(end), **end}
        return json.dumps(told).encode() + b"\n"

    return [*map(line, _WORDS), line("", done_reason="stop")]


def _named(kind: str, **told: object) -> bytes:
    return b"event: " + kind.encode() + b"\n" + _data({"type": kind, **told})


def _data(event: object, end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(event).encode() + end


#: Events in the form of each provider's documentation.
_MADE: Final[Mapping[str, Callable[[], list[bytes]]]] = {
    "openai-chat": _made_chat,
    "openai-responses": _made_responses,
    "anthropic": _made_anthropic,
    "gemini": _made_gemini,
    "ollama": _made_ollama,
}
