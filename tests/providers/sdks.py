"""The real SDKs, each on a guarded transport, behind one face: a text streamed or asked for as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Self

import anthropic
import ollama
import openai
from google import genai
from google.genai import types

from streamguard_core import CutOffError
from streamguard_providers import GuardedAsyncTransport, GuardedTransport

QUESTION = "Tell me about the river."
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]


def caused_by_cutoff(error: BaseException | None) -> bool:
    """Whether a cutoff is behind an SDK's own error, as an application would ask."""
    while error is not None:
        if isinstance(error, CutOffError):
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass
class Sdk:
    """One SDK, with an async and a sync client of an engine at `url`.

    Args:
        url: of the engine.
        retries: how often the SDK tries again; not all can.
    """

    url: str
    retries: int = 0

    counts_tries = False
    """Whether its requests say which try they are."""
    retries_at_all = True

    def __post_init__(self) -> None:
        self._transports: list[Any] = []
        self._sync_transports: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self._transports:
            await transport.aclose()
        for transport in self._sync_transports:
            transport.close()

    def transport(self, *, httpx2: bool = False) -> Any:
        """A transport for an async client, closed at the end."""
        made: Any = GuardedAsyncTransport.httpx2() if httpx2 else GuardedAsyncTransport()
        self._transports.append(made)
        return made

    def sync_transport(self, *, httpx2: bool = False) -> Any:
        """A transport for a sync client, closed at the end."""
        made: Any = GuardedTransport.httpx2() if httpx2 else GuardedTransport()
        self._sync_transports.append(made)
        return made

    def client(self) -> Any:
        """A new async client."""
        raise NotImplementedError

    def sync_client(self) -> Any:
        """A new sync client."""
        raise NotImplementedError

    def stream(self, client: Any, most: int) -> AsyncIterator[Any]:
        """Stream an answer of at most so many tokens."""
        raise NotImplementedError

    def sync_stream(self, client: Any, most: int) -> Iterator[Any]:
        """The same with the sync client."""
        raise NotImplementedError

    async def whole(self, client: Any, most: int) -> Any:
        """Ask for an answer as a whole."""
        raise NotImplementedError

    def sync_whole(self, client: Any, most: int) -> Any:
        """The same with the sync client."""
        raise NotImplementedError


class OpenAIChat(Sdk):
    """The openai package's chat completions."""

    counts_tries = True

    def client(self) -> Any:
        http = openai.DefaultAsyncHttpxClient(transport=self.transport(httpx2=True))
        return openai.AsyncOpenAI(
            api_key="k", base_url=f"{self.url}/v1", http_client=http, max_retries=self.retries
        )

    def sync_client(self) -> Any:
        http = openai.DefaultHttpxClient(transport=self.sync_transport(httpx2=True))
        return openai.OpenAI(
            api_key="k", base_url=f"{self.url}/v1", http_client=http, max_retries=self.retries
        )

    def _asked(self, most: int) -> dict[str, Any]:
        return {"model": "m", "messages": MESSAGES, "max_tokens": most}

    def _streamed(self, most: int) -> dict[str, Any]:
        options = {"include_usage": True}
        return {**self._asked(most), "stream": True, "stream_options": options}

    async def stream(self, client: Any, most: int) -> AsyncIterator[Any]:
        async for chunk in await client.chat.completions.create(**self._streamed(most)):
            yield chunk

    def sync_stream(self, client: Any, most: int) -> Iterator[Any]:
        yield from client.chat.completions.create(**self._streamed(most))

    async def whole(self, client: Any, most: int) -> Any:
        return await client.chat.completions.create(**self._asked(most))

    def sync_whole(self, client: Any, most: int) -> Any:
        return client.chat.completions.create(**self._asked(most))


class OpenAIResponses(OpenAIChat):
    """The openai package's responses."""

    def _asked(self, most: int) -> dict[str, Any]:
        return {"model": "m", "input": QUESTION, "max_output_tokens": most}

    async def stream(self, client: Any, most: int) -> AsyncIterator[Any]:
        async for event in await client.responses.create(**self._asked(most), stream=True):
            yield event

    def sync_stream(self, client: Any, most: int) -> Iterator[Any]:
        yield from client.responses.create(**self._asked(most), stream=True)

    async def whole(self, client: Any, most: int) -> Any:
        return await client.responses.create(**self._asked(most))

    def sync_whole(self, client: Any, most: int) -> Any:
        return client.responses.create(**self._asked(most))


class Anthropic(Sdk):
    """The anthropic package's messages."""

    counts_tries = True

    def client(self) -> Any:
        http = anthropic.DefaultAsyncHttpxClient(transport=self.transport(httpx2=True))
        return anthropic.AsyncAnthropic(
            api_key="k", base_url=self.url, http_client=http, max_retries=self.retries
        )

    def sync_client(self) -> Any:
        http = anthropic.DefaultHttpxClient(transport=self.sync_transport(httpx2=True))
        return anthropic.Anthropic(
            api_key="k", base_url=self.url, http_client=http, max_retries=self.retries
        )

    def _asked(self, most: int) -> dict[str, Any]:
        return {"model": "m", "messages": MESSAGES, "max_tokens": most}

    async def stream(self, client: Any, most: int) -> AsyncIterator[Any]:
        async with client.messages.stream(**self._asked(most)) as stream:
            async for event in stream:
                yield event

    def sync_stream(self, client: Any, most: int) -> Iterator[Any]:
        with client.messages.stream(**self._asked(most)) as stream:
            yield from stream

    async def whole(self, client: Any, most: int) -> Any:
        return await client.messages.create(**self._asked(most))

    def sync_whole(self, client: Any, most: int) -> Any:
        return client.messages.create(**self._asked(most))


class Gemini(Sdk):
    """The google-genai package, whose one client has both faces."""

    def client(self) -> Any:
        attempts = types.HttpRetryOptions(attempts=self.retries + 1, initial_delay=0.01)
        return genai.Client(
            api_key="k",
            http_options=types.HttpOptions(
                base_url=self.url,
                client_args={"transport": self.sync_transport()},
                async_client_args={"transport": self.transport()},
                retry_options=attempts if self.retries else None,
            ),
        )

    sync_client = client

    def _asked(self, most: int) -> dict[str, Any]:
        config = types.GenerateContentConfig(max_output_tokens=most)
        return {"model": "m", "contents": QUESTION, "config": config}

    async def stream(self, client: Any, most: int) -> AsyncIterator[Any]:
        async for chunk in await client.aio.models.generate_content_stream(**self._asked(most)):
            yield chunk

    def sync_stream(self, client: Any, most: int) -> Iterator[Any]:
        yield from client.models.generate_content_stream(**self._asked(most))

    async def whole(self, client: Any, most: int) -> Any:
        return await client.aio.models.generate_content(**self._asked(most))

    def sync_whole(self, client: Any, most: int) -> Any:
        return client.models.generate_content(**self._asked(most))


class Ollama(Sdk):
    """The ollama package, which passes what it does not know on to httpx."""

    retries_at_all = False

    def client(self) -> Any:
        return ollama.AsyncClient(host=self.url, transport=self.transport())

    def sync_client(self) -> Any:
        return ollama.Client(host=self.url, transport=self.sync_transport())

    def _asked(self, most: int) -> dict[str, Any]:
        return {"model": "m", "messages": MESSAGES, "options": {"num_predict": most}}

    async def stream(self, client: Any, most: int) -> AsyncIterator[Any]:
        async for chunk in await client.chat(**self._asked(most), stream=True):
            yield chunk

    def sync_stream(self, client: Any, most: int) -> Iterator[Any]:
        yield from client.chat(**self._asked(most), stream=True)

    async def whole(self, client: Any, most: int) -> Any:
        return await client.chat(**self._asked(most))

    def sync_whole(self, client: Any, most: int) -> Any:
        return client.chat(**self._asked(most))


SDKS: tuple[type[Sdk], ...] = (OpenAIChat, OpenAIResponses, Anthropic, Gemini, Ollama)
