"""Tests of pricing at the seal: every attempt gets a price, and no price source changes an ending."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from streamguard_core import (
    UNPRICED,
    Attempt,
    AttemptOutcome,
    AttemptRole,
    Cause,
    MemoryLedger,
    Price,
    Receipt,
    StreamSession,
    SyncStreamSession,
    Unpriced,
    Usage,
    UsageError,
    from_pico,
)
from streamguard_core.testing import ManualClock, ScriptedPull, emit, finish

USAGE = Usage.reported_by_provider(input=10, output=5)
SECRET = "sk-secret"


class PerToken:
    """One pico-unit per token; keeps what it was asked."""

    def __init__(self, currency: str = "USD") -> None:
        self.asked: list[tuple[str | None, str | None, Usage, datetime]] = []
        self.currency = currency

    def price(self, provider: str | None, model: str | None, usage: Usage, at: datetime) -> Price:
        """See `Pricer`."""
        self.asked.append((provider, model, usage, at))
        if usage.input.value is None or usage.output.value is None:
            return Price(unpriced=Unpriced.UNKNOWN_USAGE)
        currency = "EUR" if provider == "eu" else self.currency
        return Price(total=from_pico(usage.input.value + usage.output.value), currency=currency)


class Broken:
    """A price source that fails, and quotes a secret doing so."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer
        self.calls = 0

    def price(self, provider: str | None, model: str | None, usage: Usage, at: datetime) -> Any:
        """See `Pricer`."""
        self.calls += 1
        if self.answer is None:
            raise ValueError(SECRET)
        return self.answer


async def sealed(*attempts: Attempt, usage: Usage | None = USAGE, **options: Any) -> Receipt:
    """The receipt of a short stream with these attempts."""
    session = StreamSession(
        ScriptedPull(emit("a"), finish("stop", usage)),
        **{"model": "requested", "provider": "p", **options},
    )
    for attempt in attempts:
        session.attempt(attempt)
    async for _ in session:
        pass
    return await session.receipt()


async def test_without_a_price_source_everything_is_unpriced() -> None:
    """The state is said on the receipt and on each attempt (G12)."""
    receipt = await sealed(Attempt())
    assert receipt.price is UNPRICED
    assert receipt.attempts[0].price is UNPRICED
    assert (await sealed()).price is UNPRICED


async def test_the_usage_of_a_stream_without_attempts_is_priced() -> None:
    """A producer that reports no calls still has a price."""
    prices = PerToken()
    receipt = await sealed(prices=prices)
    assert receipt.price.total == from_pico(15)
    assert prices.asked[0][:3] == ("p", "requested", USAGE)
    assert prices.asked[0][3].tzinfo is UTC


async def test_every_attempt_is_priced_and_the_receipt_is_their_sum() -> None:
    """Provider money is spent per attempt: a fallback costs beside what failed."""
    prices = PerToken()
    failed = Attempt(
        provider="a",
        model="m1",
        outcome=AttemptOutcome.TRUNCATED,
        usage=Usage.reported_by_provider(input=10, output=2, final=False),
    )
    fallback = Attempt(role=AttemptRole.FALLBACK, provider="b", model="m2", usage=USAGE)
    receipt = await sealed(failed, fallback, prices=prices)
    assert [one.price and one.price.total for one in receipt.attempts] == [
        from_pico(12),
        from_pico(15),
    ]
    assert receipt.price.total == from_pico(27)
    assert [asked[:2] for asked in prices.asked] == [("a", "m1"), ("b", "m2")]


async def test_an_attempt_that_says_nothing_is_priced_as_the_stream() -> None:
    """Names and usage that only the stream was told are those of its only call; a refused one is none."""
    prices = PerToken()
    receipt = await sealed(
        Attempt(status=429, outcome=AttemptOutcome.FAILED, usage=Usage()),
        Attempt(connected=False, outcome=AttemptOutcome.FAILED),
        Attempt(status=200, role=AttemptRole.RETRY),
        prices=prices,
    )
    assert [asked[:3] for asked in prices.asked] == [("p", "requested", USAGE)]
    assert [one.price and one.price.unpriced for one in receipt.attempts] == [
        Unpriced.REFUSED,
        Unpriced.REFUSED,
        None,
    ]
    assert receipt.price.total == from_pico(15)


async def test_the_usage_of_a_stream_is_not_spread_over_several_calls() -> None:
    """Of two calls that say nothing nobody knows which one the stream's usage is of."""
    receipt = await sealed(Attempt(status=200), Attempt(status=200), prices=PerToken())
    assert [one.price and one.price.unpriced for one in receipt.attempts] == [
        Unpriced.UNKNOWN_USAGE
    ] * 2
    assert receipt.price.unpriced is Unpriced.UNKNOWN_USAGE


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        *((status, True) for status in (400, 429, 500, 503, 529)),
        *((status, False) for status in (200, 408, 499, 502, 504, 524)),
    ],
)
async def test_a_gateway_cannot_say_what_the_provider_did(status: int, refused: bool) -> None:
    """A provider's error status says that nothing was generated; a gateway's timeout does not (G12)."""
    attempt = Attempt(status=status, outcome=AttemptOutcome.FAILED)
    receipt = await sealed(attempt, usage=None, prices=PerToken())
    expected = Unpriced.REFUSED if refused else Unpriced.UNKNOWN_USAGE
    assert receipt.price.unpriced is expected


async def test_an_error_that_reports_usage_is_priced() -> None:
    """A provider that refuses and still says what it counted is believed."""
    receipt = await sealed(Attempt(status=500, usage=USAGE), prices=PerToken())
    assert receipt.price.total == from_pico(15)


async def test_the_response_s_model_wins() -> None:
    """What was answered is what is billed, not what was asked for (pitfall 28)."""
    prices = PerToken()
    session = StreamSession(
        ScriptedPull(emit("a"), finish("stop", USAGE)), model="alias", prices=prices
    )
    session.identify(model="answered")
    async for _ in session:
        pass
    await session.receipt()
    assert prices.asked[0][1] == "answered"


async def test_a_price_that_an_attempt_has_is_kept() -> None:
    """Who made the call may know what it cost."""
    known = Price(total=from_pico(99), currency="USD")
    prices = PerToken()
    receipt = await sealed(Attempt(price=known, usage=USAGE), prices=prices)
    assert receipt.attempts[0].price is known
    assert receipt.price is known
    assert prices.asked == []


@pytest.mark.parametrize(
    ("started_ns", "expected_us"),
    [(None, 5_000_000), (2_000_000_000, 6_000_000), (0, 5_000_000), (10**15, 5_000_000)],
    ids=["not said", "a second later", "before the opening", "another clock"],
)
async def test_the_price_is_that_of_the_time_of_the_call(
    started_ns: int | None, expected_us: int
) -> None:
    """Prices change at midnight, streams do not care: the call's instant decides, in UTC."""
    clock = ManualClock(monotonic_ns=1_000_000_000, wall_us=5_000_000)
    prices = PerToken()
    session = StreamSession(clock=clock, prices=prices)
    clock.advance(3)
    session.attempt(Attempt(started_ns=started_ns, usage=USAGE))
    session.attach(ScriptedPull(emit("a")))
    session.cancel()
    await session.receipt()
    (asked,) = prices.asked
    assert asked[3] == datetime.fromtimestamp(expected_us / 1e6, UTC)


@pytest.mark.parametrize("answer", [None, "0", {"total": "1"}], ids=["raises", "text", "dict"])
async def test_a_price_source_that_fails_changes_nothing_but_the_price(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, without content, and not asked again; the ending is what it was (G8, G11)."""
    broken, ledger = Broken(answer), MemoryLedger()
    receipt = await sealed(Attempt(usage=USAGE), Attempt(usage=USAGE), prices=broken, ledger=ledger)
    assert receipt.cause is Cause.COMPLETED
    assert receipt.price.unpriced is Unpriced.PRICER_FAILED
    assert [one.price and one.price.unpriced for one in receipt.attempts] == [
        Unpriced.PRICER_FAILED
    ] * 2
    assert ledger.receipts == [receipt]
    assert broken.calls == 1
    assert len(caplog.records) == 1
    assert "Broken raised" in caplog.text
    assert SECRET not in caplog.text


async def test_attempts_in_two_currencies_have_no_sum() -> None:
    """P37: each keeps its price; the receipt says why there is no total."""
    receipt = await sealed(
        Attempt(provider="eu", usage=USAGE), Attempt(usage=USAGE), prices=PerToken()
    )
    assert [one.price and one.price.currency for one in receipt.attempts] == ["EUR", "USD"]
    assert receipt.price.unpriced is Unpriced.MIXED_CURRENCIES


async def test_calls_beyond_those_that_are_kept_leave_a_lower_bound() -> None:
    """A sum without some of the calls is no total: it is at least so much, and says how many are missing (G12)."""
    attempts = [Attempt(usage=USAGE) for _ in range(66)]
    receipt = await sealed(*attempts, usage=None, prices=PerToken())
    assert (len(receipt.attempts), receipt.attempts_beyond) == (64, 2)
    price = receipt.price
    assert (price.total, price.unpriced) == (None, Unpriced.UNKNOWN_USAGE)
    assert (price.lower, price.upper) == (from_pico(64 * 15), None)
    assert (receipt.usage.output.value, receipt.usage.output.lower) == (None, 64 * 5)
    whole = await sealed(*attempts[:64], usage=None, prices=PerToken())
    assert (whole.attempts_beyond, whole.price.total) == (0, from_pico(64 * 15))


def test_the_synchronous_session_prices_too() -> None:
    """Both drivers seal alike."""

    def words() -> Any:
        yield "a"

    session = SyncStreamSession(words, prices=PerToken(), provider="p")
    session.finish("stop", USAGE)
    assert list(session) == ["a"]
    assert session.receipt().price.total == from_pico(15)


@pytest.mark.parametrize("session", [StreamSession, SyncStreamSession])
def test_what_is_no_price_source_is_refused(session: Callable[..., Any]) -> None:
    """A file's path is no price source yet."""
    with pytest.raises(UsageError, match="PriceBook"):
        session(prices="prices.toml")


async def test_a_priced_record_is_plain_data() -> None:
    """Amounts are strings: no floats and no nulls on the way into a ledger."""
    receipt = await sealed(Attempt(usage=USAGE), prices=PerToken())
    record = receipt.to_record()
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text, parse_float=pytest.fail) == record
    assert "null" not in text
    assert record["price"] == {"total": from_pico(15), "currency": "USD"}
    assert record["attempts"][0]["price"] == record["price"]
