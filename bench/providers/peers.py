"""What others read the same streams with: each SDK through a transport that answers with bytes in memory."""

from __future__ import annotations

import codecs
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from bench.providers.streams import Stream

Read = Callable[[list[bytes]], int]
"""Reads one stream to its end; returns how many chunks it gave."""

MESSAGES: Final = [{"role": "user", "content": "hello"}]


def httpx_sse(stream: Stream) -> Read:
    """Events of httpx-sse, in the way its `EventSource` reads them."""
    decoder = importlib.import_module("httpx_sse._decoders")

    def read(pieces: list[bytes]) -> int:
        events, lines, count = decoder.SSEDecoder(), decoder.SSELineDecoder(), 0
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for piece in pieces:
            for line in lines.decode(utf8.decode(piece)):
                count += events.decode(line.rstrip("\n")) is not None
        for line in lines.flush():
            count += events.decode(line.rstrip("\n")) is not None
        return count

    return read


def openai_chat(stream: Stream) -> Read:
    """`client.chat.completions.create(stream=True)`."""
    return lambda pieces: _count(
        _openai(pieces, stream).chat.completions.create(model="m", messages=MESSAGES, stream=True)
    )


def openai_responses(stream: Stream) -> Read:
    """`client.responses.create(stream=True)`."""
    return lambda pieces: _count(
        _openai(pieces, stream).responses.create(model="m", input="hello", stream=True)
    )


def anthropic(stream: Stream) -> Read:
    """`client.messages.create(stream=True)`."""
    sdk = importlib.import_module("anthropic")

    def read(pieces: list[bytes]) -> int:
        client = sdk.Anthropic(api_key="none", http_client=_client("httpx2", pieces, stream))
        return _count(
            client.messages.create(model="m", max_tokens=9, messages=MESSAGES, stream=True)
        )

    return read


def gemini(stream: Stream) -> Read:
    """`client.models.generate_content_stream()`."""
    sdk = importlib.import_module("google.genai")

    def read(pieces: list[bytes]) -> int:
        options = {"httpx_client": _client("httpx", pieces, stream)}
        client = sdk.Client(api_key="none", http_options=options)
        return _count(client.models.generate_content_stream(model="m", contents="hello"))

    return read


def ollama(stream: Stream) -> Read:
    """`client.generate(stream=True)`."""
    sdk = importlib.import_module("ollama")

    def read(pieces: list[bytes]) -> int:
        client = sdk.Client(transport=_transport("httpx", pieces, stream))
        return _count(client.generate(model="m", prompt="hello", stream=True))

    return read


def litellm(stream: Stream) -> Read:
    """`litellm.completion(stream=True)` on the openai SDK."""
    library: Any = importlib.import_module("litellm")
    library.disable_streaming_logging = True

    def read(pieces: list[bytes]) -> int:
        return _count(
            library.completion(
                model="openai/m", messages=MESSAGES, stream=True, client=_openai(pieces, stream)
            )
        )

    return read


def _openai(pieces: list[bytes], stream: Stream) -> Any:
    sdk = importlib.import_module("openai")
    return sdk.OpenAI(
        api_key="none",
        base_url="http://localhost/v1",
        http_client=_client("httpx2", pieces, stream),
    )


def _client(library: str, pieces: Iterable[bytes], stream: Stream) -> Any:
    module = importlib.import_module(library)
    return module.Client(transport=_transport(library, pieces, stream))


def _transport(library: str, pieces: Iterable[bytes], stream: Stream) -> Any:
    module = importlib.import_module(library)

    class Body(module.SyncByteStream):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield from pieces

    return module.MockTransport(
        lambda _: module.Response(200, headers={"content-type": stream.content_type}, stream=Body())
    )


def _count(chunks: Iterable[object]) -> int:
    return sum(1 for _ in chunks)
