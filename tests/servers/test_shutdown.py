"""A deploy: SIGTERM and SIGKILL with live streams under every real server, and what the ledger says then."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from streamguard_ledger import verify
from streamguard_testing import RawClient

from .deploying import (
    GRACE,
    STREAMS,
    gone,
    kill,
    readers,
    receipts,
    recovered,
    rest,
    stands_still,
    told_why,
    unguarded,
)
from .serving import ASGI, SERVERS, Server, answers, serve, until

pytestmark = pytest.mark.servers

TOLD = [each for each in ASGI if each.name != "hypercorn"]
"""Those whose serving process gets the signal."""


@pytest.mark.parametrize("server", TOLD, ids=str)
async def test_sigterm_seals_every_stream(server: Server, tmp_path: Path) -> None:
    """300 live streams: receipts of category `shutdown`, an `eos` that says when to come back, the exit code."""
    expected = await unguarded(server)
    env = {"LEDGER": str(tmp_path)}
    with serve(server, "guarded:app", env=env, grace=GRACE) as running:
        await answers(running)
        async with readers(running, STREAMS) as clients:
            running.send_signal(signal.SIGTERM)
            ends = await rest(clients)
            assert await gone(running) == expected
    # Before anybody recovers anything: what stands there was written by the process that went.
    written = receipts(tmp_path)
    assert Counter((one["cause"], one["sealed"]) for one in written) == {
        ("SHUTDOWN", True): STREAMS
    }
    assert len({one["stream_id"] for one in written}) == STREAMS
    assert all(map(told_why, ends))
    assert not verify(tmp_path).problems


@pytest.mark.parametrize("server", ASGI, ids=str)
async def test_without_streams_nothing_changes(server: Server, tmp_path: Path) -> None:
    """P20: with nothing to end the server goes with the exit code that it has without StreamGuard."""
    expected = await unguarded(server)
    with serve(server, "guarded:app", env={"LEDGER": str(tmp_path)}, grace=GRACE) as running:
        await answers(running)
        running.send_signal(signal.SIGTERM)
        assert await gone(running) == expected


@pytest.mark.parametrize("server", ASGI, ids=str)
async def test_sigkill_is_recovered_once(server: Server, tmp_path: Path) -> None:
    """P18: a process that is killed writes nothing; the next start closes each of its streams as CRASHED, once."""
    with serve(server, "guarded:app", env={"LEDGER": str(tmp_path)}) as running:
        await answers(running)
        async with readers(running, 20):
            await kill(running)
    assert [one["sealed"] for one in receipts(tmp_path)] == [False] * 20
    assert await recovered(tmp_path) == {"CRASHED": 20}


KILLS = ["granian", "gunicorn-asgi", "gunicorn-uvicorn"]
"""Servers that kill their workers at the deadline."""


@pytest.mark.parametrize("name", KILLS)
async def test_a_deadline_before_the_grace_is_a_kill(name: str, tmp_path: Path) -> None:
    """A server that kills its worker at a deadline below the grace leaves OPEN records, which tell the truth."""
    server, env = SERVERS[name], {"LEDGER": str(tmp_path), "GRACE": "60"}
    with serve(server, "guarded:app", env=env, grace=1) as running:
        await answers(running)
        async with readers(running, 5):
            running.send_signal(signal.SIGTERM)
            await gone(running)
    assert await recovered(tmp_path) == {"CRASHED": 5}


@pytest.mark.parametrize("server", TOLD[:2], ids=str)
async def test_the_lifespan_alone_comes_too_late(server: Server, tmp_path: Path) -> None:
    """P22: without the signal handler the server waits for its streams, and says `lifespan.shutdown` to nobody."""
    env = {"LEDGER": str(tmp_path), "SIGNALS": "off"}
    with serve(server, "guarded:app", env=env) as running:
        await answers(running)
        async with readers(running, 1) as clients:
            running.send_signal(signal.SIGTERM)
            await until(lambda: "Waiting for connections" in running.output(), "the server to wait")
            assert len(await clients[0].read_until(5)) == 5
            assert [one["sealed"] for one in receipts(tmp_path)] == [False]


@pytest.mark.parametrize("server", [each for each in TOLD if each.name != "daphne"], ids=str)
async def test_what_completes_within_the_grace_is_complete(server: Server, tmp_path: Path) -> None:
    """`grace` lets short answers complete, and cuts the others when it is over; daphne cancels both at once."""
    expected = await unguarded(server)
    env = {"LEDGER": str(tmp_path), "GRACE": "4"}
    with serve(server, "guarded:app", env=env, grace=GRACE) as running:
        await answers(running)
        async with readers(running, 2) as endless, readers(running, 2, "/short") as short:
            running.send_signal(signal.SIGTERM)
            texts = await rest(short)
            await rest(endless)
            assert await gone(running) == expected
    assert all(b'"cause":"COMPLETED"' in text for text in texts)
    assert Counter(one["cause"] for one in receipts(tmp_path)) == {"COMPLETED": 2, "SHUTDOWN": 2}


@pytest.mark.parametrize("server", TOLD, ids=str)
async def test_a_reader_that_takes_nothing_does_not_hold_the_server(
    server: Server, tmp_path: Path
) -> None:
    """A `send` that is blocked by a frozen reader is given up; granian alone waits for what it holds itself."""
    if server.name == "daphne":
        pytest.skip("daphne takes everything without limit: a send of its never blocks")
    env, grace = {"LEDGER": str(tmp_path)}, 4 if server.name == "granian" else None
    with serve(server, "guarded:app", env=env, grace=grace) as running:
        await answers(running)
        client = await RawClient.open(running.url, path="/big", receive_buffer=4096)
        async with client:
            assert await client.read_head() == 200
            await until(lambda: receipts(tmp_path), "the stream to be open")
            await stands_still(running)
            running.send_signal(signal.SIGTERM)
            await gone(running)
    (receipt,) = receipts(tmp_path)
    assert (receipt["cause"], receipt["sealed"]) == ("SHUTDOWN", True)


@pytest.mark.parametrize("server", TOLD, ids=str)
async def test_what_is_read_on_for_nobody_is_not_waited_for(server: Server, tmp_path: Path) -> None:
    """A stream whose reader has left and that is drained is sealed at the signal, for the cause that it had."""
    expected = await unguarded(server)
    with serve(server, "guarded:app", env={"LEDGER": str(tmp_path)}, grace=GRACE) as running:
        await answers(running)
        async with readers(running, 3, "/drain") as clients:
            for client in clients:
                client.leave()
        async with readers(running, 1):
            running.send_signal(signal.SIGTERM)
            assert await gone(running) == expected
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("CLIENT_DISCONNECT", True): 3, ("SHUTDOWN", True): 1}


async def test_hypercorn_tells_its_worker_late(tmp_path: Path) -> None:
    """Its worker gets no signal: the streams are cancelled at the server's deadline, and that is a shutdown, too.

    From Python 3.12.1 on it waits for its connections instead, for ever (hypercorn#308).
    """
    if sys.version_info >= (3, 12, 1):
        pytest.skip("hypercorn#308: the worker never ends while a stream is open")
    server = SERVERS["hypercorn"]
    with serve(server, "guarded:app", env={"LEDGER": str(tmp_path)}, grace=1) as running:
        await answers(running)
        async with readers(running, 20) as clients:
            running.send_signal(signal.SIGTERM)
            ends = await rest(clients)
            assert await gone(running) == 0
    assert all(b'"category":"shutdown"' in end for end in ends)
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("SHUTDOWN", True): 20}


async def test_hypercorn_without_a_worker_of_its_own_is_told(tmp_path: Path) -> None:
    """With `--workers 0` the process that serves is the one that gets the signal."""
    server = SERVERS["hypercorn"]
    env = {"LEDGER": str(tmp_path)}
    with serve(server, "guarded:app", "--workers", "0", env=env, grace=GRACE) as running:
        await answers(running)
        async with readers(running, STREAMS) as clients:
            running.send_signal(signal.SIGTERM)
            await rest(clients)
            assert await gone(running) == 0
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("SHUTDOWN", True): STREAMS}
