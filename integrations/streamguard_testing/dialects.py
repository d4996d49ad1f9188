"""Dialects: what a provider's wire format has to say to be spoken by the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from streamguard_testing.bodies import BadRequest, text_of


class Kind(Enum):
    """What a token is a part of."""

    TEXT = auto()
    REASONING = auto()
    ARGUMENTS = auto()  #: of a tool call: pieces of one JSON object


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that a request offers, as far as the engine can call it.

    Attributes:
        name: The name to call it by.
        argument: The argument that gets the generated text.
        forced: Whether the request leaves the model no choice.
        streamed: Whether its arguments may come in pieces where that is not usual (Gemini).
    """

    name: str
    argument: str = "text"
    forced: bool = False
    streamed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a request asks for, whatever its dialect.

    Attributes:
        prompt: The text whose tokens are counted; it is not kept.
        max_tokens: The caller's limit; None when it named none.
        include_usage: Whether the usage is wanted.
        continuous_usage: Whether the counters are wanted with every token (vLLM).
        empty: Whether nothing is to be generated (Ollama: load the model).
        tool: The tool that would be called.
        written: The beginning of the answer, when the conversation ends in an assistant message.
        raw: Whether the prompt is a plain text, which may end in the beginning of the answer.
        background: Whether the answer is made without a reader, to be fetched afterwards.
        events: Whether its stream consists of server-sent events.
        reasons: Whether its answer can tell reasoning from text.
    """

    model: str
    prompt: str
    stream: bool
    max_tokens: int | None = None
    seed: int | None = None
    include_usage: bool = True
    continuous_usage: bool = False
    empty: bool = False
    tool: Tool | None = None
    written: str = ""
    raw: bool = False
    background: bool = False
    events: bool = True
    reasons: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a voice knows of the answer that it is to speak.

    Attributes:
        call: The tool that this answer calls; None when it is a text.
        running_usage: Whether counters may be told before the end.
    """

    ask: Ask
    request_id: str
    prompt_tokens: int
    call: Tool | None = None
    running_usage: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer in one piece."""

    text: str = ""
    reasoning: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The counters at the end of an answer; durations in seconds.

    Invariant: reasoning <= generated.
    """

    prompt_tokens: int
    generated: int
    reasoning: int = 0
    prompt_seconds: float
    total_seconds: float


class Voice(Protocol):
    """Speaks one answer in one dialect; makes bytes and does nothing else.

    The reason for which generation ended is `stop`, `length` or `tool_calls`, whatever the dialect.
    """

    #: Whether headers are sent when work begins, or only with the first token.
    early_head: bool
    content_type: str

    def open(self) -> bytes:
        """Return what is said before the first token, together with an early head."""

    def tokens(self, kind: Kind, tokens: Sequence[str]) -> bytes:
        """Return the frames of tokens; the first call also opens the answer if need be."""

    def finish(self, reason: str) -> bytes:
        """Return what says why generation ended, where that is a frame of its own."""

    def last(self, reason: str, totals: Totals | None) -> bytes:
        """Return the rest up to and including the terminal marker; no usage when totals is None."""

    def whole(self, said: Said, reason: str, totals: Totals | None) -> bytes:
        """Return the answer in one piece, for a request that wanted no stream."""

    def error(self, status: int, message: str) -> bytes:
        """Return an error frame as it stands inside a 200, in the words of a status."""

    def carry(self, said: Mapping[str, Any]) -> bytes:
        """Return any object as the last frame of a stream."""

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

    def voice(self, turn: Turn) -> Voice:
        """Return the voice for one answer."""

    def error_body(self, status: int, message: str) -> bytes:
        """Return the body that goes with an error status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """The text of all messages, how many there are, and what the assistant has begun to say."""

    text: str
    count: int
    written: str


def conversation(body: Mapping[str, Any]) -> Conversation:
    """Read the messages of a chat."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
        raise BadRequest("'messages' must be a list of objects")
    texts = [text_of(message.get("content")) for message in messages]
    begun = bool(messages) and messages[-1].get("role") == "assistant"
    return Conversation(text="\n".join(texts), count=len(texts), written=texts[-1] if begun else "")
