"""Termination economics end to end: a provider that bills anyway is read on, one that stops is closed at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from streamguard_core import (
    ByProvider,
    Cause,
    CloseState,
    Count,
    CountSource,
    DisconnectPolicy,
    DrainEnd,
    DrainLimit,
    Receipt,
    StreamSession,
    UsageError,
    by_provider,
    cancel,
    drain,
)
from streamguard_providers import TerminationTable, look_up
from streamguard_testing import Billing, Ending, EngineRequest, Fault, LoopbackEngine

from .makers import Make, openai_producer
from .waiting import until

TOKENS = 40
DAY = date(2026, 11, 28)
NOTHING = Count.exact(0, CountSource.CHUNKS)
BEDROCK = Fault(billing=Billing.FULL)
"""Generates, and so bills, to the end, whoever has left."""

Leave = Callable[[StreamSession, Any], Any]


async def _by_report(session: StreamSession, reading: Any) -> None:
    """The adapter is told of the disconnect while the reader waits for its next chunk."""
    waiting = asyncio.ensure_future(anext(reading, None))
    await asyncio.sleep(0)
    session.disconnected("left")
    await waiting
    await reading.aclose()


async def _by_closing(_: StreamSession, reading: Any) -> None:
    await reading.aclose()


LEAVING: dict[str, Leave] = {"told by the adapter": _by_report, "closed": _by_closing}


async def left_after(
    engine: LoopbackEngine, session: StreamSession, chunks: int, leave: Leave = _by_closing
) -> tuple[Receipt, EngineRequest]:
    """The receipt of a stream whose reader leaves after so many chunks, and what the engine counted."""
    reading = aiter(session)
    for _ in range(chunks):
        await anext(reading)
    await leave(session, reading)
    receipt = await session.receipt()
    await engine.wait_idle()
    return receipt, engine.requests[-1]


@pytest.mark.parametrize("how", LEAVING)
async def test_bedrock_is_drained_and_booked_exactly(make: Make, how: str) -> None:
    """It bills the whole generation: so the rest is read, the usage is exact, and nothing is prevented (P33)."""
    async with LoopbackEngine(tokens_per_second=400, fault=BEDROCK) as engine:
        producer = make(engine.url, max_tokens=TOKENS, provider="aws-bedrock")
        session = StreamSession(producer, on_disconnect=by_provider(), max_tokens=TOKENS)
        receipt, counted = await left_after(engine, session, 3, LEAVING[how])
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "drain(60s)")
    assert (receipt.drain, receipt.close) == (DrainEnd.FINISHED, CloseState.CONFIRMED)
    assert receipt.termination == str(TerminationTable.shipped().row("bedrock", "m", DAY))
    assert receipt.output == Count.exact(counted.billed, CountSource.PROVIDER_FINAL)
    assert counted.billed == TOKENS
    assert receipt.usage.input.value == counted.prompt_tokens
    assert receipt.prevented == NOTHING
    assert receipt.consumed <= 3
    assert receipt.waste.upper == TOKENS


@pytest.mark.parametrize("how", LEAVING)
async def test_openai_is_closed_at_once(make: Make, how: str) -> None:
    """Closing stops the bill: the engine has stopped while most of the answer was still to come."""
    async with LoopbackEngine(tokens_per_second=100) as engine:
        producer = make(engine.url, max_tokens=5000, provider="openai")
        session = StreamSession(producer, on_disconnect=by_provider(), max_tokens=5000)
        receipt, counted = await left_after(engine, session, 3, LEAVING[how])
    assert (receipt.policy, receipt.drain) == ("cancel", None)
    row = TerminationTable.shipped().row("openai", "m", DAY, route=producer.route)
    assert (receipt.termination, row.on_close) == (str(row), "stops_billing")
    assert not counted.ran_to_end
    assert counted.generated < 1000
    assert receipt.prevented.value is None
    assert receipt.prevented.upper is not None
    assert 5000 - counted.generated <= receipt.prevented.upper < 5000


@pytest.mark.parametrize("max_tokens", [TOKENS, None])
async def test_cancelled_all_the_same(make: Make, max_tokens: int | None) -> None:
    """Cut at a provider that bills anyway: what it really generated lies within the bounds, prevented is 0."""
    async with LoopbackEngine(tokens_per_second=400, fault=BEDROCK) as engine:
        producer = make(engine.url, max_tokens=TOKENS, provider="aws-bedrock")
        session = StreamSession(producer, max_tokens=max_tokens)
        reading = aiter(session)
        await anext(reading)
        session.cancel("stop")
        await reading.aclose()
        receipt = await session.receipt()
        await engine.wait_idle()
    counted = engine.requests[-1].billed
    assert counted == TOKENS
    assert (receipt.cause, receipt.prevented) == (Cause.USER_CANCEL, NOTHING)
    for count in (receipt.output, receipt.waste):
        assert count.value is None
        assert count.lower <= counted
        assert count.upper == max_tokens


BOUNDS: dict[DrainEnd, DisconnectPolicy] = {
    DrainEnd.SECONDS: drain(0.05),
    DrainEnd.BYTES: drain(60, max_bytes=20),
    DrainEnd.TOKENS: drain(60, max_tokens=4),
    DrainEnd.COST: drain(60, max_cost="0.00006", token_cost="0.000015"),
}


@pytest.mark.parametrize("end", BOUNDS)
async def test_a_bound_ends_the_drain(make: Make, end: DrainEnd) -> None:
    """Then the provider is closed after all; the receipt says why, and books no more than it knows."""
    async with LoopbackEngine(tokens_per_second=100) as engine:
        producer = make(engine.url, max_tokens=5000, provider="aws-bedrock")
        session = StreamSession(
            producer, on_disconnect=by_provider(bills=BOUNDS[end]), max_tokens=5000
        )
        receipt, counted = await left_after(engine, session, 2)
    assert (receipt.drain, receipt.policy) == (end, str(BOUNDS[end]))
    assert not counted.ran_to_end
    assert (receipt.prevented, receipt.output.upper) == (NOTHING, 5000)


async def test_drains_without_a_place_are_closed() -> None:
    """Of three readers that leave one stream is drained; the others are closed, and their receipts say why."""
    limit = DrainLimit(1)
    async with LoopbackEngine(tokens_per_second=400, fault=BEDROCK) as engine:
        sessions = [
            StreamSession(
                openai_producer(engine.url, max_tokens=TOKENS, provider="aws-bedrock"),
                on_disconnect=by_provider(bills=drain(60, limit=limit)),
                max_tokens=TOKENS,
            )
            for _ in range(3)
        ]
        readings = [aiter(session) for session in sessions]
        for reading in readings:
            await anext(reading)
        for session, reading in zip(sessions, readings, strict=True):
            session.disconnected("left")
            await reading.aclose()
        receipts = [await session.receipt() for session in sessions]
        await engine.wait_idle()
    ends = [receipt.drain for receipt in receipts]
    assert ends == [DrainEnd.FINISHED, DrainEnd.NO_PLACE, DrainEnd.NO_PLACE]
    assert [receipt.output.upper for receipt in receipts] == [TOKENS] * 3
    assert [receipt.prevented for receipt in receipts] == [NOTHING] * 3
    assert limit.running == 0


@pytest.mark.parametrize(
    "policy", [cancel(), by_provider(), drain(60)], ids=["cancel", "row", "drain"]
)
async def test_the_tail_is_harvested(policy: DisconnectPolicy | ByProvider) -> None:
    """The reader leaves after the finish and before the usage, which is waited for and exact (pitfall 19)."""
    fault = Fault(usage="late", usage_delay=0.2)  # type: ignore[arg-type]  # a word will do
    async with LoopbackEngine(tokens_per_second=400, fault=fault) as engine:
        session = StreamSession(
            openai_producer(engine.url, max_tokens=5), on_disconnect=policy, max_tokens=5
        )
        reading = aiter(session)
        for _ in range(5):
            await anext(reading)
        waiting = asyncio.ensure_future(anext(reading, None))
        await until(lambda: session._protocol.finish)
        session.disconnected("left")
        assert session.cause is Cause.COMPLETED
        await waiting
        await reading.aclose()
        receipt = await session.receipt()
    assert (receipt.policy, receipt.drain) == ("tail", DrainEnd.FINISHED)
    assert (receipt.client_left_early, receipt.finish) == (True, "length")
    assert receipt.output == Count.exact(5, CountSource.PROVIDER_FINAL)
    assert (receipt.prevented, receipt.late) == (NOTHING, 0)


async def test_a_tail_that_never_comes_is_not_waited_for() -> None:
    """A provider that says its finish and trickles on: closed after the bounded moment; its usage is unknown."""
    fault = Fault(usage="late", usage_delay=60)  # type: ignore[arg-type]  # a word will do
    async with LoopbackEngine(tokens_per_second=400, fault=fault) as engine:
        session = StreamSession(openai_producer(engine.url, max_tokens=5), max_tokens=5)
        reading = aiter(session)
        for _ in range(5):
            await anext(reading)
        waiting = asyncio.ensure_future(anext(reading, None))
        await until(lambda: session._protocol.finish)
        session.disconnected("left")
        await waiting
        await reading.aclose()
        receipt = await session.receipt()
    assert (receipt.policy, receipt.drain) == ("tail", DrainEnd.SECONDS)
    assert (receipt.cause, receipt.close) == (Cause.COMPLETED, CloseState.CONFIRMED)
    assert receipt.output.source is CountSource.CHUNKS


async def test_a_whole_answer_has_no_tail(make: Make) -> None:
    """Whichever way a provider says its usage: read to its end, the usage is exact and no rule was needed."""
    async with LoopbackEngine(tokens_per_second=400) as engine:
        session = StreamSession(
            make(engine.url, max_tokens=5), on_disconnect=by_provider(), max_tokens=5
        )
        assert len([chunk async for chunk in session]) == 5
        receipt = await session.receipt()
    assert (receipt.policy, receipt.drain, receipt.termination) == ("none", None, None)
    assert receipt.output == Count.exact(5, CountSource.PROVIDER_FINAL)
    assert receipt.prevented == NOTHING


async def test_a_table_of_ones_own_decides(make: Make) -> None:
    """What was seen on one's own invoice overrides what is shipped, also for producers that know their row."""
    table = TerminationTable.shipped().overridden_by(
        {"version": "may", "rows": [{"provider": "openai", "on_close": "bills_full"}]}
    )
    async with LoopbackEngine(tokens_per_second=400) as engine:
        session = StreamSession(
            make(engine.url, max_tokens=TOKENS, provider="openai"),
            on_disconnect=by_provider(),
            termination=table,
        )
        receipt, counted = await left_after(engine, session, 3)
    assert (receipt.drain, counted.billed) == (DrainEnd.FINISHED, TOKENS)
    assert receipt.termination == "openai * bills_full (table may)"
    with pytest.raises(UsageError, match="give a TerminationTable"):
        StreamSession(termination="may")  # type: ignore[arg-type]


@pytest.mark.parametrize("billing", Billing)
async def test_what_was_cut_is_known_later(billing: Billing) -> None:
    """OpenRouter cannot say beforehand what a close saves, but afterwards what it billed: within the bounds."""
    async with LoopbackEngine(tokens_per_second=400, fault=Fault(billing=billing)) as engine:
        producer = openai_producer(
            engine.url,
            max_tokens=TOKENS,
            provider="openrouter",
            headers={"x-engine-request-id": "gen-1"},
        )
        session = StreamSession(producer, on_disconnect=by_provider(), max_tokens=TOKENS)
        receipt, counted = await left_after(engine, session, 3)
        usage = await look_up(receipt, base_url=f"{engine.url}/api/v1")
    assert (receipt.policy, receipt.usage.output.known) == ("cancel", False)
    assert receipt.termination is not None
    assert receipt.termination.startswith("openrouter * unknown")
    assert usage is not None
    assert usage.output == Count.exact(counted.billed, CountSource.PROVIDER_FINAL)
    assert usage.input.value == counted.prompt_tokens
    assert (counted.billed == TOKENS) is (billing is Billing.FULL)
    assert receipt.output.lower <= counted.billed
    assert receipt.prevented.upper is not None
    assert receipt.prevented.lower <= TOKENS - counted.billed <= receipt.prevented.upper


async def test_a_background_response_ends_with_its_drain() -> None:
    """Cut at the bound of its drain it is cancelled by its id, which is on the receipt; OpenAI says no usage then."""
    async with LoopbackEngine(tokens_per_second=200, fault=BEDROCK) as engine:
        producer = openai_producer(engine.url, api="responses", background=True, max_tokens=TOKENS)
        session = StreamSession(producer, on_disconnect=drain(60, max_tokens=2))
        receipt, _ = await left_after(engine, session, 2)
        assert receipt.request_id is not None
        assert receipt.request_id.startswith("resp_")
        assert await look_up(receipt, base_url=f"{engine.url}/v1") is None
    assert engine.requests[-1].ending is Ending.CANCELLED
