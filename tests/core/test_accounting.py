"""Tests of counts with their source and bounds: unknown is never zero (G12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import (
    NO_USAGE,
    UNKNOWN,
    Cause,
    CloseState,
    Count,
    CountSource,
    StreamSession,
    Usage,
    UsageError,
    drain,
    total_usage,
)
from streamguard_core.testing import (
    ScriptedConsumer,
    ScriptedPull,
    emit,
    finish,
    hang,
    leave,
    read,
    scripted_iterator,
    wait,
)

Build = Callable[..., Any]


@pytest.mark.parametrize(
    ("lower", "value", "upper"), [(-1, None, None), (2, 1, None), (0, 5, 4), (3, None, 2)]
)
def test_bounds_must_hold(lower: int, value: int | None, upper: int | None) -> None:
    """A count whose bounds contradict its value cannot be made."""
    with pytest.raises(UsageError, match="a Count needs 0 <= lower <= value <= upper, got lower="):
        Count(value, lower, upper)


def test_unknown_and_zero_are_different() -> None:
    """Nothing known has no value and no upper bound; an observed zero has both."""
    assert not UNKNOWN.known
    assert UNKNOWN.upper is None
    zero = Count.exact(0, CountSource.PROVIDER_FINAL)
    assert zero.known
    assert (zero.lower, zero.upper) == (0, 0)
    assert zero != UNKNOWN


def test_at_least() -> None:
    """A bound without a value is not known."""
    count = Count.at_least(5, CountSource.CHUNKS, upper=9)
    assert (count.known, count.lower, count.upper) == (False, 5, 9)


NUMBERS = st.none() | st.integers(-5, 1000)


@given(input=NUMBERS, output=NUMBERS, cached=NUMBERS, reasoning=NUMBERS, final=st.booleans())
def test_a_providers_numbers_keep_their_meaning(
    input: int | None,  # noqa: A002 - as the library calls it
    output: int | None,
    cached: int | None,
    reasoning: int | None,
    final: bool,
) -> None:
    """None and nonsense stay unknown, zero stays zero; a final number is exact, a cumulative one may grow."""
    usage = Usage.reported_by_provider(
        input=input, output=output, cached_input=cached, reasoning=reasoning, final=final
    )
    for given_value, count in (
        (input, usage.input),
        (output, usage.output),
        (cached, usage.cached_input),
        (reasoning, usage.reasoning),
        (None, usage.cache_write),
    ):
        if given_value is None or given_value < 0:
            assert count == UNKNOWN
        else:
            assert count.value == count.lower == given_value
            assert count.upper == (given_value if final else None)


def test_the_providers_own_object_is_kept() -> None:
    """Verbatim, for whoever knows more about it."""
    reported = {"total_tokens": 7, "x": None}
    assert Usage.reported_by_provider(reported=reported).reported is reported
    assert NO_USAGE.reported is None


async def test_a_cumulative_usage_is_assigned_not_added(build: Build) -> None:
    """What is reported last stands; a report without usage leaves what is known (pitfall 21)."""
    first = Usage.reported_by_provider(output=5, final=False)
    last = Usage.reported_by_provider(input=2, output=9)
    session = StreamSession(
        ScriptedPull(
            finish(None, first), emit("a"), finish("stop", None), finish(None, last), finish()
        )
    )
    assert [chunk async for chunk in session] == ["a"]
    receipt = await session.receipt()
    assert (receipt.usage, receipt.finish, receipt.output) == (last, "stop", last.output)


async def test_an_explicit_zero_is_kept(build: Build) -> None:
    """A provider that says zero output tokens is believed, whatever the chunks say (pitfall 23)."""
    built = build(emit("a"))
    built.session.finish("stop", Usage.reported_by_provider(output=0))
    assert [chunk async for chunk in built.session] == ["a"]
    receipt = await built.session.receipt()
    assert receipt.output == Count.exact(0, CountSource.PROVIDER_FINAL)


async def test_chunks_give_a_value_and_no_bound(build: Build) -> None:
    """A chunk may hold many tokens or half of one: its count says nothing certain (pitfall 25)."""
    built = build(emit("a"), emit("b"))
    assert [chunk async for chunk in built.session] == ["a", "b"]
    receipt = await built.session.receipt()
    assert receipt.output == Count(2, 0, None, CountSource.CHUNKS)
    assert receipt.waste == Count.exact(0, CountSource.CHUNKS)
    assert receipt.prevented == Count.exact(0, CountSource.CHUNKS)


async def test_nothing_seen_is_unknown(build: Build) -> None:
    """A stream cut off before its first chunk may have generated anything."""
    built = build(hang())
    built.session.start()
    built.session.cancel()
    receipt = await built.session.receipt()
    assert receipt.output == UNKNOWN
    assert receipt.prevented == UNKNOWN


async def test_waste_is_what_was_not_taken_over() -> None:
    """Produced or late and never consumed; it is no prevention (regression 11)."""
    session = StreamSession(ScriptedPull(emit(*"abcd"), hang()), own_task=True, max_tokens=100)
    consumer = ScriptedConsumer(read(2), leave("disconnected"))
    await consumer.consume(session)
    receipt = await session.receipt()
    assert (receipt.produced, receipt.consumed) == (4, 1)
    assert receipt.waste.value == 3
    assert (receipt.prevented.value, receipt.prevented.upper) == (None, 96)


async def test_waste_is_at_most_what_the_provider_says() -> None:
    """An exact usage bounds the waste from above."""
    session = StreamSession(
        ScriptedPull(
            emit("a"), wait(1), emit("b"), finish("stop", Usage.reported_by_provider(output=50))
        ),
        on_disconnect=drain(60),
    )
    async for _ in session:
        break
    receipt = await session.receipt()
    assert (receipt.waste.value, receipt.waste.upper) == (2, 50)
    assert receipt.prevented.value == 0


@pytest.mark.parametrize(("max_tokens", "upper"), [(10, 9), (1, 0), (0, 0), (None, None)])
async def test_prevented_is_bounded_by_the_cap(max_tokens: int | None, upper: int | None) -> None:
    """At most what the request allowed and was not seen; never negative; unknown without a cap (pitfall 33)."""
    session = StreamSession(scripted_iterator(emit("a"), hang()), max_tokens=max_tokens)
    async for _ in session:
        break
    receipt = await session.receipt()
    assert (receipt.prevented.value, receipt.prevented.lower) == (None, 0)
    assert receipt.prevented.upper == upper


async def test_nothing_is_prevented_once_the_provider_has_finished() -> None:
    """A finish was seen: it had nothing more to generate (pitfall 33)."""
    session = StreamSession(ScriptedPull(finish("stop"), emit("a"), hang()), max_tokens=100)
    reading = session.__aiter__()
    await anext(reading)
    session.cancel()
    await reading.aclose()
    receipt = await session.receipt()
    assert (receipt.cause, receipt.prevented.value) == (Cause.USER_CANCEL, 0)
    assert receipt.close is CloseState.CONFIRMED


def test_the_usage_of_several_calls() -> None:
    """Classes are added up one by one, with their bounds, and the worse source is told."""
    first = Usage.reported_by_provider(input=10, output=2, reasoning=1, reported={"a": 1})
    second = Usage.reported_by_provider(input=5, output=3, final=False)
    both = total_usage([first, second])
    assert both.input == Count(15, 15, None, CountSource.PROVIDER_CUMULATIVE)
    assert both.reasoning == Count(None, 1, None, CountSource.PROVIDER_FINAL)
    assert both.audio == UNKNOWN
    assert both.reported is None
    assert total_usage([first, first]).output == Count.exact(4, CountSource.PROVIDER_FINAL)


def test_the_usage_of_one_call_is_its_own() -> None:
    """With one call nothing is added, and the provider's object is kept."""
    only = Usage.reported_by_provider(output=3, reported={"a": 1})
    assert total_usage([only]) is only
    assert total_usage([None]) is NO_USAGE


def test_a_call_of_which_nothing_is_known() -> None:
    """It takes the value away and the upper bound, never what the others prove (G12)."""
    known = Usage.reported_by_provider(output=3)
    total = total_usage([known, None]).output
    assert total == Count.at_least(3, CountSource.PROVIDER_FINAL)
