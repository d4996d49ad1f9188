"""Tells which dialect a payload is written in, by its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from streamguard_core import UsageError
from streamguard_providers.anthropic_messages import Anthropic
from streamguard_providers.dialects import Dialect, items_in, lenient, mapping_in
from streamguard_providers.gemini import Gemini
from streamguard_providers.ollama_dialect import Ollama
from streamguard_providers.openai_chat import OpenAIChat
from streamguard_providers.openai_completions import OpenAICompletions
from streamguard_providers.openai_responses import OpenAIResponses

#: The dialects by their names.
DIALECTS: Final[Mapping[str, Callable[[str], Dialect]]] = {
    "openai-chat": OpenAIChat,
    "openai-completions": OpenAICompletions,
    "openai-responses": OpenAIResponses,
    "anthropic": Anthropic,
    "gemini": Gemini,
    "ollama": Ollama,
}
_ANTHROPIC: Final = frozenset(
    {
        "message_start",
        "message_delta",
        "message_stop",
        "message",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "ping",
    }
)
_GEMINI: Final = ("candidates", "promptFeedback", "usageMetadata")


def dialect_named(name: str, provider: str) -> Dialect:
    """A new dialect by its name.

    Raises:
        UsageError: when there is no such dialect.
    """
    make = DIALECTS.get(name)
    if make is None:
        known = ", ".join(["auto", *DIALECTS])
        raise UsageError(f"dialect={name!r} was given; there are {known}")
    return make(provider)


def recognise(payload: bytes) -> str | None:
    """The name of the dialect a payload is written in; None where its keys do not tell."""
    said = lenient(payload)
    if said is None:
        return "openai-chat" if payload.strip() == b"[DONE]" else None
    kind = said.get("type")
    if isinstance(kind, str):
        return _by_type(kind, said)
    if said.get("object") == "response":
        return "openai-responses"
    if "choices" in said:
        return "openai-completions" if _completes(said) else "openai-chat"
    if any(key in said for key in _GEMINI):
        return "gemini"
    if "done" in said or ("created_at" in said and ("message" in said or "response" in said)):
        return "ollama"
    return None


def _by_type(kind: str, said: Mapping[str, Any]) -> str | None:
    if kind.startswith("response.") or kind == "keepalive":
        return "openai-responses"
    if kind in _ANTHROPIC:
        return "anthropic"
    if kind == "error":
        nested = mapping_in(said.get("error")) is not None and "sequence_number" not in said
        return "anthropic" if nested else "openai-responses"
    return "openai-chat" if "choices" in said else None


def _completes(said: Mapping[str, Any]) -> bool:
    """Whether an object with choices is a text completion's."""
    if said.get("object") == "text_completion":
        return True
    choices = [mapping_in(choice) or {} for choice in items_in(said.get("choices"))]
    return any("text" in choice for choice in choices) and not any(
        "delta" in choice or "message" in choice for choice in choices
    )
