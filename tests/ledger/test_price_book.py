"""Tests of a price book: the row that fits, exact amounts, bounds for what was cut, clear errors."""

from __future__ import annotations

import doctest
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import (
    UNPRICED,
    Count,
    CountSource,
    Price,
    StreamSession,
    Unpriced,
    Usage,
    UsageError,
    to_pico,
)
from streamguard_core.testing import ScriptedPull, emit, finish
from streamguard_ledger import PriceBook, price_book, rating

NOW = datetime(2026, 6, 1, tzinfo=UTC)
USAGE = Usage.reported_by_provider(input=1_000_000, output=1_000_000)
FULL = {
    "model": "m",
    "input": "2",
    "cached_input": "0.5",
    "cache_write": "2.5",
    "output": "10",
    "reasoning": "12",
    "request": "0.001",
}


def book(*rows: dict[str, Any], **rest: Any) -> PriceBook:
    """A book of these rows, in USD."""
    return PriceBook({"currency": "USD", "prices": list(rows)}, **rest)


def cost(rows: PriceBook, usage: Usage = USAGE, model: str = "m", at: datetime = NOW) -> Price:
    """What the book says of a usage."""
    return rows.price("p", model, usage, at)


def row(**said: Any) -> dict[str, Any]:
    """A row with what it must have."""
    return {"model": "m", "input": "1", "output": "2", **said}


def cumulative(tokens: int, output: int) -> Usage:
    """Numbers that may still have grown when the stream was cut off."""
    return Usage.reported_by_provider(input=tokens, output=output, final=False)


def test_the_examples_are_true() -> None:
    """The docstrings of the book run."""
    assert doctest.testmod(price_book).failed == 0


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


def test_a_cut_stream_costs_at_least_what_was_counted() -> None:
    """Cumulative numbers are a value with an open end: the total has a lower bound and no upper one."""
    price = cost(book(row()), cumulative(10, 5))
    assert (price.total, price.lower, price.upper) == ("0.000020000000", "0.000020000000", None)
    assert not price.exact


def test_bounds_of_usage_are_bounds_of_the_price() -> None:
    """Where only bounds of the output are known, the price is between two amounts and has no total."""
    usage = Usage(
        input=Count.exact(10, CountSource.PROVIDER_FINAL),
        output=Count.at_least(5, CountSource.CHUNKS, upper=100),
    )
    price = cost(book(row()), usage)
    assert (price.total, price.unpriced) == (None, Unpriced.UNKNOWN_USAGE)
    assert (price.lower, price.upper) == ("0.000020000000", "0.000210000000")
    assert price.parts["output"].unit == "0.000002000000"
    assert price.parts["output"].amount is None
    only_input = Usage(input=Count.exact(10, CountSource.PROVIDER_FINAL))
    price = cost(book(row()), only_input)
    assert (price.lower, price.upper) == ("0.000010000000", None)


COUNTS = st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)).map(sorted)


@given(
    whole=COUNTS,
    cached=COUNTS,
    output=COUNTS,
    reasoning=COUNTS,
    unit=st.sampled_from(["0", "1", "2", "3"]),
)
def test_the_true_price_is_within_the_bounds(
    whole: list[int], cached: list[int], output: list[int], reasoning: list[int], unit: str
) -> None:
    """Whatever the counts turn out to be within their bounds, the price is within its own."""
    shares = (cached, reasoning)
    for share, parent in zip(shares, (whole, output), strict=True):
        for at in range(3):
            share[at] = min(share[at], parent[at])
        share[0] = min(share[0], parent[0])
    rates = book(
        row(
            cached_input=unit,
            reasoning=unit,
            tiers=[{"above": 20, "input": "0.5"}, {"above": 30, "input": "4", "output": "4"}],
        )
    )
    counts = [
        Count(middle, low, high, CountSource.HEURISTIC)
        for low, middle, high in (whole, cached, output, reasoning)
    ]
    usage = Usage(input=counts[0], cached_input=counts[1], output=counts[2], reasoning=counts[3])
    bounded = cost(rates, usage)
    true = cost(
        rates,
        Usage.reported_by_provider(
            input=whole[1], cached_input=cached[1], output=output[1], reasoning=reasoning[1]
        ),
    )
    assert bounded.total == true.total
    lower = to_pico(bounded.lower or bounded.total or "")
    upper = to_pico(bounded.upper or bounded.total or "")
    assert lower <= to_pico(true.total or "") <= upper
    unknown = Usage(
        input=Count.at_least(whole[0], CountSource.HEURISTIC, whole[2]),
        cached_input=Count.at_least(cached[0], CountSource.HEURISTIC, cached[2] or None),
        output=Count.at_least(output[0], CountSource.HEURISTIC, output[2]),
        reasoning=Count.at_least(reasoning[0], CountSource.HEURISTIC, reasoning[2] or None),
    )
    said = cost(rates, unknown)
    if cached[0] and reasoning[0]:
        assert said.total is None
        assert to_pico(said.lower or "0.000000000000") <= to_pico(true.total or "")
        assert said.upper is not None
        assert to_pico(true.total or "") <= to_pico(said.upper)


def test_the_dearest_share_is_taken_first() -> None:
    """Two shares that may each be most of the input: at most, the dearer one is; at least, the cheaper one."""
    rates = book(row(input="2", cached_input="3", cache_write="5", output="0"))
    some = Count.at_least(0, CountSource.HEURISTIC, 8)
    whole, none = (Count.exact(count, CountSource.PROVIDER_FINAL) for count in (10, 0))
    usage = Usage(input=whole, cached_input=some, cache_write=some, output=none)
    price = cost(rates, usage)
    assert (price.lower, price.upper) == ("0.000020000000", "0.000046000000")
    cheap = book(row(input="6", cached_input="3", cache_write="5", output="0"))
    assert cost(cheap, usage).lower == "0.000034000000"


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


def test_bounds_across_an_edge_take_both_tiers() -> None:
    """An input that may be above the edge is priced at least below it and at most above it."""
    tiers = [{"above": 100, "input": "10"}]
    usage = Usage(
        input=Count.at_least(100, CountSource.TOKENIZER, 101),
        output=Count.exact(0, CountSource.PROVIDER_FINAL),
    )
    price = cost(book(row(tiers=tiers)), usage)
    assert (price.lower, price.upper) == ("0.000100000000", "0.001010000000")
    assert (price.tier, price.parts) == (None, {})
    opened = cost(book(row(tiers=tiers)), cumulative(1, 0))
    assert (opened.total, opened.upper) == ("0.000001000000", None)


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


def test_rounding_is_exact_or_said() -> None:
    """A unit price with more places than an amount keeps is rounded half to even, once, where that is asked for."""
    assert rating.pico("0.0000005", exact=False) == 0
    assert rating.pico("0.0000015", exact=False) == 2
    assert rating.pico("1.0399999999999998", exact=False) == 1_040_000
    with pytest.raises(UsageError, match="more decimal places"):
        rating.pico("0.0000005")
    with pytest.raises(UsageError, match="is no price"):
        rating.pico(1.5)
