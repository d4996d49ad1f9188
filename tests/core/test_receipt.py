"""Tests of the receipt: immutable, complete, plain data on the way out, and free of content."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from streamguard_core import (
    Attempt,
    Category,
    Cause,
    Chunk,
    MemoryLedger,
    Receipt,
    StreamSession,
    Usage,
)
from streamguard_core.testing import ScriptedPull, emit, fail, finish, hang, scripted_iterator

Build = Callable[..., Any]


async def completed() -> Receipt:
    """A receipt with everything on it."""
    usage = Usage.reported_by_provider(input=1, output=2, reported={"input": 1, "cost": None})
    session = StreamSession(
        ScriptedPull(emit("a"), finish("stop", usage)),
        model="m",
        provider="p",
        max_tokens=9,
        tags={"tenant": "t", "n": 5},  # type: ignore[dict-item]  # whatever it is, it is text on a receipt
        stream_id="s",
    )
    session.attempt(Attempt(provider="p", status=200, bytes_received=3))
    assert [attempt.status for attempt in session.attempts] == [200]
    async for _ in session:
        pass
    return await session.receipt()


async def test_a_receipt_never_changes() -> None:
    """It is frozen, and so is what it holds."""
    receipt = await completed()
    with pytest.raises(AttributeError):
        receipt.cause = Cause.BUDGET  # type: ignore[misc]
    with pytest.raises(AttributeError):
        receipt.instants.sealed_ns = 1  # type: ignore[misc]


async def test_a_record_is_plain_data_without_nulls() -> None:
    """Strings, integers, booleans, lists and maps; what is unknown is absent (G12)."""
    record = (await completed()).to_record()
    assert json.loads(json.dumps(record)) == record
    assert "null" not in json.dumps(record)
    assert (record["v"], record["kind"], record["category"]) == (1, "CLOSE", "completed")
    assert record["tags"] == {"tenant": "t", "n": "5"}
    assert "request_id" not in record
    assert record["usage"]["output"] == {
        "value": 2,
        "lower": 2,
        "upper": 2,
        "source": "provider_final",
    }
    assert "value" not in record["usage"]["cached_input"]
    assert record["usage"]["reported"] == {"input": 1}
    assert record["attempts"] == [
        {
            "role": "first",
            "provider": "p",
            "status": 200,
            "bytes_received": 3,
            "cut": False,
            "chunks": 0,
            "price": {"unpriced": "no_source"},
        }
    ]
    assert record["price"] == {"unpriced": "no_source"}
    assert record["history"][0]["cause"] == "COMPLETED"


async def test_instants_are_in_order(build: Build) -> None:
    """Opened, first chunk, cause, cutoff, close called, close confirmed, sealed (G10)."""
    built = build(emit("a"), hang())
    async for _ in built.session:
        break
    receipt = await built.session.receipt()
    instants = receipt.instants
    known = [
        instant
        for instant in (
            instants.opened_ns,
            instants.first_chunk_ns,
            instants.cause_ns,
            instants.cutoff_ns,
            instants.close_called_ns,
            instants.close_confirmed_ns,
            instants.sealed_ns,
        )
        if instant is not None
    ]
    assert len(known) == 7
    assert known == sorted(known)
    assert receipt.sealed_us >= receipt.opened_us


async def test_a_producer_that_ends_by_itself_is_never_closed(build: Build) -> None:
    """No close was called, so none is confirmed."""
    built = build(emit("a"))
    assert [chunk async for chunk in built.session] == ["a"]
    receipt = await built.session.receipt()
    assert receipt.instants.close_called_ns is None
    assert receipt.instants.close_confirmed_ns is None
    assert receipt.completed
    assert receipt.category is Category.COMPLETED


async def test_no_content_on_the_receipt_or_in_the_log(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither chunks nor what an error quotes of them (pitfall 55)."""
    caplog.set_level("DEBUG", "streamguard")
    ledger = MemoryLedger()
    built = build(emit("secret"), emit(Chunk("secret")), fail(ValueError("secret")), ledger=ledger)
    async for _ in built.session:
        pass
    receipt = await built.session.receipt()
    assert not receipt.completed
    for text in (repr(receipt), json.dumps(receipt.to_record()), repr(built.session), caplog.text):
        assert "secret" not in text
    assert "secret" not in json.dumps(ledger.opened[0].to_record())


async def test_an_error_of_ours_may_show_its_text() -> None:
    """What StreamGuard wrote itself tells somebody what to do."""

    async def numbers() -> Any:
        yield 5

    session = StreamSession(numbers(), own_task=True)
    assert [chunk async for chunk in session] == []
    receipt = await session.receipt()
    assert "a int was emitted; a chunk is a str" in receipt.detail


async def test_history_is_bounded() -> None:
    """A stream that is hammered with cancels does not grow."""
    session = StreamSession(scripted_iterator(hang()))
    session.start()
    for number in range(1000):
        session.cancel(str(number))
    receipt = await session.receipt()
    assert len(receipt.history) == 32
    assert receipt.detail == "0"
