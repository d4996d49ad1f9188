"""What the tests of `streamguard_providers` share: a recording report, servers, ways to cut bytes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from streamguard_core import AnyChunk, Attempt, Chunk, ChunkKind, CountSource, Usage, text_of
from streamguard_providers import (
    AnthropicProducer,
    GeminiProducer,
    OllamaProducer,
    OpenAIProducer,
    StreamDecoder,
    ToolFragment,
)

FIXTURES = Path(__file__).parent / "fixtures"
_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "corpora"
CORPORA = Path(os.environ.get("STREAMGUARD_CORPORA", _BESIDE))

#: A connection that is cut off must be seen gone by its server within 0.3 s (it takes 2 ms). Machines
#: busy with other work get more: without the cutoff these servers would wait for ever anyway.
LET_GO = 2.0


class Recorder:
    """A report that writes everything down; also the `out` of the push contract."""

    def __init__(self, *, cut: bool = False) -> None:
        self.was_cut = cut
        self.connections = 0
        self.finishes: list[tuple[str | None, Usage | None]] = []
        self.names: list[tuple[str | None, str | None]] = []
        self.attempts: list[Attempt] = []
        self.closers: list[Callable[[], None]] = []
        self.chunks: list[AnyChunk] = []

    def connected(self) -> None:
        self.connections += 1

    def finish(self, reason: str | None = None, usage: Usage | None = None) -> None:
        self.finishes.append((reason, usage))

    def identify(self, *, model: str | None = None, request_id: str | None = None) -> None:
        self.names.append((model, request_id))

    def attempt(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        if self.was_cut:
            callback()
            return lambda: None
        self.closers.append(callback)
        return lambda: self.closers.remove(callback)

    def cut(self) -> None:
        """The cutoff: call everybody who wants to know, as a session does."""
        self.was_cut = True
        for closer in tuple(self.closers):
            closer()

    async def __call__(self, token: AnyChunk) -> None:
        self.chunks.append(token)

    @property
    def usage(self) -> Usage | None:
        """The usage that was reported last."""
        return self.finishes[-1][1] if self.finishes else None


class Answer:
    """What a scripted server does with one request: writes pieces, then closes, holds on, or resets.

    Args:
        pieces: bytes, written one by one and drained; each piece waits for `go` if there is one.
        then: `hold` waits for the client to leave, `close` ends the connection, `reset` breaks it.
    """

    def __init__(self, *pieces: bytes, then: str = "hold", go: asyncio.Event | None = None) -> None:
        self.pieces = pieces
        self.then = then
        self.go = go


class ScriptedServer:
    """An HTTP/1.1 server that answers with the bytes it is told to; one answer a request, in turn."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0
        self.finished = 0
        """How many of the connections are over."""
        self.requests: list[bytes] = []
        self.bodies: list[Any] = []
        self.received = asyncio.Event()
        """A request (or anything that is no HTTP) has come in."""
        self.left_at: float | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def left(self) -> float:
        """Wait until a client was seen to leave, and return when that was; fails after `LET_GO`."""
        await until(lambda: self.left_at is not None, LET_GO)
        assert self.left_at is not None
        return self.left_at

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left_at = self.left_at or time.monotonic()
        except asyncio.CancelledError:
            pass  # by stop(); StreamReaderProtocol would log it
        finally:
            self._tasks.discard(task)
            self.finished += 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first = await reader.read(1)
        if first and not first.isalpha():
            self.received.set()  # a TLS hello, to which there is no answer
            await reader.read()
        if not first or not first.isalpha():
            self.left_at = time.monotonic()
            return False
        head = first + await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or b"0")
        body = await reader.readexactly(length)
        self.requests.append(head)
        self.bodies.append(json.loads(body) if body else None)
        answer = self._answers.pop(0) if self._answers else Answer(OK)
        self.received.set()
        return await self._play(answer, reader, writer)

    async def _play(
        self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        for piece in answer.pieces:
            if answer.go is not None:
                await answer.go.wait()
                answer.go.clear()
            writer.write(piece)
            await writer.drain()
        if answer.then == "next":
            return True
        if answer.then == "hold":
            await reader.read()
            self.left_at = time.monotonic()
        elif answer.then == "reset":
            writer.transport.abort()
        return False

    async def stop(self) -> None:
        """Let go of all connections."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def scripted(*answers: Answer, **options: Any) -> AsyncIterator[ScriptedServer]:
    """Run a scripted server."""
    script = ScriptedServer(*answers)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0, **options)
    script.port = server.sockets[0].getsockname()[1]
    try:
        yield script
    finally:
        server.close()
        await script.stop()


@contextmanager
def full_listener() -> Iterator[int]:
    """A port on which connecting hangs: its queue of connections is full and nobody accepts."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = []
        try:
            for _ in range(8):
                client = socket.socket()
                waiting.append(client)
                client.settimeout(0.05)
                try:
                    client.connect(address)
                except TimeoutError:
                    break
            yield address[1]
        finally:
            for client in waiting:
                client.close()


def head(content_type: str = "text/event-stream", *more: str, status: str = "200 OK") -> bytes:
    """The head of a chunked response."""
    lines = [
        f"HTTP/1.1 {status}",
        f"content-type: {content_type}",
        "transfer-encoding: chunked",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunked(*pieces: bytes, end: bool = False) -> bytes:
    """HTTP chunks of the pieces, and the last one if `end`."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return framed + (b"0\r\n\r\n" if end else b"")


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def event(said: object) -> bytes:
    """A server-sent event with a JSON object."""
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def token(text: str, finish: str | None = None) -> bytes:
    """An event of a chat completion."""
    delta = {"content": text} if text else {}
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def completion(text: str, finish: str | None = None) -> bytes:
    """An event of a text completion."""
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def response(*texts: str, begun: bool = False) -> bytes:
    """The events of a response of OpenAI's; without its end when it has only `begun`."""
    about: dict[str, Any] = {"id": "resp_1", "model": "m", "status": "in_progress"}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": about}]
    for text in texts:
        part = {"item_id": "i", "output_index": 0, "content_index": 0}
        events.append({"type": "response.output_text.delta", "delta": text, **part})
    if not begun:
        usage = {"input_tokens": 3, "output_tokens": 2}
        ended = about | {"status": "completed", "usage": usage}
        events.append({"type": "response.completed", "response": ended})
    return b"".join(map(event, events))


def message(*texts: str) -> bytes:
    """The events of a whole message of Anthropic's."""
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    for text in texts:
        delta = {"type": "text_delta", "text": text}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
    end = {"stop_reason": "end_turn"}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 2}})
    return b"".join(map(event, [*events, {"type": "message_stop"}]))


def candidate(text: str, finish: str | None = None) -> dict[str, Any]:
    """A chunk of Gemini's."""
    said: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}}
    if finish is not None:
        said["finishReason"] = finish
    return {"candidates": [said], "modelVersion": "m"}


DONE = b"data: [DONE]\n\n"


async def until(condition: Callable[[], object], timeout: float = 5.0) -> None:
    """Wait until something real is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not become true within {timeout} s")
        await asyncio.sleep(0.001)


async def outcome(awaitable: Awaitable[object]) -> object:
    """What an awaitable returns, or the exception it raises."""
    try:
        return await awaitable
    except Exception as error:  # noqa: BLE001 - that is what was asked for
        return error


def cuts(data: bytes, how: str, seed: int = 7) -> Iterator[bytes]:
    """Pieces of the data: whole, byte by byte, or of random sizes."""
    if how == "whole":
        yield data
        return
    sizes = random.Random(seed)
    at = 0
    while at < len(data):
        size = 1 if how == "bytes" else sizes.choice((1, 2, 3, 7, 40, 300, 2000))
        yield data[at : at + size]
        at += size


class Decoded:
    """Everything a decoder made of a response."""

    def __init__(self, decoder: StreamDecoder, pieces: Iterable[bytes]) -> None:
        self.decoder = decoder
        self.chunks: list[AnyChunk] = []
        for piece in pieces:
            if decoder.done:
                break
            self.chunks += decoder.feed(piece)
        else:
            if not decoder.done:
                self.chunks += decoder.close()
        self.failure: Exception | None = None
        try:
            decoder.check()
        except Exception as error:  # noqa: BLE001 - the tests look at it
            self.failure = error

    def text(self, kind: ChunkKind = ChunkKind.TEXT, choice: int = 0) -> str:
        """The text of one kind, of one choice."""
        return "".join(
            text_of(chunk)
            for chunk in self.chunks
            if (isinstance(chunk, str) and kind is ChunkKind.TEXT and choice == 0)
            or (isinstance(chunk, Chunk) and chunk.kind is kind and chunk.choice == choice)
        )

    def tools(self, *, own: bool = False) -> list[tuple[str | None, str | None, str]]:
        """Id, name and arguments of each tool call of the first choice; or of the functions' only."""
        calls: dict[int, list[Any]] = {}
        for chunk in self.chunks:
            if isinstance(chunk, Chunk) and chunk.kind is ChunkKind.TOOL and chunk.choice == 0:
                fragment = ToolFragment.of(chunk)
                call = calls.setdefault(fragment.index, [None, None, "", None])
                call[0] = call[0] or fragment.id
                call[1] = call[1] or fragment.name
                call[2] += chunk.text
                call[3] = call[3] or fragment.kind
        found = [call for call in calls.values() if not (own and call[3])]
        return [(call[0], call[1], call[2]) for call in found]

    def summary(self) -> tuple[object, ...]:
        """All that must not depend on how the bytes were cut."""
        decoder = self.decoder
        joined = tuple((kind, self.text(kind), self.text(kind, 1)) for kind in ChunkKind)
        return joined, self.tools(), decoder.finish, decoder.usage, decoder.model, decoder.malformed


def decoder_for(name: str) -> StreamDecoder:
    """A new decoder for a fixture, by its name."""
    if name.endswith(".ndjson"):
        return StreamDecoder.ollama()
    make = {
        "completions": StreamDecoder.openai_completions,
        "responses": StreamDecoder.openai_responses,
        "anthropic": StreamDecoder.anthropic,
        "gemini": StreamDecoder.gemini,
    }
    return make.get(name.partition(".")[0], StreamDecoder.openai_chat)()


Make = Callable[..., Any]
"""Makes a producer that calls the server at a URL."""


# Unless they say otherwise, the tests look at one call: its producer does not try again.
ONCE: dict[str, Any] = {"retries": 0}


def openai_producer(url: str, **options: Any) -> OpenAIProducer:
    """A producer of a chat completion, at a server's root."""
    options = ONCE | options
    return OpenAIProducer("m", prompt="Tell me about the river.", base_url=f"{url}/v1", **options)


def responses_producer(url: str, **options: Any) -> OpenAIProducer:
    """A producer of a response of OpenAI's."""
    return openai_producer(url, api="responses", **options)


def completions_producer(url: str, **options: Any) -> OpenAIProducer:
    """A producer of a text completion."""
    return openai_producer(url, api="completions", **options)


def chat_producer(url: str, **options: Any) -> OllamaProducer:
    """A producer of a chat of Ollama's."""
    messages = [{"role": "user", "content": "Tell me about the river."}]
    return OllamaProducer("m", messages=messages, base_url=url, **ONCE | options)


def generate_producer(url: str, **options: Any) -> OllamaProducer:
    """A producer of a completion of Ollama's."""
    return OllamaProducer("m", "Tell me about the river.", base_url=url, **ONCE | options)


def anthropic_producer(url: str, **options: Any) -> AnthropicProducer:
    """A producer of a message of Anthropic's."""
    return AnthropicProducer("m", prompt="Tell me about the river.", base_url=url, **ONCE | options)


def gemini_producer(url: str, **options: Any) -> GeminiProducer:
    """A producer of an answer of Gemini's, as server-sent events."""
    return GeminiProducer(
        "m", prompt="Tell me about the river.", base_url=f"{url}/v1beta", **ONCE | options
    )


def array_producer(url: str, **options: Any) -> GeminiProducer:
    """The same as one JSON array."""
    return gemini_producer(url, sse=False, **options)


LIMIT_WORDS = ("length", "max_tokens", "MAX_TOKENS", "incomplete")
"""What providers say when an answer has reached the most tokens that were asked for."""


def no_truth(usage: Usage | None) -> bool:
    """Whether a usage claims nothing final about the output: what Anthropic says first is a placeholder."""
    return usage is None or usage.output.source is not CountSource.PROVIDER_FINAL


async def produce(producer: Any, report: Recorder, contract: str = "pull") -> list[AnyChunk]:
    """Drive a producer to its end; the report keeps the chunks, too."""
    if contract == "push":
        await producer.run(out=report, cancel_event=asyncio.Event())
        return report.chunks
    async for batch in producer.stream(report=report):
        assert batch, "a batch is never empty"
        report.chunks += batch
    return report.chunks
