"""Tests of observers: they see frozen notices, change nothing, and are removed when they raise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from streamguard_core import (
    Cause,
    CutOff,
    Flushed,
    MemoryLedger,
    Notice,
    Opened,
    Sealed,
    StreamSession,
)
from streamguard_core.testing import emit, hang, scripted_iterator

Build = Callable[..., Any]


async def test_an_observer_sees_the_life_of_a_stream(build: Build) -> None:
    """Opened, one Flushed per batch, CutOff, Sealed; each frozen."""
    seen: list[Notice] = []
    built = build(emit("a", "b"), observers=[seen.append])
    batches = 0
    while await built.session.read_ready():
        batches += 1
    receipt = await built.session.receipt()
    kinds = [type(notice) for notice in seen]
    assert kinds.count(Flushed) == batches
    assert [kind for kind in kinds if kind is not Flushed] == [Opened, CutOff, Sealed]
    opened, sealed = seen[0], seen[-1]
    assert isinstance(opened, Opened)
    assert opened.record.stream_id == built.session.stream_id
    assert isinstance(sealed, Sealed)
    assert sealed.receipt is receipt
    (cut,) = [notice for notice in seen if isinstance(notice, CutOff)]
    assert (cut.signal.cause, cut.statistics.produced) == (Cause.COMPLETED, 2)
    assert sum(notice.chunks for notice in seen if isinstance(notice, Flushed)) == 2
    with pytest.raises(AttributeError):
        cut.signal = None  # type: ignore[misc,assignment]


async def test_chunks_read_one_by_one_make_no_notice(build: Build) -> None:
    """Never one object per chunk."""
    seen: list[Notice] = []
    built = build(emit("a", "b"), observers=[seen.append])
    assert [chunk async for chunk in built.session] == ["a", "b"]
    await built.session.receipt()
    assert [type(notice) for notice in seen] == [Opened, CutOff, Sealed]


async def test_an_observer_that_raises_is_removed_and_logged_once(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on seeing, the stream ends as it would, and the observer's text stays out."""
    seen: list[Notice] = []

    def broken(notice: Notice) -> None:
        raise ValueError("secret")

    ledger = MemoryLedger()
    built = build(emit("a"), observers=[broken, seen.append], ledger=ledger)
    assert [chunk async for chunk in built.session] == ["a"]
    assert (await built.session.receipt()).cause is Cause.COMPLETED
    assert len(seen) == 3
    assert len(ledger.receipts) == 1
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "raised ValueError on Opened and was removed" in errors[0].getMessage()
    assert "secret" not in caplog.text


async def test_an_observer_cannot_change_the_outcome(build: Build) -> None:
    """What it calls at the cutoff comes after the cutoff."""
    cell: list[StreamSession] = []

    class Meddling:
        def __call__(self, notice: Notice) -> None:
            if isinstance(notice, CutOff | Sealed):
                cell[0].terminate(Cause.BUDGET, "meddling")

    built = build(emit("a"), observers=[Meddling()])
    cell.append(built.session)
    assert [chunk async for chunk in built.session] == ["a"]
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.COMPLETED
    assert receipt.consumed == 1


async def test_observers_without_a_ledger() -> None:
    """Both are optional, each without the other."""
    seen: list[Notice] = []
    session = StreamSession(scripted_iterator(hang()), observers=[seen.append])
    session.start()
    session.cancel()
    await session.receipt()
    assert [type(notice) for notice in seen] == [Opened, CutOff, Sealed]
    assert asyncio.get_running_loop().time() == 0
