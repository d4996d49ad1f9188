"""HTTP/2: one stream of a connection is cut off and told so; its siblings live on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamguard_core import CutOffError, Scope, use_scope
from streamguard_providers import GuardedAsyncTransport, GuardedTransport, OpenAIProducer

from .recorder import Recorder
from .test_sync_transport import Worker
from .waiting import outcome, until
from .wire import token

h2_connection = pytest.importorskip("h2.connection")
h2_config = pytest.importorskip("h2.config")
h2_events = pytest.importorskip("h2.events")


class H2Server(asyncio.Protocol):
    """Answers headers at once except under /think, and data when it is told to."""

    def __init__(self) -> None:
        self.connections = 0
        self.streams: dict[str, int] = {}
        self.resets: list[int] = []
        self.port = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.connections += 1
        self._transport = transport
        config = h2_config.H2Configuration(client_side=False)
        self.h2 = h2_connection.H2Connection(config)
        self.h2.initiate_connection()
        transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2_events.RequestReceived):
                path = dict(event.headers)[b":path"].decode()
                self.streams[path] = event.stream_id
                if path != "/think":
                    self.h2.send_headers(event.stream_id, [(":status", "200")])
            elif isinstance(event, h2_events.StreamReset):
                self.resets.append(event.stream_id)
        self._transport.write(self.h2.data_to_send())

    def send(self, path: str, data: bytes, *, end: bool = False) -> None:
        """Send data of one stream."""
        self.h2.send_data(self.streams[path], data, end_stream=end)
        self._transport.write(self.h2.data_to_send())


@asynccontextmanager
async def h2_server() -> AsyncIterator[H2Server]:
    """Run an HTTP/2 server without TLS."""
    protocol = H2Server()
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    protocol.port = server.sockets[0].getsockname()[1]
    try:
        yield protocol
    finally:
        server.close()
        if protocol._transport is not None:
            protocol._transport.close()


async def read(client: Any, url: str, parts: list[bytes]) -> bytes:
    """Stream a response to its end."""
    async with client.stream("POST", url, content=b"x") as response:
        async for part in response.aiter_bytes():
            parts.append(part)  # noqa: PERF401 - the tests watch the list grow
    return b"".join(parts)


@pytest.mark.parametrize("phase", ["think", "read", "hold"])
async def test_siblings_live_on(library: Any, phase: str) -> None:
    """In each phase the provider gets a reset of this stream only; the other one is read to its end."""
    async with h2_server() as server:
        transport = GuardedAsyncTransport(http1=False, http2=True)
        async with library.AsyncClient(transport=transport, timeout=None) as client:
            base = f"http://127.0.0.1:{server.port}"
            sibling: list[bytes] = []
            other = asyncio.create_task(read(client, f"{base}/sibling", sibling))
            await until(lambda: "/sibling" in server.streams)
            server.send("/sibling", b"one")
            await until(lambda: sibling)
            scope, parts = Scope(), list[bytes]()
            with use_scope(scope):
                held: Any = None
                task: asyncio.Task[object] | None = None
                if phase == "hold":
                    request = client.build_request("POST", f"{base}/{phase}", content=b"x")
                    held = await client.send(request, stream=True)
                else:
                    task = asyncio.create_task(outcome(read(client, f"{base}/{phase}", parts)))
            await until(lambda: f"/{phase}" in server.streams)
            if phase == "read":
                server.send("/read", b"one")
                await until(lambda: parts)
            scope.disconnected()
            await until(lambda: server.resets == [server.streams[f"/{phase}"]])
            got = await (task or outcome(anext(held.aiter_bytes())))
            assert isinstance(got, CutOffError)
            server.send("/sibling", b"two", end=True)
            assert await other == b"onetwo"
            assert server.connections == 1
            again = asyncio.create_task(read(client, f"{base}/again", []))
            await until(lambda: "/again" in server.streams)
            server.send("/again", b"x", end=True)
            assert await again == b"x"
            assert server.connections == 1


async def test_sync_siblings_live_on(library: Any) -> None:
    """A thread that reads a shared connection is let go at the next frame, and resets its stream."""
    async with h2_server() as server:
        transport = GuardedTransport(http1=False, http2=True)
        with library.Client(transport=transport, timeout=None) as client:
            scope, parts = Scope(), list[bytes]()

            def work() -> None:
                with client.stream("POST", f"http://127.0.0.1:{server.port}/a") as response:
                    parts.extend(response.iter_bytes())

            worker = Worker(scope, work)
            await until(lambda: "/a" in server.streams)
            server.send("/a", b"one")
            await asyncio.sleep(0)
            scope.disconnected()
            server.send("/a", b"two")
            assert isinstance(await worker.ended(), CutOffError)
            await until(lambda: server.resets == [server.streams["/a"]])


@pytest.mark.parametrize("how", ["closed", "cut off"])
async def test_a_producer_resets_its_stream(library: Any, how: str) -> None:
    """A producer on a shared HTTP/2 client has told the provider by the time it has ended."""
    async with h2_server() as server:
        transport = library.AsyncHTTPTransport(http1=False, http2=True)
        async with library.AsyncClient(transport=transport) as client:
            report = Recorder()
            base = f"http://127.0.0.1:{server.port}"
            producer = OpenAIProducer("m", prompt="a", base_url=base, client=client)
            batches: Any = producer.stream(report=report)
            first = asyncio.ensure_future(anext(batches))
            await until(lambda: "/chat/completions" in server.streams)
            server.send("/chat/completions", token("a"))
            assert await first == ["a"]
            if how == "cut off":
                report.cut()
            await batches.aclose()
            await until(lambda: server.resets == [server.streams["/chat/completions"]])
            assert report.attempts[0].cut
