"""How long after a reader's socket closes its provider's connection does, with many streams at once."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Final

from bench.harness import Bar, Row, Table
from bench.web.serve import server

STREAMS: Final = 200
EVERY: Final = 0.1
"""Seconds between two chunks of a provider."""
APART: Final = 0.01
"""Seconds between two readers that leave."""
CASES: Final = {
    "StreamingResponse": "/starlette",
    "StreamingResponse under the middleware": "/under/starlette",
    "under guard_stream": "/under/guarded",
    "sse-starlette under guard_stream": "/under/sse-guarded",
}
_PATIENCE: Final = 5.0


@dataclass
class Provider:
    """A server that sends a chunk now and then, and knows when it was let go."""

    closed: dict[str, float] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One stream, whose reader's name comes first."""
        name = (await reader.readline()).decode().strip()
        sending = asyncio.create_task(self._send(writer))
        with suppress(OSError):
            await reader.read()
        self.closed[name] = time.monotonic()
        self.changed.set()
        sending.cancel()
        writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(random.uniform(0, EVERY))
        while True:
            writer.write(b"token\n")
            await asyncio.sleep(EVERY)


async def _open(url: str, path: str, port: int, name: int) -> socket.socket:
    """A reader that has got its first chunk."""
    host, own = url.removeprefix("http://").split(":")
    sock, loop = socket.socket(), asyncio.get_running_loop()
    sock.setblocking(False)
    await loop.sock_connect(sock, (host, int(own)))
    target = f"{path}?producer=proxied&port={port}&name={name}"
    await loop.sock_sendall(sock, f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    came = b""
    while b"data: token" not in came:
        came += await loop.sock_recv(sock, 4096)
    return sock


async def _leave_all(url: str, path: str) -> list[float]:
    """Milliseconds from each reader's close to its provider's; half of them reset the connection."""
    provider = Provider()
    listening = await asyncio.start_server(provider.answer, "127.0.0.1", 0, backlog=STREAMS)
    port = listening.sockets[0].getsockname()[1]
    socks = await asyncio.gather(*(_open(url, path, port, number) for number in range(STREAMS)))
    left: dict[str, float] = {}
    for number, sock in enumerate(socks):
        if number % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left[str(number)] = time.monotonic()
        sock.close()
        await asyncio.sleep(APART)
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while len(provider.closed) < STREAMS:
                provider.changed.clear()
                await provider.changed.wait()
    now = time.monotonic()
    listening.close()
    return [1000 * (provider.closed.get(name, now) - at) for name, at in left.items()]


async def tables(*, quick: bool) -> AsyncIterator[Table]:
    """The 99th of 100, the median of several runs."""
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with server() as url:
        for _ in range(3 if quick else 7):
            for name, path in CASES.items():
                found[name].append(quantiles(await _leave_all(url, path), n=100)[98])
    bars = [None, *[Bar(50.0)] * (len(CASES) - 1)]
    rows = [
        Row(name, median(p99), low=min(p99), high=max(p99), bar=bar)
        for (name, p99), bar in zip(found.items(), bars, strict=True)
    ]
    yield Table(
        f"From the close of a reader's socket to that of its provider's, {STREAMS} streams, p99",
        "ms",
        tuple(rows),
        f"What was not closed after {_PATIENCE:g} s counts as closed then. Readers and provider are one process.",
    )
