"""Calls Anthropic's messages API, and servers that speak it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack
from urllib.parse import urlsplit

from streamguard_core import UsageError
from streamguard_providers.conversation import instructions_apart
from streamguard_providers.keys import checked_url, key_header
from streamguard_providers.producers import CallOptions, HTTPProducer, as_messages
from streamguard_providers.stream_decoder import StreamDecoder

BASE_URL: Final = "https://api.anthropic.com"
VERSION: Final = "2023-06-01"
MAX_TOKENS: Final = 4096

#: Models that go on after an assistant's last message. Later ones refuse it with a 400.
_GOES_ON: Final = re.compile(
    r"claude-(?:instant|[23](?:[-.@]|$)|(?:opus|sonnet|haiku)-4(?:-[015](?!\d)|[-@]2025|$))"
)


class AnthropicProducer(HTTPProducer):
    """Produces one message of Anthropic's, or of a server that imitates it.

    Usage comes without being asked for. A message that goes on after a text (`resumed`) needs a
    model that can: by name those up to Claude 4.5, without extended thinking.

    Args:
        model: which model.
        messages: the conversation, as Anthropic takes it.
        prompt: the user's message, in place of `messages`.
        system: the system prompt; messages of the role `system`, which Anthropic refuses, come after it.
        base_url: where the API is, without its version.
        api_key: the key, for `x-api-key`; by default that of the environment variable
            ANTHROPIC_API_KEY, if there is one.
        max_tokens: most tokens to generate; the API insists on one.
        version: for the header `anthropic-version`. Betas go into `headers`.
        options: further fields of the request (`temperature`, `tools`, `thinking`, ...).
        provider: who is called, for errors and receipts.
        continues: whether the model can go on after a text; by its name when None.
        call: how calls are made: `client`, `pool`, `retries`, `headers`; see `CallOptions`.

    Raises:
        UsageError: when there is not exactly one of prompt and messages, or Anthropic is called
            without a key.

    Example:
        >>> AnthropicProducer("claude-haiku-4-5", prompt="Hello", api_key="sk-ant-...")
        <AnthropicProducer model='claude-haiku-4-5'>
    """

    def __init__(
        self,
        model: str,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        prompt: str | None = None,
        system: str | Sequence[Mapping[str, Any]] | None = None,
        base_url: str = BASE_URL,
        api_key: str | None = None,
        max_tokens: int = MAX_TOKENS,
        version: str = VERSION,
        options: Mapping[str, Any] | None = None,
        provider: str = "anthropic",
        continues: bool | None = None,
        **call: Unpack[CallOptions],
    ) -> None:
        key = api_key if api_key is not None else os.environ.get("ANTHROPIC_API_KEY")
        if not key and urlsplit(base_url).hostname == "api.anthropic.com":
            raise UsageError(
                "Anthropic is called with a key: pass api_key, or set ANTHROPIC_API_KEY"
            )
        instructions, others = instructions_apart(as_messages(prompt, messages))
        body: dict[str, Any] = {
            **(options or {}),
            "model": model,
            "messages": others,
            "max_tokens": max_tokens,
            "stream": True,
        }
        if instructions or system is not None:
            body["system"] = _with_instructions(system, instructions)
        call["headers"] = {"anthropic-version": version, **(call.get("headers") or {})}
        super().__init__(
            provider=provider,
            url=f"{checked_url(base_url)}/v1/messages",
            body=body,
            model=model,
            decoder=StreamDecoder.anthropic,
            key=key_header(key, "x-api-key"),
            **call,
        )
        thinks = (body.get("thinking") or {}).get("type", "disabled") != "disabled"
        can = _GOES_ON.search(model) is not None and not thinks
        self.continues = can if continues is None else continues

    def _go_on(self, prefix: str) -> None:
        # A last message that ends in blanks is refused. What is held back here the model may write
        # again, or not: what the answer begins with is left out.
        text = prefix.rstrip()
        self._trim = text != prefix
        if text:
            super()._go_on(text)


def _with_instructions(
    system: str | Sequence[Mapping[str, Any]] | None, instructions: Sequence[Mapping[str, Any]]
) -> str | Sequence[Mapping[str, Any]] | None:
    """The caller's own system prompt, and behind it what the messages say in that role."""
    if not instructions:
        return system
    own = [{"text": system}] if isinstance(system, str) else system or ()
    return [{"type": "text", **block} for block in (*own, *instructions)]
