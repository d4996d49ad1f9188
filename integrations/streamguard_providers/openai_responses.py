"""The dialect of OpenAI's responses API."""

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
    lenient,
    mapping_in,
    number_in,
    text_in,
    tool_chunk,
)
from streamguard_providers.errors import ProviderError
from streamguard_providers.openai_responses_wire import (
    Item,
    Response,
    Said,
    lenient_item,
    lenient_response,
    leniently,
)


class _Call:
    """A tool call that is being written."""

    __slots__ = ("fragment", "told")

    def __init__(self, fragment: bytes) -> None:
        self.fragment = fragment
        """What its further chunks carry."""
        self.told = False


_DECODER: Final = msgspec.json.Decoder(Said)
_DELTAS: Final[Mapping[str, ChunkKind]] = {
    "response.output_text.delta": ChunkKind.TEXT,
    "response.reasoning_text.delta": ChunkKind.REASONING,
    "response.reasoning_summary_text.delta": ChunkKind.REASONING,
    "response.refusal.delta": ChunkKind.REFUSAL,
}
_WHOLES: Final[Mapping[str, ChunkKind]] = {
    "response.output_text.done": ChunkKind.TEXT,
    "response.reasoning_text.done": ChunkKind.REASONING,
    "response.reasoning_summary_text.done": ChunkKind.REASONING,
    "response.refusal.done": ChunkKind.REFUSAL,
}
_CONTENT: Final[Mapping[str, ChunkKind]] = {
    "output_text": ChunkKind.TEXT,
    "text": ChunkKind.TEXT,
    "reasoning_text": ChunkKind.REASONING,
    "summary_text": ChunkKind.REASONING,
    "refusal": ChunkKind.REFUSAL,
}
#: What the text of a call comes in, and the type of the call.
_PIECES: Final[Mapping[str, str]] = {
    "response.function_call_arguments": "function_call",
    "response.mcp_call_arguments": "mcp_call",
    "response.custom_tool_call_input": "custom_tool_call",
    "response.code_interpreter_call_code": "code_interpreter_call",
}
_NONE: Final = frozenset({b"", b"null"})
_TERMINAL: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
_ENDED: Final = frozenset({"completed", "incomplete"})
_OVER: Final = _ENDED | {"failed", "cancelled"}


class OpenAIResponses(DialectBase):
    """Reads one response of `/responses`. See `Dialect`.

    `finish` is the status of the terminal event, `completed` or `incomplete`; why an answer is
    incomplete is in `incomplete_reason`. Events dispatch on the payload's `type`, so that gateways
    that leave out the event's name are read as well.
    """

    name: ClassVar[str] = "openai-responses"

    def __init__(self, provider: str = "openai") -> None:
        super().__init__(provider)
        self.response_id: str | None = None
        """What the response can be cancelled and looked up by, from its first event on."""
        self.incomplete_reason: str | None = None
        """Why the answer is incomplete: `max_output_tokens` or `content_filter`."""
        self._spoken: set[tuple[object, ...]] = set()
        """The parts that come in deltas: the whole text that follows says nothing new."""
        self._by_piece: set[ChunkKind] = set()
        """What has come otherwise than in whole items, which then only repeat it."""
        self._calls: dict[int | str | None, _Call] = {}
        self._numbered = 0

    def decode(self, payload: bytes) -> list[AnyChunk]:
        """Read one payload and return its chunks."""
        try:
            said = _DECODER.decode(payload)
        except UNREADABLE:
            said = leniently(self._odd(payload))
        chunks: list[AnyChunk] = []
        kind = said.type
        if kind is None:
            self._unnamed(said, payload, chunks)
        elif kind in _DELTAS:
            if self.error is None and said.delta and isinstance(said.delta, str):
                self._spoken.add(_part(said, _DELTAS[kind]))
                self._by_piece.add(_DELTAS[kind])
                chunks.append(_chunk(said.delta, _DELTAS[kind]))
        elif kind in _TERMINAL:
            self._end(said.response or Response(), kind.removeprefix("response."))
        elif kind == "error":
            self.fail(lenient(payload))
        elif self.error is None:
            self._other(kind, said, chunks)
            if said.error:
                self.fail(said.error)
        if said.response is not None:
            self.model = self.model or said.response.model
            self.response_id = self.response_id or said.response.id
        return chunks

    @property
    def blocked(self) -> str | None:
        """`content_filter` where the answer is incomplete for that."""
        return self.incomplete_reason if self.incomplete_reason == "content_filter" else None

    @property
    def usage(self) -> Usage | None:
        """The usage of the terminal event, normalised; no other event has one that counts."""
        return None if self.reported is None else responses_usage(self.reported, final=self.done)

    def _failure(self, reported: object) -> ProviderError:
        flat = mapping_in(reported)
        if flat is not None and flat.get("type") == "error" and "error" not in flat:
            # The type of the event is not that of the error.
            reported = {name: value for name, value in flat.items() if name != "type"}
        return super()._failure(reported)

    # -- content -----------------------------------------------------------------------------------

    def _other(self, kind: str, said: Said, chunks: list[AnyChunk]) -> None:
        """What is neither a delta of text nor an end."""
        if kind in _WHOLES:
            text = said.refusal if kind == "response.refusal.done" else said.text
            part = _part(said, _WHOLES[kind])
            if text and isinstance(text, str) and part not in self._spoken:
                self._by_piece.add(_WHOLES[kind])
                chunks.append(_chunk(text, _WHOLES[kind]))
            self._spoken.discard(part)
        elif kind == "response.output_item.added":
            item = said.item
            if item is not None and (item.type or "").endswith("_call"):
                self._call(_key(said), item, chunks)
        elif kind == "response.output_item.done":
            self._item_done(said, chunks)
        else:
            piece, _, which = kind.rpartition(".")
            if piece in _PIECES and which in {"delta", "done"}:
                self._arguments(_PIECES[piece], said, chunks, whole=which == "done")

    def _call(self, key: int | str | None, item: Item, chunks: list[AnyChunk]) -> _Call:
        """A tool call begins, the application's own or one of a tool that the provider runs."""
        kind = None if item.type in {None, "function_call"} else item.type
        number = self._numbered
        self._numbered += 1
        begin = ToolFragment(
            index=number, id=item.call_id or item.id or None, name=item.name or None, kind=kind
        )
        chunks.append(tool_chunk(begin, None))
        self._calls[key] = call = _Call(tool_chunk(ToolFragment(index=number), None).data)
        return call

    def _arguments(self, kind: str, said: Said, chunks: list[AnyChunk], *, whole: bool) -> None:
        """A piece of a call's arguments, its code, or its input; or the whole of them."""
        text = (said.arguments or said.input or said.code) if whole else said.delta
        call = self._calls.get(_key(said))
        if call is None:
            call = self._call(_key(said), Item(type=kind, id=said.item_id), chunks)
        self._tell(call, text, chunks, whole=whole)

    def _item_done(self, said: Said, chunks: list[AnyChunk]) -> None:
        """An item is whole: what came without pieces is here."""
        item = said.item
        if item is None:
            return
        if not (item.type or "").endswith("_call"):
            self._content(item, chunks)
            return
        call = self._calls.get(_key(said))
        if call is None:
            call = self._call(_key(said), item, chunks)
        does = next((raw for raw in (item.action, item.operation) if bytes(raw) not in _NONE), None)
        text = item.arguments or item.input or item.code or does
        self._tell(call, text, chunks, whole=True)

    def _content(self, item: Item, chunks: list[AnyChunk]) -> None:
        """The text of a message or of thoughts, as far as nothing of its kind came in pieces."""
        if {ChunkKind.TEXT, ChunkKind.REASONING, ChunkKind.REFUSAL} <= self._by_piece:
            return
        for raw in (item.summary, item.content):
            parts = lenient(b'{"parts":' + bytes(raw) + b"}") if bytes(raw) else None
            for part in items_in((parts or {}).get("parts")):
                fields = mapping_in(part) or {}
                kind = _CONTENT.get(text_in(fields.get("type")) or "")
                text = text_in(fields.get("text")) or text_in(fields.get("refusal"))
                if text and kind is not None and kind not in self._by_piece:
                    chunks.append(_chunk(text, kind))

    def _tell(self, call: _Call, text: object, chunks: list[AnyChunk], *, whole: bool) -> None:
        if not text or (whole and call.told):
            return
        if not isinstance(text, str):
            if not whole:
                return
            text = tool_chunk(ToolFragment(), text).text
        call.told = True
        chunks.append(Chunk(text, ChunkKind.TOOL, call.fragment))

    # -- the response ------------------------------------------------------------------------------

    def _end(self, response: Response, status: str) -> None:
        """The terminal event."""
        self.done = True
        status = response.status if response.status in _OVER else status
        if response.usage:
            self.reported = response.usage
        if status in _ENDED:
            self._finished(status)
        else:
            self.fail(response.error or {"code": status})
        self.incomplete_reason = text_in((response.incomplete_details or {}).get("reason"))

    def _unnamed(self, said: Said, payload: bytes, chunks: list[AnyChunk]) -> None:
        """A payload without a type: an error alone, or the whole response as one document."""
        if said.object == "response":
            self._document(lenient(payload) or {}, chunks)
        elif said.error:
            self.fail(said.error)

    def _document(self, odd: dict[str, Any], chunks: list[AnyChunk]) -> None:
        response = lenient_response(odd)
        self.model, self.response_id = response.model, response.id
        for index, value in enumerate(items_in(odd.get("output"))):
            item = lenient_item(mapping_in(value) or {})
            self._item_done(Said(output_index=index, item=item), chunks)
        if response.status in _OVER:
            self._end(response, response.status)


def responses_usage(reported: Mapping[str, Any], *, final: bool = True) -> Usage:
    """Normalise a usage object of the responses API.

    Args:
        reported: the object.
        final: False for one that may still grow.
    """
    before = mapping_in(reported.get("input_tokens_details")) or {}
    after = mapping_in(reported.get("output_tokens_details")) or {}
    return Usage.reported_by_provider(
        input=number_in(reported.get("input_tokens")),
        output=number_in(reported.get("output_tokens")),
        cached_input=number_in(before.get("cached_tokens")),
        cache_write=number_in(before.get("cache_write_tokens")),
        reasoning=number_in(after.get("reasoning_tokens")),
        reported=reported,
        final=final,
    )


def _chunk(text: str, kind: ChunkKind) -> AnyChunk:
    # The cheapest chunk is its text.
    return text if kind is ChunkKind.TEXT else Chunk(text, kind)


def _key(said: Said) -> int | str | None:
    """What tells output items apart; some servers leave the index out."""
    if said.output_index is not None:
        return said.output_index
    return said.item_id or (None if said.item is None else said.item.id)


def _part(said: Said, kind: ChunkKind) -> tuple[object, ...]:
    return _key(said), said.content_index, said.summary_index, kind
