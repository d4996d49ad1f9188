"""The dialect of OpenAI chat completions, and of the many servers that imitate it."""

from __future__ import annotations

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
    text_in,
    tool_chunk,
)
from streamguard_providers.openai_usage import openai_usage
from streamguard_providers.openai_wire import Choice, Delta, Function, Said, ToolCall, leniently

_DECODER: Final = msgspec.json.Decoder(Said)
_FILTERED: Final = "content_filter"
#: What some servers write into every chunk until there is a reason.
_NO_REASON: Final = frozenset({"", "null"})


class OpenAIChat(DialectBase):
    """Reads one response of `/chat/completions`. See `Dialect`."""

    name: ClassVar[str] = "openai-chat"

    def __init__(self, provider: str = "openai") -> None:
        super().__init__(provider)
        self._final = False
        self._usage_owed = False
        self._inner_usage: dict[str, Any] | None = None
        """The usage of a payload, where it stands in one of its choices."""
        self._failed: object = None
        """The error of a choice."""
        self._by_delta: set[int] = set()
        """The choices that came in deltas: a whole message beside them says nothing new."""
        self._calls: dict[int, Calls] = {}

    def decode(self, payload: bytes) -> list[AnyChunk]:
        """Read one payload and return its chunks."""
        try:
            said = _DECODER.decode(payload)
        except UNREADABLE:
            said = leniently(self._odd(payload))
        chunks: list[AnyChunk] = []
        if not self.model:
            self.model = said.model or None
        if said.choices and self.error is None:
            for choice in said.choices:
                self._choice(choice, chunks)
        if said.usage is not msgspec.UNSET or said.x_groq or self._inner_usage:
            self._take_usage(said)
        if said.error or "error" in {said.object, said.type}:
            self.fail(said.error or lenient(payload))
        elif self._failed is not None:
            self.fail(self._failed)
        return chunks

    @property
    def complete(self) -> bool:
        """True once every choice seen has its finish reason, and usage that was announced has come.

        A server that was asked for usage writes `usage: null` into every chunk before the last one.
        Where it did, an end without the usage is no end, unless the marker says so.
        """
        return self._all_finished and (self.done or not self._usage_owed)

    @property
    def blocked(self) -> str | None:
        """`content_filter` where a filter ended a choice."""
        return _FILTERED if _FILTERED in self.finishes.values() else None

    @property
    def usage(self) -> Usage | None:
        """The latest usage, normalised; a lower bound as long as no finish reason was seen."""
        if self.reported is None:
            return None
        return openai_usage(self.reported, final=self._final or self.done)

    @property
    def _all_finished(self) -> bool:
        return bool(self.finishes) and not self._running

    def _marked(self) -> None:
        self.done = True

    def _choice(self, choice: Choice, chunks: list[AnyChunk]) -> None:
        index = choice.index or 0
        if choice.delta is not None:
            self._by_delta.add(index)
            self._delta(choice.delta, index, chunks)
        elif choice.message is not None and index not in self._by_delta:
            self._delta(choice.message, index, chunks)
        reason = choice.finish_reason
        if reason is not None and reason not in _NO_REASON:
            self._finished(reason, index)
            if reason == "error" and self._failed is None:
                self._failed = {"code": "finish_reason_error"}
        elif index not in self.finishes:
            self._running.add(index)
        if choice.usage:
            self._inner_usage = choice.usage
        if choice.error:
            self._failed = choice.error

    def _delta(self, delta: Delta, index: int, chunks: list[AnyChunk]) -> None:
        # The same thoughts may stand in several fields: the first found is taken.
        thoughts = delta.reasoning_content or delta.reasoning
        if thoughts:
            chunks.append(Chunk(thoughts, ChunkKind.REASONING, b"", index))
        elif delta.reasoning_details:
            _parts(delta.reasoning_details, index, chunks, ChunkKind.REASONING)
        content = delta.content
        if content:
            if isinstance(content, list):
                _parts(content, index, chunks, ChunkKind.TEXT)
            else:
                # The cheapest chunk is its text.
                chunks.append(content if index == 0 else Chunk(content, choice=index))
        if delta.refusal:
            chunks.append(Chunk(delta.refusal, ChunkKind.REFUSAL, b"", index))
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._tool(call, index, chunks)
        if delta.function_call is not None:
            self._tool(ToolCall(index=0, function=delta.function_call), index, chunks)

    def _tool(self, call: ToolCall, choice: int, chunks: list[AnyChunk]) -> None:
        """One piece of a tool call."""
        calls = self._calls.get(choice)
        if calls is None:
            calls = self._calls[choice] = Calls()
        if call.custom is not None:
            name, text, kind = call.custom.name, call.custom.input, "custom_tool_call"
        else:
            function = call.function or Function()
            name, text, kind = function.name, function.arguments, None
        number = calls.number(call.index, call.id or None, named=bool(name))
        fragment = ToolFragment(index=number, id=call.id or None, name=name or None, kind=kind)
        chunks.append(tool_chunk(fragment, text, choice))

    def _take_usage(self, said: Said) -> None:
        corner = said.x_groq or {}
        usage = said.usage or corner.get("usage") or self._inner_usage
        self._inner_usage = None
        if isinstance(usage, dict):
            self.reported = usage
            self._final = self._all_finished
            self._usage_owed = False
        elif self.reported is None:
            self._usage_owed = said.usage is None
        if corner.get("error"):
            self._failed = corner["error"]


class Calls:
    """Numbers the tool calls of one choice in their order, whatever the wire's index is."""

    def __init__(self) -> None:
        self._ids: list[str | None] = []
        self._at: dict[int, int] = {}
        """The number of the call that has this index on the wire now."""
        self._named = False
        """The last call has its name."""

    def number(self, index: int | None, call_id: str | None, *, named: bool) -> int:
        """The number of the call that a piece belongs to.

        Where the index is missing, a new id is a new call, or a second name where there is no id.
        Where it is there, an id and a name other than before begin a new call as well: some servers
        give every call the index 0.
        """
        number = self._without(call_id, named) if index is None else self._at.get(index)
        ids = self._ids
        if index is not None and number is not None and named:
            known = ids[number]
            if call_id is not None and known is not None and call_id != known:
                number = None
        if number is None:
            number = len(ids)
            ids.append(None)
            self._named = False
        if index is not None:
            self._at[index] = number
        ids[number] = ids[number] or call_id
        self._named = self._named or named
        return number

    def _without(self, call_id: str | None, named: bool) -> int | None:
        """The call that a piece without an index belongs to; None for a new one."""
        ids = self._ids
        if call_id is not None and call_id in ids:
            return ids.index(call_id)
        if not ids or (call_id is not None and ids[-1] is not None):
            return None
        second = call_id is None and named and self._named
        return None if second else len(ids) - 1


def _parts(parts: list[Any], index: int, chunks: list[AnyChunk], kind: ChunkKind) -> None:
    """Content or reasoning that comes as a list of typed parts."""
    for part in parts:
        fields = mapping_in(part) or {}
        thinking, summary = fields.get("thinking"), fields.get("summary")
        if isinstance(thinking, list) or isinstance(summary, list):
            inner = thinking if isinstance(thinking, list) else summary
            _parts(items_in(inner), index, chunks, ChunkKind.REASONING)
            continue
        text = text_in(thinking) or text_in(fields.get("text")) or text_in(summary)
        if text:
            is_thought = kind is ChunkKind.REASONING or thinking is not None
            plain = index == 0 and not is_thought
            thought = ChunkKind.REASONING if is_thought else ChunkKind.TEXT
            chunks.append(text if plain else Chunk(text, thought, b"", index))
