"""Readers that freeze: our share of memory is small however long they stay, and with a deadline all are let go."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware
from streamguard_core import Cause, Receipt
from streamguard_core.testing import run
from streamguard_testing import RawClient

from .driver import Engine, Server, eventually
from .test_servers import SERVERS, serve, within

READERS = 60
CHUNKS = 10
HOUR = 3600.0
KILOBYTE = 1024


class Rig:
    """Readers of one application that take some chunks and then nothing more, while the producers go on.

    Args:
        under: what stands above the application, if anything.
        answer: streams an engine's tokens.
    """

    def __init__(self, answer: Callable[..., Any], under: Callable[..., Any] | None = None) -> None:
        self.engines: list[Engine] = []
        self._answer = answer
        self.app: Any = self._stream if under is None else under(self._stream)

    async def _stream(self, scope: Any, receive: Any, send: Any) -> None:
        engine = Engine(CHUNKS)
        self.engines.append(engine)
        await self._answer(engine, scope, receive, send)

    async def freeze(self, stack: AsyncExitStack) -> list[Server]:
        """Begin and freeze; returns the readers."""
        servers = [await stack.enter_async_context(Server(self.app)) for _ in range(READERS)]
        for server in servers:
            await server.events_sent(CHUNKS)
            server.stall()
        for engine in self.engines:
            engine.make(1000)
        await eventually(lambda: all(server.senders for server in servers))
        for server in servers:
            server.sent.clear()  # what was sent is the reader's, not ours
        return servers


async def unguarded(engine: Engine, scope: Any, receive: Any, send: Any) -> None:
    """What guarded responses are compared with: the framework's own."""
    frames = (f"data: {token}\n\n" async for token in engine.stream())
    await StreamingResponse(frames, media_type="text/event-stream")(scope, receive, send)


async def pulled(engine: Engine, scope: Any, receive: Any, send: Any) -> None:
    """A guarded response that pulls."""
    await GuardedResponse(engine.stream())(scope, receive, send)


async def pumped(engine: Engine, scope: Any, receive: Any, send: Any) -> None:
    """A guarded response that looks ahead as far as it may."""
    await GuardedResponse(engine.stream(), own_task=True)(scope, receive, send)


async def weigh(rig: Rig, seconds: float) -> tuple[float, float]:
    """Kilobytes per frozen stream: at once, and after some time."""
    async with AsyncExitStack() as stack:
        for server in await rig.freeze(stack):  # what is made once is made here
            server.leave()
    async with AsyncExitStack() as stack:
        gc.collect()
        tracemalloc.start()
        try:
            servers = await rig.freeze(stack)
            weights = []
            for wait in (0.0, seconds):
                await asyncio.sleep(wait)
                gc.collect()
                weights.append(tracemalloc.get_traced_memory()[0] / READERS / KILOBYTE)
        finally:
            tracemalloc.stop()
        for server in servers:
            server.leave()
    return weights[0], weights[1]


@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer holds memory of its own per frame")
@pytest.mark.parametrize(("answer", "limit"), [(pulled, 8), (pumped, 14)])
def test_a_frozen_reader_costs_little_however_long_it_stays(
    answer: Callable[..., Any], limit: float
) -> None:
    """Of a stream whose `send` waits for an hour we hold less than 8 KB (14 with a pump: a task, 25 chunks ahead)."""
    base, _ = run(weigh(Rig(unguarded), HOUR))
    first, last = run(weigh(Rig(answer, StreamGuardMiddleware), HOUR))
    assert first - base < limit
    assert last - base < limit
    assert last - first < 0.5


@pytest.mark.parametrize("answer", [pulled, pumped])
def test_all_that_freeze_are_let_go_and_nothing_is_left(answer: Callable[..., Any]) -> None:
    """With a deadline every one is cut off as stalled; no task, timer or session stays behind."""
    receipts: list[Receipt] = []
    under = partial(StreamGuardMiddleware, on_receipt=receipts.append, consumer_stall=30)
    rig = Rig(answer, under)

    async def main() -> None:
        before = len(asyncio.all_tasks())
        async with AsyncExitStack() as stack:
            servers = await rig.freeze(stack)
            await asyncio.sleep(40)
            assert len(receipts) == READERS
            assert not any(server.complete for server in servers)
            assert len(asyncio.all_tasks()) == before

    run(main())
    assert {receipt.cause for receipt in receipts} == {Cause.CONSUMER_STALLED}
    assert all(engine.closed for engine in rig.engines)
    assert all(engine.generated <= CHUNKS + 25 for engine in rig.engines)


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize(
    "response",
    [
        partial(GuardedResponse, media_type="text/plain"),
        partial(StreamingResponse, media_type="text/event-stream"),
    ],
    ids=["guarded", "existing"],
)
async def test_a_server_lets_their_connections_go(http: str, response: Any) -> None:
    """Small buffers, large chunks: `send` blocks, the deadline passes, and uvicorn holds no socket for them."""
    receipts: list[Receipt] = []

    async def large() -> AsyncIterator[str]:
        while True:
            yield "x" * 65536

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await response(large())(scope, receive, send)

    app = StreamGuardMiddleware(stream, on_receipt=receipts.append, consumer_stall=0.2)
    async with serve(app, http) as (server, url):
        before = len(asyncio.all_tasks())
        clients = [await RawClient.open(url, receive_buffer=4096) for _ in range(20)]
        await within(lambda: len(receipts) == 20)
        await within(lambda: not server.server_state.connections)
        await within(lambda: len(asyncio.all_tasks()) <= before)
        for client in clients:
            client.leave()
    assert {receipt.cause for receipt in receipts} == {Cause.CONSUMER_STALLED}
    assert all(receipt.committed >= receipt.consumed for receipt in receipts)
