"""Usage in Anthropic's messages: what is known before the end, and what is billed."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import Count, CountSource
from streamguard_providers import Anthropic, anthropic_iterations, anthropic_total
from streamguard_providers.anthropic_usage import anthropic_usage

from .anthropic_events import END, PING, block, decoded, holds, said, start, stop, stop_block, text


@pytest.mark.parametrize("placeholder", [1, 5, 88])
@pytest.mark.parametrize("rest", [[], [block(), text("much more than one token")], [PING]])
def test_the_first_output_count_is_no_count(placeholder: int, rest: list[bytes]) -> None:
    """Output is unknown until `message_delta`, whatever `message_start` says; input is told (P29)."""
    usage = decoded(start(placeholder), *rest).decoder.usage
    assert usage is not None
    assert usage.output == Count()
    assert usage.reasoning == Count()
    assert usage.input.value == 12
    assert usage.input.source is CountSource.PROVIDER_CUMULATIVE


def test_the_placeholder_may_be_too_high() -> None:
    """A refused message has 0 tokens of output in the end: the placeholder is not even a lower bound."""
    before = decoded(start(1), block(text="")).decoder.usage
    after = decoded(start(1), block(text=""), stop("refusal", output_tokens=0), END).decoder.usage
    assert before is not None
    assert after is not None
    assert after.output == Count.exact(0, CountSource.PROVIDER_FINAL)
    assert holds(before.output, 0)


@pytest.mark.parametrize("end", [stop(), stop(output_tokens=None), said("message_delta", delta={})])
def test_an_end_without_usage_leaves_the_output_unknown(end: bytes) -> None:
    """Where `message_delta` does not tell the output, the placeholder stays one."""
    usage = decoded(start(), block(), text("a"), end, END).decoder.usage
    assert usage is not None
    assert usage.output == Count()
    assert usage.input == Count.exact(12, CountSource.PROVIDER_FINAL)


def test_input_may_grow() -> None:
    """Server tools add input: until the end, what was told at the start is a lower bound."""
    before = [start(), block(), text("Let me look."), stop_block()]
    grown = stop(input_tokens=900, cache_read_input_tokens=None, output_tokens=7)
    early, late = decoded(*before).decoder.usage, decoded(*before, grown, END).decoder.usage
    assert early is not None
    assert late is not None
    assert early.input == Count(12, 12, None, CountSource.PROVIDER_CUMULATIVE)
    assert late.input == Count.exact(900, CountSource.PROVIDER_FINAL)
    assert late.reported == {"input_tokens": 900, "output_tokens": 7}


@pytest.mark.parametrize("rest", [[], [block(kind="compaction")], [block(), block(1, "fallback")]])
def test_input_may_fall(rest: list[bytes]) -> None:
    """Where the context is compacted, or may still be, the input is not even a lower bound."""
    before = [start(input_tokens=60385), *rest]
    usage = decoded(*before).decoder.usage
    final = decoded(*before, stop(input_tokens=612, output_tokens=2819), END).decoder.usage
    assert usage is not None
    assert final is not None
    assert usage.input.value == 60385
    assert final.input.value == 612
    assert holds(usage.input, 612)


def test_a_gateways_zeros_are_unknown_until_the_end() -> None:
    """No prompt is empty: zeros in `message_start` say nothing, those of the end are kept."""
    zeros = start(0, input_tokens=0, cache_read_input_tokens=0)
    early = decoded(zeros, block(), text("a")).decoder.usage
    assert early is not None
    assert (early.input, early.cached_input, early.output) == (Count(), Count(), Count())
    late = decoded(zeros, stop(input_tokens=30, output_tokens=2), END).decoder.usage
    assert late is not None
    assert (late.input.value, late.cached_input.value, late.output.value) == (30, 0, 2)


def test_usage_that_grows_is_assigned() -> None:
    """Several `message_delta` carry the same count, further on: the last one is the usage."""
    grow = [stop(None, output_tokens=5), stop(None, output_tokens=9)]
    early = decoded(start(), block(), *grow).decoder.usage
    assert early is not None
    assert early.output == Count(9, 9, None, CountSource.PROVIDER_CUMULATIVE)
    late = decoded(start(), block(), *grow, stop(output_tokens=11), END).decoder.usage
    assert late is not None
    assert late.output.value == 11


ITERATIONS = [
    {"type": "compaction", "input_tokens": 60385, "output_tokens": 522},
    {"type": "message", "input_tokens": 612, "output_tokens": 2819, "cache_read_input_tokens": 8},
    {"type": "advisor_message", "model": "other", "input_tokens": 100, "output_tokens": 10},
]


def test_iterations_are_told_apart_and_summed() -> None:
    """Usage is what the top says; the runs beside it, which are billed too, can be had apart and as a sum."""
    end = stop(
        input_tokens=612, cache_read_input_tokens=8, output_tokens=2819, iterations=ITERATIONS
    )
    dialect = decoded(start(), end, END).decoder.dialect
    assert isinstance(dialect, Anthropic)
    assert dialect.usage is not None
    assert dialect.total_usage is not None
    source = CountSource.PROVIDER_FINAL
    assert dialect.usage.input == Count(620, 620, 61105, source)
    assert dialect.usage.output == Count(2819, 2819, 3351, source)
    assert dialect.usage.cached_input == Count(8, 8, None, source)
    assert dialect.total_usage.input == Count.exact(61105, CountSource.PROVIDER_FINAL)
    assert dialect.total_usage.output.value == 3351
    assert not dialect.total_usage.cached_input.known  # two of three runs do not tell it
    assert dialect.reported is not None
    assert dialect.reported["iterations"] == ITERATIONS
    runs = anthropic_iterations(dialect.reported)
    assert [(run.type, run.model, run.usage.input.value) for run in runs] == [
        ("compaction", None, 60385),
        ("message", None, 620),
        ("advisor_message", "other", 100),
    ]


def test_a_sum_is_not_made_of_what_is_not_known() -> None:
    """Without iterations the top is all; with one that cannot be read the sum is unknown."""
    plain = {"input_tokens": 3, "output_tokens": 4}
    assert anthropic_total(plain).input.value == 3
    odd = {**plain, "iterations": [ITERATIONS[0], "odd"]}
    assert not anthropic_total(odd).input.known
    assert len(anthropic_iterations(odd)) == 2
    dialect = decoded(start(), stop(output_tokens=4, iterations=odd["iterations"]), END).decoder
    assert dialect.usage is not None
    assert dialect.usage.input == Count(12, 12, None, CountSource.PROVIDER_FINAL)


@pytest.mark.parametrize("odd", [3, "runs", {"a": 1}, [], True])
def test_runs_that_are_no_list_are_none(odd: Any) -> None:
    """What is no list of runs leaves the figures at the top exact."""
    usage = decoded(start(), stop(output_tokens=4, iterations=odd), END).decoder.usage
    assert usage is not None
    assert usage.output == Count.exact(4, CountSource.PROVIDER_FINAL)


def test_runs_within_runs_are_not_looked_at() -> None:
    """Nobody can make us descend: a run that claims to have runs is one run."""
    nested: dict[str, Any] = {"input_tokens": 1, "output_tokens": 2}
    for _ in range(200):
        nested = {"input_tokens": 1, "output_tokens": 2, "iterations": [nested]}
    assert anthropic_total(nested).output == Count.exact(2, CountSource.PROVIDER_FINAL)
    assert anthropic_usage(nested).output == Count.exact(2, CountSource.PROVIDER_FINAL)


def test_runs_that_are_less_than_the_top_are_no_bound() -> None:
    """Runs that do not even add up to the figures at the top leave it open how much there is."""
    run = {"type": "message", "input_tokens": 5, "output_tokens": 4}
    usage = decoded(start(), stop(output_tokens=4, iterations=[run]), END).decoder.usage
    assert usage is not None
    assert usage.input == Count(12, 12, None, CountSource.PROVIDER_FINAL)


def test_usage_with_a_reason_is_final() -> None:
    """The figures that come with the reason are final, even if the connection dies before the end."""
    usage = decoded(start(), block(), text("a"), stop(output_tokens=4)).decoder.usage
    assert usage is not None
    assert usage.output == Count.exact(4, CountSource.PROVIDER_FINAL)
    assert usage.input == Count.exact(12, CountSource.PROVIDER_FINAL)


def test_one_run_is_no_doubt() -> None:
    """Runs that add up to the figures at the top leave those exact."""
    run = {"type": "message", "input_tokens": 12, "output_tokens": 4}
    usage = decoded(start(), stop(output_tokens=4, iterations=[run]), END).decoder.usage
    assert usage is not None
    assert usage.input == Count.exact(12, CountSource.PROVIDER_FINAL)
    assert usage.output == Count.exact(4, CountSource.PROVIDER_FINAL)


def test_before_the_end_the_runs_are_not_known() -> None:
    """Until the message ends, the usage of all runs is what is known of the usage."""
    early = decoded(start(iterations=ITERATIONS)).decoder.dialect
    assert early.usage is not None
    assert early.usage.input == Count(12, 0, None, CountSource.PROVIDER_CUMULATIVE)
    assert isinstance(early, Anthropic)
    assert early.total_usage == early.usage
    assert Anthropic().total_usage is None
