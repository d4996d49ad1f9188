"""Calls Google's Gemini API."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack
from urllib.parse import urlsplit

from streamguard_core import UsageError
from streamguard_providers.continuation import with_value
from streamguard_providers.conversation import as_contents, instructions_apart, texts
from streamguard_providers.keys import checked_url, key_header
from streamguard_providers.producers import CallOptions, HTTPProducer, check_input
from streamguard_providers.stream_decoder import StreamDecoder

BASE_URL: Final = "https://generativelanguage.googleapis.com/v1beta"

#: Seconds after the finish reason for which more text, usage or the end of the body is waited for.
PATIENCE: Final = 5.0

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*(?:/[A-Za-z0-9][A-Za-z0-9._@-]*)*")


class GeminiProducer(HTTPProducer):
    """Produces one answer of Gemini's `streamGenerateContent`, of its own API or Vertex AI's.

    Usage comes without being asked for. There is no end marker on the wire: the answer is whole when
    a finish reason was seen and the body has ended (or nothing more came for some seconds).

    Args:
        model: which model; one with a slash (`tunedModels/...`) is the whole path.
        contents: the conversation, as Gemini takes it.
        prompt: the user's message, in place of `contents`.
        messages: the conversation as other APIs take it (`role`, `content`), in place of `contents`;
            its texts are translated.
        system: the system instruction; that of `messages` comes after it.
        base_url: where the API is, with its version; Vertex AI's up to `/publishers/google`.
        api_key: the key, for `x-goog-api-key`; by default that of the environment variables
            GEMINI_API_KEY or GOOGLE_API_KEY. Vertex AI takes a token instead:
            `headers={"authorization": "Bearer ..."}`.
        max_tokens: most tokens to generate (`maxOutputTokens`).
        options: further fields of the request (`generationConfig`, `tools`, `safetySettings`, ...).
        sse: whether to ask for server-sent events, which are read as they come from everywhere; else
            it is one JSON array.
        provider: who is called, for errors and receipts.
        continues: whether the model is trusted to go on after a text; nobody promises it.
        call: how calls are made: `client`, `pool`, `retries`, `headers`; see `CallOptions`.

    Raises:
        UsageError: when there is not exactly one of prompt, contents and messages, a message holds
            more than text, the model's name is none, or Gemini's own API is called without a key.

    Example:
        >>> GeminiProducer("gemini-2.5-flash", prompt="Hello", api_key="AIza...")
        <GeminiProducer model='gemini-2.5-flash'>
    """

    def __init__(
        self,
        model: str,
        *,
        contents: Sequence[Mapping[str, Any]] | None = None,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        system: str | None = None,
        base_url: str = BASE_URL,
        api_key: str | None = None,
        max_tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
        sse: bool = True,
        provider: str = "gemini",
        continues: bool = False,
        **call: Unpack[CallOptions],
    ) -> None:
        conversation = _conversation(prompt, contents, messages, system)
        key = api_key if api_key is not None else _key_of_environment()
        if not key and _is_google(base_url) and not _has_key(call.get("headers") or {}):
            raise UsageError("Gemini is called with a key: pass api_key, or set GEMINI_API_KEY")
        if not _MODEL.fullmatch(model):
            raise UsageError(f"model={model!r} was given; it becomes a part of the URL")
        body: dict[str, Any] = {**(options or {}), **conversation}
        limit = ("generationConfig", "maxOutputTokens")
        if max_tokens is not None:
            body = with_value(body, limit, max_tokens)
        path = model if "/" in model else f"models/{model}"
        form = "?alt=sse" if sse else ""
        super().__init__(
            provider=provider,
            url=f"{checked_url(base_url)}/{path}:streamGenerateContent{form}",
            body=body,
            model=model,
            decoder=StreamDecoder.gemini,
            key=key_header(key, "x-goog-api-key"),
            limit=limit,
            **call,
        )
        self._patience = PATIENCE
        self.continues = continues

    def _go_on(self, prefix: str) -> None:
        *before, last = self._body["contents"]
        if last.get("role") == "model":
            last = {**last, "parts": [*last.get("parts", ()), {"text": prefix}]}
            self._body = {**self._body, "contents": [*before, last]}
        else:
            self._body = {**self._body, "contents": [*before, last, _content("model", prefix)]}


def _conversation(
    prompt: str | None,
    contents: Sequence[Mapping[str, Any]] | None,
    messages: Sequence[Mapping[str, Any]] | None,
    system: str | None,
) -> dict[str, Any]:
    """The fields of the request that say what is asked.

    Raises:
        UsageError: when there is not exactly one of the first three, or a message is not translated.
    """
    check_input(prompt, messages if contents is None else contents, "contents (or messages)")
    instructions = [] if system is None else [{"text": system}]
    if contents is not None and messages is not None:
        raise UsageError("a producer was made with both contents and messages; give one of them")
    if prompt is not None:
        contents = [_content("user", prompt)]
    elif messages is not None:
        apart, others = instructions_apart(messages)
        instructions += texts(apart)
        contents = as_contents(others)
    more = {"systemInstruction": {"parts": instructions}} if instructions else {}
    return {"contents": list(contents or ()), **more}


def _content(role: str, text: str | None) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text}]}


def _key_of_environment() -> str | None:
    return os.environ.get("GEMINI_API_KEY") or os.environ.get("GOOGLE_API_KEY")


def _is_google(base_url: str) -> bool:
    return urlsplit(base_url).hostname == "generativelanguage.googleapis.com"


def _has_key(headers: Mapping[str, str]) -> bool:
    """Whether the caller's own headers say who calls."""
    return not {"authorization", "x-goog-api-key"}.isdisjoint(name.lower() for name in headers)
