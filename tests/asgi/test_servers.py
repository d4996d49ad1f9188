"""Real servers, real sockets: readers leave by FIN and by RST in every phase."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import Body, FastAPI

from streamguard_asgi import StreamGuardMiddleware, guard_stream
from streamguard_core import Cause
from streamguard_testing import Leave, RawClient

from .driver import BOUND, eventually
from .endpoints import Prompt
from .test_disconnects import STACKS, Rig, layered

SERVERS = ["h11", "httptools"]
LEAVING = [Leave.CLOSE, Leave.RESET]
VARIANTS = [(stack, 0) for stack in STACKS] + [("decorated", 1), ("decorated", 3), ("fastapi", 1)]


class Quiet(uvicorn.Server):
    """A server in the test's own loop; signals stay the test runner's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.asynccontextmanager
async def serve(app: Any, http: str, **options: Any) -> AsyncIterator[tuple[Quiet, str]]:
    """Serve `app` on a free port of 127.0.0.1, without the server's loop that polls for signals."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=300)
    settings: dict[str, Any] = {"http": http, "ws": "none", "lifespan": "off", "log_config": None}
    config = uvicorn.Config(app, **(settings | options))
    config.load()
    server = Quiet(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[sock])
    try:
        yield server, f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        await _stop(server, sock)


async def _stop(server: Quiet, sock: socket.socket) -> None:
    """Close at once what has nothing left; the server's own way takes a tenth of a second at least."""
    for _ in range(100):
        if not (server.server_state.tasks or server.server_state.connections):
            for listening in server.servers:
                listening.close()
            sock.close()
            return
        await asyncio.sleep(0)
    async with asyncio.timeout(BOUND):
        await server.shutdown(sockets=[sock])


async def within(condition: Any, seconds: float = BOUND) -> None:
    """Poll a condition that the kernel makes true; bounded."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the kernel is watched
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(("stack", "layers"), VARIANTS)
@pytest.mark.parametrize("http", SERVERS)
class TestLeaving:
    """Each stack on each of uvicorn's protocols; nothing is generated for nobody, one receipt each."""

    @pytest.mark.parametrize("how", LEAVING)
    async def test_with_a_body_that_nobody_has_read(
        self, http: str, stack: str, layers: int, how: Leave
    ) -> None:
        """The application has not asked for the body when the reader leaves."""
        rig = Rig(STACKS[stack], layers)
        async with serve(rig.app, http) as (_, url):
            client = await RawClient.open(url, "POST", "/", b"x" * 2000)
            await within(lambda: rig.engine.started)
            client.leave(how)
            await within(lambda: rig.receipts)
        assert rig.check().produced == 0

    @pytest.mark.parametrize("how", LEAVING)
    async def test_before_the_first_token(
        self, http: str, stack: str, layers: int, how: Leave
    ) -> None:
        """The headers are there, the provider thinks."""
        rig = Rig(STACKS[stack], layers)
        async with serve(rig.app, http) as (_, url):
            client = await RawClient.open(url)
            assert await client.read_head() == 200
            client.leave(how)
            await within(lambda: rig.receipts)
        assert rig.check().produced == 0

    @pytest.mark.parametrize("how", LEAVING)
    async def test_mid_stream(self, http: str, stack: str, layers: int, how: Leave) -> None:
        """Some tokens were read; the next is not made."""
        rig = Rig(STACKS[stack], layers)
        rig.engine.make(5)
        async with serve(rig.app, http) as (_, url):
            client = await RawClient.open(url)
            data = b""
            while data.count(b"token") < 5:
                data += await client.read_some()
            client.leave(how)
            await within(lambda: rig.receipts)
            rig.engine.make(5)
        assert rig.check().committed == 5
        assert rig.engine.generated == 5

    @pytest.mark.parametrize("how", LEAVING)
    async def test_after_the_end(self, http: str, stack: str, layers: int, how: Leave) -> None:
        """P6: the whole stream was read, then the connection closes."""
        rig = Rig(STACKS[stack], layers)
        rig.engine.make(5)
        rig.engine.finish()
        async with serve(rig.app, http) as (_, url):
            client = await RawClient.open(url)
            text = await client.read_to_end()
            assert client.complete
            client.leave(how)
            await within(lambda: rig.receipts)
        assert text.count(b"token") == 5
        receipt = rig.check(Cause.COMPLETED)
        assert (receipt.consumed, len(receipt.history)) == (5, 1)

    @pytest.mark.parametrize("how", LEAVING)
    async def test_while_the_server_waits_for_a_slow_reader(
        self, http: str, stack: str, layers: int, how: Leave
    ) -> None:
        """Socket and server are full, `send` waits, the reader leaves: let go at once, buffers bounded."""
        rig = Rig(STACKS[stack], layers)
        rig.engine._size = 65536
        rig.engine.make(1000)
        async with serve(rig.app, http) as (_, url):
            client = await RawClient.open(url, receive_buffer=4096)
            assert await client.read_head() == 200
            await _unchanging(lambda: rig.engine.generated)
            made = rig.engine.generated
            client.leave(how)
            await within(lambda: rig.receipts)
        rig.check()
        assert rig.engine.generated <= made + 1
        assert made < 200


async def _unchanging(number: Any) -> None:
    """Wait until a number has grown, and grows no more."""
    async with asyncio.timeout(BOUND):
        last, still = -1, 0
        while still < 20:
            await asyncio.sleep(0.001)
            still = still + 1 if number() == last > 0 else 0
            last = number()


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("how", LEAVING)
async def test_in_the_middle_of_the_body(http: str, how: Leave) -> None:
    """The reader leaves while the framework reads the body: no endpoint, no stream, no receipt."""
    rig = Rig(STACKS["raw"])
    called: list[int] = []
    app = FastAPI()

    @app.post("/")
    @guard_stream
    async def chat(prompt: Annotated[Prompt, Body()]) -> Any:
        called.append(1)
        yield prompt.text

    begun: list[int] = []
    ended: list[int] = []

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        begun.append(1)
        try:
            await app(scope, receive, send)
        finally:
            ended.append(1)

    guarded = StreamGuardMiddleware(noting, on_receipt=rig.receipts.append)
    async with serve(guarded, http) as (_, url):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as sock:
            head = (
                "POST / HTTP/1.1",
                "host: x",
                "content-type: application/json",
                "content-length: 2000",
            )
            sock.sendall("\r\n".join((*head, "", '{"text": "')).encode())
            await within(lambda: begun)
            if how is Leave.RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await within(lambda: ended)
    assert (called, rig.receipts) == ([], [])


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("how", LEAVING)
@pytest.mark.parametrize("layers", [0, 1])
async def test_before_there_is_a_response(http: str, how: Leave, layers: int) -> None:
    """The endpoint still waits for its provider to answer: cancelled when the reader leaves."""
    rig = Rig(STACKS["raw"])
    waiting, cancelled = asyncio.Event(), []
    app = FastAPI()

    @app.get("/")
    @guard_stream
    async def chat() -> Any:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    guarded = StreamGuardMiddleware(layered(app, layers), on_receipt=rig.receipts.append)
    async with serve(guarded, http) as (_, url):
        client = await RawClient.open(url)
        await waiting.wait()
        client.leave(how)
        await within(lambda: rig.receipts)
    assert cancelled == [1]
    assert rig.check().produced == 0


@pytest.mark.parametrize("http", SERVERS)
async def test_an_upload_that_nobody_reads(http: str) -> None:
    """P8: 300 kB of body that the application does not read hide nothing once the response streams."""
    rig = Rig(STACKS["decorated"])
    rig.engine.make(1)
    async with serve(rig.app, http) as (_, url):
        client = await RawClient.open(url, "POST", "/", b"x" * 300_000)
        while b"token" not in await client.read_some():
            pass
        client.leave()
        await within(lambda: rig.receipts)
    rig.check()


def _counted(rig: Rig, count: int) -> bool:
    return len(rig.receipts) == count


@pytest.mark.parametrize("http", SERVERS)
async def test_one_connection_many_streams(http: str) -> None:
    """P6: kept alive, a connection has stream after stream, each whole, each with its own receipt."""
    rig = Rig(STACKS["raw"])
    rig.engine.make(2)
    rig.engine.finish()
    async with serve(rig.app, http) as (_, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        for count in range(1, 4):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(BOUND):
                answer = await reader.readuntil(b"0\r\n\r\n")
            assert answer.count(b"event: eos") == 1
            await eventually(partial(_counted, rig, count))
        writer.close()
    assert [receipt.cause for receipt in rig.receipts] == [Cause.COMPLETED] * 3


@pytest.mark.parametrize("http", SERVERS)
async def test_a_server_that_shuts_down_says_so(http: str) -> None:
    """The graceful timeout of uvicorn cancels the response: the deploy is the cause, not the reader (G14)."""
    rig = Rig(STACKS["decorated"])
    rig.engine.make(1)
    async with serve(rig.app, http, timeout_graceful_shutdown=0.05) as (server, url):
        client = await RawClient.open(url)
        while b"token" not in await client.read_some():
            pass
        async with asyncio.timeout(BOUND):
            await server.shutdown()
        await within(lambda: rig.receipts)
        client.leave()
    rig.check(Cause.SHUTDOWN)


@pytest.mark.parametrize("http", SERVERS)
async def test_two_hundred_readers_leave_at_once(http: str) -> None:
    """Each has one receipt; no session, pump or delivery is left behind."""
    rigs: list[Rig] = []
    receipts: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        rig = Rig(STACKS["raw"])
        rig.engine.make(1)
        rig.app._on_receipt = receipts.append
        rigs.append(rig)
        await rig.app(scope, receive, send)

    async with serve(app, http) as (server, url):
        before = len(asyncio.all_tasks())
        clients = [await RawClient.open(url) for _ in range(200)]
        for client in clients:
            await client.read_head()
        for index, client in enumerate(clients):
            client.leave(LEAVING[index % 2])
        await within(lambda: len(receipts) == 200)
        await within(lambda: len(asyncio.all_tasks()) <= before)
        assert not server.server_state.connections
    assert {receipt.cause for receipt in receipts} == {Cause.CLIENT_DISCONNECT}
    assert len({receipt.stream_id for receipt in receipts}) == 200
    assert all(rig.engine.closed for rig in rigs)
