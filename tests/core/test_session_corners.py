"""Tests of corners: what happens when two things meet in one step, and when nothing is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streamguard_core import (
    Action,
    AnyChunk,
    Cause,
    CloseState,
    CutOff,
    Deadlines,
    Notice,
    StreamSession,
    drain,
    grace,
)
from streamguard_core._base import SessionBase
from streamguard_core._interrupt import Interrupt, current_task
from streamguard_core._loop_session import LoopSession, _fire
from streamguard_core.testing import (
    Played,
    ScriptedProducer,
    ScriptedPull,
    emit,
    emit_from_thread,
    emit_late,
    emit_without_awaiting,
    hang,
    scripted_blocking,
    scripted_iterator,
    settled,
    wait,
)

Build = Callable[..., Any]
SMALL: dict[str, Any] = {"speculative_buffer_limit": 2, "max_inflight_commits": 2}


def test_the_parts_that_a_driver_provides() -> None:
    """The shared parts say so when something is missing."""
    session = StreamSession()
    for part in (LoopSession._launch, LoopSession._stop_producer):
        with pytest.raises(AssertionError, match="provided by"):
            part(session)
    with pytest.raises(AssertionError, match="provided by"):
        SessionBase._carry_out(session, Action.ARM)


def test_outside_of_any_loop_there_is_no_task() -> None:
    """Nor is there anything to interrupt or to take back."""
    assert current_task() is None
    interrupt = Interrupt()
    interrupt.send()
    assert not interrupt.absorb()
    assert not interrupt.issued


async def test_a_task_that_is_done_cannot_be_interrupted() -> None:
    """It has taken its result; nothing is issued."""
    interrupt = Interrupt()
    interrupt.task = asyncio.create_task(asyncio.sleep(0))
    await interrupt.task
    interrupt.send()
    assert not interrupt.issued


async def test_a_session_is_started_from_a_callback() -> None:
    """There is a loop and no task; and starting again there is nothing."""
    session = StreamSession(scripted_iterator(emit("a")))
    loop = asyncio.get_running_loop()
    loop.call_soon(session.start)
    loop.call_soon(session.start)
    await settled()
    assert [chunk async for chunk in session] == ["a"]
    await session.receipt()


async def test_what_is_left_of_a_call_that_has_ended() -> None:
    """A timer without its session, a call that has returned: nobody is there, nothing happens."""
    _fire(lambda: None)
    session = StreamSession()
    Interrupt().send_soon()
    await session.aclose()


async def test_arming_again_keeps_the_timer() -> None:
    """A timer that is set for the next deadline stays."""
    session = StreamSession(scripted_iterator(hang()), deadlines=Deadlines(total=10))
    session.start()
    timer = session._timer
    session._arm()
    assert session._timer is timer
    await session.aclose()


async def test_an_observer_that_ends_what_has_ended() -> None:
    """Sealed within the notice of the cutoff: once."""
    cell: list[StreamSession] = []

    def leaving(notice: Notice) -> None:
        if isinstance(notice, CutOff):
            cell[0].disconnected("left, says the observer")

    session = StreamSession(
        ScriptedProducer(emit("a", "b")),
        speculative_buffer_limit=4,
        max_inflight_commits=1,
        observers=[leaving],
    )
    cell.append(session)
    session.start()
    await settled()
    session.cancel()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.ENDED)


async def test_a_drain_of_a_producer_that_has_finished() -> None:
    """There is nothing to read on; what was not committed is waste."""
    session = StreamSession(
        ScriptedProducer(emit("a", "b")),
        speculative_buffer_limit=4,
        max_inflight_commits=1,
        on_disconnect=drain(60),
    )
    session.start()
    await settled()
    session.disconnected("left")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "drain(60s)")
    assert (receipt.waste.value, receipt.prevented.value) == (2, 0)
    assert asyncio.get_running_loop().time() == 0


async def test_a_chunk_that_waits_unawaited_when_a_drain_begins() -> None:
    """It is late once, also when the producer goes on and never awaits it."""
    session = StreamSession(
        ScriptedProducer(emit_without_awaiting(*"abcde"), wait(1), emit("f", "g")),
        on_disconnect=drain(60),
        **SMALL,
    )
    session.start()
    await settled()
    session.disconnected("left")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.late) == (Cause.CLIENT_DISCONNECT, 4, 3)


async def test_a_chunk_that_is_emitted_unawaited_during_a_drain() -> None:
    """Discarding needs no room, so nothing waits."""
    session = StreamSession(
        ScriptedProducer(emit(*"abcd"), wait(1), emit_without_awaiting(*"efgh")),
        on_disconnect=drain(60),
        **SMALL,
    )
    session.start()
    await settled()
    session.disconnected("left")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.late) == (Cause.CLIENT_DISCONNECT, 4)


async def test_an_iterator_without_a_close_that_was_never_read() -> None:
    """There is nothing to close, and nothing to complain of."""

    class Plain:
        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> str:
            return "x"

    for own_task in (False, True):
        session = StreamSession(Plain(), own_task=own_task)
        session.start()
        session.cancel()
        assert (await session.receipt()).close is CloseState.CONFIRMED


async def test_room_that_nobody_waits_for() -> None:
    """Freeing it tells nobody."""
    session = StreamSession(ScriptedProducer(emit("a"), hang()))
    assert await anext(aiter(session)) == "a"
    await settled()
    assert session._out is not None
    session._out.freed()
    await session.aclose()


async def test_the_last_chunk_of_a_thread_waits_for_room() -> None:
    """The thread has ended, its last chunk is still in transit: the end comes after it."""
    session = StreamSession(
        scripted_blocking(emit(*"abcd")), speculative_buffer_limit=2, max_inflight_commits=1
    )
    session.start()
    await settled()
    assert session.statistics().produced == 3
    assert [chunk async for chunk in session] == list("abcd")
    assert (await session.receipt()).cause is Cause.COMPLETED


@pytest.mark.filterwarnings("ignore:.*dropped without being closed:ResourceWarning")
async def test_a_thread_that_breaks_after_its_session_is_gone() -> None:
    """What it emits is no chunk, and there is nobody to tell."""
    played = Played()
    script = [emit("a"), hang(), emit(5)]  # type: ignore[arg-type]
    session = StreamSession(scripted_blocking(*script, played=played))
    session.start()
    await settled()
    del session
    played.release()
    await settled()
    assert played.ended == 1


async def test_a_mistake_in_a_thread_comes_out_of_the_producer() -> None:
    """What a scripted thread raises is raised where it is waited for."""
    session = StreamSession(ScriptedProducer(emit_from_thread(5)))  # type: ignore[arg-type]
    assert [chunk async for chunk in session] == []
    receipt = await session.receipt()
    assert receipt.cause is Cause.INTERNAL_ERROR
    assert "a int was emitted" in receipt.detail


async def test_an_attribute_error_inside_the_producer_is_its_own() -> None:
    """Stepping an iterator by hand does not take its errors for a missing method."""

    async def broken() -> AsyncIterator[str]:
        yield "a"
        raise AttributeError("secret")

    async def all_ready(session: StreamSession) -> list[AnyChunk]:
        chunks: list[AnyChunk] = []
        while batch := await session.read_ready():
            chunks += batch
        return chunks

    session = StreamSession(broken())
    assert await all_ready(session) == ["a"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.detail) == (Cause.PRODUCER_ERROR, "AttributeError")


async def test_a_step_that_answers_its_interruption_with_a_chunk() -> None:
    """The reader is elsewhere when the cutoff comes: the pending step is wound down, its chunk is late (G2)."""
    played = Played()
    script = [emit("a"), emit_late("x", "y"), hang()]
    session = StreamSession(scripted_iterator(*script, played=played))
    assert await session.read_ready() == ["a"]
    session.cancel()
    receipt = await session.receipt()
    assert (receipt.produced, receipt.late) == (1, 1)
    assert played.ended == 1
    assert await session.read_ready() == []


@pytest.mark.parametrize("how", ["read_ready", "beside"])
async def test_a_step_whose_interruption_fails(how: str) -> None:
    """The error of a pending step is history; the iterator is closed all the same."""
    closed: list[int] = []

    class Failing:
        def __init__(self) -> None:
            self._words = ["b", "a"]

        def __aiter__(self) -> Failing:
            return self

        async def __anext__(self) -> str:
            if self._words:
                return self._words.pop()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionError from None
            raise StopAsyncIteration

        async def aclose(self) -> None:
            closed.append(1)
            raise OSError

    session = StreamSession(Failing())
    if how == "beside":
        batches = session.batches(beside=True)
        # The second is handed over while the step after it waits.
        assert [await anext(batches), await anext(batches)] == [["a"], ["b"]]
        assert session.reads_ahead
    else:
        assert await session.read_ready()
        await settled()
    session.cancel()
    receipt = await session.receipt()
    assert [signal.detail for signal in receipt.history] == ["", "ConnectionError"]
    assert closed == [1]


async def test_a_step_that_swallows_its_interruption_and_ends() -> None:
    """A pending step may end the iteration instead."""

    async def polite() -> AsyncIterator[str]:
        yield "a"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

    session = StreamSession(polite())
    assert await session.read_ready() == ["a"]
    session.cancel()
    receipt = await session.receipt()
    assert (receipt.late, receipt.close) == (0, CloseState.CONFIRMED)


async def test_a_producer_that_cuts_its_stream_off_and_ends() -> None:
    """It is gone before anybody could interrupt it, and nobody is interrupted later."""

    async def cutting() -> AsyncIterator[str]:
        yield "a"
        session.cancel("that was all")

    for read in (_chunks, _batches, _ready):
        session = StreamSession(cutting())
        assert await read(session) == ["a"]
        receipt = await session.receipt()
        assert (receipt.cause, receipt.close) == (Cause.USER_CANCEL, CloseState.CONFIRMED)
        await asyncio.sleep(1)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def _chunks(session: StreamSession) -> list[AnyChunk]:
    return [chunk async for chunk in session]


async def _batches(session: StreamSession) -> list[AnyChunk]:
    return [chunk async for batch in session.batches() for chunk in batch]


async def _ready(session: StreamSession) -> list[AnyChunk]:
    chunks: list[AnyChunk] = []
    while batch := await session.read_ready():
        chunks += batch
    return chunks


async def test_the_rest_of_a_batch_when_the_reader_leaves_after_the_finish() -> None:
    """The provider has said that it finished; what lies in its last batch was not delivered."""
    session = StreamSession(ScriptedPull(emit("a", "b", "c"), hang()))
    iterator = aiter(session)
    assert await anext(iterator) == "a"
    session.finish("stop")
    await iterator.aclose()
    receipt = await session.receipt()
    assert receipt.produced + receipt.late == 3
    assert receipt.cause is Cause.CLIENT_DISCONNECT


async def test_grace_that_ends_while_nobody_waits() -> None:
    """The grace is over although the reader comes back a moment later: it finds EOS."""
    session = StreamSession(ScriptedProducer(emit("a"), hang()), on_disconnect=grace(5))
    session.start()
    await settled()
    session.disconnected("left")
    await asyncio.sleep(5)
    assert [chunk async for chunk in session] == ["a"]
    assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT
