"""A deploy: SIGTERM and SIGKILL with live streams, of each framework under every server, and what the ledger says."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from streamguard_ledger import verify
from streamguard_testing import RawClient

from .deploying import (
    DJANGO,
    GRACE,
    STARLETTE,
    STREAMS,
    Deployed,
    gone,
    kill,
    readers,
    receipts,
    recovered,
    rest,
    stands_still,
    told_why,
)
from .serving import answers, until

pytestmark = pytest.mark.servers

ALL = [*STARLETTE, *DJANGO]
TOLD = [each for each in ALL if each.server.name != "hypercorn"]
"""Those whose serving process gets the signal."""
GRACEFUL = [each for each in TOLD if each.server.name != "daphne"]
"""Those that do not cancel all requests at once."""
KILLS = {
    "starlette": {"granian", "gunicorn-asgi", "gunicorn-uvicorn"},
    "django": {"gunicorn-gthread", "gunicorn-sync", "gunicorn-asgi"},
}
"""Servers that kill their workers at the deadline."""
BLOCKED = [
    each
    for each in GRACEFUL
    if each.server.interface == "asgi" or each.server.name == "gunicorn-gthread"
]
"""Those whose `send` blocks at some time; daphne takes everything without limit."""
PLAIN = [each for each in STARLETTE if each in TOLD]


def deployed(among: list[Deployed]) -> pytest.MarkDecorator:
    """The test is of each of them."""
    return pytest.mark.parametrize("deployed", among, ids=str)


@deployed(TOLD)
async def test_sigterm_seals_every_stream(deployed: Deployed, tmp_path: Path) -> None:
    """Every stream has a receipt of category `shutdown`, every reader an `eos`, the server its exit code."""
    expected = await deployed.unguarded()
    with deployed.serve(tmp_path, grace=GRACE) as running:
        await answers(running)
        async with readers(running, deployed.streams, deployed.path("stream")) as clients:
            running.send_signal(signal.SIGTERM)
            ends = await rest(clients)
            assert await gone(running) == expected
    # Before anybody recovers anything: what stands there was written by the process that went.
    written = receipts(tmp_path)
    assert Counter((one["cause"], one["sealed"]) for one in written) == {
        ("SHUTDOWN", True): deployed.streams
    }
    assert len({one["stream_id"] for one in written}) == deployed.streams
    assert all(map(told_why, ends))
    assert not verify(tmp_path).problems


@deployed(ALL)
async def test_without_streams_nothing_changes(deployed: Deployed, tmp_path: Path) -> None:
    """P20: with nothing to end the server goes with the exit code that it has without StreamGuard."""
    expected = await deployed.unguarded()
    with deployed.serve(tmp_path, grace=GRACE) as running:
        await answers(running)
        running.send_signal(signal.SIGTERM)
        assert await gone(running) == expected


@deployed(ALL)
async def test_sigkill_is_recovered_once(deployed: Deployed, tmp_path: Path) -> None:
    """P18: a process that is killed writes nothing; the next start closes each of its streams as CRASHED, once."""
    streams = min(deployed.streams, 20)
    with deployed.serve(tmp_path) as running:
        await answers(running)
        async with readers(running, streams, deployed.path("stream")):
            await kill(running)
    assert [one["sealed"] for one in receipts(tmp_path)] == [False] * streams
    assert await recovered(tmp_path) == {"CRASHED": streams}


@deployed([each for each in ALL if each.server.name in KILLS[each.framework]])
async def test_a_deadline_before_the_grace_is_a_kill(deployed: Deployed, tmp_path: Path) -> None:
    """A server that kills its worker at a deadline below the grace leaves OPEN records, which tell the truth."""
    with deployed.serve(tmp_path, grace=1, GRACE="60") as running:
        await answers(running)
        async with readers(running, 3, deployed.path("stream")):
            running.send_signal(signal.SIGTERM)
            await gone(running)
    assert await recovered(tmp_path) == {"CRASHED": 3}


@deployed(GRACEFUL)
async def test_what_completes_within_the_grace_is_complete(
    deployed: Deployed, tmp_path: Path
) -> None:
    """The grace lets short answers complete, and cuts the others when it is over; daphne cancels both at once."""
    expected = await deployed.unguarded()
    with deployed.serve(tmp_path, grace=GRACE, GRACE="4") as running:
        await answers(running)
        async with (
            readers(running, 2, deployed.path("stream")) as endless,
            readers(running, 2, deployed.path("short")) as short,
        ):
            running.send_signal(signal.SIGTERM)
            texts = await rest(short)
            await rest(endless)
            assert await gone(running) == expected
    assert all(b'"cause":"COMPLETED"' in text for text in texts)
    assert Counter(one["cause"] for one in receipts(tmp_path)) == {"COMPLETED": 2, "SHUTDOWN": 2}


@deployed(BLOCKED)
async def test_a_reader_that_takes_nothing_costs_no_receipt(
    deployed: Deployed, tmp_path: Path
) -> None:
    """A `send` that is blocked by a frozen reader is given up under ASGI; where the server waits for it, it kills."""
    waits = deployed.server.interface == "wsgi" or deployed.server.name == "granian"
    with deployed.serve(tmp_path, grace=4 if waits else None) as running:
        await answers(running)
        path = deployed.path("big")
        async with await RawClient.open(running.url, path=path, receive_buffer=4096) as client:
            assert await client.read_head() == 200
            await until(lambda: receipts(tmp_path), "the stream to be open")
            await stands_still(running)
            running.send_signal(signal.SIGTERM)
            await gone(running)
    (receipt,) = receipts(tmp_path)
    assert (receipt["cause"], receipt["sealed"]) == ("SHUTDOWN", True)


@deployed(PLAIN[:2])
async def test_the_lifespan_alone_comes_too_late(deployed: Deployed, tmp_path: Path) -> None:
    """P22: without the signal handler the server waits for its streams, and says `lifespan.shutdown` to nobody."""
    with deployed.serve(tmp_path, SIGNALS="off") as running:
        await answers(running)
        async with readers(running, 1) as clients:
            running.send_signal(signal.SIGTERM)
            await until(lambda: "Waiting for connections" in running.output(), "the server to wait")
            assert len(await clients[0].read_until(5)) == 5
            assert [one["sealed"] for one in receipts(tmp_path)] == [False]


@deployed(PLAIN)
async def test_what_is_read_on_for_nobody_is_not_waited_for(
    deployed: Deployed, tmp_path: Path
) -> None:
    """A stream whose reader has left and that is drained is sealed at the signal, for the cause that it had."""
    expected = await deployed.unguarded()
    with deployed.serve(tmp_path, grace=GRACE) as running:
        await answers(running)
        async with readers(running, 3, "/drain") as clients:
            for client in clients:
                client.leave()
        async with readers(running, 1):
            running.send_signal(signal.SIGTERM)
            assert await gone(running) == expected
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("CLIENT_DISCONNECT", True): 3, ("SHUTDOWN", True): 1}


HYPERCORN = [each for each in ALL if each.server.name == "hypercorn"]


@pytest.mark.skipif(
    sys.version_info >= (3, 12, 1),
    reason="hypercorn#308: the worker never ends while a stream is open",
)
@deployed(HYPERCORN)
async def test_hypercorn_tells_its_worker_late(deployed: Deployed, tmp_path: Path) -> None:
    """Its worker gets no signal: the streams are cancelled at the server's deadline, and that is a shutdown, too.

    From Python 3.12.1 on it waits for its connections instead, for ever (hypercorn#308).
    """
    with deployed.serve(tmp_path, grace=1) as running:
        await answers(running)
        async with readers(running, 20) as clients:
            running.send_signal(signal.SIGTERM)
            ends = await rest(clients)
            assert await gone(running) == 0
    assert all(map(told_why, ends))
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("SHUTDOWN", True): 20}


@deployed(HYPERCORN[:1])
async def test_hypercorn_without_a_worker_of_its_own_is_told(
    deployed: Deployed, tmp_path: Path
) -> None:
    """With `--workers 0` the process that serves is the one that gets the signal."""
    with deployed.serve(tmp_path, "--workers", "0", grace=GRACE) as running:
        await answers(running)
        async with readers(running, STREAMS) as clients:
            running.send_signal(signal.SIGTERM)
            await rest(clients)
            assert await gone(running) == 0
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("SHUTDOWN", True): STREAMS}
