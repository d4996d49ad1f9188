"""Finish reasons of each choice, and what a filter held back, are told alike by every dialect."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_providers import StreamDecoder

from .decoding import Decoded
from .wire import event

FILTERED = {"index": 0, "delta": {}, "finish_reason": "content_filter"}
TEXT = {"index": 0, "text": "a", "finish_reason": "content_filter"}


def gemini(reason: Any, index: int = 0) -> dict[str, Any]:
    """A candidate's end."""
    return {"candidates": [{"index": index, "finishReason": reason}]}


def responses(reason: str) -> dict[str, Any]:
    """A response that was not completed."""
    inside = {"status": "incomplete", "incomplete_details": {"reason": reason}}
    return {"type": "response.incomplete", "response": inside}


ENDS: list[tuple[str, dict[str, Any], str | None, dict[int, str]]] = [
    ("openai-chat", {"choices": [FILTERED]}, "content_filter", {0: "content_filter"}),
    ("openai-chat", {"choices": [FILTERED | {"finish_reason": "stop"}]}, None, {0: "stop"}),
    ("openai-completions", {"choices": [TEXT]}, "content_filter", {0: "content_filter"}),
    ("openai-responses", responses("content_filter"), "content_filter", {0: "incomplete"}),
    ("openai-responses", responses("max_output_tokens"), None, {0: "incomplete"}),
    (
        "anthropic",
        {"type": "message_delta", "delta": {"stop_reason": "refusal"}},
        None,
        {0: "refusal"},
    ),
    ("gemini", {"promptFeedback": {"blockReason": "OTHER"}}, "OTHER", {}),
    ("gemini", gemini("SAFETY"), "SAFETY", {0: "SAFETY"}),
    ("gemini", gemini(3), "3", {0: "3"}),
    ("gemini", gemini("IMAGE_SAFETY", 1), "IMAGE_SAFETY", {1: "IMAGE_SAFETY"}),
    ("gemini", gemini("MAX_TOKENS"), None, {0: "MAX_TOKENS"}),
    ("ollama", {"done": True, "done_reason": "stop"}, None, {0: "stop"}),
]


@pytest.mark.parametrize(("name", "payload", "blocked", "finishes"), ENDS)
def test_what_a_response_ended_with(
    name: str, payload: dict[str, Any], blocked: str | None, finishes: dict[int, str]
) -> None:
    """Each choice has its reason, in the provider's word, and a filter's is told as one."""
    dialect = StreamDecoder.named(name).dialect
    assert (dialect.blocked, dict(dialect.finishes)) == (None, {})
    decoder = StreamDecoder.auto()
    decoder.feed(event(payload))
    decoder.close()
    assert decoder.dialect.name == name
    assert (decoder.dialect.blocked, dict(decoder.dialect.finishes)) == (blocked, finishes)


def test_several_choices_have_their_own_reasons() -> None:
    """One choice that the filter ended is enough; the first choice's reason is the stream's."""
    ends = [(0, "stop"), (1, "content_filter"), (2, "length")]
    choices = [{"index": index, "delta": {}, "finish_reason": reason} for index, reason in ends]
    got = Decoded(StreamDecoder.openai_chat(), [event({"choices": choices})])
    assert got.decoder.dialect.finishes == dict(ends)
    assert (got.decoder.finish, got.decoder.dialect.blocked) == ("stop", "content_filter")
