"""Tests of the bounds of a price, where a stream was cut or only bounds of its usage are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import (
    Count,
    CountSource,
    Unpriced,
    Usage,
    to_pico,
)

from .books import book, cost, cumulative, row


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


def _without_values(
    whole: list[int], cached: list[int], output: list[int], reasoning: list[int]
) -> Usage:
    """The same bounds, where nobody knows what is between them."""
    return Usage(
        input=Count.at_least(whole[0], CountSource.HEURISTIC, whole[2]),
        cached_input=Count.at_least(cached[0], CountSource.HEURISTIC, cached[2] or None),
        output=Count.at_least(output[0], CountSource.HEURISTIC, output[2]),
        reasoning=Count.at_least(reasoning[0], CountSource.HEURISTIC, reasoning[2] or None),
    )


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
    said = cost(rates, _without_values(whole, cached, output, reasoning))
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
