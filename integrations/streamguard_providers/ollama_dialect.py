"""The dialect of Ollama's own API: `/api/chat` and `/api/generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from streamguard_core import AnyChunk, Chunk, ChunkKind, Usage
from streamguard_providers.dialects import (
    UNREADABLE,
    DialectBase,
    ToolFragment,
    items_in,
    mapping_in,
    number_in,
    raw_in,
    text_in,
    tool_chunk,
)


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    # An object, unlike OpenAI's text; handed on as it was written.
    arguments: msgspec.Raw = msgspec.Raw()
    index: int | None = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None
    id: str | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Said(msgspec.Struct, gc=False):
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool | None = False
    done_reason: str | None = None
    error: Any = None
    model: str | None = None
    total_duration: int | float | None = None
    load_duration: int | float | None = None
    prompt_eval_count: int | float | None = None
    prompt_eval_duration: int | float | None = None
    eval_count: int | float | None = None
    eval_duration: int | float | None = None


_DECODER: Final = msgspec.json.Decoder(_Said)
_COUNTERS: Final = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


class Ollama(DialectBase):
    """Reads one response of `/api/chat` or `/api/generate`. See `Dialect`."""

    name: ClassVar[str] = "ollama"

    def __init__(self, provider: str = "ollama") -> None:
        super().__init__(provider)
        self._calls = 0

    def decode(self, payload: bytes) -> list[AnyChunk]:
        """Read one line and return its chunks."""
        try:
            said = _DECODER.decode(payload)
        except UNREADABLE:
            said = _leniently(self._odd(payload))
        chunks: list[AnyChunk] = []
        if self.model is None:
            self.model = said.model
        if self.error is None:
            self._content(said, chunks)
        if said.done_reason is not None:
            self._finished(said.done_reason)
        if said.done:
            self.done = True
            counters = {name: getattr(said, name) for name in _COUNTERS}
            told = {name: value for name, value in counters.items() if value is not None}
            self.reported = told or None
        if said.error:
            self.fail(said.error)
        return chunks

    @property
    def complete(self) -> bool:
        """True once `done` was seen, or the reason without it, which some servers send instead."""
        return self.done or self.finish is not None

    @property
    def usage(self) -> Usage | None:
        """The counters of the last line, normalised; they are final."""
        return None if self.reported is None else ollama_usage(self.reported)

    def _marked(self) -> None:
        self.malformed += 1  # it is no line of this format, nor of a gateway to it

    def _content(self, said: _Said, chunks: list[AnyChunk]) -> None:
        message = said.message
        if message is None:
            if said.thinking:
                chunks.append(Chunk(said.thinking, ChunkKind.REASONING))
            if said.response:
                chunks.append(said.response)
            return
        if message.thinking:
            chunks.append(Chunk(message.thinking, ChunkKind.REASONING))
        if message.content:
            chunks.append(message.content)
        for call in message.tool_calls or ():
            function = call.function or _Function()
            index = self._calls if function.index is None else function.index
            fragment = ToolFragment(index=index, id=call.id or None, name=function.name)
            self._calls = max(self._calls, index) + 1
            chunks.append(tool_chunk(fragment, function.arguments))


def ollama_usage(reported: Mapping[str, Any]) -> Usage:
    """Normalise Ollama's counters. A count that is missing (a cached prompt) stays unknown."""
    return Usage.reported_by_provider(
        input=number_in(reported.get("prompt_eval_count")),
        output=number_in(reported.get("eval_count")),
        reported=reported,
    )


def _leniently(odd: dict[str, Any]) -> _Said:
    """Take from a line with fields of unexpected types what can be taken."""
    message = mapping_in(odd.get("message"))
    return _Said(
        message=None if message is None else _lenient_message(message),
        response=text_in(odd.get("response")),
        thinking=text_in(odd.get("thinking")),
        done=odd.get("done") is True,
        done_reason=text_in(odd.get("done_reason")),
        error=odd.get("error"),
        model=text_in(odd.get("model")),
        **{name: number_in(odd.get(name)) for name in _COUNTERS},
    )


def _lenient_message(odd: dict[str, Any]) -> _Message:
    calls = []
    for item in items_in(odd.get("tool_calls")):
        call = mapping_in(item) or {}
        function = mapping_in(call.get("function")) or {}
        calls.append(
            _ToolCall(
                function=_Function(
                    name=text_in(function.get("name")),
                    arguments=raw_in(function.get("arguments")),
                    index=number_in(function.get("index")),
                ),
                id=text_in(call.get("id")),
            )
        )
    return _Message(
        content=text_in(odd.get("content")),
        thinking=text_in(odd.get("thinking")),
        tool_calls=calls,
    )
