"""Tests of money: exact, additive in any order, and unknown where it is unknown."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import (
    UNPRICED,
    Price,
    PricePart,
    Pricer,
    Unpriced,
    Usage,
    UsageError,
    from_pico,
    sum_prices,
    to_pico,
)

ZERO = "0.000000000000"
ONE = "1.000000000000"
TWO = "2.000000000000"
UNKNOWN = Price(unpriced=Unpriced.UNKNOWN_USAGE)


def usd(pico: int, **said: Any) -> Price:
    """A price that is only a total."""
    return Price(total=from_pico(pico), currency="USD", **said)


def itemised(*items: tuple[str, int, int], **said: Any) -> Price:
    """A price of classes: name, tokens, price of one in pico-units."""
    parts = {
        name: PricePart(tokens=tokens, unit=from_pico(unit), amount=from_pico(tokens * unit))
        for name, tokens, unit in items
    }
    total = sum(tokens * unit for _, tokens, unit in items)
    return Price(total=from_pico(total), currency="USD", parts=parts, **said)


@given(st.integers(0, 10**30 - 1))
def test_an_amount_is_its_pico_units(pico: int) -> None:
    """Text and integer say the same, with 12 places and without a float in between."""
    text = from_pico(pico)
    assert to_pico(text) == pico
    assert Decimal(text) == Decimal(pico).scaleb(-12, Context(prec=40))
    assert len(text.partition(".")[2]) == 12


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.0",
        "-1.000000000000",
        "01.000000000000",
        "1e3",
        "1.0000000000000",
        "NaN",
        "\u0661.000000000000",
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    """There is one spelling of an amount, and no negative one."""
    with pytest.raises(UsageError, match="12 places"):
        to_pico(text)


def test_a_negative_amount_cannot_be_spelled() -> None:
    """Money that comes back is a correction, not a price."""
    with pytest.raises(UsageError, match="not negative"):
        from_pico(-1)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "either a total or a reason"),
        ({"total": ONE, "currency": "USD", "unpriced": Unpriced.NO_SOURCE}, "either a total"),
        ({"total": ONE}, "needs a currency"),
        ({"total": ONE, "currency": "usd"}, "needs a currency"),
        ({"total": "1", "currency": "USD"}, "12 places"),
        ({"total": ONE, "lower": TWO, "currency": "USD"}, "lower <= total <= upper"),
        ({"total": TWO, "upper": ONE, "currency": "USD"}, "lower <= total <= upper"),
        ({"unpriced": Unpriced.UNKNOWN_USAGE, "lower": ONE}, "needs a currency"),
        (
            {"total": TWO, "currency": "USD", "parts": {"input": PricePart(amount=ONE)}},
            "do not add up",
        ),
        (
            {"total": ONE, "currency": "USD", "parts": {"input": PricePart(unit=ONE)}},
            "an amount for each",
        ),
        (
            {
                "total": ONE,
                "currency": "USD",
                "parts": {"input": PricePart(tokens=2, unit=ONE, amount=ONE)},
            },
            "tokens times the price",
        ),
        (
            {"total": ONE, "currency": "USD", "parts": {"é": PricePart(amount=ONE)}},
            "ASCII",
        ),
    ],
)
def test_a_price_cannot_contradict_itself(said: dict[str, Any], why: str) -> None:
    """P31: what does not add up is not a price, wherever it comes from."""
    with pytest.raises(UsageError, match=why):
        Price(**said)


def test_unpriced_is_a_state_and_never_zero() -> None:
    """An unknown price has no amount at all, not even in a record (G12)."""
    assert msgspec.to_builtins(UNPRICED) == {"unpriced": "no_source"}
    assert not UNPRICED.exact
    zero = usd(0)
    assert (zero.total, zero.exact) == (ZERO, True)
    assert msgspec.to_builtins(zero) == {"total": ZERO, "currency": "USD"}
    assert not usd(5, lower=from_pico(5)).exact


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["input", "output", "request"]),
            st.integers(0, 10**9),
            st.integers(0, 10**9),
        ),
        min_size=1,
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
def test_a_sum_does_not_depend_on_the_order(
    items: list[tuple[str, int, int]], chance: random.Random
) -> None:
    """P31, P36: the total is the sum of the parts to the last digit, however the calls are shuffled."""
    prices = [itemised(item) for item in items]
    shuffled = list(prices)
    chance.shuffle(shuffled)
    total = sum_prices(prices)
    assert total == sum_prices(shuffled)
    assert to_pico(total.total or "") == sum(tokens * unit for _, tokens, unit in items)
    amounts = [to_pico(part.amount or "") for part in total.parts.values()]
    assert sum(amounts) == to_pico(total.total or "")


def test_a_hundred_thousand_costs_add_up_in_any_order() -> None:
    """P36: floats would have lost digits long before; summing sums changes nothing either."""
    chance = random.Random(7)
    picos = [chance.randrange(10**16) for _ in range(100_000)]
    prices = [usd(one) for one in picos]
    expected = from_pico(sum(picos))
    assert sum_prices(prices).total == expected
    chance.shuffle(prices)
    assert sum_prices(prices).total == expected
    parts = [sum_prices(prices[start : start + 999]) for start in range(0, len(prices), 999)]
    assert sum_prices(parts).total == expected


def test_what_all_have_in_common_stays_on_the_sum() -> None:
    """Several calls at one price keep it; at different prices only the amounts are left."""
    same = [itemised(("input", 3, 7), source="s", row="r", tier="t") for _ in range(2)]
    total = sum_prices(same)
    assert total.parts["input"] == PricePart(tokens=6, unit=from_pico(7), amount=from_pico(42))
    assert (total.source, total.row, total.tier) == ("s", "r", "t")
    other = itemised(("input", 1, 9), ("output", 1, 1), source="s", row="r2", unreported=("x",))
    mixed = sum_prices([same[0], other])
    assert mixed.parts["input"] == PricePart(tokens=4, amount=from_pico(30))
    assert mixed.parts["output"].tokens == 1
    assert (mixed.source, mixed.row, mixed.unreported) == ("s", None, ("x",))


def test_a_sum_with_a_bare_total_has_no_parts() -> None:
    """Parts that are only those of some calls would not add up to the total."""
    total = sum_prices([usd(5), itemised(("input", 1, 1))])
    assert (total.total, total.parts) == (from_pico(6), {})
    bare = Price(
        total=from_pico(2), currency="USD", parts={"input": PricePart(amount=from_pico(2))}
    )
    assert sum_prices([bare, itemised(("input", 1, 1))]).parts["input"] == PricePart(
        amount=from_pico(3)
    )


def test_a_sum_with_something_unknown_is_unknown_and_at_least_the_rest() -> None:
    """One call without usage: the total is not known, and not less than what the others cost (G12)."""
    total = sum_prices([usd(5), UNKNOWN])
    assert (total.total, total.unpriced) == (None, Unpriced.UNKNOWN_USAGE)
    assert (total.lower, total.upper) == (from_pico(5), None)
    assert sum_prices([UNKNOWN, UNPRICED]) == sum_prices([UNPRICED, UNKNOWN])
    assert sum_prices([UNKNOWN, UNPRICED]).lower is None


def test_bounds_add_up() -> None:
    """A stream that was cut off has a price between two amounts, and so has the sum."""
    cut = usd(5, lower=from_pico(4), upper=from_pico(9))
    total = sum_prices([cut, usd(1)])
    assert (total.lower, total.total, total.upper) == (from_pico(5), from_pico(6), from_pico(10))
    open_ended = usd(5, lower=from_pico(5))
    total = sum_prices([cut, open_ended])
    assert (total.lower, total.total, total.upper) == (from_pico(9), from_pico(10), None)


def test_refused_calls_are_left_out_of_sums() -> None:
    """A 429 costs nothing and must not make the retry's price unknown; nothing but refusals has no price."""
    refused = Price(unpriced=Unpriced.REFUSED)
    assert sum_prices([refused, usd(5)]) == usd(5)
    assert sum_prices([refused, refused]) == refused
    assert sum_prices([]) is UNPRICED


def test_different_currencies_are_not_added() -> None:
    """P37: an exchange rate has no place in a sum."""
    euros = Price(total=ONE, currency="EUR")
    with pytest.raises(UsageError, match="EUR, USD"):
        sum_prices([usd(1), euros])
    zero = Price(total=ZERO, currency="EUR")
    with pytest.raises(UsageError, match="cannot be added"):
        sum_prices([usd(1), zero, UNKNOWN])


def test_anything_with_a_price_method_is_a_price_source() -> None:
    """The protocol is one method."""

    class Flat:
        def price(
            self, provider: str | None, model: str | None, usage: Usage, at: datetime
        ) -> Price:
            return usd(1)

    flat: Pricer = Flat()
    assert isinstance(flat, Pricer)
    assert flat.price(None, None, Usage(), datetime.now(UTC)).total == from_pico(1)


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_a_price_survives_being_written_and_read(encode: Callable[[object], bytes]) -> None:
    """A record gives the same price back, and refuses one that was changed."""
    price = itemised(("input", 3, 7), tier="base")
    decode = msgspec.json.decode if encode is msgspec.json.encode else msgspec.msgpack.decode
    assert decode(encode(price), type=Price) == price
    forged = msgspec.to_builtins(price) | {"total": TWO}
    with pytest.raises((UsageError, msgspec.ValidationError)):
        msgspec.convert(forged, Price)
