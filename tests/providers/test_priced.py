"""Calls to a real engine, priced by a book: what failed, what was refused, what was cut off."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from streamguard_core import (
    AttemptOutcome,
    AttemptRole,
    Cause,
    Receipt,
    StreamSession,
    TruncatedStream,
    Unpriced,
    from_pico,
    text_of,
    to_pico,
)
from streamguard_ledger import PriceBook
from streamguard_providers import Retries
from streamguard_testing import Fault, LoopbackEngine

from .makers import anthropic_producer, openai_producer

IN, OUT = 250_000, 1_000_000
"""Of the engine's model, the price of one token in units of the 12th decimal place."""
BOOK = PriceBook({"currency": "USD", "prices": [{"model": "m", "input": "0.25", "output": "1"}]})


async def receipt_of(producer: Any, *, leave_after: int | None = None) -> Receipt:
    """The receipt of a stream that is read to its end, or left after some chunks."""
    session = StreamSession(producer, prices=BOOK)
    number = 0
    async for _ in session:
        number += 1
        if number == leave_after:
            session.disconnected()
    return await session.receipt()


async def test_a_call_costs_what_the_engine_counted(engine: LoopbackEngine, make: Any) -> None:
    """In every dialect: the engine's own counters times the book's prices, on attempt and receipt (P31)."""
    receipt = await receipt_of(make(engine.url, max_tokens=7))
    (record,) = engine.requests
    (attempt,) = receipt.attempts
    assert attempt.price == receipt.price
    assert receipt.price.total is not None
    expected = record.prompt_tokens * IN + record.generated * OUT
    assert to_pico(receipt.price.total) == expected
    assert receipt.price.exact


async def test_a_refused_try_costs_nothing_and_hides_nothing(engine: LoopbackEngine) -> None:
    """A 503 before the answer is an attempt of its own; the sum is the price of the try that worked."""
    engine.fault = Fault(status=503)

    async def mended(seconds: float) -> None:
        engine.fault = Fault()

    retries = Retries(most=1, sleep=mended)
    receipt = await receipt_of(openai_producer(engine.url, max_tokens=5, retries=retries))
    refused, answered = receipt.attempts
    assert refused.price is not None
    assert answered.price is not None
    assert (refused.status, refused.price.unpriced) == (503, Unpriced.REFUSED)
    assert (answered.role, answered.price.unpriced) == (AttemptRole.RETRY, None)
    assert receipt.price == answered.price
    assert receipt.price.exact


async def test_what_was_never_sent_costs_nothing() -> None:
    """Nobody listens there: no connection stood, so no provider can have billed it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        receipt = await receipt_of(openai_producer(f"http://127.0.0.1:{taken.getsockname()[1]}"))
    assert receipt.cause is Cause.PRODUCER_ERROR
    (attempt,) = receipt.attempts
    assert attempt.connected is False
    assert receipt.price.unpriced is Unpriced.REFUSED


@pytest.mark.parametrize("how", ["left", "broken off"])
async def test_a_cut_call_costs_at_least_its_input(engine: LoopbackEngine, how: str) -> None:
    """Anthropic says the input at once and the output at the end: without an end there is a lower bound."""
    if how == "left":
        receipt = await receipt_of(anthropic_producer(engine.url), leave_after=3)
    else:
        engine.fault = Fault(cut_after=3)
        receipt = await receipt_of(anthropic_producer(engine.url))
    (attempt,) = receipt.attempts
    assert attempt.outcome is (AttemptOutcome.CUT if how == "left" else AttemptOutcome.TRUNCATED)
    (record,) = engine.requests
    price = receipt.price
    assert (price.total, price.unpriced, price.upper) == (None, Unpriced.UNKNOWN_USAGE, None)
    assert price.lower is not None
    assert to_pico(price.lower) == record.prompt_tokens * IN


async def test_a_cut_call_without_usage_has_no_amount(engine: LoopbackEngine) -> None:
    """OpenAI counts at the end only: what was cut off before is unknown, and not 0 (G12)."""
    receipt = await receipt_of(openai_producer(engine.url), leave_after=3)
    assert receipt.price.unpriced is Unpriced.UNKNOWN_USAGE
    assert (receipt.price.total, receipt.price.lower) == (None, None)


async def test_a_call_that_died_costs_what_was_counted_until_then(engine: LoopbackEngine) -> None:
    """With usage in every chunk (vLLM) a broken answer has a total, which may still have grown."""
    engine.fault = Fault(cut_after=3)
    wanted = {"stream_options": {"continuous_usage_stats": True}}
    receipt = await receipt_of(openai_producer(engine.url, options=wanted))
    assert receipt.cause is Cause.TRUNCATED
    (record,) = engine.requests
    (attempt,) = receipt.attempts
    assert attempt.outcome is AttemptOutcome.TRUNCATED
    assert receipt.price.total is not None
    assert to_pico(receipt.price.total) == record.prompt_tokens * IN + 3 * OUT
    assert (receipt.price.lower, receipt.price.upper) == (receipt.price.total, None)


class Failover:
    """Asks one provider, and another one for the rest when the first one dies."""

    def __init__(self, first: Any, second: Any) -> None:
        self._producers = first, second

    async def stream(self, *, report: Any) -> Any:
        """See `PullProducer`."""
        first, second = self._producers
        text = ""
        try:
            async for batch in first.stream(report=report):
                text += "".join(map(text_of, batch))
                yield batch
        except TruncatedStream:
            async for batch in second.resumed(text).stream(report=report):
                yield batch


async def test_a_stream_over_two_engines_costs_what_both_did(engine: LoopbackEngine) -> None:
    """The first dies in mid-sentence, the second goes on: two attempts, both priced, and their sum (P28)."""
    engine.fault = Fault(cut_after=3)
    async with LoopbackEngine(tokens_per_second=500) as other:
        wanted = {"stream_options": {"continuous_usage_stats": True}}
        first = openai_producer(engine.url, options=wanted, continues=True)
        second = openai_producer(other.url, max_tokens=4, continues=True)
        receipt = await receipt_of(Failover(first, second))
        (died,), (went_on,) = engine.requests, other.requests
    assert receipt.cause is Cause.COMPLETED
    costs = [
        died.prompt_tokens * IN + 3 * OUT,
        went_on.prompt_tokens * IN + went_on.generated * OUT,
    ]
    prices = [attempt.price and attempt.price.total for attempt in receipt.attempts]
    assert prices == [from_pico(cost) for cost in costs]
    assert receipt.price.total == from_pico(sum(costs))
    assert receipt.price.lower == receipt.price.total
    assert receipt.price.upper is None
