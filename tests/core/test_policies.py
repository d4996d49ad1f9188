"""Tests of the disconnect policies: intent becomes authority by the rule that the receipt names (G9)."""

from __future__ import annotations

import asyncio

import pytest

from streamguard_core import (
    Cause,
    CloseState,
    DisconnectPolicy,
    Rule,
    StreamSession,
    Usage,
    cancel,
    drain,
    grace,
)
from streamguard_core.testing import (
    Played,
    ScriptedProducer,
    Step,
    emit,
    finish,
    hang,
    scripted_iterator,
    settled,
    wait,
)


def test_policies_say_what_they_are() -> None:
    """Their text is what stands on the receipt."""
    assert str(cancel()) == "cancel"
    assert str(grace(30)) == "grace(30s)"
    assert str(grace(1.5, max_tokens=200)) == "grace(1.5s,max_tokens=200)"
    assert str(drain(20, max_bytes=9)) == "drain(20s,max_bytes=9)"
    assert DisconnectPolicy(rule=Rule.CANCEL) == cancel()


def stream(policy: DisconnectPolicy, *script: Step) -> StreamSession:
    """A started stream."""
    session = StreamSession(ScriptedProducer(*script), on_disconnect=policy)
    session.start()
    return session


async def test_cancel_cuts_in_the_same_step() -> None:
    """Under cancel the disconnect is the cutoff, and the receipt says which rule it was."""
    session = stream(cancel(), emit("a"), hang())
    await settled()
    session.disconnected("the transport is gone")
    assert session.cause is Cause.CLIENT_DISCONNECT
    receipt = await session.receipt()
    assert (receipt.policy, receipt.detail) == ("cancel", "the transport is gone")
    assert receipt.party == "CONSUMER"


async def test_a_stream_that_nobody_left_has_no_policy() -> None:
    """The rule is named only where it was applied."""
    session = stream(grace(5), emit("a"))
    assert [chunk async for chunk in session] == ["a"]
    assert (await session.receipt()).policy == "none"


async def test_grace_waits_for_the_reader() -> None:
    """Within the grace the reader comes back and misses nothing; the disconnect is history."""
    session = stream(grace(30), emit("a"), wait(20), emit("b"))
    iterator = aiter(session)
    assert await anext(iterator) == "a"
    await iterator.aclose()
    await asyncio.sleep(10)
    assert session.cause is None
    session.reconnected()
    await asyncio.sleep(100)
    assert [chunk async for chunk in session] == ["a", "b"]
    receipt = await session.receipt()
    assert receipt.cause is Cause.COMPLETED
    assert not receipt.client_left_early
    assert [(signal.cause, signal.intent) for signal in receipt.history][:1] == [
        (Cause.CLIENT_DISCONNECT, True)
    ]


async def test_grace_is_over() -> None:
    """Nobody came back: cut off at the end of the grace, with the instant of the disconnect kept."""
    session = stream(grace(30), emit("a"), hang())
    await asyncio.sleep(5)
    session.disconnected("left")
    session.disconnected("left twice")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "grace(30s)")
    assert receipt.instants.cause_ns == 5 * 10**9
    assert receipt.instants.cutoff_ns == 35 * 10**9
    assert len(receipt.history) == 2


async def test_grace_is_bounded_in_chunks() -> None:
    """While the reader is away, at most `max_tokens` further chunks are produced (cost is bounded)."""
    script = [step for _ in range(100) for step in (emit("x"), wait(1))]
    session = stream(grace(1000, max_tokens=3), *script)
    await asyncio.sleep(4.5)
    assert session.statistics().produced == 5
    session.disconnected("left")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced, receipt.late) == (Cause.CLIENT_DISCONNECT, 8, 1)


async def test_a_reader_that_comes_back_ends_the_count() -> None:
    """`max_tokens` bounds one absence."""
    script = [step for _ in range(10) for step in (emit("x"), wait(1))]
    session = stream(grace(1000, max_tokens=5), *script)
    session.disconnected("left")
    await asyncio.sleep(3.5)
    chunks = [chunk async for chunk in session]
    assert len(chunks) == 10
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_completion_while_the_reader_is_away() -> None:
    """The producer finished within the grace: completed, and the client left early."""
    session = stream(grace(30), emit("a"), wait(5), emit("b"))
    await settled()
    session.disconnected("left")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.client_left_early) == (Cause.COMPLETED, True)
    assert (receipt.committed, receipt.consumed) == (2, 0)
    assert receipt.waste.value == 2
    # It is all there for one who comes back.
    assert [chunk async for chunk in session] == ["a", "b"]


async def test_authority_during_grace() -> None:
    """A cancel does not wait for the grace; the disconnect stays in the history."""
    session = stream(grace(30), emit("a"), hang())
    await settled()
    session.disconnected("left")
    session.cancel("stop, really")
    receipt = await session.receipt()
    assert receipt.cause is Cause.USER_CANCEL
    assert [signal.cause for signal in receipt.history] == [
        Cause.CLIENT_DISCONNECT,
        Cause.USER_CANCEL,
    ]
    assert asyncio.get_running_loop().time() == 0


async def test_aclose_under_grace_leaves_the_stream_to_its_policy() -> None:
    """Whoever closes does not wait for a stream that lives on."""
    session = stream(grace(30), emit("a"), hang())
    await settled()
    await session.aclose()
    assert asyncio.get_running_loop().time() == 0
    assert session.cause is None
    assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def test_drain_reads_on_for_the_usage() -> None:
    """The reader is cut off at once, the provider is read to its end: exact usage, nothing prevented."""
    usage = Usage.reported_by_provider(input=3, output=4)
    session = stream(
        drain(60), emit("a"), wait(1), emit("b"), wait(1), emit("c"), finish("stop", usage)
    )
    assert await anext(aiter(session)) == "a"
    await settled()
    assert session.cause is Cause.CLIENT_DISCONNECT
    receipt = await session.receipt()
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "drain(60s)")
    assert (receipt.produced, receipt.committed, receipt.late) == (1, 1, 2)
    assert (receipt.usage, receipt.finish) == (usage, "stop")
    assert receipt.prevented.value == 0
    assert receipt.close is CloseState.CONFIRMED
    assert asyncio.get_running_loop().time() == 2


async def test_drain_is_bounded_in_time() -> None:
    """Counted from the disconnect, not from the next chunk (a provider may be silent)."""
    closed: list[int] = []
    session = stream(drain(20), emit("a"), hang())
    session.on_close(lambda: closed.append(1))
    await asyncio.sleep(5)
    session.disconnected("left")
    assert closed == []
    receipt = await session.receipt()
    assert asyncio.get_running_loop().time() == 25
    assert closed == [1]
    assert receipt.close is CloseState.CONFIRMED
    assert receipt.instants.close_called_ns == 25 * 10**9


async def test_drain_is_bounded_in_bytes() -> None:
    """`max_bytes` of chunks are read and discarded, then the provider is closed."""
    script = [step for _ in range(100) for step in (emit("x" * 10), wait(1))]
    for own_task in (False, True):
        session = StreamSession(
            scripted_iterator(*script), on_disconnect=drain(1000, max_bytes=25), own_task=own_task
        )
        session.start()
        await settled()
        session.disconnected("left")
        receipt = await session.receipt()
        assert (receipt.late, receipt.close) == (3, CloseState.CONFIRMED)


async def test_a_drain_of_a_producer_that_fails() -> None:
    """Its error is history; the drain is over."""
    from streamguard_core.testing import fail

    session = stream(drain(60), emit("a"), wait(1), fail())
    await settled()
    session.disconnected("left")
    receipt = await session.receipt()
    assert [signal.cause for signal in receipt.history] == [
        Cause.CLIENT_DISCONNECT,
        Cause.PRODUCER_ERROR,
    ]
    assert asyncio.get_running_loop().time() == 1


async def test_a_drained_reader_gets_what_was_committed_and_eos() -> None:
    """Cut off is the delivery, not what was already released."""
    session = stream(drain(60), emit("a", "b"), wait(5), emit("c"))
    iterator = aiter(session)
    assert await anext(iterator) == "a"
    session.disconnected("left, says the transport")
    assert [chunk async for chunk in iterator] == ["b"]
    assert (await session.receipt()).late == 1


async def test_a_disconnect_after_the_producer_has_finished() -> None:
    """Nothing is left to stop: completed, and recorded that the reader left."""
    session = stream(cancel(), emit("a"))
    await settled()
    assert session.cause is Cause.COMPLETED
    session.disconnected("left")
    receipt = await session.receipt()
    assert receipt.cause is Cause.COMPLETED
    assert receipt.history[-1].cause is Cause.CLIENT_DISCONNECT


async def test_a_disconnect_while_finished_chunks_wait_for_room() -> None:
    """The producer has ended, its last chunks are not committed: the disconnect is the cause."""
    session = StreamSession(
        ScriptedProducer(emit("a", "b")), speculative_buffer_limit=4, max_inflight_commits=1
    )
    session.start()
    await settled()
    assert session.statistics().speculative == 1
    session.disconnected("left")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.close) == (Cause.CLIENT_DISCONNECT, CloseState.ENDED)
    assert (receipt.produced, receipt.committed) == (2, 1)
    assert receipt.prevented.value == 0


async def test_a_policy_needs_a_pump_only_to_read_on() -> None:
    """Under cancel an iterator is pulled without a task; under grace and drain a task reads on."""
    for policy, tasks in ((cancel(), 0), (grace(5), 1), (drain(5), 1)):
        played = Played()
        before = len(asyncio.all_tasks())
        session = StreamSession(scripted_iterator(hang(), played=played), on_disconnect=policy)
        session.start()
        assert len(asyncio.all_tasks()) - before == tasks
        session.cancel()
        await session.receipt()


@pytest.mark.parametrize("policy", [cancel(), grace(5), drain(5)], ids=str)
async def test_a_disconnect_before_the_first_chunk(policy: DisconnectPolicy) -> None:
    """During prefill with zero bytes flowing the policy is applied just the same (pitfall 4)."""
    session = stream(policy, hang())
    session.disconnected("left at once")
    receipt = await session.receipt()
    assert (receipt.cause, receipt.produced) == (Cause.CLIENT_DISCONNECT, 0)
    assert receipt.policy == str(policy)


@pytest.mark.parametrize("policy", [cancel(), grace(5), drain(5)], ids=str)
async def test_a_disconnect_before_start(policy: DisconnectPolicy) -> None:
    """The reader may be gone before the stream begins; the policy's time runs from then."""
    await asyncio.sleep(10)
    session = StreamSession(ScriptedProducer(emit("a"), hang()), on_disconnect=policy)
    session.disconnected("left early")
    await asyncio.sleep(1)
    session.start()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, str(policy))
    assert receipt.instants.cause_ns == 10 * 10**9
    assert asyncio.get_running_loop().time() <= 16
