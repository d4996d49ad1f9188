"""What Anthropic's usage objects say, in our token classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from streamguard_core import UNKNOWN, Count, CountSource, Usage, total_usage
from streamguard_providers.dialects import items_in, mapping_in, number_in, text_in


class AnthropicIteration(msgspec.Struct, frozen=True, kw_only=True):
    """One of several model runs that one message took.

    Args:
        type: `message`, `compaction`, `advisor_message`, `fallback_message`, ...
        model: the model that ran, where it is not the one of the message.
        usage: what this run used.
    """

    type: str | None = None
    model: str | None = None
    usage: Usage = Usage()


def anthropic_usage(
    reported: Mapping[str, Any],
    *,
    final: bool = True,
    output_told: bool = True,
    rising: bool = True,
) -> Usage:
    """Normalise a usage object; `input_tokens` there leaves out what was read from or put into the cache.

    Before the last `message_delta`, the numbers have these bounds:

    - `output_tokens` in `message_start` is a placeholder, from 1 up to a few dozen, and not even a
      lower bound (a refused message has 0 in the end): output is unknown until `message_delta`.
    - The input in `message_start` is what was billed so far. Server tools may add to it, so that it
      is a lower bound; where the context was compacted or another model took over, it is neither.
      No prompt is empty: a 0 is a gateway's placeholder, and unknown.

    The figures at the top leave out compactions and advisors, which are billed as well. Where the
    model's runs are told apart (`iterations`), the value is the one at the top, and its upper bound
    the sum of the runs, `anthropic_total`.

    Args:
        reported: the object; `message_start`'s overlaid with `message_delta`'s.
        final: False while numbers may still change.
        output_told: False while `output_tokens` is the placeholder.
        rising: False where numbers that are not final may also fall.
    """
    usage = _top(reported, final=final, output_told=output_told, rising=rising)
    runs = anthropic_iterations(reported) if final else ()
    return _bounded_by_runs(usage, anthropic_total(reported)) if runs else usage


def _top(
    reported: Mapping[str, Any],
    *,
    final: bool = True,
    output_told: bool = True,
    rising: bool = True,
) -> Usage:
    """The figures at the top of the object, without a look at the runs."""

    def count(value: int | None) -> Count:
        if value is None:
            return UNKNOWN
        if final:
            return Count.exact(value, CountSource.PROVIDER_FINAL)
        return Count(value, value if rising else 0, None, CountSource.PROVIDER_CUMULATIVE)

    fresh = number_in(reported.get("input_tokens"))
    read = number_in(reported.get("cache_read_input_tokens"))
    write = number_in(reported.get("cache_creation_input_tokens"))
    whole = None if fresh is None else fresh + (read or 0) + (write or 0)
    if not final and not whole:
        whole = read = write = None
    details = mapping_in(reported.get("output_tokens_details")) or {}
    return Usage(
        input=count(whole),
        cached_input=count(read),
        cache_write=count(write),
        output=count(number_in(reported.get("output_tokens"))) if output_told else UNKNOWN,
        reasoning=count(number_in(details.get("thinking_tokens"))) if output_told else UNKNOWN,
        reported=reported,
    )


def _bounded_by_runs(usage: Usage, total: Usage) -> Usage:
    def bounded(top: Count, runs: Count) -> Count:
        if top.value is None or runs.value == top.value:
            return top
        # A sum below the top is no bound; one that cannot be made is none either.
        upper = runs.value if runs.value is not None and runs.value > top.value else None
        return Count(top.value, top.value, upper, top.source)

    return msgspec.structs.replace(
        usage,
        input=bounded(usage.input, total.input),
        cached_input=bounded(usage.cached_input, total.cached_input),
        cache_write=bounded(usage.cache_write, total.cache_write),
        output=bounded(usage.output, total.output),
    )


def anthropic_iterations(reported: Mapping[str, Any]) -> tuple[AnthropicIteration, ...]:
    """The model runs of one message, each with what it used; empty where they are not told apart."""
    found = []
    for item in items_in(reported.get("iterations")):
        said = mapping_in(item)
        found.append(
            AnthropicIteration(
                type=text_in((said or {}).get("type")),
                model=text_in((said or {}).get("model")),
                usage=Usage() if said is None else _top(said),
            )
        )
    return tuple(found)


def anthropic_total(reported: Mapping[str, Any]) -> Usage:
    """What a finished message used in all its model runs together: this is what is billed.

    The figures at the top of the object leave runs out that are billed as well: a compaction of
    60,000 tokens may stand in `iterations` only. Where there are no iterations, the figures at the
    top are all there is. Runs of another model (`AnthropicIteration.model`) have its prices: price
    those apart.

    Example:
        >>> runs = [{"input_tokens": 900, "output_tokens": 5}, {"input_tokens": 10, "output_tokens": 7}]
        >>> anthropic_total({"input_tokens": 10, "output_tokens": 7, "iterations": runs}).input.value
        910
    """
    runs = [run.usage for run in anthropic_iterations(reported)]
    if not runs:
        return _top(reported)
    return msgspec.structs.replace(total_usage(runs), reported=reported)
