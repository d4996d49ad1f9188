"""A clock that stands still until a test moves it."""

from __future__ import annotations

from streamguard_core.errors import UsageError


class ManualClock:
    """Implements `streamguard_core.Clock`; time passes only through `advance()`.

    For sessions without a loop, for the protocol itself, and for wall time that steps back. It
    moves no timer of an event loop: for deadlines of a `StreamSession` use a `JumpingLoop` and no
    clock at all, then the session takes the loop's time.

    Args:
        monotonic_ns: where the monotonic clock starts.
        wall_us: where the wall clock starts, in microseconds since the epoch.

    Example:
        >>> clock = ManualClock()
        >>> clock.advance(1.5)
        >>> clock.monotonic_ns()
        1500000000
        >>> clock.step_wall(-3600)  # the wall clock is set back an hour, durations stay true
        >>> clock.wall_us(), clock.monotonic_ns()
        (-3598500000, 1500000000)
    """

    def __init__(self, monotonic_ns: int = 0, wall_us: int = 0) -> None:
        self._monotonic_ns = monotonic_ns
        self._wall_us = wall_us

    def monotonic_ns(self) -> int:
        """Nanoseconds since the start that was given, plus what was advanced."""
        return self._monotonic_ns

    def wall_us(self) -> int:
        """Microseconds since the epoch."""
        return self._wall_us

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        Raises:
            UsageError: when `seconds` is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise UsageError(
                f"advance({seconds}) was called; time goes on; step_wall() sets wall time back"
            )
        self._monotonic_ns += round(seconds * 1e9)
        self._wall_us += round(seconds * 1e6)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as NTP or an operator does."""
        self._wall_us += round(seconds * 1e6)
