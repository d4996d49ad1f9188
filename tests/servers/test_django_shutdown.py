"""A deploy of a Django project: SIGTERM and SIGKILL with live streams, under every server of both kinds."""

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
from .serving import ASGI, SERVERS, WSGI, Server, answers, serve, until

pytestmark = pytest.mark.servers

TOLD = [each for each in ASGI if each.name != "hypercorn"]
"""Those whose serving process gets the signal."""
GUNICORN = [each for each in WSGI if each.name.startswith("gunicorn")]
THREADS = {
    "gunicorn-gthread": ("--threads", str(STREAMS + 20)),
    "granian-wsgi": ("--blocking-threads", str(STREAMS + 20), "--backpressure", str(STREAMS + 20)),
    "gunicorn-sync": ("--workers", "4"),
}
"""A WSGI server has a thread for each stream; gunicorn's sync workers are processes with one."""


def application(server: Server) -> str:
    """What each serves."""
    return "deployed:app" if server.interface == "asgi" else "deployed:wsgi"


def path(server: Server, name: str) -> str:
    """An async view under ASGI, a sync one under WSGI."""
    return f"/{name}" if server.interface == "asgi" else f"/sync/{name}"


def count(server: Server) -> int:
    """How many streams it can have."""
    return 4 if server.name == "gunicorn-sync" else STREAMS


@pytest.mark.parametrize("server", [*TOLD, *WSGI], ids=str)
async def test_sigterm_seals_every_stream(server: Server, tmp_path: Path) -> None:
    """Every stream has a receipt of category `shutdown`, every reader an `eos`, the server its exit code."""
    options = THREADS.get(server.name, ())
    expected = await unguarded(server, *options, application=application(server))
    env = {"LEDGER": str(tmp_path)}
    with serve(server, application(server), *options, env=env, grace=GRACE) as running:
        await answers(running)
        async with readers(running, count(server), path(server, "stream")) as clients:
            running.send_signal(signal.SIGTERM)
            ends = await rest(clients)
            assert await gone(running) == expected
    # Before anybody recovers anything: what stands there was written by the process that went.
    written = receipts(tmp_path)
    assert Counter((one["cause"], one["sealed"]) for one in written) == {
        ("SHUTDOWN", True): count(server)
    }
    assert all(map(told_why, ends))
    assert not verify(tmp_path).problems


@pytest.mark.parametrize("server", [*ASGI, *WSGI], ids=str)
async def test_without_streams_nothing_changes(server: Server, tmp_path: Path) -> None:
    """P20: with nothing to end the server goes with the exit code that it has without StreamGuard."""
    expected = await unguarded(server, application=application(server))
    env = {"LEDGER": str(tmp_path)}
    with serve(server, application(server), env=env, grace=GRACE) as running:
        await answers(running)
        running.send_signal(signal.SIGTERM)
        assert await gone(running) == expected


@pytest.mark.parametrize("server", [*ASGI, *WSGI], ids=str)
async def test_sigkill_is_recovered_once(server: Server, tmp_path: Path) -> None:
    """P18: a process that is killed writes nothing; the next start closes each of its streams as CRASHED, once."""
    streams = min(count(server), 10)
    options, env = THREADS.get(server.name, ()), {"LEDGER": str(tmp_path)}
    with serve(server, application(server), *options, env=env) as running:
        await answers(running)
        async with readers(running, streams, path(server, "stream")):
            await kill(running)
    assert [one["sealed"] for one in receipts(tmp_path)] == [False] * streams
    assert await recovered(tmp_path) == {"CRASHED": streams}


@pytest.mark.parametrize("name", ["gunicorn-gthread", "gunicorn-sync", "gunicorn-asgi"])
async def test_a_deadline_before_the_grace_is_a_kill(name: str, tmp_path: Path) -> None:
    """A server that kills its worker at a deadline below the grace leaves OPEN records, which tell the truth."""
    server, env = SERVERS[name], {"LEDGER": str(tmp_path), "GRACE": "60"}
    with serve(server, application(server), *THREADS.get(name, ()), env=env, grace=1) as running:
        await answers(running)
        async with readers(running, 3, path(server, "stream")):
            running.send_signal(signal.SIGTERM)
            await gone(running)
    assert await recovered(tmp_path) == {"CRASHED": 3}


GRACEFUL = [each for each in TOLD if each.name != "daphne"]


@pytest.mark.parametrize("server", [*GRACEFUL, *WSGI], ids=str)
async def test_what_completes_within_the_grace_is_complete(server: Server, tmp_path: Path) -> None:
    """`SHUTDOWN_GRACE` lets short answers complete, and cuts the others when it is over; daphne cancels both."""
    options = THREADS.get(server.name, ())
    expected = await unguarded(server, *options, application=application(server))
    env = {"LEDGER": str(tmp_path), "GRACE": "4"}
    with serve(server, application(server), *options, env=env, grace=GRACE) as running:
        await answers(running)
        async with (
            readers(running, 2, path(server, "stream")) as endless,
            readers(running, 2, path(server, "short")) as short,
        ):
            running.send_signal(signal.SIGTERM)
            texts = await rest(short)
            await rest(endless)
            assert await gone(running) == expected
    assert all(b'"cause":"COMPLETED"' in text for text in texts)
    assert Counter(one["cause"] for one in receipts(tmp_path)) == {"COMPLETED": 2, "SHUTDOWN": 2}


@pytest.mark.parametrize("server", [*GRACEFUL, SERVERS["gunicorn-gthread"]], ids=str)
async def test_a_reader_that_takes_nothing_costs_no_receipt(server: Server, tmp_path: Path) -> None:
    """A `send` that is blocked by a frozen reader is given up under ASGI; where the server waits for it, it kills."""
    waits = server.interface == "wsgi" or server.name == "granian"
    env, grace = {"LEDGER": str(tmp_path)}, 4 if waits else None
    with serve(server, application(server), env=env, grace=grace) as running:
        await answers(running)
        client = await RawClient.open(running.url, path=path(server, "big"), receive_buffer=4096)
        async with client:
            assert await client.read_head() == 200
            await until(lambda: receipts(tmp_path), "the stream to be open")
            await stands_still(running)
            running.send_signal(signal.SIGTERM)
            await gone(running)
    (receipt,) = receipts(tmp_path)
    assert (receipt["cause"], receipt["sealed"]) == ("SHUTDOWN", True)


@pytest.mark.parametrize("server", GUNICORN, ids=str)
async def test_a_worker_that_has_served_enough_keeps_its_receipts(
    server: Server, tmp_path: Path
) -> None:
    """`--max-requests` ends a process that nobody told to go, right behind a response: its receipt is kept."""
    env = {"LEDGER": str(tmp_path)}
    with serve(server, application(server), "--max-requests", "1", env=env) as running:
        async with readers(running, 1, "/sync/short") as clients:
            (end,) = await rest(clients)
        assert b'"cause":"COMPLETED"' in end
        await until(lambda: receipts(tmp_path)[0]["sealed"], "the receipt")


@pytest.mark.parametrize("server", GUNICORN, ids=str)
async def test_workers_that_are_forked_from_a_loaded_project(
    server: Server, tmp_path: Path
) -> None:
    """`--preload`: the handler is the worker's own, by its hook; sync workers need none; the ledger is a worker's."""
    hook = ("--config", "python:preloaded") if server.name == "gunicorn-gthread" else ("--preload",)
    options, env = (*THREADS[server.name], *hook), {"LEDGER": str(tmp_path)}
    expected = await unguarded(server, "--preload", application=application(server))
    with serve(server, application(server), *options, env=env, grace=GRACE) as running:
        await answers(running)
        async with readers(running, 3, "/sync/stream") as clients:
            running.send_signal(signal.SIGTERM)
            ends = await rest(clients)
            assert await gone(running) == expected
    assert all(map(told_why, ends))
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("SHUTDOWN", True): 3}


async def test_hypercorn_tells_its_worker_late(tmp_path: Path) -> None:
    """Its worker gets no signal: the streams are cancelled at the server's deadline, and that is a shutdown, too.

    From Python 3.12.1 on it waits for its connections instead, for ever (hypercorn#308).
    """
    if sys.version_info >= (3, 12, 1):
        pytest.skip("hypercorn#308: the worker never ends while a stream is open")
    server = SERVERS["hypercorn"]
    with serve(server, "deployed:app", env={"LEDGER": str(tmp_path)}, grace=1) as running:
        await answers(running)
        async with readers(running, 20) as clients:
            running.send_signal(signal.SIGTERM)
            ends = await rest(clients)
            assert await gone(running) == 0
    assert all(map(told_why, ends))
    causes = Counter((one["cause"], one["sealed"]) for one in receipts(tmp_path))
    assert causes == {("SHUTDOWN", True): 20}
