"""Tells which dialect a response is written in, by the keys of its payloads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streamguard_core import UsageError
from streamguard_providers.anthropic_messages import Anthropic
from streamguard_providers.dialects import Dialect, items_in, lenient, mapping_in
from streamguard_providers.gemini import Gemini
from streamguard_providers.ollama_dialect import Ollama
from streamguard_providers.openai_chat import OpenAIChat
from streamguard_providers.openai_completions import OpenAICompletions
from streamguard_providers.openai_responses import OpenAIResponses
from streamguard_providers.sse_event import SSEEvent

_CLASSES: Final = (OpenAIChat, OpenAICompletions, OpenAIResponses, Anthropic, Gemini, Ollama)
#: The dialects by their names.
DIALECTS: Final[Mapping[str, type[Dialect]]] = {dialect.name: dialect for dialect in _CLASSES}
#: What is kept while no payload tells the dialect.
_MAX_KEPT: Final = 16
_MAX_KEPT_BYTES: Final = 4 * 1024 * 1024
_ANTHROPIC: Final = frozenset({"message", "ping"})
_GEMINI: Final = frozenset({"candidates", "promptFeedback", "usageMetadata"})


def dialect_named(name: str, provider: str) -> Dialect:
    """A new dialect by its name.

    Args:
        name: such as `openai-chat`.
        provider: who is speaking.

    Raises:
        UsageError: when there is no such dialect.
    """
    make = DIALECTS.get(name)
    if make is None:
        raise UsageError(f"dialect={name!r} was given; there are {', '.join(DIALECTS)}")
    return make(provider)


class Detector:
    """Keeps the first payloads of a response until one of them tells the dialect."""

    def __init__(self) -> None:
        self.name = OpenAIChat.name
        """The dialect; where nothing tells, the one that the most servers imitate."""
        self._kept: list[Any] = []
        self._size = 0

    def take(self, units: list[Any]) -> list[Any]:
        """Look at payloads, or at events with one; returns all so far once the dialect is known."""
        for at, unit in enumerate(units):
            payload = unit.data if isinstance(unit, SSEEvent) else unit
            name = recognise(payload, events=isinstance(unit, SSEEvent))
            if name is None and isinstance(unit, SSEEvent) and unit.event == b"error":
                name = self.name
            self._kept.append(unit)
            self._size += len(payload)
            if name is not None:
                self.name = name
            elif len(self._kept) <= _MAX_KEPT and self._size <= _MAX_KEPT_BYTES:
                continue
            return self.give_up() + units[at + 1 :]
        return []

    def give_up(self) -> list[Any]:
        """No payload will tell any more: returns all so far."""
        kept, self._kept = self._kept, []
        return kept


def recognise(payload: bytes, *, events: bool = True) -> str | None:
    """The name of the dialect that a payload is written in; None where its keys do not tell.

    Args:
        payload: one payload.
        events: whether it came in a server-sent event.
    """
    said = lenient(payload)
    if said is None:
        return OpenAIChat.name if payload.strip() == b"[DONE]" else None
    kind = said.get("type")
    if isinstance(kind, str) and "choices" not in said:
        name = _by_type(kind, said)
        if name is not None:
            return name
    return _by_keys(said, events=events)


def _by_type(kind: str, said: Mapping[str, Any]) -> str | None:
    if kind.startswith("response.") or kind == "keepalive":
        return OpenAIResponses.name
    if kind in _ANTHROPIC or kind.startswith(("message_", "content_block_")):
        return Anthropic.name
    if kind == "error":
        # Both nest it; Anthropic does not number its events, OpenAI's flat one has no object in it.
        nested = mapping_in(said.get("error")) is not None and "sequence_number" not in said
        return Anthropic.name if nested else OpenAIResponses.name
    return None


def _by_keys(said: Mapping[str, Any], *, events: bool) -> str | None:
    if "choices" in said:
        return _of_choices(said)
    if said.get("object") == "response":
        return OpenAIResponses.name
    if not _GEMINI.isdisjoint(said):
        return Gemini.name
    if "done" in said or ("created_at" in said and ("message" in said or "response" in said)):
        return Ollama.name
    if said.get("error"):
        return _of_error(said["error"], events=events)
    return OpenAIChat.name if said.get("object") == "error" else None


def _of_choices(said: Mapping[str, Any]) -> str | None:
    """Whether an object with choices is of a chat or of a text completion."""
    named = said.get("object")
    if named == "text_completion":
        return OpenAICompletions.name
    choices = [mapping_in(choice) or {} for choice in items_in(said["choices"])]
    if any("delta" in choice or "message" in choice for choice in choices):
        return OpenAIChat.name
    if any("text" in choice for choice in choices):
        return OpenAICompletions.name
    # Without choices (a prompt's filter, or usage alone) it may be either.
    return OpenAIChat.name if choices or said.get("error") or named else None


def _of_error(error: object, *, events: bool) -> str:
    """The dialect of an error that stands alone; where its form does not tell, the first one."""
    if isinstance(error, str) and not events:
        return Ollama.name
    status = (mapping_in(error) or {}).get("status")
    google = isinstance(status, str) and status.isupper()
    return Gemini.name if google else OpenAIChat.name
