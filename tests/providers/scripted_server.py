"""A server over real sockets that answers with the bytes it is told to."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from .waiting import until

#: A connection that is cut off must be seen gone by its server within 0.3 s (it takes 2 ms). Machines
#: busy with other work get more: without the cutoff these servers would wait for ever anyway.
LET_GO = 2.0


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


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
