"""What the tests of the dialect of Anthropic's messages API make streams of."""

from __future__ import annotations

import json
from typing import Any

from streamguard_core import Count
from streamguard_providers import StreamDecoder

from .decoding import Decoded


def decoded(*events: bytes) -> Decoded:
    """Decode a stream."""
    return Decoded(StreamDecoder.anthropic(), events)


def said(kind: str, **fields: Any) -> bytes:
    """An event as Anthropic writes it, with its name and its padding."""
    payload = json.dumps({"type": kind, **fields}, ensure_ascii=False).encode()
    return b"event: " + kind.encode() + b"\ndata: " + payload + b"      \n\n"


def start(output: int = 1, **usage: Any) -> bytes:
    """A message begins; 12 tokens of input unless told otherwise."""
    figures = {"input_tokens": 12, **usage, "output_tokens": output}
    message = {"id": "msg_1", "model": "claude-test", "content": [], "usage": figures}
    return said("message_start", message=message)


def block(index: int = 0, kind: str = "text", **fields: Any) -> bytes:
    """A block begins."""
    return said("content_block_start", index=index, content_block={"type": kind, **fields})


def delta(kind: str, index: int = 0, **fields: Any) -> bytes:
    """A piece of a block."""
    return said("content_block_delta", index=index, delta={"type": kind, **fields})


def text(piece: str) -> bytes:
    """A piece of text."""
    return delta("text_delta", text=piece)


def arguments(piece: str, index: int = 0) -> bytes:
    """A piece of a tool call's arguments."""
    return delta("input_json_delta", index, partial_json=piece)


def stop_block(index: int = 0) -> bytes:
    """A block ends."""
    return said("content_block_stop", index=index)


def stop(reason: str | None = "end_turn", **usage: Any) -> bytes:
    """The message's reason and its final usage."""
    return said("message_delta", delta={"stop_reason": reason}, usage=usage)


END = said("message_stop")
PING = said("ping")
TOOL = {"id": "toolu_1", "name": "find"}

SMALL = b"".join(
    [
        start(input_tokens=10, cache_read_input_tokens=3, cache_creation_input_tokens=2),
        block(kind="thinking", thinking="", signature=""),
        PING,
        delta("thinking_delta", thinking="Hm."),
        delta("signature_delta", signature="c2ln"),
        stop_block(),
        block(1, text=""),
        delta("text_delta", 1, text="Grüße 🌍"),
        stop_block(1),
        block(2, "tool_use", id="toolu_1", name="find", input={}),
        arguments("", 2),
        arguments('{"q": "', 2),
        arguments('\u2028"}', 2),
        stop_block(2),
        stop("tool_use", output_tokens=41, output_tokens_details={"thinking_tokens": 5}),
        END,
    ]
)


def holds(bounds: Count, true: int) -> bool:
    """True when a count allows the true number."""
    return bounds.lower <= true and (bounds.upper is None or true <= bounds.upper)
