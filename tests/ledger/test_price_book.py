"""Tests of a price book: the row that fits, its forms, its hash, and what it refuses."""

from __future__ import annotations

import doctest
import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import (
    UNPRICED,
    Price,
    StreamSession,
    Unpriced,
    Usage,
    UsageError,
)
from streamguard_core.testing import ScriptedPull, emit, finish
from streamguard_ledger import PriceBook, price_book

from .books import NOW, USAGE, book, cost, row


def test_the_examples_are_true() -> None:
    """The docstrings of the book run."""
    assert doctest.testmod(price_book).failed == 0


def test_the_first_row_that_fits_holds() -> None:
    """Provider and model are patterns without regard to case; order decides."""
    rates = book(
        row(provider="one*", model="llama-*", input="7"),
        row(model="LLAMA-3"),
        row(provider="one", model="*", input="9"),
    )
    usage = Usage.reported_by_provider(input=1_000_000, output=0)
    found = [
        rates.price(provider, model, usage, NOW).total
        for provider, model in [
            ("One-eu", "Llama-3"),
            ("two", "llama-3"),
            (None, "llama-3"),
            ("one", "other"),
        ]
    ]
    assert found == ["7.000000000000", "1.000000000000", "1.000000000000", "9.000000000000"]
    for provider, model in [("two", "other"), (None, "other"), ("one", None)]:
        price = rates.price(provider, model, usage, NOW)
        assert price.unpriced is Unpriced.UNKNOWN_MODEL


@pytest.mark.parametrize(
    "start",
    [date(2026, 6, 1), "2026-06-01", "2026-06-01T02:00:00+02:00", datetime(2026, 6, 1)],  # noqa: DTZ001 - as TOML has it
)
def test_a_price_holds_from_its_date_on(start: object) -> None:
    """`valid_from` is included, `valid_until` is not; a date is midnight in UTC."""
    rates = book(row(valid_until=start, input="10"), row(valid_from=start, input="2"))
    usage = Usage.reported_by_provider(input=1_000_000, output=0)
    assert cost(rates, usage, at=NOW - timedelta(microseconds=1)).total == "10.000000000000"
    assert cost(rates, usage, at=NOW).total == "2.000000000000"


def test_another_source_is_asked_where_no_row_fits() -> None:
    """A book overrides what it knows and leaves the rest to others."""

    class Other:
        def price(
            self, provider: str | None, model: str | None, usage: Usage, at: datetime
        ) -> Price:
            assert (provider, usage, at) == ("p", USAGE, NOW)
            return UNPRICED if model == "other" else pytest.fail("asked for what the book knows")

    rates = book(row(), otherwise=Other())
    assert cost(rates).total == "3.000000000000"
    assert cost(rates, model="other") is UNPRICED


TOML = """
name = "contract"
version = "2026-06"
currency = "EUR"

[[prices]]
provider = "loopback"
model = "m*"
valid_from = 2026-01-01
input = "0.10"
output = "0.40"
tiers = [{ above = 1000, input = "0.20" }]
"""


def test_a_book_is_the_same_in_every_form(tmp_path: Path) -> None:
    """TOML, JSON and a dict of the same rows give the same prices with the same hash."""
    toml = tmp_path / "book.toml"
    toml.write_text(TOML, encoding="utf-8")
    data = {
        "name": "contract",
        "version": "2026-06",
        "currency": "EUR",
        "prices": [
            {
                "provider": "loopback",
                "model": "m*",
                "valid_from": "2026-01-01",
                "input": "0.10",
                "output": "0.40",
                "tiers": [{"above": 1000, "input": "0.20"}],
            }
        ],
    }
    written = tmp_path / "book.json"
    written.write_text(json.dumps(data), encoding="utf-8")
    found = [
        PriceBook(form).price("loopback", "m1", USAGE, NOW) for form in (toml, str(written), data)
    ]
    assert found[0] == found[1] == found[2]
    price = found[0]
    assert (price.total, price.currency) == ("0.600000000000", "EUR")
    assert (price.source, price.version, price.tier) == ("contract", "2026-06", "input>1000")
    assert price.row is not None
    assert len(price.row) == 64


def test_the_hash_is_that_of_the_row_alone() -> None:
    """Another row does not change it; another price in the row, or its currency, does."""
    alone = cost(book(row())).row
    assert cost(book(row(), row(model="x"))).row == alone
    assert cost(book(row(input="3"))).row != alone
    euros = PriceBook({"currency": "EUR", "prices": [row()]})
    assert cost(euros).row != alone
    assert cost(book(row())).version != cost(book(row(), row(model="x"))).version


async def test_a_stream_is_priced_by_a_book() -> None:
    """From the session's keyword to the receipt."""
    session = StreamSession(
        ScriptedPull(emit("a"), finish("stop", USAGE)), provider="p", model="m", prices=book(row())
    )
    async for _ in session:
        pass
    receipt = await session.receipt()
    assert receipt.price.total == "3.000000000000"


def test_a_book_says_what_it_is() -> None:
    """Its name, version and size; never its prices, which may be a contract's."""
    text = repr(book(row(input="123.456")))
    assert text.startswith("<PriceBook price-book ")
    assert text.endswith("1 rows>")
    assert "123" not in text


BAD: list[tuple[Any, str]] = [
    ({}, "no rows"),
    ({"prices": []}, "no rows"),
    ({"prices": [3]}, r"prices\[0\] is no table"),
    ({"rows": []}, "'rows'; it may have currency, name, prices, version"),
    ({"currency": "USD", "version": 3, "prices": [row()]}, "version is a int"),
    ({"prices": [row()]}, 'needs a currency such as "USD"'),
    ({"currency": "usd", "prices": [row()]}, "needs a currency"),
    ({"currency": "USD", "prices": [{"input": "1", "output": "1"}]}, "has no model"),
    ({"currency": "USD", "prices": [{"model": "m", "input": "1"}]}, "no price of output"),
    ({"currency": "USD", "prices": [row(input=2.5)]}, "input is a float; write a decimal string"),
    ({"currency": "USD", "prices": [row(), row(input="2,5")]}, r"prices\[1\]: input: '2,5'"),
    ({"currency": "USD", "prices": [row(input="-1")]}, "is no price"),
    ({"currency": "USD", "prices": [row(input="NaN")]}, "is no price"),
    ({"currency": "USD", "prices": [row(input="1e999999")]}, "is no price"),
    ({"currency": "USD", "prices": [row(input="0.0000001")]}, "more decimal places"),
    ({"currency": "USD", "prices": [row(inputs="1")]}, "'inputs'"),
    ({"currency": "USD", "prices": [row(provider=3)]}, "provider is a int"),
    ({"currency": "USD", "prices": [row(valid_from="soon")]}, "no date such as"),
    ({"currency": "USD", "prices": [row(valid_from=3)]}, "it is a date"),
    (
        {
            "currency": "USD",
            "prices": [row(valid_from="2026-02-01", valid_until="2026-02-01")],
        },
        "it never holds",
    ),
    ({"currency": "USD", "prices": [row(tiers={})]}, "tiers are a list"),
    ({"currency": "USD", "prices": [row(tiers=[{"input": "1"}])]}, "above=None"),
    ({"currency": "USD", "prices": [row(tiers=[{"above": True}])]}, "above=True"),
    ({"currency": "USD", "prices": [row(tiers=[{"above": 9}, {"above": 9}])]}, "ascending"),
    (
        {"currency": "USD", "prices": [row(tiers=[{"above": 9, "reasoning": "1"}])]},
        "prices a class that its row does not",
    ),
    ({"currency": "USD", "prices": [row(tiers=[{"above": 9, "model": "x"}])]}, "'model'"),
]


@pytest.mark.parametrize(("data", "why"), BAD, ids=[why for _, why in BAD])
def test_what_is_no_price_book_is_refused(data: Mapping[str, Any], why: str) -> None:
    """The error says which row, and what to write instead."""
    with pytest.raises(UsageError, match=why):
        PriceBook(data)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("b.toml", "prices = [", "b.toml is not valid toml"),
        ("b.json", "{", "b.json is not valid json"),
        ("b.json", "[]", "holds no table"),
        ("b.toml", None, "cannot be read: FileNotFoundError"),
    ],
)
def test_a_file_that_is_no_price_book_is_refused(
    tmp_path: Path, name: str, text: str | None, why: str
) -> None:
    """A file is named by its last part; what is wrong is said."""
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=why):
        PriceBook(tmp_path / name)
