"""The clock's interface: monotonic instants for durations, wall time for the record."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from typing import Protocol


class Clock(Protocol):
    """Tells the time of one session. Durations come from `monotonic_ns` only: wall time may step back."""

    def monotonic_ns(self) -> int:
        """Nanoseconds from an arbitrary start; never goes back."""

    def wall_us(self) -> int:
        """Microseconds since the epoch, UTC."""


class SystemClock:
    """The machine's clocks."""

    def monotonic_ns(self) -> int:
        """`time.monotonic_ns()`."""
        return time.monotonic_ns()

    def wall_us(self) -> int:
        """`time.time_ns()` in microseconds."""
        return time.time_ns() // 1000


class LoopClock(SystemClock):
    """The event loop's own clock, so that deadlines and the loop's timers agree (also on a virtual loop)."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._time = loop.time

    def monotonic_ns(self) -> int:
        """`loop.time()` in nanoseconds."""
        return int(self._time() * 1e9)
