"""The dialect of OpenAI chat completions, and of the many servers that imitate it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from streamguard_core import AnyChunk, Chunk, ChunkKind, Usage
from streamguard_providers.dialects import (
    ToolFragment,
    items_in,
    lenient,
    mapping_in,
    number_in,
    text_in,
    tool_chunk,
)
from streamguard_providers.errors import ProviderError, provider_error


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    # Text in pieces as documented; null, or one whole object, in the wild.
    arguments: Any = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    # Mistral's reasoning models send a list of parts.
    content: str | list[Any] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Any] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = 0
    delta: _Delta | None = None
    # Servers that ignore `stream` answer with one whole message.
    message: _Delta | None = None
    # Of text completions; a repetition of the delta's text in chat completions of some vendors.
    text: str | None = None
    finish_reason: str | None = None


class _Said(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    x_groq: dict[str, Any] | None = None
    error: Any = None
    model: str | None = None
    # A flat error has these instead of choices.
    object: str | None = None
    type: str | None = None


_DECODER: Final = msgspec.json.Decoder(_Said)
_FILTERED: Final = "content_filter"


class OpenAIChat:
    """Reads one response of `/chat/completions`. See `Dialect`."""

    name: ClassVar[str] = "openai-chat"

    def __init__(self, provider: str = "openai") -> None:
        self.provider = provider
        self.finish: str | None = None
        self.reported: Mapping[str, Any] | None = None
        self.error: ProviderError | None = None
        self.done = False
        self.model: str | None = None
        self.malformed = 0
        self.finishes: dict[int, str] = {}
        self._final = False
        self._usage_owed = False
        self._running: set[int] = set()
        self._calls: dict[int, Calls] = {}

    def decode(self, payload: bytes) -> list[AnyChunk]:
        """Read one payload and return its chunks."""
        try:
            said = _DECODER.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError):
            if payload.strip() == b"[DONE]":
                self.done = True
                return []
            odd = lenient(payload)
            if odd is None:
                self.malformed += 1
                return []
            said = _leniently(odd)
        chunks: list[AnyChunk] = []
        if self.model is None:
            self.model = said.model
        if said.choices and self.error is None:
            for choice in said.choices:
                self._choice(choice, chunks)
        if said.usage is not msgspec.UNSET or said.x_groq:
            self._take_usage(said)
        if said.error or "error" in {said.object, said.type}:
            self.fail(said.error or lenient(payload))
        return chunks

    def fail(self, reported: object) -> None:
        """Take an error object in; the first one counts."""
        if self.error is None:
            self.error = provider_error(
                self.provider, reported, what="reported an error in mid-stream"
            )

    @property
    def complete(self) -> bool:
        """True once every choice seen has its finish reason, and usage that was announced has come.

        A server that was asked for usage writes `usage: null` into every chunk before the last one.
        Where it did, an end without the usage is no end.
        """
        return bool(self.finishes) and not self._running and not self._usage_owed

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

    def _choice(self, choice: _Choice, chunks: list[AnyChunk]) -> None:
        index = choice.index or 0
        delta = choice.delta or choice.message
        if delta is not None:
            self._delta(delta, index, chunks)
        if choice.finish_reason is not None:
            self.finishes[index] = choice.finish_reason
            self._running.discard(index)
            if index == 0 or self.finish is None:
                self.finish = choice.finish_reason
        elif index not in self.finishes:
            self._running.add(index)

    def _delta(self, delta: _Delta, index: int, chunks: list[AnyChunk]) -> None:
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
            self._tool(_ToolCall(index=0, function=delta.function_call), index, chunks)

    def _tool(self, call: _ToolCall, choice: int, chunks: list[AnyChunk]) -> None:
        """One piece of a tool call."""
        calls = self._calls.get(choice)
        if calls is None:
            calls = self._calls[choice] = Calls()
        function = call.function or _Function()
        number = calls.number(call.index, call.id or None, named=bool(function.name))
        fragment = ToolFragment(index=number, id=call.id or None, name=function.name or None)
        chunks.append(tool_chunk(fragment, function.arguments, choice))

    def _take_usage(self, said: _Said) -> None:
        usage = said.usage or (said.x_groq or {}).get("usage")
        if isinstance(usage, dict):
            self.reported = usage
            self._final = self.finish is not None
            self._usage_owed = False
        elif self.reported is None:
            self._usage_owed = said.usage is None


class Calls:
    """Numbers the tool calls of one choice in their order, whatever the wire's index is."""

    def __init__(self) -> None:
        self._ids: list[str | None] = []
        self._at: dict[int, int] = {}
        """The number of the call that has this index on the wire now."""

    def number(self, index: int | None, call_id: str | None, *, named: bool) -> int:
        """The number of the call that a piece belongs to.

        Where the index is missing, a new id is a new call. Where it is there, an id and a name other
        than before begin a new call as well: some servers give every call the index 0.
        """
        ids = self._ids
        if index is None:
            if call_id in ids and call_id is not None:
                return ids.index(call_id)
            number = len(ids) - 1 if ids and (call_id is None or ids[-1] is None) else None
        else:
            number = self._at.get(index)
            known = None if number is None else ids[number]
            if named and call_id is not None and known is not None and call_id != known:
                number = None
        if number is None:
            number = len(ids)
            ids.append(None)
        if index is not None:
            self._at[index] = number
        ids[number] = ids[number] or call_id
        return number


def openai_usage(reported: Mapping[str, Any], *, final: bool = True) -> Usage:
    """Normalise a usage object of OpenAI's form, as OpenAI and others fill it in.

    Args:
        reported: the object.
        final: False for one that came in mid-stream and may still grow.
    """
    before = mapping_in(reported.get("prompt_tokens_details")) or {}
    after = mapping_in(reported.get("completion_tokens_details")) or {}
    prompt = number_in(reported.get("prompt_tokens"))
    output = number_in(reported.get("completion_tokens"))
    reasoning = number_in(after.get("reasoning_tokens"))
    total = number_in(reported.get("total_tokens"))
    if prompt and output and reasoning and prompt + output + reasoning == total:
        output += reasoning  # xAI leaves the reasoning out of completion_tokens
    return Usage.reported_by_provider(
        input=prompt,
        output=output,
        cached_input=_first(
            before.get("cached_tokens"),
            reported.get("prompt_cache_hit_tokens"),
            reported.get("cached_tokens"),
            reported.get("cache_read_input_tokens"),
        ),
        cache_write=_first(
            before.get("cache_write_tokens"),
            reported.get("cache_write_tokens"),
            reported.get("cache_creation_input_tokens"),
        ),
        reasoning=reasoning,
        reported=reported,
        final=final,
    )


def _first(*values: object) -> int | None:
    for value in values:
        number = number_in(value)
        if number is not None:
            return number
    return None


def _parts(parts: list[Any], index: int, chunks: list[AnyChunk], kind: ChunkKind) -> None:
    """Content or reasoning that comes as a list of typed parts."""
    for part in parts:
        fields = mapping_in(part) or {}
        thinking = fields.get("thinking")
        if isinstance(thinking, list):
            _parts(thinking, index, chunks, ChunkKind.REASONING)
            continue
        text = text_in(thinking) or text_in(fields.get("text")) or text_in(fields.get("summary"))
        if text:
            is_thought = kind is ChunkKind.REASONING or thinking is not None
            plain = index == 0 and not is_thought
            thought = ChunkKind.REASONING if is_thought else ChunkKind.TEXT
            chunks.append(text if plain else Chunk(text, thought, b"", index))


def _leniently(odd: dict[str, Any]) -> _Said:
    """Take from a payload with fields of unexpected types what can be taken."""
    choices = [_lenient_choice(choice) for choice in items_in(odd.get("choices"))]
    usage = odd.get("usage", msgspec.UNSET)
    return _Said(
        choices=[choice for choice in choices if choice is not None],
        usage=usage if usage is msgspec.UNSET else mapping_in(usage),
        x_groq=mapping_in(odd.get("x_groq")),
        error=odd.get("error"),
        model=text_in(odd.get("model")),
        object=text_in(odd.get("object")),
        type=text_in(odd.get("type")),
    )


def _lenient_choice(value: object) -> _Choice | None:
    odd = mapping_in(value)
    if odd is None:
        return None
    finish = odd.get("finish_reason")
    return _Choice(
        index=number_in(odd.get("index")),
        delta=_lenient_delta(odd.get("delta")),
        message=_lenient_delta(odd.get("message")),
        text=text_in(odd.get("text")),
        # A number or an object is a reason all the same.
        finish_reason=text_in(finish) if isinstance(finish, str | None) else str(finish)[:64],
    )


def _lenient_delta(value: object) -> _Delta | None:
    odd = mapping_in(value)
    if odd is None:
        return None
    content = odd.get("content")
    calls = [_lenient_call(call) for call in items_in(odd.get("tool_calls"))]
    return _Delta(
        content=content if isinstance(content, list) else text_in(content),
        reasoning_content=text_in(odd.get("reasoning_content")),
        reasoning=text_in(odd.get("reasoning")),
        reasoning_details=items_in(odd.get("reasoning_details")),
        refusal=text_in(odd.get("refusal")),
        tool_calls=[call for call in calls if call is not None],
        function_call=_lenient_function(odd.get("function_call")),
    )


def _lenient_call(value: object) -> _ToolCall | None:
    odd = mapping_in(value)
    if odd is None:
        return None
    return _ToolCall(
        index=number_in(odd.get("index")),
        id=text_in(odd.get("id")),
        function=_lenient_function(odd.get("function")),
    )


def _lenient_function(value: object) -> _Function | None:
    odd = mapping_in(value)
    if odd is None:
        return None
    return _Function(name=text_in(odd.get("name")), arguments=odd.get("arguments"))
