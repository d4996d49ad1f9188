"""Tests of the terms a stream ends on: the row of its provider decides, and the receipt names it (P33)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
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
    OnClose,
    Receipt,
    StreamSession,
    SyncStreamSession,
    Termination,
    Usage,
    UsageError,
    by_provider,
    cancel,
    drain,
    grace,
)
from streamguard_core.testing import (
    ManualClock,
    ScriptedProducer,
    ScriptedPull,
    Step,
    emit,
    fail,
    finish,
    hang,
    scripted_iterator,
    settled,
    wait,
)

STOPS = Termination(provider="openai", on_close=OnClose.STOPS_BILLING)
BILLS = Termination(
    provider="aws-bedrock",
    on_close=OnClose.BILLS_FULL,
    valid_from=date(2026, 3, 1),
    table="2026-11-28",
)
DOUBT = Termination(provider="google", on_close=OnClose.UNKNOWN)
TICKS = [step for _ in range(100) for step in (emit("xy"), wait(1))]
NOTHING = Count.exact(0, CountSource.CHUNKS)


async def left(session: StreamSession) -> Receipt:
    """The receipt of a stream whose reader leaves when everything stands still."""
    session.start()
    await settled()
    session.disconnected("left")
    return await session.receipt()


def test_a_row_says_what_it_is() -> None:
    """Its text is what stands on the receipt: whose, for what, what closing does, and which table said so."""
    assert str(BILLS) == "aws-bedrock * bills_full (valid from 2026-03-01, table 2026-11-28)"
    assert str(STOPS) == "openai * stops_billing"
    row = Termination(provider="openai", model="gpt-*", route="openai-responses", table="own")
    assert str(row) == "openai openai-responses gpt-* unknown (table own)"


@pytest.mark.parametrize(
    ("row", "applied", "end"),
    [
        (STOPS, "cancel", None),
        (BILLS, "drain(60s)", DrainEnd.FINISHED),
        (DOUBT, "cancel", None),
        (None, "cancel", None),
    ],
)
async def test_the_row_decides(row: Termination | None, applied: str, end: DrainEnd | None) -> None:
    """Cancelled where closing saves, or where nobody knows; drained where all is billed anyway (G9)."""
    receipt = await left(
        StreamSession(
            ScriptedProducer(emit("a"), wait(1), emit("b")),
            on_disconnect=by_provider(),
            termination=row,
        )
    )
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, applied)
    assert (receipt.drain, receipt.late) == (end, 0 if end is None else 1)
    assert receipt.termination == (None if row is None else str(row))


async def test_each_answer_has_a_policy_of_its_own() -> None:
    """What is given for an answer is what is done; a grace among them works as a grace."""
    rule = by_provider(saves=grace(30), bills=drain(5), unknown=drain(7))
    for row, applied in ((STOPS, "grace(30s)"), (BILLS, "drain(5s)"), (DOUBT, "drain(7s)")):
        session = StreamSession(
            ScriptedProducer(emit("a"), hang()), on_disconnect=rule, termination=row
        )
        receipt = await left(session)
        assert (receipt.policy, receipt.termination) == (applied, str(row))


async def test_a_completed_grace_names_the_row_that_chose_it() -> None:
    """The row was used, so the receipt says which, also where nothing was cut."""
    session = StreamSession(
        ScriptedProducer(emit("a"), wait(1)),
        on_disconnect=by_provider(saves=grace(30)),
        termination=STOPS,
    )
    receipt = await left(session)
    assert (receipt.cause, receipt.policy) == (Cause.COMPLETED, "grace(30s)")
    assert receipt.termination == str(STOPS)


class Table:
    """Finds rows by model; writes down what it is asked."""

    def __init__(self, **rows: Termination) -> None:
        self.rows = rows
        self.asked: list[tuple[str | None, str | None, date, str | None]] = []

    def row(
        self, provider: str | None, model: str | None, at: date, *, route: str | None = None
    ) -> Termination:
        self.asked.append((provider, model, at, route))
        return self.rows[model or ""]


async def test_the_model_that_answers_decides() -> None:
    """A table is asked again when the reader leaves: by then the provider has said which model it is."""

    async def chunks() -> Any:
        session.identify(model="full")
        yield "a"
        await asyncio.Event().wait()

    table = Table(asked=STOPS, full=BILLS)
    clock = ManualClock(wall_us=1_764_000_000_000_000)
    session = StreamSession(
        chunks(),
        provider="p",
        model="asked",
        on_disconnect=by_provider(bills=drain(5, max_tokens=1)),
        termination=table,
        own_task=True,
        clock=clock,
    )
    session.start()
    await settled()
    session.disconnected("left")
    session.cancel()
    assert session.statistics().producer == "draining"
    await session.shutdown()
    assert [model for _, model, _, _ in table.asked] == ["asked", "full"]
    assert table.asked[-1] == ("p", "full", date(2025, 11, 24), None)


async def test_the_producer_may_know_its_row() -> None:
    """Without a table the producer's own attribute says it, and what it says of itself is asked of a table."""

    class Knowing(ScriptedPull):
        termination = BILLS
        provider, model, route = "bedrock", "m", 7

    receipt = await left(
        StreamSession(Knowing(emit("a"), hang()), on_disconnect=by_provider(bills=drain(3)))
    )
    assert (receipt.policy, receipt.termination) == ("drain(3s)", str(BILLS))
    table = Table(m=STOPS)
    receipt = await left(StreamSession(Knowing(emit("a"), hang()), termination=table))
    assert receipt.termination == str(STOPS)
    ((provider, model, _, route),) = table.asked
    assert (provider, model, route) == ("bedrock", "m", None)


async def test_a_table_that_raises_leaves_the_row_unknown(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever keeps the table cannot keep a stream from ending; the log has no more than the error's type."""
    table = Table()
    with caplog.at_level(logging.WARNING, "streamguard"):
        receipt = await left(
            StreamSession(
                ScriptedProducer(emit("a"), hang()),
                model="secret",
                on_disconnect=by_provider(unknown=drain(2)),
                termination=table,
            )
        )
    assert (receipt.policy, receipt.termination) == ("drain(2s)", None)
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_task_reads_on_only_where_the_row_may_ask_for_it() -> None:
    """Where closing saves, an iterator is pulled straight through, as under cancel()."""
    for row, tasks in ((STOPS, 0), (BILLS, 1)):
        before = len(asyncio.all_tasks())
        session = StreamSession(
            scripted_iterator(hang()), on_disconnect=by_provider(), termination=row
        )
        session.start()
        assert len(asyncio.all_tasks()) - before == tasks
        await session.shutdown()


# -- what the receipt claims ---------------------------------------------------------------------------

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


# -- every bound ends a drain --------------------------------------------------------------------------

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


async def test_a_tail_says_how_it_ended() -> None:
    """Read on for the usage: it came, or the bounded moment was over; nothing was prevented either way."""
    usage = Usage.reported_by_provider(output=1)
    for script, end in (
        ((finish(None, usage),), DrainEnd.FINISHED),
        ((hang(),), DrainEnd.SECONDS),
        ((emit("z" * 70_000), hang()), DrainEnd.BYTES),
    ):
        session = StreamSession(
            ScriptedPull(emit("a"), finish("stop"), wait(1), *script), own_task=True, max_tokens=9
        )
        session.start()
        await settled()
        session.disconnected("left")
        receipt = await session.receipt()
        assert (receipt.cause, receipt.policy, receipt.drain) == (Cause.COMPLETED, "tail", end)
        assert (receipt.client_left_early, receipt.prevented) == (True, NOTHING)


def test_a_tail_is_harvested_without_a_loop() -> None:
    """A sync session reads on for the usage in the reader's thread, for a bounded moment."""
    clock = ManualClock()

    def words(*, trickles: bool) -> Iterator[str]:
        yield "a"
        session.finish("stop")
        yield ""
        while trickles:
            clock.advance(0.5)
            yield ""
        session.finish(None, Usage.reported_by_provider(output=7))

    for trickles, end in ((False, DrainEnd.FINISHED), (True, DrainEnd.SECONDS)):
        session = SyncStreamSession(clock=clock, max_tokens=9)
        session.attach(words(trickles=trickles))
        with session:
            reading = iter(session)
            assert [next(reading), next(reading)] == ["a", ""]
        receipt = session.receipt()
        assert (receipt.cause, receipt.policy, receipt.drain) == (Cause.COMPLETED, "tail", end)
        assert (receipt.client_left_early, receipt.prevented) == (True, NOTHING)
        assert receipt.output.upper == (None if trickles else 7)


async def test_a_tail_whose_iterator_was_broken_is_stopped() -> None:
    """The cancellation of the reader's task broke the iterator: its usage is not known, and nobody says it is."""
    session = StreamSession(ScriptedPull(emit("a"), finish("stop"), hang()), max_tokens=9)
    reading = aiter(session)
    await anext(reading)
    task = asyncio.ensure_future(anext(reading))
    await settled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    receipt = await session.receipt()
    assert (receipt.cause, receipt.policy) == (Cause.COMPLETED, "tail")
    assert (receipt.drain, receipt.close) == (DrainEnd.STOPPED, CloseState.CONFIRMED)
    assert (receipt.prevented, receipt.output.source) == (NOTHING, CountSource.CHUNKS)


async def test_a_broken_iterator_is_not_booked_as_read_to_its_end() -> None:
    """The provider turned out to be another one when the reader's task was cancelled: open, not what was seen."""
    rows = Table(asked=STOPS, full=BILLS)

    async def chunks() -> Any:
        yield "a"
        session.identify(model="full")
        await asyncio.Event().wait()

    session = StreamSession(
        chunks(), model="asked", on_disconnect=by_provider(), termination=rows, max_tokens=50
    )
    reading = aiter(session)
    await anext(reading)
    task = asyncio.ensure_future(anext(reading))
    await settled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    receipt = await session.receipt()
    assert (receipt.policy, receipt.drain) == ("drain(60s)", DrainEnd.STOPPED)
    assert receipt.output == Count(None, 0, 50, CountSource.CHUNKS)
    assert receipt.prevented == NOTHING


# -- places ----------------------------------------------------------------------------------------------


async def test_drains_share_their_places() -> None:
    """Where none is free the stream is cancelled, and the receipt says why; an ended drain frees its place."""
    limit = DrainLimit(1)
    policy = drain(60, limit=limit)
    assert str(policy) == "drain(60s,at_once=1)"

    def stream(*script: Step) -> StreamSession:
        session = StreamSession(ScriptedProducer(*script), on_disconnect=policy, max_tokens=9)
        session.start()
        return session

    first, second = stream(emit("a"), wait(5)), stream(emit("a"), hang())
    await settled()
    first.disconnected("left")
    second.disconnected("left, too")
    assert limit.running == 1
    refused = await second.receipt()
    assert asyncio.get_running_loop().time() == 0
    assert (refused.cause, refused.policy) == (Cause.CLIENT_DISCONNECT, "drain(60s,at_once=1)")
    assert (refused.drain, refused.detail) == (DrainEnd.NO_PLACE, "left, too")
    assert (refused.close, refused.prevented.upper) == (CloseState.CONFIRMED, 8)
    assert (await first.receipt()).drain is DrainEnd.FINISHED
    assert limit.running == 0
    assert (await left(stream(emit("a"), wait(1)))).drain is DrainEnd.FINISHED


LEAVING: dict[str, tuple[list[Step], bool]] = {
    "the drain ends": ([emit("a"), wait(1)], True),
    "it fails": ([emit("a"), wait(1), fail()], True),
    "it takes too long": ([emit("a"), hang()], True),
    "it had ended before": ([emit("a")], False),
    "only the usage is missing": ([emit("a"), finish("stop"), hang()], False),
}


@pytest.mark.parametrize("how", LEAVING)
async def test_a_place_is_always_given_back(how: str) -> None:
    """However the drain ends; what is no drain takes none, and none is lost to a second disconnect."""
    script, takes = LEAVING[how]
    limit = DrainLimit(2)
    session = StreamSession(ScriptedPull(*script), on_disconnect=drain(3, limit=limit))
    session.start()
    reading = aiter(session)
    await anext(reading)
    await settled()
    session.disconnected("left")
    session.disconnected("left again")
    assert limit.running == (1 if takes else 0)
    await session.aclose()
    await session.receipt()
    assert limit.running == 0


async def test_a_stream_that_was_never_started_takes_no_place() -> None:
    """There is nothing to read on, and nobody who would give the place back."""
    limit = DrainLimit(1)
    session = StreamSession(ScriptedProducer(emit("a")), on_disconnect=drain(9, limit=limit))
    session.disconnected("left before it began")
    assert limit.running == 0
    session.start()
    assert (await session.receipt()).drain is DrainEnd.FINISHED
    assert limit.running == 0


def test_a_place_is_given_back_without_a_loop() -> None:
    """A sync session's drain runs in the reader's thread, and frees its place when it is over."""
    limit, clock = DrainLimit(1), ManualClock()

    def words() -> Iterator[str]:
        for word in "abc":
            yield word
            running.append(limit.running)

    running: list[int] = []
    with SyncStreamSession(words(), on_disconnect=drain(9, limit=limit), clock=clock) as session:
        next(iter(session))
    assert session.receipt().drain is DrainEnd.FINISHED
    assert (running, limit.running) == ([1, 1, 1], 0)


# -- what may be given -------------------------------------------------------------------------------------


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


WRONG: dict[str, Callable[[], object]] = {
    "max_tokens=0 was given": lambda: drain(1, max_tokens=0),
    "max_cost=0.5 was given; it is a positive Decimal": lambda: drain(
        1,
        max_cost=0.5,  # type: ignore[arg-type]
        token_cost="1",
    ),
    "token_cost='cheap' was given": lambda: drain(1, max_cost="1", token_cost="cheap"),
    "token_cost='0' was given": lambda: drain(1, max_cost="1", token_cost="0"),
    "max_cost='NaN' was given": lambda: drain(1, max_cost="NaN", token_cost="1"),
    "max_cost without token_cost": lambda: drain(1, max_cost="1"),
    "at_once=0 was given": lambda: DrainLimit(0),
    "limit=8 was given": lambda: drain(1, limit=8),  # type: ignore[arg-type]
    r"by_provider\(bills='drain'\)": lambda: by_provider(bills="drain"),  # type: ignore[arg-type]
    "termination of type str was given": lambda: StreamSession(termination="openai"),  # type: ignore[arg-type]
    "use a StreamSession": lambda: SyncStreamSession(on_disconnect=by_provider(saves=grace(1))),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_said(message: str) -> None:
    """A bound, a price or a row that cannot be is refused where it is given, with what to do."""
    with pytest.raises(UsageError, match=message):
        WRONG[message]()


def test_by_provider_may_be_given_uncalled() -> None:
    """`on_disconnect=by_provider` reads as well as `by_provider()`."""
    assert by_provider() == ByProvider(saves=cancel(), bills=drain(60), unknown=cancel())
    assert StreamSession(on_disconnect=by_provider).cause is None
