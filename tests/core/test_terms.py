"""Tests of the terms a stream ends on: the row of its provider decides, and the receipt names it (P33)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from streamguard_core import (
    ByProvider,
    Cause,
    DrainEnd,
    DrainLimit,
    StreamSession,
    SyncStreamSession,
    Termination,
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
    emit,
    hang,
    scripted_iterator,
    settled,
    wait,
)

from .terms import BILLS, DOUBT, STOPS, Table, left


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
