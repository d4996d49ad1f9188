"""The dialect of Google Gemini's `streamGenerateContent`, at Google AI and at Vertex AI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from streamguard_core import AnyChunk, Chunk, ChunkKind, Usage
from streamguard_providers.dialects import (
    IN_MID_STREAM,
    UNREADABLE,
    DialectBase,
    ToolFragment,
    items_in,
    lenient,
    mapping_in,
    tool_chunk,
    whole_arguments,
)
from streamguard_providers.errors import ProviderError, provider_error, unwrap
from streamguard_providers.gemini_arguments import GeminiArguments
from streamguard_providers.gemini_usage import gemini_usage, tells_tokens
from streamguard_providers.gemini_wire import (
    UNSET,
    Candidate,
    FunctionCall,
    Part,
    PartialArg,
    Said,
    leniently,
)

_SECONDS: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_DECODER: Final = msgspec.json.Decoder(Said)
_UNSPECIFIED: Final = frozenset({None, 0, "", "FINISH_REASON_UNSPECIFIED"})

#: The numbers of finish reasons on which Google AI and Vertex AI agree; the others differ.
_NUMBERED: Final[Mapping[str, str]] = {
    "1": "STOP",
    "2": "MAX_TOKENS",
    "3": "SAFETY",
    "4": "RECITATION",
    "5": "OTHER",
}
#: Reasons that a filter gives; the picture's ones are made of them.
_FILTERED: Final = frozenset(
    f"{what}{reason}"
    for what in ("", "IMAGE_")
    for reason in ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR")
)


class _Open(msgspec.Struct, gc=False):
    """A function call whose arguments come in pieces."""

    index: int
    id: str | None
    arguments: GeminiArguments
    broken: bool = False


class Gemini(DialectBase):
    """Reads one response of `streamGenerateContent`, or of `generateContent`. See `Dialect`.

    There is no terminal marker: the response is whole when it ends after a finish reason for each
    candidate, or after the prompt was blocked. `done` therefore stays False. A finish reason may
    come in several chunks, with text after it; the last one counts.

    Arguments that are streamed come as one piece of JSON when the call is whole; before that, each
    of Gemini's pieces is a tool chunk without text. A call that was interrupted has no arguments.
    """

    name: ClassVar[str] = "gemini"

    def __init__(self, provider: str = "gemini") -> None:
        super().__init__(provider)
        self.prompt_blocked: str | None = None
        """Why the prompt was blocked, in the provider's own word; then there is no answer."""
        self.finish_message: str | None = None
        """What the provider says about its finish reason; may quote the answer."""
        self._final = False
        self._numbered: dict[int, int] = {}
        self._open: dict[int, _Open] = {}

    def decode(self, payload: bytes) -> list[AnyChunk]:
        """Read one payload and return its chunks."""
        chunks: list[AnyChunk] = []
        try:
            said = _DECODER.decode(payload)
        except UNREADABLE:
            for odd in self._odd_ones(payload):
                self._take(leniently(odd), chunks)
        else:
            self._take(said, chunks)
        return chunks

    @property
    def complete(self) -> bool:
        """True once every candidate seen has its finish reason, or the prompt was blocked."""
        ended = bool(self.finishes) or self.prompt_blocked is not None
        return ended and not self._running and self.error is None

    @property
    def finish_name(self) -> str | None:
        """The finish reason by its name, where `finish` is a number that has one."""
        return self.finish if self.finish is None else _NUMBERED.get(self.finish, self.finish)

    @property
    def blocked(self) -> str | None:
        """Why the prompt was blocked, or the finish reason of an answer that a filter ended."""
        if self.prompt_blocked is not None:
            return self.prompt_blocked
        reasons = self.finishes.values()
        return next((r for r in reasons if _NUMBERED.get(r, r) in _FILTERED), None)

    @property
    def usage(self) -> Usage | None:
        """The latest usage, normalised; see `gemini_usage` for what is known before the end."""
        return None if self.reported is None else gemini_usage(self.reported, final=self._final)

    def _take(self, said: Said, chunks: list[AnyChunk]) -> None:
        if self.model is None:
            self.model = said.model_version
        if said.candidates and self.error is None:
            for candidate in said.candidates:
                self._candidate(candidate, chunks)
        feedback = said.prompt_feedback
        if feedback is not None and feedback.block_reason:
            self.prompt_blocked = str(feedback.block_reason)
        usage = said.usage_metadata
        if usage and (self.reported is None or tells_tokens(usage)):
            self.reported = usage
            self._final = bool(self.finishes) or self.prompt_blocked is not None
        if said.error:
            self.fail(said.error)

    def _odd_ones(self, payload: bytes) -> list[dict[str, Any]]:
        """An odd payload; or several in a list, as errors come in the array form."""
        if payload.lstrip().startswith(b"["):
            wrapped = lenient(b'{"items":' + payload + b"}") or {}
            found = items_in(wrapped.get("items"))
            if found and all(isinstance(item, dict) for item in found):
                return found
        return [self._odd(payload)]

    def _failure(self, reported: object) -> ProviderError:
        said = dict(unwrap(reported))
        said.setdefault("type", said.get("status"))
        delay = _retry_delay(said.get("details"))
        return provider_error(self.provider, said, what=IN_MID_STREAM, retry_after=delay)

    # -- candidates --------------------------------------------------------------------------------

    def _candidate(self, candidate: Candidate, chunks: list[AnyChunk]) -> None:
        index = candidate.index or 0
        content = candidate.content
        if content is not None and content.parts:
            for part in content.parts:
                self._part(part, index, chunks)
        reason = candidate.finish_reason
        if reason not in _UNSPECIFIED:
            if index == 0 or self.finish is None:
                self.finish_message = candidate.finish_message
            self._finished(str(reason), index)
        elif index not in self.finishes:
            self._running.add(index)

    def _part(self, part: Part, choice: int, chunks: list[AnyChunk]) -> None:
        if part.text:
            if part.thought:
                chunks.append(Chunk(part.text, ChunkKind.REASONING, b"", choice))
            else:
                # The cheapest chunk is its text.
                chunks.append(part.text if choice == 0 else Chunk(part.text, choice=choice))
        elif part.function_call is not None:
            self._function_call(part.function_call, choice, chunks)
        else:
            self._other(part, choice, chunks)

    def _other(self, part: Part, choice: int, chunks: list[AnyChunk]) -> None:
        """Pictures, code and what came of it go on as they are; the provider's own tools as calls."""
        if part.tool_call is not None:
            call = part.tool_call
            name = None if call.tool_type is None else str(call.tool_type)
            own = FunctionCall(name=name, id=call.id, args=call.args)
            self._begin(own, choice, chunks, kind="toolCall", arguments=whole_arguments(call.args))
        for field, raw in (
            (b"inlineData", part.inline_data),
            (b"fileData", part.file_data),
            (b"executableCode", part.executable_code),
            (b"codeExecutionResult", part.code_execution_result),
        ):
            if bytes(raw) not in {b"", b"null"}:
                data = b'{"%b":%b}' % (field, bytes(raw))
                chunks.append(Chunk("", ChunkKind.DATA, data, choice))

    # -- function calls ----------------------------------------------------------------------------

    def _function_call(self, call: FunctionCall, choice: int, chunks: list[AnyChunk]) -> None:
        """A call, or a piece of the one that is open."""
        pending = self._open.get(choice)
        goes_on = not call.name or (call.id is not None and pending and call.id == pending.id)
        if pending is None or not goes_on:
            if not (call.name or call.id or call.partial_args or bytes(call.args)):
                return  # the end of a call that was never begun
            if not (call.partial_args or call.will_continue):
                self._begin(call, choice, chunks, arguments=whole_arguments(call.args))
                return
            number = self._begin(call, choice, chunks)
            given = mapping_in(lenient(bytes(call.args)))
            pending = self._open[choice] = _Open(number, call.id, GeminiArguments(given))
        elif call.will_continue:
            chunks.append(tool_chunk(ToolFragment(index=pending.index), None, choice))
        self._pieces(pending, call)
        if not call.will_continue:
            del self._open[choice]
            # What cannot be read whole must not look like a call that can be made.
            text = None if pending.broken else pending.arguments.text()
            chunks.append(tool_chunk(ToolFragment(index=pending.index), text, choice))

    def _begin(
        self,
        call: FunctionCall,
        choice: int,
        chunks: list[AnyChunk],
        *,
        kind: str | None = None,
        arguments: str | None = None,
    ) -> int:
        """A call begins, with its arguments if they are whole."""
        number = self._numbered.get(choice, 0)
        self._numbered[choice] = number + 1
        fragment = ToolFragment(index=number, id=call.id or None, name=call.name or None, kind=kind)
        chunks.append(tool_chunk(fragment, arguments, choice))
        return number

    def _pieces(self, pending: _Open, call: FunctionCall) -> None:
        for piece in call.partial_args or ():
            value = _value(piece)
            if pending.broken or (value is UNSET and piece.json_path):
                continue  # it may only say that more will come
            if value is UNSET or not pending.arguments.put(piece.json_path, value):
                pending.broken = True
                self.malformed += 1


def _value(piece: PartialArg) -> str | int | float | msgspec.UnsetType | None:
    for value in (piece.string_value, piece.number_value, piece.bool_value):
        if value is not UNSET:
            return value
    return UNSET if piece.null_value is UNSET else None


def _retry_delay(details: object) -> float | None:
    """The seconds that an error's details ask to wait."""
    for detail in items_in(details):
        delay = (mapping_in(detail) or {}).get("retryDelay")
        found = _SECONDS.fullmatch(delay) if isinstance(delay, str) else None
        if found is not None:
            return float(found[1])
    return None
