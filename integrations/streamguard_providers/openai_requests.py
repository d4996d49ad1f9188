"""What OpenAI's API, and those who imitate it, are asked for beside the question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from streamguard_providers.continuation import Continuation

_MISTRAL: Final = "api.mistral.ai"
_DEEPSEEK: Final = "api.deepseek.com"


def stream_options(
    options: Mapping[str, Any], base_url: str, *, ask: bool | None, continuous: bool
) -> dict[str, Any]:
    """The field `stream_options` that asks for usage; nothing where the server does not know it."""
    wanted = dict(options.get("stream_options") or {})
    # Mistral refuses the field, and reports usage without it.
    if ask or continuous or (ask is None and urlsplit(base_url).hostname != _MISTRAL):
        wanted["include_usage"] = True
    if continuous:
        wanted["continuous_usage_stats"] = True
    return {"stream_options": wanted} if wanted else {}


def is_openai(base_url: str) -> bool:
    """Whether this is OpenAI itself."""
    host = urlsplit(base_url).hostname or ""
    return host == "openai.com" or host.endswith(".openai.com")


def way_at(base_url: str) -> Continuation | None:
    """How a known vendor goes on after a text."""
    parts = urlsplit(base_url)
    if parts.hostname == _MISTRAL:
        return Continuation.PREFIX
    if parts.hostname == _DEEPSEEK and parts.path.startswith("/beta"):
        return Continuation.PREFIX
    return None
