"""The pool: consecutive calls use one connection, nothing leaks, and everything can be closed."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamguard_core import UsageError
from streamguard_providers import ProviderPool, shared_pool
from streamguard_testing import LoopbackEngine, RunningEngine, run_engine

from .makers import Make, openai_producer
from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .waiting import until
from .wire import DONE, token

GOOD = chunked(token("a", "stop"), DONE, end=True)


@pytest.fixture
def server() -> Iterator[RunningEngine]:
    """An engine in a thread of its own, for the loops that a test makes."""
    with run_engine(tokens_per_second=2000) as engine:
        yield engine


def connections(engine: LoopbackEngine) -> int:
    """How many connections the requests came on."""
    return len({request.connection_opened_at for request in engine.requests})


async def test_consecutive_calls_use_one_connection(
    make: Make, contract: str, engine: LoopbackEngine
) -> None:
    """Each request of an application makes a producer of its own: they share the connection."""
    for _ in range(3):
        assert len(await produce(make(engine.url, max_tokens=3), Recorder(), contract)) == 3
    assert connections(engine) == engine.open_connections == 1
    await shared_pool().aclose()
    await until(lambda: not engine.open_connections)


async def test_calls_at_the_same_time_have_connections_of_their_own(engine: LoopbackEngine) -> None:
    """There is no limit: a call never waits for another's connection."""
    producer = openai_producer(engine.url, max_tokens=50)
    await asyncio.gather(*(produce(producer, Recorder()) for _ in range(30)))
    assert connections(engine) == 30
    await until(lambda: engine.open_connections == 20)


async def test_the_cutoff_closes_the_connection_and_no_other(engine: LoopbackEngine) -> None:
    """A stream that is cut off takes its connection with it; its neighbour's lives on (G10)."""
    pool = ProviderPool()
    first, second = Recorder(), Recorder()
    cut = openai_producer(engine.url, max_tokens=5000, pool=pool).stream(report=first)
    other = openai_producer(engine.url, max_tokens=5000, pool=pool).stream(report=second)
    await anext(cut)
    await anext(other)
    first.cut()
    await until(lambda: engine.open_connections == 1)
    assert await anext(other)
    await other.aclose()
    await cut.aclose()
    await until(lambda: not engine.open_connections)
    assert len(await produce(openai_producer(engine.url, max_tokens=2, pool=pool), Recorder())) == 2
    assert connections(engine) == 3
    await pool.aclose()


async def test_a_refusal_keeps_its_connection() -> None:
    """An error response that was read to its end is no reason for a new connection."""
    refused = head("application/json", status="400 X") + chunked(b"{}", end=True)
    answers = [Answer(refused, then="next"), Answer(head() + GOOD, then="next")]
    async with scripted(*answers) as server, ProviderPool() as pool:
        producer = openai_producer(server.url, pool=pool)
        with pytest.raises(Exception, match="refused the call"):
            await produce(producer, Recorder())
        assert await produce(producer, Recorder()) == ["a"]
        assert server.connections == 1


async def test_a_connection_that_its_server_closed_is_not_used() -> None:
    """What the server has closed meanwhile is replaced, without an attempt that fails."""
    answers = [Answer(head() + GOOD, then="close"), Answer(head() + GOOD, then="next")]
    async with scripted(*answers) as server, ProviderPool() as pool:
        producer = openai_producer(server.url, pool=pool)
        report = Recorder()
        await produce(producer, report)
        await asyncio.sleep(0)
        assert await produce(producer, report) == ["a", "a"]
        assert [attempt.status for attempt in report.attempts] == [200, 200]
        assert server.connections == 2


async def test_closed_when_idle(engine: LoopbackEngine) -> None:
    """What nobody uses is closed after a while, by nobody's hand; a call that runs is use."""
    pool = ProviderPool(idle_seconds=0.05)
    report = Recorder()
    stream = openai_producer(engine.url, max_tokens=5000, pool=pool).stream(report=report)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() < begun + 0.2:
        assert await anext(stream)
    await stream.aclose()
    await produce(openai_producer(engine.url, max_tokens=2, pool=pool), report)
    assert engine.open_connections == 1
    await until(lambda: not engine.open_connections)
    assert pool._kept() is None
    assert len(await produce(openai_producer(engine.url, max_tokens=2, pool=pool), Recorder())) == 2
    await pool.aclose()


async def test_a_pool_can_be_closed_and_used_again(engine: LoopbackEngine) -> None:
    """Closing ends the connections, not the pool; closing one that holds nothing does nothing."""
    async with ProviderPool() as pool:
        await pool.aclose()
        for _ in range(2):
            await produce(openai_producer(engine.url, max_tokens=2, pool=pool), Recorder())
            await pool.aclose()
            await until(lambda: not engine.open_connections)
    assert connections(engine) == 2
    assert repr(pool) == "<ProviderPool http2=False>"


async def test_no_cookie_goes_from_one_call_to_another() -> None:
    """Calls share connections, not what a provider remembers of a caller."""
    first = head("text/event-stream", "set-cookie: caller=one; path=/") + GOOD
    async with scripted(Answer(first, then="next"), Answer(head() + GOOD, then="next")) as server:
        for _ in range(2):
            await produce(openai_producer(server.url), Recorder())
        assert server.connections == 1
        assert b"cookie:" not in server.requests[1].lower()


async def test_compression_is_asked_for() -> None:
    """Requests accept every compression that the installed httpx can undo."""
    async with scripted(Answer(head() + GOOD, then="next")) as server:
        await produce(openai_producer(server.url), Recorder())
        (line,) = (
            line
            for line in server.requests[0].lower().split(b"\r\n")
            if line.startswith(b"accept-e")
        )
    accepted = line.decode().partition(": ")[2]
    assert accepted == httpx.AsyncClient().headers["accept-encoding"]
    assert {"gzip", "deflate"} <= set(accepted.split(", "))


def test_each_loop_has_its_own_and_leaves_nothing(server: RunningEngine) -> None:
    """Loops do not share connections, and are not kept alive by what they held."""
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def twice() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        for _ in range(2):
            await produce(openai_producer(server.url, max_tokens=2), Recorder())

    for _ in range(3):
        asyncio.run(twice())
    assert len({request.connection_opened_at for request in server.requests}) == 3
    assert len(server.requests) == 6
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


SCRIPT = """
import asyncio, gc, sys, threading
from streamguard_core import StreamSession
from streamguard_providers import OpenAIProducer, ProviderPool, shared_pool

url = sys.argv[1]
own = ProviderPool()

async def one(pool):
    producer = OpenAIProducer("m", prompt="a", base_url=url, max_tokens=3, pool=pool)
    async with StreamSession(producer) as session:
        return [chunk async for chunk in session]

async def left():
    producer = OpenAIProducer("m", prompt="a", base_url=url, max_tokens=3000)
    async with StreamSession(producer) as session:
        async for _ in session:
            break

async def work():
    for pool in (shared_pool(), own):
        assert len(await one(pool)) == 3
    await left()
    await asyncio.gather(*(one(shared_pool()) for _ in range(5)))

LOOPS

asyncio.run(work())
threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
gc.collect()
"""

BY_HAND = """
loop = asyncio.new_event_loop()
loop.run_until_complete(work())
loop.run_until_complete(shared_pool().aclose())
loop.run_until_complete(own.aclose())
loop.close()
"""

UVLOOP = """
import uvloop
uvloop.run(work())
"""


@pytest.mark.parametrize("loops", [BY_HAND, UVLOOP], ids=["by hand", "uvloop"])
def test_nothing_is_left_open(server: RunningEngine, loops: str, tmp_path: Path) -> None:
    """Whatever loops and threads use it, a process ends without a warning of something unclosed."""
    if loops is UVLOOP:
        pytest.importorskip("uvloop")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("LOOPS", loops), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), f"{server.url}/v1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_http2_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without h2 the pool is refused, and the text says what to install."""
    assert repr(ProviderPool(http2=True)) == "<ProviderPool http2=True>"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"httpx\[http2\]"):
        ProviderPool(http2=True)


def test_a_client_of_the_callers_is_one(make: Make) -> None:
    """What is no client is refused when the producer is made; so is a keyword that nobody knows."""
    options: dict[str, Any] = {"client": "http://proxy"}
    with pytest.raises(UsageError, match=r"httpx\.AsyncClient"):
        make("http://server", **options)
    with pytest.raises(UsageError, match="no keyword clients"):
        make("http://server", clients=1)
