"""Counts that carry where they come from and how far off they may be: unknown is never zero (G12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from streamguard_core.errors import UsageError


class CountSource(StrEnum):
    """Where a number comes from, best first. An estimate never overwrites a provider's number."""

    PROVIDER_FINAL = "provider_final"
    PROVIDER_CUMULATIVE = "provider_cumulative"
    TOKENIZER = "tokenizer"
    HEURISTIC = "heuristic"
    CHUNKS = "chunks"
    NONE = "none"


class Count(msgspec.Struct, frozen=True, gc=False):
    """A number of tokens (or chunks) with its bounds and its source.

    Invariant: lower <= value <= upper wherever they are known; value None means unknown, 0 means observed zero.
    """

    value: int | None = None
    lower: int = 0
    upper: int | None = None
    source: CountSource = CountSource.NONE

    def __post_init__(self) -> None:
        value = self.lower if self.value is None else self.value
        if self.lower < 0 or value < self.lower or (self.upper is not None and self.upper < value):
            raise UsageError(
                f"a Count needs 0 <= lower <= value <= upper, got lower={self.lower},"
                f" value={self.value}, upper={self.upper}; pass None for what is not known"
            )

    @property
    def known(self) -> bool:
        """True when there is a value, be it zero."""
        return self.value is not None

    @classmethod
    def exact(cls, value: int, source: CountSource) -> Count:
        """A number without doubt: both bounds are the value.

        Args:
            value: how many, zero included.
            source: who says so.

        Raises:
            UsageError: when it is negative.
        """
        return cls(value, value, value, source)

    @classmethod
    def at_least(cls, lower: int, source: CountSource, upper: int | None = None) -> Count:
        """An unknown number of which only bounds are known.

        Args:
            lower: what it is at least.
            source: where the bounds come from.
            upper: what it is at most; None where nothing bounds it.

        Raises:
            UsageError: when the bounds are negative, or crossed.
        """
        return cls(None, lower, upper, source)


UNKNOWN = Count()
"""Nothing is known: no value, no upper bound."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens by class as the provider reported them; a class it did not report stays unknown.

    `input` includes cached input; `output` includes reasoning (`providers.md` 5.7 maps the dialects).
    """

    input: Count = UNKNOWN
    cached_input: Count = UNKNOWN
    cache_write: Count = UNKNOWN
    output: Count = UNKNOWN
    reasoning: Count = UNKNOWN
    audio: Count = UNKNOWN
    image: Count = UNKNOWN
    reported: Mapping[str, Any] | None = None
    """The provider's own usage object, verbatim."""

    @classmethod
    def reported_by_provider(
        cls,
        *,
        input: int | None = None,  # noqa: A002 - the token class is called input everywhere
        output: int | None = None,
        cached_input: int | None = None,
        cache_write: int | None = None,
        reasoning: int | None = None,
        reported: Mapping[str, Any] | None = None,
        final: bool = True,
    ) -> Usage:
        """Build from plain numbers; None stays unknown, 0 stays an explicit zero.

        Args:
            input: tokens read, those from a cache included.
            output: tokens written, reasoning included.
            cached_input: those of `input` that came from a cache.
            cache_write: those of `input` that were put into one.
            reasoning: those of `output` that nobody is shown.
            reported: the provider's own usage object, verbatim.
            final: False for a running count, of which each number is only a lower bound.
        """
        source = CountSource.PROVIDER_FINAL if final else CountSource.PROVIDER_CUMULATIVE
        return cls(
            input=_count(input, source),
            output=_count(output, source),
            cached_input=_count(cached_input, source),
            cache_write=_count(cache_write, source),
            reasoning=_count(reasoning, source),
            reported=reported,
        )


NO_USAGE = Usage()
"""Nothing was reported."""


def total_usage(parts: Sequence[Usage | None]) -> Usage:
    """The usage of several calls together; None stands for a call of which nothing is known.

    A class that one of them leaves open has no value, only what the others prove as its lower bound.
    The object of the provider is kept where there is only one.
    """
    if len(parts) == 1:
        return parts[0] or NO_USAGE
    known = [part or NO_USAGE for part in parts]
    return Usage(
        input=_total([part.input for part in known]),
        cached_input=_total([part.cached_input for part in known]),
        cache_write=_total([part.cache_write for part in known]),
        output=_total([part.output for part in known]),
        reasoning=_total([part.reasoning for part in known]),
        audio=_total([part.audio for part in known]),
        image=_total([part.image for part in known]),
    )


def _total(counts: list[Count]) -> Count:
    told = [count for count in counts if count != UNKNOWN]
    if not told:
        return UNKNOWN
    source = max((count.source for count in told), key=list(CountSource).index)
    lower = sum(count.lower for count in told)
    uppers = [count.upper for count in counts if count.upper is not None]
    upper = sum(uppers) if len(uppers) == len(counts) else None
    values = [count.value for count in counts if count.value is not None]
    value = sum(values) if len(values) == len(counts) else None
    return Count(value, lower, upper, source)


def _count(value: int | None, source: CountSource) -> Count:
    """A provider's final number is exact; a cumulative one is a lower bound that may still grow."""
    if value is None or value < 0:
        return UNKNOWN
    if source is CountSource.PROVIDER_FINAL:
        return Count.exact(value, source)
    return Count(value, value, None, source)
