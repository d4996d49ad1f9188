"""The same session on uvloop, in real time: nothing in it depends on asyncio's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import Cause, CloseState, Deadlines, MemoryLedger, StreamSession
from streamguard_core.testing import (
    Played,
    ScriptedConsumer,
    ScriptedProducer,
    ScriptedPull,
    emit,
    hang,
    ignore_cancel,
    read,
    read_batches,
    scripted_blocking,
    scripted_iterator,
)

uvloop = pytest.importorskip("uvloop")

MAKERS: dict[str, Callable[..., object]] = {
    "pull": scripted_iterator,
    "batches": ScriptedPull,
    "push": ScriptedProducer,
    "thread": scripted_blocking,
}


def on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on a fresh uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_stream_completes(make: Callable[..., object]) -> None:
    """Chunks in order, EOS, one receipt."""

    async def main() -> None:
        ledger = MemoryLedger()
        session = StreamSession(make(emit("a", "b"), emit("c")), ledger=ledger)
        assert [chunk async for chunk in session] == ["a", "b", "c"]
        assert (await session.receipt()).cause is Cause.COMPLETED
        assert len(ledger.receipts) == 1

    on_uvloop(main())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("way", [read(), read_batches()], ids=["async for", "batches"])
def test_a_parked_reader_wakes(make: Callable[..., object], way: Any) -> None:
    """A cut from another task reaches the reader inside the producer."""

    async def main() -> None:
        played = Played()
        keywords = {} if make in (ScriptedPull, ScriptedProducer) else {"played": played}
        session = StreamSession(make(emit("a"), hang(), **keywords))
        session.on_close(played.release)
        consumer = ScriptedConsumer(way)
        reading = asyncio.create_task(consumer.consume(session))
        while not consumer.received:  # noqa: ASYNC110 - turns, no time
            await asyncio.sleep(0)
        session.cancel()
        await reading
        receipt = await session.receipt()
        assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.CONFIRMED)
        assert reading.cancelling() == 0

    on_uvloop(main())


def test_deadlines_run_on_the_machines_clock() -> None:
    """Timers of milliseconds, on a loop that counts in milliseconds."""

    async def main() -> None:
        session = StreamSession(
            scripted_iterator(emit("a"), hang()), deadlines=Deadlines(idle=0.02)
        )
        assert [chunk async for chunk in session] == ["a"]
        assert (await session.receipt()).cause is Cause.TIMEOUT_IDLE
        producer = ScriptedProducer(ignore_cancel(), hang())
        session = StreamSession(producer, deadlines=Deadlines(close=0.02))
        session.start()
        await asyncio.sleep(0)
        session.cancel()
        assert (await session.receipt()).close is CloseState.UNCONFIRMED
        producer.played.deaf = False

    on_uvloop(main())


def test_the_loop_was_closed_in_mid_stream() -> None:
    """The receipt is written all the same (pitfall 15)."""
    sessions: list[Any] = []

    async def main() -> None:
        session = StreamSession(scripted_iterator(emit("a"), hang()))
        iterator = aiter(session)
        await anext(iterator)
        sessions.extend([session, iterator])

    loop = uvloop.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    sessions[0].cancel()
    assert sessions[0].sealed.close is CloseState.UNCONFIRMED
