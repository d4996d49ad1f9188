"""Routes: which dialect answers which address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote

from streamguard_testing.anthropic_dialect import AnthropicDialect
from streamguard_testing.completions_dialect import CompletionsDialect
from streamguard_testing.dialects import Dialect
from streamguard_testing.gemini_dialect import GeminiDialect
from streamguard_testing.ollama_dialect import OllamaDialect
from streamguard_testing.openai_dialect import OpenAIDialect
from streamguard_testing.responses_dialect import ResponsesDialect

_FIXED: Final[Mapping[str, Dialect]] = {
    "/api/chat": OllamaDialect(chat=True),
    "/api/generate": OllamaDialect(chat=False),
    "/v1/chat/completions": OpenAIDialect(),
    "/v1/completions": CompletionsDialect(),
    "/v1/responses": ResponsesDialect(),
    "/v1/messages": AnthropicDialect(),
}
_GEMINI: Final = re.compile(r"/v1(?:alpha|beta1?)?/models/([^/:]+):(streamG|g)enerateContent")

#: The addresses that are asked with POST and answered by a generation.
PATHS: Final = (
    *_FIXED,
    "/v1beta/models/{model}:streamGenerateContent",
    "/v1beta/models/{model}:generateContent",
)


def dialect_of(url: SplitResult) -> Dialect | None:
    """Return the dialect that answers an address; None when there is none."""
    gemini = _GEMINI.fullmatch(unquote(url.path))
    if gemini is None:
        return _FIXED.get(url.path)
    sse = parse_qs(url.query).get("alt") == ["sse"]
    return GeminiDialect(gemini[1], stream=gemini[2] == "streamG", sse=sse)
