"""Tests of what a row charges: each class at its price, tiers, exact amounts, what is unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import (
    Unpriced,
    Usage,
    UsageError,
    to_pico,
)
from streamguard_ledger import rating

from .books import FULL, book, cost, row


def test_every_class_has_its_own_price() -> None:
    """Cached, written and reasoning tokens are not charged twice; each part is tokens times unit (P31)."""
    usage = Usage.reported_by_provider(
        input=1000, cached_input=300, cache_write=200, output=100, reasoning=40
    )
    price = cost(book(FULL), usage)
    assert {name: (part.tokens, part.amount) for name, part in price.parts.items()} == {
        "input": (500, "0.001000000000"),
        "cached_input": (300, "0.000150000000"),
        "cache_write": (200, "0.000500000000"),
        "output": (60, "0.000600000000"),
        "reasoning": (40, "0.000480000000"),
        "request": (1, "0.001000000000"),
    }
    assert price.total == "0.003730000000"
    assert price.exact
    assert price.unreported == ()


def test_a_class_without_a_price_costs_what_its_whole_does() -> None:
    """A book that knows input and output prices everything that is part of them."""
    usage = Usage.reported_by_provider(input=10, cached_input=9, output=5, reasoning=5)
    price = cost(book(row()), usage)
    assert set(price.parts) == {"input", "output"}
    assert price.total == "0.000020000000"


def test_what_was_not_reported_is_named() -> None:
    """A share that nobody spoke of is charged like its whole, and the price says so (G12)."""
    price = cost(book(FULL), Usage.reported_by_provider(input=10, output=5))
    assert price.unreported == ("cached_input", "cache_write", "reasoning")
    assert price.total == "0.001070000000"
    zero = Usage.reported_by_provider(
        input=10, cached_input=0, cache_write=0, output=5, reasoning=0
    )
    assert cost(book(FULL), zero).unreported == ()
    same = book(row(cached_input="1"))
    assert cost(same, Usage.reported_by_provider(input=1, output=1)).unreported == ()


def test_zero_stays_zero_and_unknown_stays_unknown() -> None:
    """P30: no tokens cost nothing; no numbers have no price, and no bound of 0 either (G12)."""
    zero = cost(book(row()), Usage.reported_by_provider(input=0, output=0))
    assert (zero.total, zero.exact) == ("0.000000000000", True)
    unknown = cost(book(row()), Usage())
    assert unknown.unpriced is Unpriced.UNKNOWN_USAGE
    assert (unknown.total, unknown.lower, unknown.upper) == (None, None, None)
    free = cost(book({"model": "m", "input": "0", "output": "0"}))
    assert free.total == "0.000000000000"


def test_contradictory_usage_has_no_price() -> None:
    """More cached than there was input: no number of these can be charged."""
    usage = Usage.reported_by_provider(input=10, cached_input=11, output=1)
    assert cost(book(FULL), usage).unpriced is Unpriced.UNKNOWN_USAGE


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_price_is_recomputed_from_its_record(whole: int, cached: int, output: int) -> None:
    """P31: units times tokens, as they stand on the record, are the total to the last digit."""
    usage = Usage.reported_by_provider(
        input=whole, cached_input=min(cached, whole), output=output, reasoning=0
    )
    price = cost(book({**FULL, "input": "0.0375", "output": "0.000001"}), usage)
    again = sum((part.tokens or 0) * to_pico(part.unit or "") for part in price.parts.values())
    assert price.total is not None
    assert again == to_pico(price.total)


@pytest.mark.parametrize(
    ("tokens", "total", "tier"),
    [
        (199_999, "0.199999000000", "base"),
        (200_000, "0.200000000000", "base"),
        (200_001, "0.400002000000", "input>200000"),
        (272_001, "1.360005000000", "input>272000"),
    ],
)
def test_a_tier_begins_one_token_above_its_edge(tokens: int, total: str, tier: str) -> None:
    """P35: the whole call is charged at the tier its input reaches; the output's price may stay."""
    tiers = [{"above": 200_000, "input": "2"}, {"above": 272_000, "input": "5"}]
    price = cost(book(row(tiers=tiers)), Usage.reported_by_provider(input=tokens, output=0))
    assert (price.total, price.tier) == (total, tier)
    assert price.parts["output"].unit == "0.000002000000"


def test_rounding_is_exact_or_said() -> None:
    """A unit price with more places than an amount keeps is rounded half to even, once, where that is asked for."""
    assert rating.pico("0.0000005", exact=False) == 0
    assert rating.pico("0.0000015", exact=False) == 2
    assert rating.pico("1.0399999999999998", exact=False) == 1_040_000
    with pytest.raises(UsageError, match="more decimal places"):
        rating.pico("0.0000005")
    with pytest.raises(UsageError, match="is no price"):
        rating.pico(1.5)
