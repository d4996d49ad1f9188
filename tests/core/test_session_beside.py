"""Tests of `batches(beside=True)`: what happens to a send and to the step that is begun while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, CloseState, Deadlines, StreamSession
from streamguard_core.testing import (
    Played,
    ScriptedPull,
    emit,
    emit_late,
    fail,
    hang,
    ignore_cancel,
    scripted_iterator,
    settled,
    wait,
)

Send = Callable[[list[AnyChunk]], Any]

TOGETHER = emit(*"abc")
"""The first chunk comes alone; the two after it are found together, with the next step begun."""


class Reader:
    """A send loop in a task of its own, as an adapter has one."""

    def __init__(self, session: StreamSession, send: Send) -> None:
        self._session = session
        self._send = send
        self.sent: list[AnyChunk] = []
        self.begun: list[int] = []
        """How long the batches were during whose send a step was begun."""
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        batches = self._session.batches(beside=True)
        try:
            async for batch in batches:
                sending = self._send(batch)
                if self._session.reads_ahead:
                    self.begun.append(len(batch))
                    await self._session.beside(sending)
                else:
                    await sending
                self.sent += batch
        finally:
            await batches.aclose()


def slowly(seconds: float) -> Send:
    """A reader whose transport takes so long for every batch."""
    return lambda batch: asyncio.sleep(seconds)


async def test_chunks_that_come_one_at_a_time_go_straight_through() -> None:
    """Nothing is begun beside a send where nothing comes together."""
    script = [step for chunk in "abcdefghijklmnopqrstuvwxyz" * 2 for step in (wait(1), emit(chunk))]
    session = StreamSession(scripted_iterator(*script))
    reader = Reader(session, slowly(0.1))
    await reader.task
    assert len(reader.sent) == 52
    assert reader.begun == []
    assert asyncio.get_running_loop().time() == pytest.approx(52 + 5.2)


async def test_chunks_that_come_together_later_are_found() -> None:
    """After a while of single chunks it is looked again."""
    singles = [step for _ in range(40) for step in (wait(1), emit("x"))]
    session = StreamSession(scripted_iterator(*singles, wait(1), emit(*"y" * 60), wait(1)))
    batches: list[int] = []

    async def send(batch: list[AnyChunk]) -> None:
        batches.append(len(batch))

    await Reader(session, send).task
    assert max(batches[:40]) == 1
    assert max(batches) == 16
    assert sum(batches) == 100


async def test_what_comes_during_a_send_is_taken_over_at_once() -> None:
    """The step goes on when what it waits for is there: a timeout around it does not go off late."""

    async def impatient() -> AsyncIterator[str]:
        for chunk in "abc":
            yield chunk
        for chunk in "de":
            async with asyncio.timeout(5):
                await asyncio.sleep(1)
            yield chunk

    session = StreamSession(impatient())
    reader = Reader(session, slowly(60))
    await reader.task
    assert reader.sent == [*"abcde"]
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_a_step_that_only_lets_the_loop_turn() -> None:
    """A bare yield to the loop is no future that could be waited for."""

    async def turning() -> AsyncIterator[str]:
        for chunk in "abcdef":
            if chunk in "def":
                await asyncio.sleep(0)
            yield chunk

    session = StreamSession(turning())
    reader = Reader(session, slowly(1))
    await reader.task
    assert reader.sent == [*"abcdef"]
    assert reader.begun[0] == 2


async def test_a_failure_during_a_send_is_the_cause_afterwards() -> None:
    """The send goes on, its chunks are delivered, then comes the end with the producer's failure."""
    session = StreamSession(scripted_iterator(TOGETHER, wait(1), fail()))
    reader = Reader(session, slowly(10))
    await reader.task
    receipt = await session.receipt()
    assert reader.sent == [*"abc"]
    assert (receipt.cause, receipt.consumed) == (Cause.PRODUCER_ERROR, 3)


async def test_an_end_during_a_send_is_a_completion() -> None:
    """The iterator ended while the last batch was being sent."""
    session = StreamSession(scripted_iterator(TOGETHER, wait(1)))
    reader = Reader(session, slowly(10))
    await reader.task
    receipt = await session.receipt()
    assert (receipt.cause, receipt.consumed, receipt.eos_delivered) == (Cause.COMPLETED, 3, True)


@pytest.mark.parametrize("after", [1, 5])
async def test_a_cancellation_from_outside_ends_both(after: float) -> None:
    """Whoever cancels the reader gets at the send and at the iterator, at whatever moment."""
    played = Played()
    ended: list[str] = []

    async def send(batch: list[AnyChunk]) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append("send")
            raise

    session = StreamSession(scripted_iterator(TOGETHER, wait(3), emit("d"), hang(), played=played))
    reader = Reader(session, send)
    await asyncio.sleep(10 + after)  # the first chunk is sent alone
    assert reader.begun == [2]
    reader.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader.task
    receipt = await session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.CLIENT_DISCONNECT, CloseState.CONFIRMED)
    assert ended == ["send"]
    assert played.ended == 1


async def test_a_send_that_fails() -> None:
    """Its error is the reader's own; the begun step is wound down with its iterator."""
    played = Played()

    async def send(batch: list[AnyChunk]) -> None:
        if len(batch) == 2:
            await asyncio.sleep(1)
            raise BrokenPipeError

    session = StreamSession(scripted_iterator(TOGETHER, hang(), played=played))
    reader = Reader(session, send)
    with pytest.raises(BrokenPipeError):
        await reader.task
    assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT
    assert played.ended == 1


@pytest.mark.parametrize("before", [True, False])
async def test_a_cut_during_a_send(before: bool) -> None:
    """The iterator ends in the next turn, also when its next chunk is there already, which is late (G2)."""
    played = Played()
    next_chunk = [] if before else [wait(1), emit("d")]
    session = StreamSession(scripted_iterator(TOGETHER, *next_chunk, hang(), played=played))
    reader = Reader(session, slowly(10))
    await asyncio.sleep(12)
    assert reader.begun == [2]
    session.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert played.ended == 1
    await reader.task
    receipt = await session.receipt()
    assert reader.sent == [*"abc"]
    assert (receipt.cause, receipt.consumed, receipt.late) == (Cause.USER_CANCEL, 3, not before)


async def test_a_reader_that_leaves_with_a_chunk_begun_is_told_of_it() -> None:
    """A chunk that came while the reader was leaving was generated: it is late."""
    session = StreamSession(scripted_iterator(TOGETHER, emit_late("d"), hang()))
    batches = session.batches(beside=True)
    assert [await anext(batches), await anext(batches)] == [["a"], ["b", "c"]]
    await batches.aclose()
    receipt = await session.receipt()
    assert (receipt.produced, receipt.late) == (3, 1)


async def test_two_cancellations_of_which_one_is_the_iterators() -> None:
    """A timeout of the iterator's own goes off, and later somebody cancels the reader."""

    async def impatient() -> AsyncIterator[str]:
        for chunk in "abc":
            yield chunk
        try:
            async with asyncio.timeout(1):
                await asyncio.Event().wait()
        except TimeoutError:
            await asyncio.Event().wait()

    session = StreamSession(impatient())
    reader = Reader(session, slowly(10))
    await asyncio.sleep(15)
    assert not reader.task.done()
    reader.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader.task
    assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_a_deaf_step_is_given_up_on_beside_a_send() -> None:
    """The receipt says so at the close deadline, and the reader goes on to EOS."""
    played = Played()
    session = StreamSession(scripted_iterator(ignore_cancel(), TOGETHER, hang(), played=played))
    reader = Reader(session, slowly(20))
    await asyncio.sleep(25)
    session.cancel()
    receipt = await session.receipt()
    assert receipt.close is CloseState.UNCONFIRMED
    await reader.task
    assert reader.sent == [*"abc"]
    played.deaf = False
    played.release()
    await settled()


async def test_deadlines_hold_beside_a_send() -> None:
    """While the reader sends the producer owes nothing; a send that stalls is the consumer's (G14)."""
    for make in (scripted_iterator, ScriptedPull):
        session = StreamSession(make(TOGETHER, hang()), deadlines=Deadlines(idle=5))
        await Reader(session, slowly(60)).task
        receipt = await session.receipt()
        assert (receipt.cause, receipt.consumed) == (Cause.TIMEOUT_IDLE, 3)
        session = StreamSession(make(TOGETHER, hang()), deadlines=Deadlines(consumer_stall=5))
        await Reader(session, slowly(60)).task
        assert (await session.receipt()).cause is Cause.CONSUMER_STALLED


async def test_an_anyio_scope_in_a_begun_step() -> None:
    """HTTP clients hold one open in every read; a send with scopes of its own does not come between."""
    anyio = pytest.importorskip("anyio")

    async def reading() -> AsyncIterator[str]:
        for chunk in "abc":
            yield chunk
        for chunk in "de":
            with anyio.fail_after(5):
                await anyio.sleep(1)
            yield chunk

    async def send(batch: list[AnyChunk]) -> None:
        with anyio.move_on_after(60):
            await anyio.sleep(10)

    session = StreamSession(reading())
    reader = Reader(session, send)
    await reader.task
    assert reader.sent == [*"abcde"]
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_a_send_and_the_next_chunk_in_one_turn() -> None:
    """Both are there when the reader is woken; neither is lost."""
    session = StreamSession(scripted_iterator(TOGETHER, wait(5), emit("d")))
    reader = Reader(session, slowly(5))
    await reader.task
    assert reader.sent == [*"abcd"]
    assert asyncio.get_running_loop().time() == 15


async def test_beside_without_a_begun_step_is_a_plain_await() -> None:
    """Whoever calls it always is right as well, and pays for a task only where one is needed."""
    session = StreamSession(scripted_iterator(emit("a"), hang()))
    batches = session.batches(beside=True)
    assert await anext(batches) == ["a"]
    sender: list[object] = []

    async def send() -> None:
        sender.append(asyncio.current_task())

    await session.beside(send())
    assert sender == [asyncio.current_task()]
    await batches.aclose()
    await session.receipt()


async def test_a_first_chunk_that_comes_after_the_cutoff_is_late() -> None:
    """The iterator cuts its own stream off before it has yielded anything (G2)."""

    async def cutting() -> AsyncIterator[str]:
        session.cancel()
        yield "a"

    session = StreamSession(cutting())
    reader = Reader(session, slowly(1))
    await reader.task
    receipt = await session.receipt()
    assert reader.sent == []
    assert (receipt.produced, receipt.late) == (0, 1)


async def test_a_cut_while_the_loop_has_its_turn() -> None:
    """An iterator that is always ready is closed like any other: the receipt says when it was (G10)."""

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
        finally:
            await asyncio.sleep(1)

    session = StreamSession(endless())
    asyncio.get_running_loop().call_soon(session.cancel)
    async for _ in session.batches(beside=True):
        pass
    receipt = await session.receipt()
    assert receipt.close is CloseState.CONFIRMED
    assert receipt.instants.close_confirmed_ns == 1_000_000_000
