"""Calls Ollama's own API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack

from streamguard_providers.continuation import with_prefix
from streamguard_providers.keys import checked_url, key_header
from streamguard_providers.producers import CallOptions, HTTPProducer, check_input
from streamguard_providers.stream_decoder import StreamDecoder

BASE_URL: Final = "http://localhost:11434"

_IN_MESSAGES: Final = ("prompt", "images", "system", "raw")
_GENERATE_ONLY: Final = frozenset({"context", "suffix", "template"})


class OllamaProducer(HTTPProducer):
    """Produces one answer of Ollama: `/api/generate` for a prompt, `/api/chat` for messages.

    Args:
        model: which model.
        prompt: the prompt.
        messages: the conversation, in place of `prompt`.
        base_url: where the server is.
        options: the model's options (`temperature`, `num_ctx`, ...).
        max_tokens: most tokens to generate (`num_predict`).
        extra_body: further fields of the request (`tools`, `think`, `keep_alive`, ...).
        api_key: for servers that want one.
        provider: who is called, for errors and receipts.
        call: how calls are made: `client`, `pool`, `retries`, `headers`; see `CallOptions`.

    It can go on after a text (`resumed`), which is then the last, open message of a chat, or with
    `extra_body={"raw": True}` the end of the prompt.

    Raises:
        UsageError: when there is not exactly one of prompt and messages.

    Example:
        >>> OllamaProducer(model="llama3", prompt="Hello")
        <OllamaProducer model='llama3'>
    """

    def __init__(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        base_url: str = BASE_URL,
        options: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        extra_body: Mapping[str, Any] | None = None,
        api_key: str | None = None,
        provider: str = "ollama",
        **call: Unpack[CallOptions],
    ) -> None:
        check_input(prompt, messages)
        settings = dict(options or {})
        if max_tokens is not None:
            settings["num_predict"] = max_tokens
        body: dict[str, Any] = {**(extra_body or {}), "model": model, "stream": True}
        if settings:
            body["options"] = settings
        if messages is None:
            body["prompt"] = prompt
        else:
            body["messages"] = list(messages)
        super().__init__(
            provider=provider,
            url=f"{checked_url(base_url)}/api/{'generate' if messages is None else 'chat'}",
            body=body,
            model=model,
            decoder=StreamDecoder.ollama,
            key=key_header(api_key),
            limit=("options", "num_predict"),
            **call,
        )
        # A chat has no place for these.
        self.continues = messages is not None or not _GENERATE_ONLY & body.keys()

    def _go_on(self, prefix: str) -> None:
        body = self._body
        if "messages" in body:
            super()._go_on(prefix)
        elif body.get("raw"):
            self._body = {**body, "prompt": f"{body['prompt']}{prefix}"}
        else:
            # The server would put its template around the prefix as well. As a chat it is the same
            # conversation, whose last message is left open.
            self._url = f"{self._url.removesuffix('generate')}chat"
            self._body = _as_chat(body, prefix)


def _as_chat(body: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The chat that is the same as a request to generate, with the assistant's prefix last."""
    rest = {name: value for name, value in body.items() if name not in _IN_MESSAGES}
    user: dict[str, Any] = {"role": "user", "content": body["prompt"]}
    if "images" in body:
        user["images"] = body["images"]
    system = [{"role": "system", "content": body["system"]}] if "system" in body else []
    return {**rest, "messages": with_prefix([*system, user], prefix)}
