"""A circuit breaker: decides whether a route may be called, and never waits, reads a clock or logs.

Whoever makes a call asks for a permit, and hands it back with how the call ended. Three rules make
what it says true:

1.  *A reader who leaves says nothing about the provider.* A permit that is handed back without a
    verdict changes nothing, but that a probe's place is free again.
2.  *What is late counts for nothing.* Each opening and each closing begins a new generation; a
    result of an older one tells of a provider as it was then.
3.  *One probe at a time.* A provider that recovers is asked by one call, not by all that wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from streamguard_core import UsageError


class BreakerState(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"
    """Every call."""
    OPEN = "open"
    """None."""
    HALF_OPEN = "half-open"
    """One, the probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRule:
    """When a breaker opens, and for how long.

    Args:
        failures: so many in a row, without a success between, open it.
        cooldown: seconds for which it stays open at first.
        longest: seconds at most; each probe that fails doubles the time.

    Raises:
        UsageError: when a number makes no sense.
    """

    failures: int = 5
    cooldown: float = 10.0
    longest: float = 120.0

    def __post_init__(self) -> None:
        if isinstance(self.failures, bool) or not self.failures >= 1:
            raise UsageError(f"BreakerRule(failures={self.failures!r}) was given; it is at least 1")
        if not 0 < self.cooldown <= self.longest < float("inf"):
            raise UsageError(
                f"BreakerRule(cooldown={self.cooldown!r}, longest={self.longest!r}) was given;"
                " both are seconds, and the cooldown is not longer than the longest"
            )


class Permit:
    """Leave to make one call; handed back once."""

    __slots__ = ("generation", "probe", "returned")

    def __init__(self, generation: int, *, probe: bool) -> None:
        self.generation = generation
        self.probe = probe
        self.returned = False

    def __repr__(self) -> str:
        kind = "probe" if self.probe else "call"
        return f"<Permit {kind} of generation {self.generation}>"


class Breaker:
    """The breaker of one route. All instants are seconds of one monotonic clock, given by the caller.

    Invariant: while it is not closed there is at most one probe under way.
    Invariant: results of an older generation change nothing.

    Args:
        rule: when it opens, and for how long.

    Example:
        >>> breaker = Breaker(BreakerRule(failures=1, cooldown=10))
        >>> breaker.failed(breaker.admit(0.0), 0.5)
        >>> breaker.admit(10.0) is None, breaker.state(10.5)
        (True, <BreakerState.HALF_OPEN: 'half-open'>)
        >>> breaker.succeeded(breaker.admit(10.5), 11.0)
        >>> breaker.state(11.0)
        <BreakerState.CLOSED: 'closed'>
    """

    def __init__(self, rule: BreakerRule | None = None) -> None:
        self._rule = rule or BreakerRule()
        self._until: float | None = None
        """When a probe may go, while it is not closed."""
        self._cooldown = self._rule.cooldown
        self._probe: Permit | None = None
        self.generation = 0
        """Grows whenever it opens or closes."""
        self.failures = 0
        """In a row, in this generation."""

    def __repr__(self) -> str:
        state = "closed" if self._until is None else f"not closed, probe from {self._until:g} on"
        return f"<Breaker {state}, {self.failures} failures>"

    def state(self, now: float) -> BreakerState:
        """What it lets through at this instant."""
        if self._until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._until else BreakerState.HALF_OPEN

    def opens_at(self) -> float | None:
        """When the next probe may go; None while it is closed."""
        return self._until

    def admits(self, now: float) -> bool:
        """Whether a permit would be given."""
        state = self.state(now)
        if state is BreakerState.HALF_OPEN:
            return self._probe is None
        return state is BreakerState.CLOSED

    def admit(self, now: float) -> Permit | None:
        """A permit for one call; None when none may be made."""
        if not self.admits(now):
            return None
        permit = Permit(self.generation, probe=self._until is not None)
        if permit.probe:
            self._probe = permit
        return permit

    def succeeded(self, permit: Permit, now: float) -> None:
        """The call was answered to its end."""
        if self._took_back(permit):
            self.failures = 0
            if permit.probe:
                self._until = None
                self._cooldown = self._rule.cooldown
                self.generation += 1

    def failed(self, permit: Permit, now: float) -> None:
        """The call failed, and the route is to blame."""
        if not self._took_back(permit):
            return
        self.failures += 1
        if permit.probe:
            self._cooldown = min(self._cooldown * 2.0, self._rule.longest)
            self._open(now)
        elif self.failures >= self._rule.failures:
            self._open(now)

    def left(self, permit: Permit) -> None:
        """The call ended for reasons that say nothing of the route: its reader left, a rival was faster."""
        self._took_back(permit)

    def _took_back(self, permit: Permit) -> bool:
        """Take a permit back; True when what it brings still counts."""
        if permit is self._probe:
            self._probe = None
        counts = not permit.returned and permit.generation == self.generation
        permit.returned = True
        return counts

    def _open(self, now: float) -> None:
        self._until = now + self._cooldown
        self.generation += 1
