"""What OpenAI's three APIs, and those who imitate them, are asked: bodies, limits, ways to go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from streamguard_core import UsageError
from streamguard_providers.continuation import Continuation
from streamguard_providers.producers import as_messages, check_input
from streamguard_providers.stream_decoder import StreamDecoder

API = Literal["chat", "responses", "completions"]

_MISTRAL: Final = "api.mistral.ai"
_DEEPSEEK: Final = "api.deepseek.com"


@dataclass(frozen=True, slots=True)
class Form:
    """One of the APIs.

    Args:
        path: where it is, behind the base URL.
        decoder: makes the decoder for one response.
        limit: the field with the most tokens to generate.
        options: whether usage is asked for in `stream_options`; else it comes by itself.
    """

    path: str
    decoder: Callable[[str], StreamDecoder]
    limit: str
    options: bool


def form_of(api: str, base_url: str) -> Form:
    """The API of that name, as the server at a URL has it.

    Raises:
        UsageError: when there is none of that name.
    """
    if api == "chat":
        # OpenAI's newer models refuse the old name; other servers know only that.
        limit = "max_completion_tokens" if is_openai(base_url) else "max_tokens"
        return Form("chat/completions", StreamDecoder.openai_chat, limit, options=True)
    if api == "responses":
        return Form("responses", StreamDecoder.openai_responses, "max_output_tokens", options=False)
    if api == "completions":
        return Form("completions", StreamDecoder.openai_completions, "max_tokens", options=True)
    raise UsageError(f"api={api!r} was given; it is 'chat', 'responses' or 'completions'")


def question(
    api: str, prompt: str | None, messages: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """The part of a body that holds the prompt or the conversation.

    Raises:
        UsageError: when there is not exactly one of the two, or no conversation is possible.
    """
    if api == "chat":
        return {"messages": as_messages(prompt, messages)}
    check_input(prompt, messages)
    if api == "responses":
        return {"input": prompt if messages is None else list(messages)}
    if prompt is None:
        raise UsageError("api='completions' was given messages; it takes a prompt")
    return {"prompt": prompt}


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
