"""The servers themselves: each starts, streams, and goes when it is told to; what the others build upon."""

from __future__ import annotations

import signal

import pytest

from streamguard_testing import Leave, RawClient

from .serving import ASGI, SERVERS, Server, alive, answers, children, serve, until

pytestmark = pytest.mark.servers


def _application(server: Server) -> str:
    return "plain:app" if server.interface == "asgi" else "plain:wsgi"


@pytest.mark.parametrize("name", SERVERS)
async def test_answers_and_goes_on_sigterm(name: str) -> None:
    """Without open streams each server ends by itself at SIGTERM."""
    server = SERVERS[name]
    with serve(server, _application(server)) as running:
        assert await answers(running) == b""
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("how", [Leave.CLOSE, Leave.RESET])
@pytest.mark.parametrize("name", SERVERS)
async def test_streams_until_the_reader_leaves(name: str, how: Leave) -> None:
    """A stream arrives event by event, and a server that lost its reader can still go."""
    server = SERVERS[name]
    with serve(server, _application(server), grace=5) as running:
        await answers(running)
        async with await RawClient.open(running.url, path="/stream") as client:
            events = await client.read_until(3)
            assert events == ["0", "1", "2"]
            client.leave(how)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("server", [each for each in ASGI if "gunicorn" in each.name], ids=str)
async def test_workers_are_children(server: Server) -> None:
    """A server's workers are found, and are gone when it is."""
    with serve(server, "plain:app") as running:
        await answers(running)
        workers = children(running.pid)
        assert workers
        assert all(map(alive, workers))
        running.send_signal(signal.SIGTERM)
        running.wait(30)
        await until(lambda: not any(map(alive, workers)), "the workers to go")
