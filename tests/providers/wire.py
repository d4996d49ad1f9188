"""Events as the providers write them, for tests that need no more than a few."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"


def event(said: object) -> bytes:
    """A server-sent event with a JSON object."""
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def token(text: str, finish: str | None = None) -> bytes:
    """An event of a chat completion."""
    delta = {"content": text} if text else {}
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def completion(text: str, finish: str | None = None) -> bytes:
    """An event of a text completion."""
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def response(*texts: str, begun: bool = False) -> bytes:
    """The events of a response of OpenAI's; without its end when it has only `begun`."""
    about: dict[str, Any] = {"id": "resp_1", "model": "m", "status": "in_progress"}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": about}]
    for text in texts:
        part = {"item_id": "i", "output_index": 0, "content_index": 0}
        events.append({"type": "response.output_text.delta", "delta": text, **part})
    if not begun:
        usage = {"input_tokens": 3, "output_tokens": 2}
        ended = about | {"status": "completed", "usage": usage}
        events.append({"type": "response.completed", "response": ended})
    return b"".join(map(event, events))


def message(*texts: str) -> bytes:
    """The events of a whole message of Anthropic's."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    for text in texts:
        delta = {"type": "text_delta", "text": text}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
    end = {"stop_reason": "end_turn"}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 2}})
    return b"".join(map(event, [*events, {"type": "message_stop"}]))


def candidate(text: str, finish: str | None = None) -> dict[str, Any]:
    """A chunk of Gemini's."""
    said: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}}
    if finish is not None:
        said["finishReason"] = finish
    return {"candidates": [said], "modelVersion": "m"}
