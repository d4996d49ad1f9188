"""What a response came to: its text, its tool calls, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from streamguard_core import (
    NO_USAGE,
    AnyChunk,
    Chunk,
    ChunkKind,
    TruncatedStream,
    Usage,
    UsageError,
    size_of,
)
from streamguard_providers.dialects import ToolFragment
from streamguard_providers.errors import ProviderError

MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024
#: So many short parts are joined to a longer one: what they hold counts, not how many they are.
_JOIN_AT: Final = 1024
#: What an entry of its own (a choice, a tool call) is reckoned to take beside its text.
_ENTRY_BYTES: Final = 256


class EndState(StrEnum):
    """How a provider's response ended; exactly one for each response."""

    COMPLETED = "completed"
    """The terminal marker was seen, with a finish reason: stop, length, tool calls, ..."""
    COMPLETED_UNCONFIRMED = "completed_unconfirmed"
    """The terminal marker was seen, but no finish reason for it."""
    BLOCKED = "blocked"
    """The provider's filter withheld the answer, or the rest of it."""
    REFUSED = "refused"
    """The model declined to answer."""
    PROVIDER_ERROR = "provider_error"
    """The provider reported an error inside the stream, or sent something that is no stream."""
    TRUNCATED = "truncated"
    """The bytes ended, or could not be read on, before the terminal marker."""
    STALLED = "stalled"
    """Bytes came, but nothing of an answer, for longer than the idle timeout."""
    CANCELLED = "cancelled"
    """Whoever was reading stopped before the end."""


#: Reasons that cut an answer off wherever it was.
_CUT_OFF: Final = frozenset({"length", "max_tokens", "incomplete", "model_context_window_exceeded"})
#: Reasons that announce calls: then one without arguments is whole, and takes none.
_CALLING: Final = frozenset({"tool_calls", "function_call", "tool_use"})
#: Finish reasons that say that the provider itself broke off.
BROKE_OFF: Final = frozenset({"error", "insufficient_system_resource", "network_error"})
_INTERRUPTED: Final = BROKE_OFF | {"content_filter", "refusal", "malformed_function_call"}
#: Calls of the application's own whose arguments are any text instead of JSON.
_FREE_TEXT: Final = frozenset({"custom_tool_call"})
_WHOLE: Final = frozenset({EndState.COMPLETED, EndState.BLOCKED, EndState.REFUSED})


class Obstacle(StrEnum):
    """Why a tool call must not be executed."""

    FOREIGN = "foreign"
    """It is not the application's to execute: the provider runs it."""
    INTERRUPTED = "interrupted"
    """The response ended before its own end, or was withheld."""
    TOO_LARGE = "too_large"
    """Its arguments passed the accumulator's limit and were not kept."""
    UNNAMED = "unnamed"
    """Nothing that came names its tool."""
    NOT_JSON = "not_json"
    """Its arguments are not one whole JSON object."""


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call as it came, whole or not.

    Args:
        choice: index of the choice it belongs to.
        index: its number within the choice, in order of appearance.
        id: the provider's name for the call.
        name: the tool's name.
        arguments: the arguments' text, as far as it came; made by a model, so do not log it.
        kind: the provider's word for a call that is not the application's to execute.
        obstacle: why it must not be executed; None when it may be.
    """

    choice: int = 0
    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    kind: str | None = None
    obstacle: Obstacle | None = None

    @property
    def executable(self) -> bool:
        """True when the application may execute it: whole, of a response that ended by itself."""
        return self.obstacle is None

    def __repr__(self) -> str:
        how = self.obstacle or "executable"
        return f"<ToolCall {self.choice}.{self.index}, {len(self.arguments)} characters, {how}>"


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a response ended and what is known of it; the last item of an opened stream.

    Args:
        state: which ending it was.
        dialect: the name of the dialect; None where it could not be told.
        model: what the provider calls the model.
        finish: the finish reason of the first choice, in the provider's own word.
        finishes: the finish reason of each choice that has one.
        usage: tokens as reported, normalised, with the reported object in `usage.reported`;
            what was not reported is unknown.
        usage_partial: True when the figures are those of a response that went on: lower bounds.
        tool_calls: the tool calls of all choices.
        refusal: what the model said when it declined, where that comes apart from the text.
        blocked: why a filter blocked the prompt or the answer, in the provider's own word.
        error: the error that the provider reported.
        cause: what the bytes ended with, where that was an exception.
        malformed: payloads that could not be read and were skipped.
        unterminated: the last event lacked its end and was taken all the same, as it was whole.
    """

    state: EndState
    dialect: str | None = None
    model: str | None = None
    finish: str | None = None
    finishes: Mapping[int, str] = msgspec.field(default_factory=dict)
    usage: Usage = NO_USAGE
    usage_partial: bool = False
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    blocked: str | None = None
    error: ProviderError | None = None
    cause: Exception | None = None
    malformed: int = 0
    unterminated: bool = False

    @property
    def complete(self) -> bool:
        """True when the provider's own end was seen, with its reason: nothing is missing."""
        return self.state in _WHOLE

    @property
    def reported(self) -> Mapping[str, Any] | None:
        """The provider's usage object, verbatim."""
        return self.usage.reported

    def check(self) -> None:
        """Raise if what was received is not the whole answer.

        Raises:
            ProviderError: when the provider reported an error.
            TruncatedStream: when the terminal marker was not seen, for whatever reason.
        """
        if self.error is not None:
            raise self.error
        if not self.complete and self.state is not EndState.COMPLETED_UNCONFIRMED:
            raise TruncatedStream(
                f"the stream ended in state {self.state.value!r}, without its terminal marker;"
                " what was received is not the whole answer"
            ) from self.cause

    def __repr__(self) -> str:
        calls = f", {len(self.tool_calls)} tool calls" if self.tool_calls else ""
        return f"<End {self.state.value}, finish {self.finish!r}{calls}>"


class StreamAccumulator:
    """Keeps what the chunks of one response add up to, per choice, in bounded memory.

    It takes the chunks of any dialect. Past its limit it keeps nothing more, so that what it has is
    a beginning of the answer, and goes on counting.

    Args:
        max_output_bytes: how much it keeps of text, thoughts, refusals and tool calls together; 0
            keeps counts only.

    Raises:
        UsageError: when the limit is negative.

    Example:
        >>> accumulator = StreamAccumulator()
        >>> accumulator.extend(["Hello, ", "world"])
        >>> accumulator.text()
        'Hello, world'
    """

    __slots__ = ("_calls", "_full", "_kept", "_max", "_parts", "_sizes", "chunks", "dropped_bytes")

    def __init__(self, max_output_bytes: int = MAX_OUTPUT_BYTES) -> None:
        if max_output_bytes < 0:
            raise UsageError(f"max_output_bytes={max_output_bytes} was given; it is at least 0")
        self._max = max_output_bytes
        self._kept = 0
        self._full = False
        self._parts: dict[tuple[int, ChunkKind], _Parts] = {}
        self._sizes: dict[ChunkKind, int] = dict.fromkeys(ChunkKind, 0)
        self._calls: dict[tuple[int, int], _Call] = {}
        self.chunks = 0
        """How many chunks were taken in."""
        self.dropped_bytes = 0
        """What came after the limit was reached and was not kept."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.chunks} chunks, {self._kept} bytes kept>"

    def add(self, chunk: AnyChunk) -> None:
        """Take a chunk in."""
        self.chunks += 1
        if isinstance(chunk, str):
            self._text(chunk, 0, ChunkKind.TEXT)
        elif isinstance(chunk, bytes):
            self._sizes[ChunkKind.DATA] += len(chunk)
        elif chunk.kind is ChunkKind.TOOL:
            self._tool(chunk)
        elif chunk.kind is ChunkKind.DATA:
            self._sizes[ChunkKind.DATA] += len(chunk)
        else:
            self._text(chunk.text, chunk.choice, chunk.kind)

    def extend(self, chunks: Iterable[AnyChunk]) -> None:
        """Take chunks in, in order."""
        for chunk in chunks:
            self.add(chunk)

    def text(self, choice: int = 0) -> str:
        """The text of a choice."""
        return self._joined(choice, ChunkKind.TEXT)

    def reasoning(self, choice: int = 0) -> str:
        """The thoughts of a choice."""
        return self._joined(choice, ChunkKind.REASONING)

    def refusal(self, choice: int = 0) -> str:
        """What a choice says instead of an answer, where that comes apart from the text."""
        return self._joined(choice, ChunkKind.REFUSAL)

    def size(self, kind: ChunkKind) -> int:
        """Bytes of that kind in all choices, kept or not; of tool calls, those of the arguments."""
        return self._sizes[kind]

    @property
    def choices(self) -> list[int]:
        """The indexes of the choices of which something was kept."""
        return sorted({choice for choice, _ in (*self._parts, *self._calls)})

    def tool_calls(
        self, finishes: Mapping[int, str] = MappingProxyType({})
    ) -> tuple[ToolCall, ...]:
        """The tool calls, by choice and in order of appearance.

        Args:
            finishes: the finish reasons of the choices that have ended by themselves. Calls of
                others are interrupted.
        """
        return tuple(
            call.told(choice, index, finishes.get(choice))
            for (choice, index), call in sorted(self._calls.items(), key=lambda item: item[0][0])
        )

    def _joined(self, choice: int, kind: ChunkKind) -> str:
        parts = self._parts.get((choice, kind))
        return "" if parts is None else parts.joined()

    def _text(self, text: str, choice: int, kind: ChunkKind) -> None:
        size = size_of(text)
        self._sizes[kind] += size
        parts = self._parts.get((choice, kind))
        if not self._keeps(size if parts is not None else size + _ENTRY_BYTES, size):
            return
        if parts is None:
            parts = self._parts[choice, kind] = _Parts()
        parts.add(text)

    def _tool(self, chunk: Chunk) -> None:
        fragment = ToolFragment.of(chunk)
        size = size_of(chunk.text)
        self._sizes[ChunkKind.TOOL] += size
        key = (chunk.choice, fragment.index)
        call = self._calls.get(key)
        # A name is kept with its first piece only; later ones do not count.
        entry = 0 if call is not None else _ENTRY_BYTES + _length(fragment.id, fragment.name)
        if not self._keeps(size + entry, size):
            if call is not None and size:
                call.dropped = True
            return
        if call is None:
            call = self._calls[key] = _Call()
        call.take(fragment, chunk.text)

    def _keeps(self, needed: int, size: int) -> bool:
        """Whether there is room; once there was none, nothing more is kept."""
        if self._full or self._kept + needed > self._max:
            self._full = True
            self.dropped_bytes += size
            return False
        self._kept += needed
        return True


class _Parts:
    """Text in pieces."""

    __slots__ = ("_joined", "_short")

    def __init__(self) -> None:
        self._joined: list[str] = []
        self._short: list[str] = []

    def add(self, text: str) -> None:
        self._short.append(text)
        if len(self._short) >= _JOIN_AT:
            self._joined.append("".join(self._short))
            self._short.clear()

    def joined(self) -> str:
        text = "".join([*self._joined, *self._short])
        self._joined, self._short = [text], []
        return text


class _Call:
    """A tool call that may go on."""

    __slots__ = ("_arguments", "_first", "dropped")

    def __init__(self) -> None:
        self._first = ToolFragment()
        self._arguments = _Parts()
        self.dropped = False

    def take(self, fragment: ToolFragment, arguments: str) -> None:
        first = self._first
        self._first = ToolFragment(
            id=first.id or fragment.id,
            name=first.name or fragment.name,
            kind=first.kind or fragment.kind,
        )
        if arguments:
            self._arguments.add(arguments)

    def told(self, choice: int, index: int, finish: str | None) -> ToolCall:
        arguments = self._arguments.joined()
        first = self._first
        return ToolCall(
            choice=choice,
            index=index,
            id=first.id,
            name=first.name,
            arguments=arguments,
            kind=first.kind,
            obstacle=self._obstacle(arguments, finish),
        )

    def _obstacle(self, arguments: str, finish: str | None) -> Obstacle | None:
        kind = self._first.kind
        if kind is not None and kind not in _FREE_TEXT:
            return Obstacle.FOREIGN
        if finish is None or finish.lower() in _INTERRUPTED:
            return Obstacle.INTERRUPTED
        if self.dropped:
            return Obstacle.TOO_LARGE
        if not self._first.name:
            return Obstacle.UNNAMED
        if kind is None:
            whole = _is_object(arguments) or (not arguments and finish in _CALLING)
            return None if whole else Obstacle.NOT_JSON
        # Nothing in a text tells whether it is whole.
        return Obstacle.INTERRUPTED if finish.lower() in _CUT_OFF else None


def _length(*values: str | None) -> int:
    return sum(size_of(value) for value in values if value)


def _is_object(text: str) -> bool:
    """True for one whole JSON object, as the standard has it: without NaN and Infinity."""
    try:
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)


def _refuse(constant: str) -> object:
    raise ValueError(constant)
