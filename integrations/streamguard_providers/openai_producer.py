"""Calls OpenAI's chat completions, and every server that speaks them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack

from streamguard_core import UsageError
from streamguard_providers.continuation import Continuation, continuation, go_on
from streamguard_providers.keys import checked_url, key_header
from streamguard_providers.openai_requests import is_openai, stream_options, way_at
from streamguard_providers.producers import CallOptions, HTTPProducer, as_messages
from streamguard_providers.stream_decoder import StreamDecoder

BASE_URL: Final = "https://api.openai.com/v1"


class OpenAIProducer(HTTPProducer):
    """Produces one chat completion of OpenAI, or of a server that imitates it; asks for usage.

    Args:
        model: which model.
        messages: the conversation, as OpenAI takes it.
        prompt: the user's message, in place of `messages`.
        base_url: where the API is, with its version (`http://localhost:8000/v1`).
        api_key: the key; by default that of the environment variable OPENAI_API_KEY, if there is
            one.
        max_tokens: most tokens to generate.
        options: further fields of the request (`temperature`, `tools`, ...).
        ask_usage: whether `stream_options` asks for usage; by default wherever that is known.
        continuous_usage: whether to ask for usage in every chunk (vLLM), so that it is exact
            wherever the stream is cut off.
        provider: who is called, for errors and receipts.
        continues: how the server is asked to go on after a text (`"assistant"`,
            `"continue_final_message"`, `"prefix"`, `"partial"`: see `Continuation`), or False if it
            cannot. By default as Mistral and DeepSeek's beta API want it there; elsewhere False:
            OpenAI cannot, and of other servers it is not known.
        call: how calls are made: `client`, `pool`, `retries`, `headers`; see `CallOptions`.

    Raises:
        UsageError: when there is not exactly one of prompt and messages, OpenAI is called without a
            key.

    Example:
        >>> OpenAIProducer("gpt-5-nano", prompt="Hello", api_key="sk-...")
        <OpenAIProducer model='gpt-5-nano'>
    """

    def __init__(
        self,
        model: str,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        prompt: str | None = None,
        base_url: str = BASE_URL,
        api_key: str | None = None,
        max_tokens: int | None = None,
        options: Mapping[str, Any] | None = None,
        ask_usage: bool | None = None,
        continuous_usage: bool = False,
        provider: str = "openai",
        continues: Continuation | str | bool | None = None,
        **call: Unpack[CallOptions],
    ) -> None:
        key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY")
        if is_openai(base_url) and not key:
            raise UsageError("OpenAI is called with a key: pass api_key, or set OPENAI_API_KEY")
        options = options or {}
        body: dict[str, Any] = {
            "model": model,
            **options,
            "messages": as_messages(prompt, messages),
            "stream": True,
            **stream_options(options, base_url, ask=ask_usage, continuous=continuous_usage),
        }
        # OpenAI's newer models refuse the old name; other servers know only that.
        limit = "max_completion_tokens" if is_openai(base_url) else "max_tokens"
        if max_tokens is not None:
            body[limit] = max_tokens
        super().__init__(
            provider=provider,
            url=f"{checked_url(base_url)}/chat/completions",
            body=body,
            model=model,
            decoder=StreamDecoder.openai_chat,
            key=key_header(key),
            limit=(limit,),
            **call,
        )
        self._way = continuation(way_at(base_url) if continues is None else continues)
        self.continues = self._way is not None

    def _go_on(self, prefix: str) -> None:
        assert self._way is not None
        self._body = go_on(self._body, prefix, self._way)
