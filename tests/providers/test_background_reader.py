"""The whole chain: a reader's socket, uvicorn, one middleware line, an SDK that nobody cancels, the engine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from streamguard_asgi import StreamGuardMiddleware
from streamguard_core import AttemptOutcome, Cause, MemoryLedger, Receipt
from streamguard_testing import Leave, LoopbackEngine, RawClient

from .sdks import SDKS, Sdk, caused_by_cutoff
from .waiting import until

#: Seconds between two tokens: long against what everything else takes, on a busy machine too.
INTERVAL = 0.25


class Quiet(uvicorn.Server):
    """A server in the test's own loop; signals stay the test runner's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an application with uvicorn on a free port."""
    sock = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
    server = Quiet(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait([task], timeout=10)


class Application:
    """An application as it should not be written: its reading task outlives everybody, unbounded."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        self._client = sdk.client()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None
        self.receipts: list[Receipt] = []
        self.ledger = MemoryLedger()
        inner = Starlette(routes=[Route("/", self.chat)])
        self.app = StreamGuardMiddleware(inner, ledger=self.ledger, on_receipt=self.receipts.append)

    async def _read_all(self) -> None:
        async for item in self._sdk.stream(self._client, 50_000):
            self.queue.put_nowait(item)

    async def chat(self, request: Request) -> StreamingResponse:
        """The endpoint: it knows nothing of StreamGuard."""
        self.task = asyncio.create_task(self._read_all())
        return StreamingResponse(self._sent(), media_type="text/plain")

    async def _sent(self) -> AsyncIterator[str]:
        while True:
            yield f"{type(await self.queue.get()).__name__}\n"


@pytest.mark.parametrize("how", [Leave.CLOSE, Leave.RESET])
@pytest.mark.parametrize("kind", SDKS, ids=lambda kind: kind.__name__)
async def test_stops_the_engine_within_one_chunk(kind: type[Sdk], how: Leave) -> None:
    """Nobody cancels the task; the engine's own count says what was generated after the reader left."""
    async with LoopbackEngine(interval=INTERVAL) as engine, kind(engine.url) as sdk:
        application = Application(sdk)
        async with served(application.app) as url:
            reader = await RawClient.open(url)
            while not engine.requests or engine.requests[0].generated < 2:
                await reader.read_some()
            (request,) = engine.requests
            left_with = engine.requests[0].generated
            reader.leave(how)
            await engine.wait_idle()
            (request,) = engine.requests
            assert request.generated - left_with <= 1
            assert not request.ran_to_end
            await until(lambda: application.receipts)
            assert application.task is not None
            await asyncio.wait([application.task])
            assert not application.task.cancelled()
            assert caused_by_cutoff(application.task.exception())
    (receipt,) = application.receipts
    assert application.ledger.receipts == [receipt]
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert [attempt.outcome for attempt in receipt.attempts] == [AttemptOutcome.CUT]
