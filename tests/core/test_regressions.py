"""The mistakes of a naive implementation of this protocol, one regression test for each."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from streamguard_core import (
    Category,
    Cause,
    Chunk,
    CloseState,
    CutOff,
    Deadlines,
    LedgerError,
    MemoryLedger,
    Notice,
    Opened,
    Party,
    Receipt,
    Sealed,
    StreamSession,
    Usage,
)
from streamguard_core.testing import (
    JumpingLoop,
    ScriptedConsumer,
    ScriptedProducer,
    ScriptedPull,
    Step,
    emit,
    emit_without_awaiting,
    fail,
    finish,
    hang,
    park,
    read,
    run,
    scripted_iterator,
    settled,
    stall,
    wait,
)

Build = Callable[..., Any]


async def test_regression_01_an_empty_stream_and_a_consumer_that_keeps_up_get_eos(
    build: Build,
) -> None:
    """EOS does not depend on acknowledgements: not without any chunk, nor with all of them consumed."""
    empty = build()
    assert [chunk async for chunk in empty.session] == []
    assert (await empty.session.receipt()).eos_delivered
    # Everything is consumed, and the producer takes its time to end.
    late = build(emit("a"), wait(5))
    assert [chunk async for chunk in late.session] == ["a"]
    assert (await late.session.receipt()).eos_delivered


@pytest.mark.parametrize("ending", ["cancel", "error", "timeout", "shutdown"])
async def test_regression_02_a_parked_reader_is_woken_by_every_ending(ending: str) -> None:
    """Cancel, producer error, timeout and shutdown all reach a reader that waits."""
    script: list[Step] = [emit("a"), wait(3), fail()] if ending == "error" else [emit("a"), hang()]
    deadlines = Deadlines(idle=2) if ending == "timeout" else None
    for producer in (scripted_iterator(*script), ScriptedProducer(*script)):
        session = StreamSession(producer, deadlines=deadlines)
        reading = asyncio.create_task(ScriptedConsumer(read()).consume(session))
        await settled()
        if ending == "cancel":
            session.cancel()
        elif ending == "shutdown":
            await session.shutdown()
        await reading
        await session.receipt()


async def test_regression_03_a_cancel_reaches_a_producer_that_waits(build: Build) -> None:
    """During prefill or a stall the producer is closed, not when its next event comes."""
    built = build(hang())
    built.session.start()
    await settled()
    built.session.cancel()
    receipt = await built.session.receipt()
    assert receipt.close is CloseState.CONFIRMED
    assert asyncio.get_running_loop().time() == 0


async def test_regression_04_twenty_thousand_tokens_do_not_pile_up() -> None:
    """Without a reader at most both limits are buffered, and what is in flight is not all of it."""
    session = StreamSession(ScriptedProducer(emit(*("x" for _ in range(20_000)))))
    session.start()
    await settled()
    statistics = session.statistics()
    assert (statistics.produced, statistics.committed) == (24, 16)
    await session.aclose()


async def test_regression_05_freed_capacity_is_used_at_once() -> None:
    """A chunk that waited for room is delivered when the reader made it, not at an unrelated event."""
    script: list[Step] = [emit(*"abcd"), wait(500), emit("e")]
    session = StreamSession(
        ScriptedProducer(*script), speculative_buffer_limit=1, max_inflight_commits=1
    )
    times: list[float] = []
    async for chunk in session:
        times.append(asyncio.get_running_loop().time())
        if chunk == "d":
            break
    assert times == [0, 0, 0, 0]


async def test_regression_06_batching_delays_nothing() -> None:
    """Neither the first chunk nor what is there when the producer stalls is held back."""
    session = StreamSession(ScriptedPull(wait(2), emit("a"), hang()))
    assert await session.read_ready(limit=16) == ["a"]
    assert asyncio.get_running_loop().time() == 2
    await session.aclose()


async def test_regression_07_a_producer_error_keeps_its_kind(build: Build) -> None:
    """Its category is the producer's and its type is in the detail, also with a parked reader."""
    built = build(emit("a"), wait(1), fail(ConnectionResetError()))
    consumer = ScriptedConsumer(read())
    await consumer.consume(built.session)
    receipt = await built.session.receipt()
    assert (receipt.category, receipt.detail) == (Category.PRODUCER, "ConnectionResetError")


async def test_regression_08_a_disconnect_is_recorded(build: Build) -> None:
    """A receipt after a disconnect says so, and not "shutdown"."""
    built = build(emit("a"), hang())
    built.session.start()
    await settled()
    built.session.disconnected("the socket is gone")
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert receipt.history[0].detail == "the socket is gone"


async def test_regression_09_completion_is_nobodys(build: Build) -> None:
    """A normal end has its own category, and no party."""
    built = build(emit("a"))
    assert [chunk async for chunk in built.session] == ["a"]
    receipt = await built.session.receipt()
    assert (receipt.category, receipt.party) == (Category.COMPLETED, None)


async def test_regression_10_gauges_return_to_zero(build: Build) -> None:
    """One Opened and one Sealed per stream, however often it is ended: a gauge made of them balances."""
    active = [0]

    def gauge(notice: Notice) -> None:
        active[0] += isinstance(notice, Opened) - isinstance(notice, Sealed)
        assert active[0] >= 0

    cuts: list[Notice] = []
    script = [emit("a"), fail()]
    built = build(
        *script,
        observers=[
            gauge,
            lambda notice: cuts.append(notice) if isinstance(notice, CutOff) else None,
        ],
    )
    async for _ in built.session:
        pass
    for _ in range(5):
        built.session.cancel()
        built.session.disconnected()
        await built.session.aclose()
    await built.session.receipt()
    assert active == [0]
    assert len(cuts) == 1


async def test_regression_11_prevented_is_not_waste() -> None:
    """Produced and not delivered is waste; what was never generated is prevented, and bounded by the cap."""
    session = StreamSession(
        ScriptedProducer(emit(*("x" for _ in range(10))), hang()), max_tokens=10_000
    )
    await ScriptedConsumer(read(4)).consume(session)
    receipt = await session.receipt()
    assert (receipt.produced, receipt.consumed, receipt.waste.value) == (10, 3, 7)
    assert (receipt.prevented.value, receipt.prevented.upper) == (None, 9_990)


async def test_regression_12_the_receipt_waits_for_what_was_read(build: Build) -> None:
    """It is sealed when nothing can change any more: what the reader took is on it."""
    built = build(emit("a"), emit("b"), hang())
    consumer = ScriptedConsumer(read())
    reading = asyncio.create_task(consumer.consume(built.session))
    await settled()
    built.session.cancel()
    await reading
    receipt = await built.session.receipt()
    assert receipt.consumed == len(consumer.received) == 2


async def test_regression_13_nothing_is_committed_after_the_cutoff() -> None:
    """Not what waits in the speculative buffer, though the reader makes room afterwards."""
    session = StreamSession(
        ScriptedProducer(emit(*"abcdef"), hang()),
        speculative_buffer_limit=4,
        max_inflight_commits=2,
    )
    iterator = aiter(session)
    assert await anext(iterator) == "a"
    await settled()
    committed = session.statistics().committed
    assert session.statistics().speculative == 4
    session.cancel()
    assert [chunk async for chunk in iterator] == ["b"]
    receipt = await session.receipt()
    assert receipt.committed == committed == 2


async def test_regression_14_what_comes_late_is_counted() -> None:
    """Chunks offered after the cutoff, and chunks that waited, are on the receipt: the provider bills them."""
    session = StreamSession(
        ScriptedProducer(emit_without_awaiting(*"abcdefgh"), hang()),
        speculative_buffer_limit=2,
        max_inflight_commits=2,
    )
    session.start()
    receipt = await session.receipt()
    assert receipt.produced + receipt.late == 8


async def test_regression_15_consumed_is_taken_over_not_dequeued(build: Build) -> None:
    """A chunk counts as consumed when its reader asks for more, which says that it was sent."""
    built = build(emit("a"), emit("b"), hang())
    iterator = aiter(built.session)
    assert await anext(iterator) == "a"
    assert built.session.statistics().consumed == 0
    assert await anext(iterator) == "b"
    assert built.session.statistics().consumed == 1
    built.session.cancel()
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)
    assert (await built.session.receipt()).consumed == 2


async def test_regression_16_the_providers_counts_are_kept() -> None:
    """Tokens come from the provider's usage where there is one; chunks are only chunks."""
    usage = Usage.reported_by_provider(input=12, output=345)
    session = StreamSession(ScriptedPull(emit("one", "two"), finish("length", usage)))
    assert [chunk async for chunk in session] == ["one", "two"]
    receipt = await session.receipt()
    assert (receipt.produced, receipt.output.value, receipt.finish) == (2, 345, "length")


async def test_regression_17_an_ending_is_no_cancelled_error(build: Build) -> None:
    """A cut-off stream ends its iteration; a TaskGroup around it sees no cancellation."""
    built = build(emit("a"), hang())
    asyncio.get_running_loop().call_later(1, built.session.cancel)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ScriptedConsumer(read()).consume(built.session))
    assert not task.cancelled()
    await built.session.receipt()


async def test_regression_18_every_task_is_supervised(build_async: Build) -> None:
    """After the seal no task of the session is left, whatever happened."""
    for script in ([emit("a")], [emit("a"), fail()], [emit("a"), hang()]):
        built = build_async(*script)
        before = asyncio.all_tasks()
        reading = asyncio.create_task(ScriptedConsumer(read()).consume(built.session))
        await settled()
        await built.session.shutdown()
        await reading
        await settled()
        assert asyncio.all_tasks() == before


async def test_regression_19_waiting_costs_no_turns(build: Build) -> None:
    """Whoever waits for the receipt sleeps: the loop does not turn while nothing happens."""
    built = build(emit("a"), hang())
    built.session.start()
    waiting = asyncio.create_task(built.session.receipt())
    await settled()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    before = loop.turns
    await asyncio.sleep(3600)
    assert loop.turns - before <= 3
    built.session.cancel()
    await waiting


async def test_regression_20_each_phase_has_its_timeout_and_none_outlives_the_stream() -> None:
    """The causes are the clock's, and completion takes the timers away."""
    for name, script, cause in (
        ("connect", [hang()], Cause.TIMEOUT_CONNECT),
        ("first_token", [emit(""), hang()], Cause.TIMEOUT_FIRST_TOKEN),
        ("idle", [emit("a"), hang()], Cause.TIMEOUT_IDLE),
        ("total", [emit("a"), hang()], Cause.TIMEOUT_TOTAL),
    ):
        session = StreamSession(scripted_iterator(*script), deadlines=Deadlines(**{name: 4.0}))
        await ScriptedConsumer(read()).consume(session)
        receipt = await session.receipt()
        assert (receipt.cause, receipt.party) == (cause, Party.CLOCK)
    before = asyncio.get_running_loop().time()

    async def completes() -> None:
        session = StreamSession(scripted_iterator(emit("a")), deadlines=Deadlines(total=1000))
        await ScriptedConsumer(read()).consume(session)
        await session.receipt()

    await completes()
    assert asyncio.get_running_loop().time() == before


async def test_regression_21_a_ledger_that_fails_is_heard_of(build: Build) -> None:
    """Its error is raised to whoever asks for the receipt, with the receipt; nothing is swallowed."""

    class Full(MemoryLedger):
        def append_close(self, receipt: Receipt) -> Any:
            raise LedgerError("no space left on device")

    built = build(emit("a"), ledger=Full())
    assert [chunk async for chunk in built.session] == ["a"]
    with pytest.raises(LedgerError, match="no space left") as caught:
        await built.session.receipt()
    assert caught.value.receipt is built.session.sealed


async def test_regression_22_a_batch_of_many_counts_as_many(build: Build) -> None:
    """`consumed` grows by the size of the batch."""
    built = build(emit(*"abcde"), wait(1))
    total = 0
    while batch := await built.session.read_ready():
        total += len(batch)
    assert (await built.session.receipt()).consumed == total == 5


def test_regression_23_start_is_idempotent_and_reading_starts() -> None:
    """Starting twice is nothing; reading before starting starts; the loop is the one it is read on."""

    async def main() -> None:
        ledger = MemoryLedger()
        session = StreamSession(scripted_iterator(emit("a")), ledger=ledger)
        session.start()
        session.start()
        assert [chunk async for chunk in session] == ["a"]
        await session.receipt()
        assert len(ledger.opened) == 1
        unstarted = StreamSession(scripted_iterator(emit("a")))
        assert await unstarted.read_ready() == ["a"]
        assert await unstarted.read_ready() == []
        await unstarted.receipt()

    run(main())
    run(main())


async def test_regression_24_any_chunk_may_be_tested_and_copied(build: Build) -> None:
    """EOS is the end of the iteration, never an object among the chunks; an empty chunk is false, no error."""
    built = build(emit(""), emit(Chunk()), emit(Chunk("x")))
    chunks = [chunk async for chunk in built.session]
    assert [bool(chunk) for chunk in chunks] == [False, False, True]
    assert pickle.loads(pickle.dumps(copy.deepcopy(chunks))) == chunks
    await built.session.receipt()


async def test_regression_25_a_disconnect_is_heard_while_nothing_is_sent(build: Build) -> None:
    """Whether the reader waits for a chunk or holds one, the signal acts now and not at the next chunk."""
    for deeds in ((read(),), (read(1), park()), (read(1), stall(3600))):
        built = build(emit("a"), hang())
        consumer = ScriptedConsumer(*deeds)
        task = asyncio.create_task(consumer.consume(built.session))
        await settled()
        before = asyncio.get_running_loop().time()
        built.session.disconnected("gone")
        receipt = await built.session.receipt()
        assert receipt.cause is Cause.CLIENT_DISCONNECT
        assert asyncio.get_running_loop().time() - before <= 9  # the grace of one of the paths
        consumer.unpark()
        await task
