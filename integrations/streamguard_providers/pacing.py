"""A limiter that learns from refusals how often a route may be called; it never waits or reads a clock.

Additive in nothing, multiplicative in both: a refusal (429) doubles the time between two calls, an
answer takes a tenth off, until there is no pace any more. Refusals of calls that had begun before the
last slowing down are its consequences, and slow nothing a second time.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamguard_core import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PacingRule:
    """How a route is slowed down after a refusal for its rate, and recovers.

    Args:
        first: seconds between two calls after the first refusal.
        slowest: seconds between two calls at most.
        slower: a refusal multiplies the time between calls by this.
        faster: an answer multiplies it by this; below `first` there is no pace.

    Raises:
        UsageError: when a number makes no sense.
    """

    first: float = 0.1
    slowest: float = 10.0
    slower: float = 2.0
    faster: float = 0.9

    def __post_init__(self) -> None:
        if not (0 < self.first <= self.slowest < float("inf")):
            raise UsageError(
                f"PacingRule(first={self.first!r}, slowest={self.slowest!r}) was given; both are"
                " seconds, and the first is not longer than the slowest"
            )
        if not (self.slower > 1.0 > self.faster > 0.0):
            raise UsageError(
                f"PacingRule(slower={self.slower!r}, faster={self.faster!r}) was given; the one is"
                " a factor above 1, the other one below"
            )


class Slot:
    """A place in the order of a route's calls."""

    __slots__ = ("at", "before")

    def __init__(self, at: float, before: float) -> None:
        self.at = at
        """When the call may begin."""
        self.before = before
        """When the call before it may begin."""

    def __repr__(self) -> str:
        return f"<Slot at {self.at:g}>"


class Pacer:
    """The pace of one route. All instants are seconds of one monotonic clock, given by the caller.

    Invariant: no call begins before the instant the provider named.
    Invariant: a call begins at least the interval after the one before, as it is when its place is taken.

    Args:
        rule: how it slows down, and recovers.

    Example:
        >>> pacer = Pacer(PacingRule(first=0.5))
        >>> pacer.limited(now=0.0, began=0.0, retry_after=2.0)
        >>> pacer.take(0.0).at, pacer.take(0.0).at
        (2.0, 2.5)
    """

    def __init__(self, rule: PacingRule | None = None) -> None:
        self._rule = rule or PacingRule()
        self.interval = 0.0
        """Seconds between two calls; 0 where there is no pace."""
        self.blocked_until = float("-inf")
        """No call begins before this."""
        self._last = float("-inf")
        """When the call of the last place may begin."""
        self._taken: Slot | None = None
        """The last place. Several may have the same instant."""
        self._slowed = float("-inf")

    def __repr__(self) -> str:
        return f"<Pacer {self.interval:g} s between calls>"

    def wait(self, now: float) -> float:
        """Seconds until a call could begin; 0 when one may now. Takes no place."""
        return max(now, self.blocked_until, self._last + self.interval) - now

    def take(self, now: float) -> Slot:
        """Take the next place. Give it back if it is not used."""
        slot = Slot(max(now, self.blocked_until, self._last + self.interval), self._last)
        self._last, self._taken = slot.at, slot
        return slot

    def holds(self, slot: Slot) -> bool:
        """Whether a place that was taken may still be used: the provider has not put a later instant since."""
        return slot.at >= self.blocked_until

    def give_back(self, slot: Slot) -> None:
        """A place is not used. The last one can be taken by another; one in between stays empty."""
        if slot is self._taken:
            self._last, self._taken = slot.before, None

    def limited(self, *, now: float, began: float, retry_after: float | None = None) -> None:
        """A call was refused for its rate.

        Args:
            now: this instant.
            began: when the call began.
            retry_after: seconds the provider asked to wait.
        """
        rule = self._rule
        if began >= self._slowed:
            slower = max(self.interval * rule.slower, rule.first)
            self.interval = min(slower, rule.slowest)
            self._slowed = now
        pause = self.interval if retry_after is None else retry_after
        self.blocked_until = max(self.blocked_until, now + pause)

    def answered(self, *, began: float) -> None:
        """A call was answered; one that began before the last refusal says nothing of the pace since."""
        if began < self._slowed or not self.interval:
            return
        faster = self.interval * self._rule.faster
        self.interval = 0.0 if faster < self._rule.first else faster
