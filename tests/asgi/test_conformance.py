"""The response passes the core's own checks of an adapter, and its timer keeps time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware
from streamguard_core import StreamSession
from streamguard_core.testing import check_adapter, run

from .driver import Server


@pytest.mark.parametrize("guarded", [False, True])
def test_the_response_is_a_conforming_adapter(guarded: bool) -> None:
    """Every chunk once and in order, EOS, one receipt, causes unchanged, cancellation let through."""
    servers: list[Server] = []

    async def adapter(session: StreamSession) -> None:
        response: Any = GuardedResponse(session)
        server = Server(StreamGuardMiddleware(response) if guarded else response)
        servers.append(server)
        app = StreamGuardMiddleware(response) if guarded else response
        await app(server.scope, server.receive, server.send)

    def sent() -> list[str]:
        return [data for name, data in servers[-1].events if name == "message"]

    def leave() -> None:
        servers[-1].leave()

    report = run(check_adapter(adapter, sent=sent, leave=leave))
    assert report.runs == 8


class Stopwatch:
    """Notes when each message was sent."""

    def __init__(self) -> None:
        self.at: list[tuple[float, bytes]] = []

    async def send(self, message: Any) -> None:
        """Note it."""
        now = asyncio.get_running_loop().time()
        self.at.append((now, message.get("body", b"head")))


async def _talk(pauses: Iterable[float], **options: Any) -> Stopwatch:
    async def tokens() -> Any:
        for pause in pauses:
            await asyncio.sleep(pause)
            yield "x"

    watch = Stopwatch()
    server = Server(None)
    await GuardedResponse(tokens(), **options)(server.scope, server.receive, watch.send)
    return watch


def test_pings_come_when_they_are_due() -> None:
    """A minute of silence has a ping every 15 seconds, and no more."""
    watch = run(_talk([61]))
    assert [at for at, body in watch.at if body == b": ping\n\n"] == [15, 30, 45, 60]


@pytest.mark.parametrize("ping", [1.0, 7.0, 15.0])
def test_no_silence_is_longer_than_the_ping_interval(ping: float) -> None:
    """Whatever the rhythm of the producer, nothing is silent for longer, and busy streams have no pings."""
    pauses = [0.1, 20, 0.4, 3, 0.9, 14.9, 33, 1, 7.4, 7.6, 2]
    watch = run(_talk(pauses, ping=ping))
    times = [at for at, _ in watch.at]
    assert max(later - earlier for earlier, later in pairwise(times)) <= ping + 0.01
    busy = run(_talk([ping / 3] * 20, ping=ping))
    assert not [body for _, body in busy.at if b"ping" in body]
