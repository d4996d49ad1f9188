"""Resuming by `Last-Event-ID`: what was missed is sent again, once, over the newest connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from streamguard_asgi import GuardedResponse, Resume, StreamGuardMiddleware

from ..adapters.resumed import Resumed  # noqa: TID252 - the same for all adapters
from ..adapters.resuming import ids  # noqa: TID252
from .driver import Server, eos


class TestResumed(Resumed):
    """A guarded endpoint of FastAPI's."""


async def test_a_stream_that_failed_meanwhile() -> None:
    """The failure is told in `eos`, not as a status: the answer had begun."""

    async def failing() -> AsyncIterator[str]:
        yield "a"
        await gate.wait()
        raise RuntimeError("provider")

    gate, resume = asyncio.Event(), Resume()
    app = StreamGuardMiddleware(GuardedResponse(failing(), resume=resume))
    async with Server(app) as server:
        await server.events_sent(1)
        server.leave()
        await server.ended()
    gate.set()
    last = ids(server.text)[-1]
    again = await Server(app, headers=[(b"last-event-id", last.encode())]).run()
    assert (again.status, [name for name, _ in again.events]) == (200, ["eos"])
    assert (eos(again)["cause"], eos(again)["error"]) == ("PRODUCER_ERROR", "The model failed.")
