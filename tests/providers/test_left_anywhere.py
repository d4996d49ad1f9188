"""A call that is left between any two steps of the loop keeps no connection and no place in a pool.

The engine runs in a thread of its own, so that every callback counted here is the client's. The
cyclic collector is off: whatever it would have closed fails the test when it runs at the end.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest

from streamguard_core import MemoryLedger, OpenRecord, Scope, use_scope
from streamguard_providers import GuardedAsyncTransport, ProviderPool, Retries
from streamguard_testing import Fault, RunningEngine, run_engine

from .makers import openai_producer
from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .waiting import outcome, until
from .wire import DONE, token

#: More callbacks than a whole answer takes.
MOST = 200


class Steps:
    """Does things just before certain callbacks of this thread's loop, counted from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.plan: dict[int, Callable[[], object]] = {}
        run, thread = asyncio.Handle._run, threading.get_ident()

        def counted(handle: asyncio.Handle) -> None:
            if self.plan and threading.get_ident() == thread:
                self.count += 1
                self.plan.get(self.count, int)()
            run(handle)

        monkeypatch.setattr(asyncio.Handle, "_run", counted)

    @contextmanager
    def planned(self, plan: dict[int, Callable[[], object]]) -> Iterator[None]:
        """Count from here, and do what is planned."""
        self.count, self.plan = 0, plan
        try:
            yield
        finally:
            self.plan = {}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Counts the callbacks of the test's loop."""
    return Steps(monkeypatch)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Without the cyclic collector; what is left over for it is an error."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningEngine]:
    """An engine that goes on after its end, so that connections have to be closed."""
    with run_engine(tokens_per_second=5000, fault=Fault(trickle_after_done=True)) as engine:
        yield engine


class Slow(MemoryLedger):
    """A ledger whose OPEN records are durable some turns of the loop later."""

    def append_open(self, record: OpenRecord) -> Future[None]:
        super().append_open(record)
        durable: Future[None] = Future()
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, durable.set_result, None)
        return durable


class Reading:
    """One reader of three tokens, in a task of its own, and the ways to end it."""

    def __init__(self, kind: str, url: str, client: Any) -> None:
        self.ledger = Slow()
        report, scope = Recorder(), Scope(ledger=self.ledger)
        self.cut: Callable[[], None] = report.cut
        producer = openai_producer(url, max_tokens=3, client=client)

        async def pull() -> None:
            async for _ in producer.stream(report=report):
                pass

        async def push() -> None:
            await producer.run(out=report, cancel_event=asyncio.Event())

        async def guarded() -> None:
            with use_scope(scope):
                messages = [{"role": "user", "content": "Tell me about the river."}]
                body = {"model": "m", "stream": True, "max_tokens": 3, "messages": messages}
                path = f"{url}/v1/chat/completions"
                async with client.stream("POST", path, json=body) as response:
                    async for line in response.aiter_lines():
                        if "[DONE]" in line:
                            return

        if kind == "guarded":
            self.cut = scope.disconnected
        work = {"pull": pull, "push": push, "guarded": guarded}[kind]

        async def whole() -> None:
            await outcome(work())

        self.task = asyncio.ensure_future(whole())

    async def ended(self) -> None:
        """Wait for its end, which a cutoff and a cancellation both bring at once."""
        await asyncio.wait([self.task], timeout=5.0)
        assert self.task.done()


def client_for(kind: str, name: str | None) -> Any:
    """The client a reader uses; None where the producer has one of its own."""
    if name is None:
        return None
    library = importlib.import_module(name)
    options: dict[str, Any] = {"limits": library.Limits(max_connections=1)}
    if kind == "guarded":
        options = {"transport": GuardedAsyncTransport(**options)}
    return library.AsyncClient(**options)


@pytest.mark.parametrize(
    ("first", "again"),
    [("cut", None), ("cancel", None), ("cut", 2), ("cancel", 1), ("cancel", 3)],
    ids=["cut", "cancel", "cut+2", "cancel+1", "cancel+3"],
)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pull", None),
        ("push", None),
        ("pull", "httpx"),
        ("push", "httpx2"),
        ("guarded", "httpx"),
        ("guarded", "httpx2"),
    ],
)
@pytest.mark.usefixtures("no_collector")
async def test_left_before_every_step(
    server: RunningEngine, steps: Steps, kind: str, name: str | None, first: str, again: int | None
) -> None:
    """Cut off or cancelled anywhere, a call leaves nothing open, its place free, and one receipt at most."""
    for at in range(1, MOST):
        async with AsyncExitStack() as stack:
            client = client_for(kind, name)
            if client is not None:
                await stack.enter_async_context(client)
            reading = Reading(kind, server.url, client)
            plan: dict[int, Callable[[], object]] = {
                at: reading.cut if first == "cut" else reading.task.cancel
            }
            if again is not None:
                plan[at + again] = reading.task.cancel
            with steps.planned(plan):
                await reading.ended()
                taken = steps.count
            # Also of a call that was given up before it was made, and of one that is over (G11).
            opened = [record.stream_id for record in reading.ledger.opened]
            assert [receipt.stream_id for receipt in reading.ledger.receipts] == opened
            assert len(opened) <= (kind == "guarded")
            await until(lambda: not server.open_connections)
            if client is not None:
                async with asyncio.timeout(5):
                    assert (await client.get(f"{server.url}/api/tags")).status_code == 200
        if taken < at:
            break
    assert 15 < at < MOST - 1


@pytest.mark.parametrize("kind", ["pull", "push"])
@pytest.mark.usefixtures("no_collector")
def test_left_after_every_turn_of_uvloop(server: RunningEngine, kind: str) -> None:
    """The same by whole turns on uvloop, whose callbacks cannot be counted."""
    uvloop = pytest.importorskip("uvloop")

    async def leave_after(turns: int, how: str) -> bool:
        reading = Reading(kind, server.url, None)
        for _ in range(turns):
            await asyncio.sleep(0)
        early = not reading.task.done()
        (reading.cut if how == "cut" else reading.task.cancel)()
        await reading.ended()
        await until(lambda: not server.open_connections)
        return early

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for how in ("cut", "cancel"):
            for turns in range(40):
                runner.run(leave_after(turns, how))


@pytest.mark.parametrize("how", ["cut", "cancel"])
@pytest.mark.usefixtures("no_collector")
async def test_left_before_every_step_of_a_retry(steps: Steps, how: str) -> None:
    """Left anywhere between a try that fails, its wait and the next one, nothing stays open or runs on."""
    answers = head("application/json", status="503 X") + chunked(b"{}", end=True)
    good = head() + chunked(token("a", "stop"), DONE, end=True)
    for at in range(1, MOST):
        scripts = (Answer(answers, then="next"), Answer(good, then="next"))
        async with scripted(*scripts) as script, ProviderPool() as pool:
            report = Recorder()
            producer = openai_producer(script.url, pool=pool, retries=Retries(base=0.0))

            async def whole(producer: Any = producer, report: Recorder = report) -> None:
                await outcome(produce(producer, report))

            task = asyncio.ensure_future(whole())
            leave: Callable[[], object] = report.cut if how == "cut" else task.cancel
            with steps.planned({at: leave}):
                await asyncio.wait([task], timeout=5.0)
                taken = steps.count
            assert task.done()
            await pool.aclose()
            await until(lambda script=script: script.finished == script.connections)  # type: ignore[misc]
            assert report.closers == [] or how == "cut"
            assert len(report.attempts) <= 2
        if taken < at:
            break
    assert 30 < at < MOST - 1
