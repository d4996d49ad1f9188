"""Tests of what a receipt claims of output, waste and prevented tokens, by the row of its provider (P33)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamguard_core import (
    Attempt,
    Cause,
    Count,
    CountSource,
    DrainEnd,
    StreamSession,
    Usage,
    by_provider,
    drain,
)
from streamguard_core.testing import (
    ScriptedProducer,
    ScriptedPull,
    emit,
    finish,
    hang,
    wait,
)

from .terms import BILLS, NOTHING, STOPS, TICKS, Table, left

ENDINGS: dict[str, Callable[[StreamSession], None]] = {
    "disconnect": lambda session: session.disconnected("left"),
    "cancel": lambda session: session.cancel("stop"),
    "budget": lambda session: session.terminate(Cause.BUDGET),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("max_tokens", [None, 100])
async def test_nothing_is_prevented_where_all_is_billed(
    ending: str, max_tokens: int | None
) -> None:
    """P33: however it was cut, exactly nothing is prevented, and at most the cap was generated and wasted."""
    session = StreamSession(
        ScriptedPull(emit("a", "b"), hang()), termination=BILLS, max_tokens=max_tokens
    )
    async for _ in session:
        ENDINGS[ending](session)
    receipt = await session.receipt()
    assert receipt.prevented == NOTHING
    assert receipt.output == Count(None, 0, max_tokens, CountSource.CHUNKS)
    assert receipt.waste == Count(None, 0, max_tokens, CountSource.CHUNKS)
    assert receipt.termination == str(BILLS)


async def test_where_closing_saves_the_cap_bounds_what_was_prevented() -> None:
    """The same cut at a provider that stops: what was seen, and at most the rest prevented."""
    session = StreamSession(ScriptedPull(emit("a"), hang()), termination=STOPS, max_tokens=100)
    async for _ in session:
        break
    receipt = await session.receipt()
    assert receipt.prevented == Count(None, 0, 99, CountSource.CHUNKS)
    assert receipt.output == Count(1, 0, None, CountSource.CHUNKS)
    assert receipt.termination == str(STOPS)


@pytest.mark.parametrize(
    ("calls", "output", "prevented"),
    [
        ((Attempt(chunks=40),), 40, 60),
        ((Attempt(chunks=60), Attempt(chunks=30)), 90, 110),
        (
            (Attempt(usage=Usage.reported_by_provider(output=55), chunks=9), Attempt(chunks=30)),
            85,
            115,
        ),
        ((Attempt(connected=False),), 1, 99),
    ],
    ids=["joined", "made again", "one has reported", "not connected"],
)
async def test_what_an_application_joins_or_drops_was_generated(
    calls: tuple[Attempt, ...], output: int, prevented: int
) -> None:
    """One chunk came out of the application; its calls know how many came in, and each has the cap."""
    session = StreamSession(ScriptedPull(emit("a"), hang()), termination=STOPS, max_tokens=100)
    async for _ in session:
        for call in calls:
            session.attempt(call)
        break
    receipt = await session.receipt()
    assert (receipt.output.value, receipt.prevented.upper) == (output, prevented)
    assert receipt.output.source is CountSource.CHUNKS


@pytest.mark.parametrize(("max_tokens", "upper"), [(100, 100), (5, 7), (None, None)])
async def test_a_running_count_is_a_lower_bound_where_the_provider_goes_on(
    max_tokens: int | None, upper: int | None
) -> None:
    """What the provider had counted at the close is what it bills at least; never more than the cap, or that."""
    usage = Usage.reported_by_provider(output=7, final=False)
    session = StreamSession(
        ScriptedPull(finish(None, usage), emit("a"), hang()),
        termination=BILLS,
        max_tokens=max_tokens,
    )
    async for _ in session:
        break
    receipt = await session.receipt()
    assert receipt.output == Count(None, 7, upper, CountSource.PROVIDER_CUMULATIVE)
    assert receipt.waste == Count(None, 0, upper, CountSource.CHUNKS)


async def test_a_drain_to_the_end_is_booked_exactly() -> None:
    """The provider was read to its end: its number is the output, and nothing was prevented."""
    usage = Usage.reported_by_provider(input=3, output=40)
    receipt = await left(
        StreamSession(
            ScriptedPull(emit("a"), wait(1), emit("b"), finish("stop", usage)),
            on_disconnect=by_provider(),
            termination=BILLS,
            max_tokens=100,
        )
    )
    assert (receipt.drain, receipt.usage) == (DrainEnd.FINISHED, usage)
    assert receipt.output == Count.exact(40, CountSource.PROVIDER_FINAL)
    assert (receipt.prevented, receipt.waste.upper) == (NOTHING, 40)


async def test_a_drain_to_the_end_without_usage_is_what_was_seen() -> None:
    """It ended by itself and said no number: the chunks are all there were, whatever closing would have done."""
    receipt = await left(
        StreamSession(
            ScriptedProducer(emit("a"), wait(1), emit("b")),
            on_disconnect=drain(60),
            termination=BILLS,
            max_tokens=100,
        )
    )
    assert (receipt.output.value, receipt.prevented) == (2, NOTHING)


async def test_a_drain_that_was_cut_claims_no_more_than_its_row() -> None:
    """Cut at a bound: nothing is prevented where all is billed; elsewhere that is not known (G12)."""
    for row, prevented in ((BILLS, NOTHING), (None, Count(None, 0, 97, CountSource.CHUNKS))):
        session = StreamSession(
            ScriptedProducer(*TICKS),
            on_disconnect=drain(60, max_tokens=2),
            termination=row,
            max_tokens=100,
        )
        receipt = await left(session)
        assert (receipt.produced, receipt.late, receipt.drain) == (1, 2, DrainEnd.TOKENS)
        assert receipt.prevented == prevented


async def test_a_cut_before_any_output_invents_nothing() -> None:
    """P32: no prompt is estimated; what may have been generated is open, or at most the cap."""
    for row, upper in ((STOPS, None), (BILLS, 100)):
        session = StreamSession(ScriptedProducer(hang()), termination=row, max_tokens=100)
        receipt = await left(session)
        assert not receipt.usage.input.known
        assert (receipt.output.value, receipt.output.upper) == (None, upper)


async def test_a_stream_that_nothing_was_decided_about_names_no_row() -> None:
    """Completed by itself: no row was needed, and none is looked up."""
    table = Table()
    session = StreamSession(ScriptedPull(emit("a")), model="m", termination=table)
    assert [chunk async for chunk in session] == ["a"]
    record = (await session.receipt()).to_record()
    assert (table.asked, record.keys() & {"termination", "drain"}) == ([], set())


async def test_row_and_end_of_the_drain_are_in_the_record() -> None:
    """As plain data for a ledger."""
    session = StreamSession(
        ScriptedProducer(*TICKS), on_disconnect=drain(5, max_tokens=1), termination=BILLS
    )
    record = (await left(session)).to_record()
    assert (record["termination"], record["drain"]) == (str(BILLS), "tokens")
