"""When a call is made again: only before anything of its answer was produced, and not for ever."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from streamguard_core import UsageError
from streamguard_providers.errors import ProviderError

_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often, and after how long, a call is made again.

    Waits grow exponentially with full jitter (a random part of `base * 2**n`, at most `longest`), so
    that many callers that failed together do not come back together. Where the provider says how
    long to wait (`retry-after`), at least that is waited; if that is more than `max_retry_after`,
    the call fails instead.

    Args:
        most: how many times a call is made again.
        base: seconds; the first wait is a random part of this.
        longest: most seconds of one wait of ours.
        max_retry_after: most seconds a provider may ask for.
        within: no further try begins later than this many seconds after the first.
        sleep: waits; `asyncio.sleep` unless a test has its own.
        random: a number from 0 up to 1.
        clock: seconds of a monotonic clock.

    Raises:
        UsageError: when a number is negative.
    """

    most: int = 2
    base: float = 0.5
    longest: float = 8.0
    max_retry_after: float = 30.0
    within: float = 60.0
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        for name in ("most", "base", "longest", "max_retry_after", "within"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise UsageError(f"Retries({name}={value!r}) was given; it must not be negative")

    def wait(self, number: int, error: Exception, elapsed: float) -> float | None:
        """Seconds to wait before the next try; None when there is to be none.

        Args:
            number: how many tries there were again, from 0.
            error: how the latest one failed.
            elapsed: seconds since the first one began.
        """
        if number >= self.most or not isinstance(error, ProviderError) or not error.retryable:
            return None
        wanted = error.retry_after or 0.0
        if wanted > self.max_retry_after:
            return None
        ours = self.random() * min(self.longest, self.base * 2.0 ** min(number, 60))
        wait = max(wanted, ours)
        return None if elapsed + wait > self.within else wait


def retries_of(wanted: Retries | int) -> Retries:
    """Read the keyword `retries` of a producer."""
    return wanted if isinstance(wanted, Retries) else Retries(most=wanted)


class Tries:
    """The tries of one stream, counted."""

    def __init__(self, rule: Retries) -> None:
        self._rule = rule
        self._begun = rule.clock()
        self._number = 0
        self.produced = False
        """Something of the answer was handed out: nothing may be made again."""

    def after(self, error: Exception) -> float | None:
        """Seconds to wait before the next try; None when the failure stands."""
        if self.produced:
            return None
        rule = self._rule
        wait = rule.wait(self._number, error, rule.clock() - self._begun)
        if wait is not None:
            self._number += 1
        return wait

    async def rest(self, seconds: float) -> None:
        """Wait before the next try."""
        await self._rule.sleep(seconds)


def retry_after(
    headers: Mapping[str, str],
    body: Mapping[str, Any] | None = None,
    *,
    now: datetime | None = None,
) -> float | None:
    """Seconds after which a provider wants to be asked again; None when it does not say.

    Args:
        headers: of its response: `retry-after-ms`, `retry-after` in seconds, or as a date, which is
            read against the response's own `date`, for two clocks seldom agree.
        body: its error object, in which Google says it (`RetryInfo`).
        now: the time, where the response has no date.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    said = headers.get("retry-after")
    seconds = _seconds(said)
    if seconds is not None:
        return seconds
    until = _date(said)
    if until is not None:
        begun = _date(headers.get("date")) or now or datetime.now(UTC)
        return max(0.0, (until - begun).total_seconds())
    return _retry_info(body or {})


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < 365 * _DAY * 1000 else None


def _date(value: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):  # the latter for numbers that no machine's integer holds
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _retry_info(body: Mapping[str, Any]) -> float | None:
    error = body.get("error")
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else []:
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str):
            return _seconds(delay.removesuffix("s"))
    return None
