"""Dialects: what a provider's wire format has to say to be spoken by the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class BadRequest(ValueError):
    """The body of a request is not what its dialect asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a request asks for, whatever its dialect.

    Attributes:
        prompt: The text whose tokens are counted; it is not kept.
        max_tokens: The caller's limit; None when it named none.
        include_usage: Whether the usage is wanted.
        empty: Whether nothing is to be generated (Ollama: load the model).
    """

    model: str
    prompt: str
    stream: bool
    max_tokens: int | None = None
    seed: int | None = None
    include_usage: bool = True
    empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The counters at the end of an answer; durations in seconds."""

    prompt_tokens: int
    generated: int
    prompt_seconds: float
    total_seconds: float


class Voice(Protocol):
    """Speaks one answer in one dialect; makes bytes and does nothing else."""

    #: Whether headers are sent when work begins, or only with the first token.
    early_head: bool
    content_type: str

    def tokens(self, tokens: Sequence[str]) -> bytes:
        """Return the frames of tokens; the first call also opens the answer."""

    def finish(self, reason: str) -> bytes:
        """Return what says why generation ended, where that is a frame of its own."""

    def last(self, reason: str, totals: Totals | None) -> bytes:
        """Return the rest up to and including the terminal marker; no usage when totals is None."""

    def whole(self, text: str, reason: str, totals: Totals | None) -> bytes:
        """Return the answer in one piece, for a request that wanted no stream."""

    def error(self, message: str) -> bytes:
        """Return an error frame as it stands inside a 200."""

    def idle(self) -> bytes:
        """Return bytes that say nothing (a comment, a blank line)."""


class Dialect(Protocol):
    """One endpoint of a provider: reads requests, answers with a voice."""

    name: str

    def ask(self, body: Mapping[str, Any]) -> Ask:
        """Read a request.

        Raises:
            BadRequest: When it is not what this dialect asks for.
        """

    def voice(self, ask: Ask, request_id: str) -> Voice:
        """Return the voice for one answer."""

    def error_body(self, status: int, message: str) -> bytes:
        """Return the body that goes with an error status."""


def encode(value: object) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def decode(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object that a body is.

    Raises:
        BadRequest: When it is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def string(body: Mapping[str, Any], name: str) -> str:
    """Return a field that must be a text and must be there."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name!r} must be a text that is not empty")
    return value


def integer(body: Mapping[str, Any], name: str) -> int | None:
    """Return a field that must be an integer if it is there."""
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise BadRequest(f"{name!r} must be an integer")
    return value


def flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return a field that must be true or false if it is there."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name!r} must be true or false")
    return default if value is None else value


def mapping(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a field that must be an object if it is there."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(f"{name!r} must be an object")
    return value or {}


def messages_text(body: Mapping[str, Any]) -> tuple[str, int]:
    """Return the text of all messages of a chat, and how many messages there are."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise BadRequest("'messages' must be a list of objects")
    return "\n".join(_content(message.get("content")) for message in messages), len(messages)


def _content(content: object) -> str:
    """Return the text of a message: a text, or a list of parts of which some are texts."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise BadRequest("the 'content' of a message must be a text or a list of parts")
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))
