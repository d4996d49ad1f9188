"""Tests of how a drain ends: at each of its bounds, by a failure, or stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest

from streamguard_core import (
    CloseState,
    DisconnectPolicy,
    DrainEnd,
    StreamSession,
    SyncStreamSession,
    by_provider,
    drain,
)
from streamguard_core.testing import (
    ManualClock,
    ScriptedProducer,
    ScriptedPull,
    emit,
    fail,
    hang,
    settled,
    wait,
)

from .terms import BILLS, NOTHING, STOPS, TICKS, left

BOUNDS: dict[DrainEnd, tuple[DisconnectPolicy, int]] = {
    DrainEnd.SECONDS: (drain(3.5), 3),
    DrainEnd.BYTES: (drain(60, max_bytes=7), 4),
    DrainEnd.TOKENS: (drain(60, max_tokens=5), 5),
    DrainEnd.COST: (drain(60, max_cost="0.3", token_cost="0.1"), 3),
}


@pytest.mark.parametrize("end", BOUNDS)
async def test_each_bound_ends_a_drain(end: DrainEnd) -> None:
    """Counted from the disconnect; the provider is closed in that step, and the receipt says which it was."""
    policy, late = BOUNDS[end]
    for producer in (ScriptedProducer(*TICKS), ScriptedPull(*TICKS)):
        closed: list[float] = []
        session = StreamSession(
            producer, on_disconnect=by_provider(bills=policy), termination=BILLS
        )
        session.on_close(lambda: closed.append(asyncio.get_running_loop().time()))  # noqa: B023
        receipt = await left(session)
        assert (receipt.drain, receipt.policy, receipt.late) == (end, str(policy), late)
        assert (receipt.close, len(closed)) == (CloseState.CONFIRMED, 1)


def ticking(clock: ManualClock, chunks: int = 100) -> Iterator[str]:
    """A chunk a second."""
    for _ in range(chunks):
        yield "xy"
        clock.advance(1)


@pytest.mark.parametrize("end", BOUNDS)
def test_each_bound_ends_a_drain_without_a_loop(end: DrainEnd) -> None:
    """The same for a blocking iterator."""
    policy, _ = BOUNDS[end]
    clock = ManualClock()
    session = SyncStreamSession(
        ticking(clock), on_disconnect=by_provider(bills=policy), termination=BILLS, clock=clock
    )
    for _ in session:
        break
    receipt = session.receipt()
    assert (receipt.drain, receipt.policy) == (end, str(policy))
    assert receipt.close is CloseState.CONFIRMED
    assert (receipt.prevented, receipt.termination) == (NOTHING, str(BILLS))


def test_a_sync_session_is_drained_to_the_end_where_all_is_billed() -> None:
    """And cut at once where closing saves."""
    for row, late in ((BILLS, 8), (STOPS, 0)):
        clock = ManualClock()
        with SyncStreamSession(
            ticking(clock, 9), on_disconnect=by_provider, termination=row, clock=clock
        ) as session:
            assert next(iter(session)) == "xy"
        receipt = session.receipt()
        assert (receipt.late, receipt.termination) == (late, str(row))


async def test_a_drain_says_when_it_failed_or_was_stopped() -> None:
    """Neither is a bound: the provider broke off, or somebody with authority did not wait."""
    failing = StreamSession(
        ScriptedProducer(emit("a"), wait(1), fail()), on_disconnect=drain(60), max_tokens=10
    )
    receipt = await left(failing)
    assert (receipt.drain, receipt.prevented) == (DrainEnd.FAILED, NOTHING)
    hanging = StreamSession(ScriptedProducer(emit("a"), hang()), on_disconnect=drain(60))
    hanging.start()
    await settled()
    hanging.disconnected("left")
    assert (await hanging.shutdown()).drain is DrainEnd.STOPPED


def test_cost_is_a_bound_in_whole_tokens() -> None:
    """So many tokens as cost at least that: no rounding, whatever the numbers."""
    for most, each, tokens in (
        ("0.3", "0.1", 3),
        ("0.05", "0.000015", 3334),
        (Decimal(1), Decimal(3), 1),
        ("1e-30", "1e-31", 10),
    ):
        policy = drain(1, max_cost=most, token_cost=each)
        assert policy.cost_tokens == tokens
        assert policy.reached(0, tokens) is DrainEnd.COST
        assert policy.reached(0, tokens - 1) is None
    assert str(drain(1, max_tokens=2, max_cost="1e-3", token_cost="1")) == (
        "drain(1s,max_tokens=2,max_cost=0.001)"
    )
