"""The dialect of Anthropic's messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from streamguard_core import AnyChunk, Chunk, ChunkKind, Usage
from streamguard_providers.anthropic_usage import anthropic_total, anthropic_usage
from streamguard_providers.dialects import (
    IN_MID_STREAM,
    UNREADABLE,
    DialectBase,
    ToolFragment,
    items_in,
    lenient,
    mapping_in,
    number_in,
    raw_in,
    text_in,
    tool_chunk,
    whole_arguments,
    word_in,
)
from streamguard_providers.errors import ProviderError, provider_error


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    # The delta of a whole message has these instead.
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None


class _Block(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct, gc=False):
    model: str | None = None
    usage: dict[str, Any] | None = None


class _Said(msgspec.Struct, gc=False):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_DECODER: Final = msgspec.json.Decoder(_Said)
#: Reasons that cut a message off wherever it was; the last tool call may be a half one.
_CUT_OFF: Final = frozenset({"max_tokens", "model_context_window_exceeded", "refusal"})
#: Blocks after which the figures of `message_start` are those of another prompt or model.
_REPLACING: Final = frozenset({"compaction", "fallback"})


class _Call(msgspec.Struct, gc=False):
    """A tool call whose block is open, or whose arguments are not certain yet."""

    fragment: bytes
    """What stands in the `data` of each further piece."""
    input: msgspec.Raw = msgspec.Raw()
    stopped: bool = False
    told: bool = False
    """Arguments came in pieces."""


class Anthropic(DialectBase):
    """Reads one response of `/v1/messages`. See `Dialect`.

    Events are told apart by the `type` in their JSON, never by the name of the SSE event, which
    gateways leave out. Types that are not known pass. The end is `message_stop` and nothing else; a
    gateway's `[DONE]` is none.
    """

    name: ClassVar[str] = "anthropic"

    def __init__(self, provider: str = "anthropic") -> None:
        super().__init__(provider)
        self.stop_sequence: str | None = None
        """Which stop sequence ended the message, if one did."""
        self.stop_details: Mapping[str, Any] | None = None
        """What the provider says about a refusal; may quote the prompt."""
        self._output_told = False
        self._begun = False
        self._replaced = False
        self._numbered = 0
        self._calls: dict[int | None, _Call] = {}

    def decode(self, payload: bytes) -> list[AnyChunk]:
        """Read one payload and return its chunks."""
        try:
            said = _DECODER.decode(payload)
        except UNREADABLE:
            said = _leniently(self._odd(payload))
        chunks: list[AnyChunk] = []
        if said.type == "content_block_delta":
            if said.delta is not None and self.error is None:
                self._delta(said.index, said.delta, chunks)
        else:
            self._frame(said, payload, chunks)
        if said.error:
            self.fail(lenient(payload))
        return chunks

    @property
    def usage(self) -> Usage | None:
        """The latest usage, normalised; see `anthropic_usage` for what is known before the end."""
        if self.reported is None:
            return None
        return anthropic_usage(
            self.reported,
            final=self.done or self.finish is not None,
            output_told=self._output_told,
            rising=self._begun and not self._replaced,
        )

    @property
    def total_usage(self) -> Usage | None:
        """The usage of all model runs together, as billed: `usage` leaves compactions and advisors out.

        Before the end the runs are not known: then this is `usage`.
        """
        usage = self.usage
        if usage is None or not (self.done or self.finish) or not self._output_told:
            return usage
        return anthropic_total(self.reported or {})

    def _failure(self, reported: object) -> ProviderError:
        call = text_in((mapping_in(reported) or {}).get("request_id"))
        return provider_error(self.provider, reported, what=IN_MID_STREAM, request_id=call)

    # -- content -----------------------------------------------------------------------------------

    def _delta(self, index: int | None, delta: _Delta, chunks: list[AnyChunk]) -> None:
        # Fields of the same names may one day come in deltas of other types, which are not known.
        kind = delta.type
        if delta.text:
            if kind == "text_delta" or kind is None:
                chunks.append(delta.text)
        elif delta.thinking:
            if kind == "thinking_delta" or kind is None:
                chunks.append(Chunk(delta.thinking, ChunkKind.REASONING))
        elif delta.partial_json and (kind == "input_json_delta" or kind is None):
            call = self._calls.get(index)
            if call is None:
                call = self._call(index, _Block(), chunks)
            call.told = True
            chunks.append(Chunk(delta.partial_json, ChunkKind.TOOL, call.fragment))

    def _block(self, index: int | None, block: _Block, chunks: list[AnyChunk]) -> None:
        """A block begins; it may already hold what others send in deltas."""
        self._settle(chunks, stopped_only=True)
        self._begun = True
        kind = block.type or ""
        if kind in _REPLACING:
            self._replaced = True
        elif kind == "text":
            if block.text:
                chunks.append(block.text)
        elif kind == "thinking":
            if block.thinking:
                chunks.append(Chunk(block.thinking, ChunkKind.REASONING))
        elif kind.endswith("tool_use"):
            self._call(index, block, chunks)

    def _call(self, index: int | None, block: _Block, chunks: list[AnyChunk]) -> _Call:
        """A tool call begins, the application's own or one of a tool that the provider runs."""
        number = self._numbered
        self._numbered += 1
        kind = None if block.type in {None, "tool_use"} else block.type
        begin = ToolFragment(index=number, id=block.id or None, name=block.name or None, kind=kind)
        chunks.append(tool_chunk(begin, None))
        further = tool_chunk(ToolFragment(index=number), None).data
        self._calls[index] = call = _Call(further, block.input)
        return call

    def _stop_block(self, index: int | None) -> None:
        call = self._calls.get(index)
        if call is not None:
            call.stopped = True

    def _settle(self, chunks: list[AnyChunk], *, stopped_only: bool) -> None:
        """Hand over the arguments of calls that had no pieces, `{}` where there are none.

        Not before it is certain that the call is whole: `max_tokens` may hit before the first piece,
        and its block is stopped just as that of a call without arguments is.
        """
        for index, call in list(self._calls.items()):
            if call.stopped or not stopped_only:
                del self._calls[index]
                if not call.told:
                    text = whole_arguments(call.input)
                    chunks.append(Chunk(text, ChunkKind.TOOL, call.fragment))

    # -- the message ---------------------------------------------------------------------------------

    def _frame(self, said: _Said, payload: bytes, chunks: list[AnyChunk]) -> None:
        """What is no delta of content."""
        match said.type:
            case "content_block_start" if said.content_block is not None and self.error is None:
                self._block(said.index, said.content_block, chunks)
            case "content_block_stop":
                self._stop_block(said.index)
            case "message_start":
                self._start(said.message or _Message())
            case "message_delta":
                self._stop(said.delta or _Delta(), said.usage or {}, chunks)
            case "message_stop":
                self.done = True
            case "error":
                self.fail(lenient(payload))
            case "message":
                self._document(lenient(payload) or {}, chunks)

    def _start(self, message: _Message) -> None:
        """A message begins. A second one in the same response goes on where the first one was."""
        if self.model is None:
            self.model = message.model
        self.finish = None
        self.finishes.clear()
        self._output_told = False
        self._overlay(message.usage or {})

    def _stop(self, delta: _Delta, usage: dict[str, Any], chunks: list[AnyChunk]) -> None:
        """The message ends, or its usage has changed; figures are those of the whole message."""
        if delta.stop_reason is not None:
            self._finished(delta.stop_reason)
            self.stop_sequence = delta.stop_sequence
            self.stop_details = delta.stop_details
            if delta.stop_reason not in _CUT_OFF and self.error is None:
                self._settle(chunks, stopped_only=False)
        if number_in(usage.get("output_tokens")) is not None:
            self._output_told = True
        self._overlay(usage)

    def _overlay(self, usage: dict[str, Any]) -> None:
        told = {name: value for name, value in usage.items() if value is not None}
        if told:
            # A new object each time: whoever compares sees that there is news.
            self.reported = {**(self.reported or usage), **told}

    def _document(self, said: dict[str, Any], chunks: list[AnyChunk]) -> None:
        """A whole message, from a server that was not asked to stream or does not."""
        self._start(_lenient_message(said))
        for index, item in enumerate(items_in(said.get("content"))):
            self._block(index, _lenient_block(item), chunks)
            self._stop_block(index)
        self._stop(_lenient_delta(said), mapping_in(said.get("usage")) or {}, chunks)
        self.done = True


def _leniently(odd: dict[str, Any]) -> _Said:
    """Take from a payload with fields of unexpected types what can be taken."""
    delta, block = mapping_in(odd.get("delta")), mapping_in(odd.get("content_block"))
    message = mapping_in(odd.get("message"))
    return _Said(
        type=text_in(odd.get("type")),
        index=number_in(odd.get("index")),
        delta=None if delta is None else _lenient_delta(delta),
        content_block=None if block is None else _lenient_block(block),
        message=None if message is None else _lenient_message(message),
        usage=mapping_in(odd.get("usage")),
        error=odd.get("error"),
    )


def _lenient_delta(odd: dict[str, Any]) -> _Delta:
    return _Delta(
        type=text_in(odd.get("type")),
        text=text_in(odd.get("text")),
        thinking=text_in(odd.get("thinking")),
        partial_json=text_in(odd.get("partial_json")),
        stop_reason=word_in(odd.get("stop_reason")),
        stop_sequence=text_in(odd.get("stop_sequence")),
        stop_details=mapping_in(odd.get("stop_details")),
    )


def _lenient_block(value: object) -> _Block:
    odd = mapping_in(value) or {}
    return _Block(
        type=text_in(odd.get("type")),
        text=text_in(odd.get("text")),
        thinking=text_in(odd.get("thinking")),
        id=text_in(odd.get("id")),
        name=text_in(odd.get("name")),
        input=raw_in(odd.get("input")),
    )


def _lenient_message(odd: dict[str, Any]) -> _Message:
    return _Message(model=text_in(odd.get("model")), usage=mapping_in(odd.get("usage")))
