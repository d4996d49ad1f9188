"""The producers at the cutoff: the connection is closed at once, in every phase."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamguard_providers import (
    GuardedAsyncTransport,
)
from streamguard_testing import LoopbackEngine, run_engine

from .makers import Make, openai_producer
from .recorder import Recorder, produce
from .scripted_server import LET_GO, OK, Answer, full_listener, scripted
from .waiting import outcome, until


@asynccontextmanager
async def cut_off(
    producer: Any, contract: str
) -> AsyncIterator[tuple[Recorder, asyncio.Task[Any]]]:
    """Run a producer in a task of its own, and stop it however the test ends."""
    report = Recorder()
    event = asyncio.Event()
    if contract == "push":
        report.closers.append(event.set)  # a caller who knows nothing of on_close
        task = asyncio.create_task(outcome(producer.run(out=report, cancel_event=event)))
        report.on_close = lambda callback: lambda: None  # type: ignore[method-assign]
    else:
        task = asyncio.create_task(outcome(produce(producer, report)))
    try:
        yield report, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("phase", ["thinking", "streaming"])
async def test_cut_off(make: Make, contract: str, phase: str, collector: bool) -> None:
    """At the cutoff the connection is closed at once; the producer ends without an error."""
    delay = 30.0 if phase == "thinking" else 0.0
    async with LoopbackEngine(tokens_per_second=200, first_token_delay=delay) as engine:
        producer = make(engine.url, max_tokens=5000)
        async with cut_off(producer, contract) as (report, task):
            if phase == "thinking":
                await engine.wait_until(lambda: bool(engine.requests))
            else:
                await until(lambda: len(report.chunks) > 5)
            instant = time.monotonic()
            report.cut()
            got = await task
            assert not isinstance(got, Exception), got
            await engine.wait_idle()
            (request,) = engine.requests
            assert request.noticed_at is not None
            assert request.noticed_at - instant < LET_GO
            assert request.generated - len(report.chunks) < 100
            (attempt,) = report.attempts
            assert attempt.cut


async def test_cut_off_while_connecting(make: Make, contract: str) -> None:
    """A connection that does not come to be is given up at the cutoff."""
    with full_listener() as port:
        producer = make(f"http://127.0.0.1:{port}")
        async with cut_off(producer, contract) as (report, task):
            for _ in range(20):
                await asyncio.sleep(0)
            report.cut()
            async with asyncio.timeout(LET_GO):
                got = await task
            assert not isinstance(got, Exception), got
            assert report.chunks == []


async def test_cut_off_between_two_reads(make: Make, engine: LoopbackEngine) -> None:
    """A reader that holds a batch does not keep the connection open."""
    report = Recorder()
    batches = make(engine.url, max_tokens=5000).stream(report=report)
    await anext(batches)
    report.cut()
    await engine.wait_idle()
    assert not engine.requests[0].ran_to_end
    assert await outcome(anext(batches, "end")) == "end"


async def test_nothing_is_sent_after_the_cutoff(make: Make, contract: str) -> None:
    """A producer that starts after its cutoff makes no call."""
    async with scripted(Answer(OK)) as server:
        report = Recorder(cut=True)
        assert await produce(make(server.url), report, contract) == []
        assert server.connections == 0
        assert report.attempts == []


async def test_a_consumer_that_stops_closes_the_connection(
    make: Make, engine: LoopbackEngine, collector: bool
) -> None:
    """Closing the iterator lets go of the engine; the attempt says that we left."""
    report = Recorder()
    stream = make(engine.url, max_tokens=5000).stream(report=report)
    await anext(stream)
    await stream.aclose()
    await engine.wait_idle()
    assert not engine.requests[0].ran_to_end
    assert report.attempts[0].cut
    assert report.closers == []


async def test_a_cancelled_task_closes_the_connection(
    make: Make, contract: str, collector: bool
) -> None:
    """Cancellation from outside passes through, and the engine is let go."""
    async with LoopbackEngine(first_token_delay=30.0) as engine:
        report = Recorder()
        task = asyncio.create_task(produce(make(engine.url), report, contract))
        await engine.wait_until(lambda: bool(engine.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.wait_idle()
        assert report.attempts[0].cut


@pytest.mark.parametrize("guarded", [False, True], ids=["plain", "guarded"])
async def test_a_reused_connection_is_closed_in_the_step_of_the_cutoff(
    library: Any, guarded: bool
) -> None:
    """On a shared client, too, the connection is closed before the headers without a turn of the loop."""
    options = {"transport": GuardedAsyncTransport()} if guarded else {}
    async with (
        scripted(Answer(OK, then="next"), Answer()) as server,
        library.AsyncClient(**options) as client,
    ):
        await client.get(server.url)
        server.received.clear()
        async with cut_off(openai_producer(server.url, client=client), "pull") as (report, task):
            await server.received.wait()
            assert server.connections == 1
            (cut,) = report.closers
            call: Any = cut.__self__  # type: ignore[attr-defined]  # a bound method
            assert call._network is not None
            report.cut()
            assert call._network is None
            await server.left()
            assert await task == []


async def test_leaves_no_task_behind(make: Make) -> None:
    """When a producer has ended there is nothing that still runs, not for one turn of the loop."""
    with run_engine(tokens_per_second=500) as engine:
        before = asyncio.all_tasks()
        await make(engine.url, max_tokens=3).run(out=Recorder(), cancel_event=asyncio.Event())
        assert asyncio.all_tasks() == before
        report = Recorder()
        batches = make(engine.url, max_tokens=5000).stream(report=report)
        await anext(batches)
        report.cut()
        await batches.aclose()
        assert asyncio.all_tasks() == before
