"""Tests of totals: unknown is not zero, and amounts in different currencies are never one."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import PriceSum, Sum, count_text, price_text


@pytest.mark.parametrize(
    ("price", "text"),
    [
        ({}, "unknown"),
        ({"unpriced": "no_source"}, "unpriced"),
        ({"unpriced": "unknown_model"}, "unpriced unknown_model"),
        ({"total": "0.000000000000", "currency": "EUR"}, "0.00 EUR"),
        ({"total": "12.340000000001", "currency": "EUR"}, "12.340000000001 EUR"),
        (
            {"total": "2.000000000000", "lower": "2.000000000000", "currency": "USD"},
            "~2.00 >=2.00 USD",
        ),
        (
            {
                "total": "2.000000000000",
                "lower": "1.500000000000",
                "upper": "3.000000000000",
                "currency": "USD",
            },
            "~2.00 1.50..3.00 USD",
        ),
        (
            {"unpriced": "unknown_usage", "lower": "1.500000000000", "currency": "USD"},
            ">=1.50 USD",
        ),
        ({"total": 7, "currency": []}, "unknown"),
        ({"total": "7", "unpriced": []}, "unpriced []"),
    ],
)
def test_a_price_is_shown_with_every_digit_and_its_bounds(price: dict[str, Any], text: str) -> None:
    """Unknown is not zero, zero is, and what was forged is no traceback (G12)."""
    assert price_text(price) == text


def test_totals_are_kept_apart_by_currency() -> None:
    """P37: euros and dollars have two sums; what has no total is counted beside them."""
    total = PriceSum()
    assert str(total) == "unpriced"
    for currency in ("USD", "EUR", "USD"):
        total.add({"total": "0.100000000000", "currency": currency})
    assert str(total) == "0.10 EUR and 0.20 USD"
    total.add({"unpriced": "unknown_usage", "lower": "1.000000000000", "currency": "USD"})
    assert str(total) == "0.10 EUR and 0.20 USD (+ 1 unpriced)"


def test_a_sum_says_how_much_of_it_is_known() -> None:
    """G12: what is not known is counted beside the sum, and a sum of unknowns is unknown, not 0."""
    total = Sum()
    assert str(total) == "0"
    total.add(None)
    total.add(True)  # no count, though Python takes it for one
    assert str(total) == "unknown"
    total.add(0)
    assert (str(total), total.known, total.unknown) == ("0 (+ 2 unknown)", 1, 2)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        ({}, "unknown"),
        ({"lower": 0, "source": "none"}, "unknown"),
        ({"value": 0, "lower": 0, "upper": 0}, "0"),
        ({"value": 7, "lower": 5}, "~7 >=5"),
        ({"lower": 2, "upper": 9}, "2..9"),
        ({"upper": 9}, "0..9"),
    ],
)
def test_a_count_is_shown_with_its_bounds(count: dict[str, Any], text: str) -> None:
    """An estimate is marked, a bound is no value, and zero is shown only where somebody counted it (G12)."""
    assert count_text(count) == text
