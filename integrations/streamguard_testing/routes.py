"""Routes: which dialect answers which address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamguard_testing.anthropic_dialect import AnthropicDialect
from streamguard_testing.dialects import Dialect
from streamguard_testing.ollama_dialect import OllamaDialect
from streamguard_testing.openai_dialect import OpenAIDialect

_FIXED: Final[Mapping[str, Dialect]] = {
    "/api/chat": OllamaDialect(chat=True),
    "/api/generate": OllamaDialect(chat=False),
    "/v1/chat/completions": OpenAIDialect(),
    "/v1/messages": AnthropicDialect(),
}

#: The addresses that are asked with POST and answered by a generation.
PATHS: Final = tuple(_FIXED)


def dialect_of(path: str) -> Dialect | None:
    """Return the dialect that answers an address; None when there is none."""
    return _FIXED.get(path)
