"""A TCP relay in front of a real engine, which sees what the engine sends after a reader has left."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

# What every chunk with text carries once in the OpenAI dialect (llama.cpp, Ollama, vLLM, OpenAI).
TOKEN_MARKS = (b'"content":"', b'"content": "')


@dataclass
class Call:
    """One connection from the application to the engine. Instants are `time.monotonic()`."""

    token_instants: list[float] = field(default_factory=list)
    closed_at: float | None = None
    name: str = ""


class Relay:
    """Passes bytes on in both directions and notes when tokens pass and when the application lets go.

    What the engine generates and does not send is not seen here: the counts are a lower bound.

    Args:
        engine_url: the engine; plain HTTP, no path.
    """

    def __init__(self, engine_url: str) -> None:
        parts = urlsplit(engine_url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"the engine's URL is http://host:port, got {engine_url!r}")
        self._target = (parts.hostname, parts.port or 80)
        self._calls: list[Call] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def call(self, name: str) -> Call | None:
        """The connection on which the call of this name was made."""
        return next((call for call in self._calls if call.name == name), None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = Call()
        self._calls.append(call)
        try:
            engine_reader, engine_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        back = asyncio.create_task(_pass_back(engine_reader, writer, call))
        try:
            while data := await reader.read(65536):
                _note_name(call, data)
                engine_writer.write(data)
                await engine_writer.drain()
        except OSError:
            pass
        call.closed_at = time.monotonic()
        engine_writer.close()
        back.cancel()
        writer.close()


async def _pass_back(
    engine: asyncio.StreamReader, writer: asyncio.StreamWriter, call: Call
) -> None:
    """From the engine to the application, counting; reads on when the application does not."""
    while data := await engine.read(65536):
        tokens = sum(data.count(mark) for mark in TOKEN_MARKS)
        call.token_instants.extend([time.monotonic()] * tokens)
        if not writer.is_closing():
            writer.write(data)
    if not writer.is_closing():
        writer.close()


def _note_name(call: Call, data: bytes) -> None:
    head = data.split(b"\r\n\r\n", 1)[0].lower()
    for line in head.split(b"\r\n"):
        if line.startswith(b"x-engine-request-id:"):
            call.name = line.split(b":", 1)[1].strip().decode("ascii", "replace")
