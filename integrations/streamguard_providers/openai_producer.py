"""Calls OpenAI's chat completions, responses and completions, and every server that speaks them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Unpack

from streamguard_core import Usage, UsageError
from streamguard_providers.continuation import Continuation, continuation, go_on
from streamguard_providers.keys import checked_url, key_header
from streamguard_providers.lookup import cancel_response
from streamguard_providers.openai_requests import (
    API,
    form_of,
    is_openai,
    question,
    stream_options,
    way_at,
)
from streamguard_providers.producers import CallOptions, HTTPProducer

BASE_URL: Final = "https://api.openai.com/v1"


class OpenAIProducer(HTTPProducer):
    """Produces one answer of OpenAI, or of a server that imitates it; asks for usage.

    Args:
        model: which model.
        messages: the conversation, as OpenAI takes it (`input` of a response).
        prompt: the user's message, in place of `messages`.
        api: `chat` (chat completions), `responses`, or `completions` (text that goes on after the
            prompt).
        base_url: where the API is, with its version (`http://localhost:8000/v1`).
        api_key: the key; by default that of the environment variable OPENAI_API_KEY, if there is
            one.
        max_tokens: most tokens to generate.
        background: whether a response is generated in the background. Closing its stream does not
            end it then: the cutoff cancels it as well, with a call of its own.
        options: further fields of the request (`temperature`, `tools`, ...).
        ask_usage: whether `stream_options` asks for usage; by default wherever that is known.
        continuous_usage: whether to ask for usage in every chunk (vLLM), so that it is exact
            wherever the stream is cut off.
        provider: who is called, for errors and receipts.
        continues: how the server is asked to go on after a text (`"assistant"`,
            `"continue_final_message"`, `"prefix"`, `"partial"`: see `Continuation`), or False if it
            cannot. By default as Mistral and DeepSeek's beta API want it there; elsewhere False:
            OpenAI cannot, and of other servers it is not known. Completions go on after their
            prompt.
        call: how calls are made: `client`, `pool`, `retries`, `headers`; see `CallOptions`.

    Raises:
        UsageError: when there is not exactly one of prompt and messages, OpenAI is called without a
            key, or something is asked for that the API does not have.

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
        api: API = "chat",
        base_url: str = BASE_URL,
        api_key: str | None = None,
        max_tokens: int | None = None,
        background: bool = False,
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
        form = form_of(api, base_url)
        options = options or {}
        body: dict[str, Any] = {
            "model": model,
            **options,
            **question(api, prompt, messages),
            "stream": True,
        }
        if form.options:
            body |= stream_options(options, base_url, ask=ask_usage, continuous=continuous_usage)
        if max_tokens is not None:
            body[form.limit] = max_tokens
        if background:
            body["background"] = _background(api)
        super().__init__(
            provider=provider,
            url=f"{checked_url(base_url)}/{form.path}",
            body=body,
            model=model,
            decoder=form.decoder,
            key=key_header(key),
            limit=(form.limit,),
            **call,
        )
        if background:
            self._farewell = partial(self._cancel, checked_url(base_url))
        self._way = _way(api, base_url, continues)
        self.continues = self._way is not None

    def _go_on(self, prefix: str) -> None:
        assert self._way is not None
        if "prompt" in self._body:
            self._body = {**self._body, "prompt": f"{self._body['prompt']}{prefix}"}
        else:
            self._body = go_on(self._body, prefix, self._way)

    async def _cancel(self, base_url: str, response_id: str) -> Usage | None:
        return await cancel_response(
            response_id,
            api_key="",  # it is in the headers
            base_url=base_url,
            headers={name: secret.reveal() for name, secret in self._headers.items()},
            client=self._client,
        )


def _way(api: str, base_url: str, wanted: Continuation | str | bool | None) -> Continuation | None:
    """How a producer goes on; completions do by themselves, responses cannot."""
    if api == "responses":
        if wanted:
            raise UsageError("continues was given for api='responses', which cannot go on")
        return None
    if api == "completions":
        return None if wanted is False else Continuation.ASSISTANT
    return continuation(way_at(base_url) if wanted is None else wanted)


def _background(api: str) -> bool:
    if api != "responses":
        raise UsageError(f"background was given for api={api!r}; only responses have it")
    return True
