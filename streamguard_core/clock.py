"""The clock's interface: monotonic instants for durations, wall time for the record."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop, BaseEventLoop
from typing import Final, Protocol


class Clock(Protocol):
    """Tells the time of one session. Durations come from `monotonic_ns` only: wall time may step back."""

    def monotonic_ns(self) -> int:
        """Nanoseconds from an arbitrary start; never goes back."""

    def wall_us(self) -> int:
        """Microseconds since the epoch, UTC."""


class SystemClock:
    """The machine's clocks."""

    # The function itself: a method around it would double what reading the clock costs.
    monotonic_ns = staticmethod(time.monotonic_ns)

    def wall_us(self) -> int:
        """`time.time_ns()` in microseconds."""
        return time.time_ns() // 1000


class LoopClock(SystemClock):
    """A loop's own clock, so that deadlines and the loop's timers agree: on a loop whose time is virtual."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._time = loop.time

    def monotonic_ns(self) -> int:
        """`loop.time()` in nanoseconds."""
        return int(self._time() * 1e9)


class _SharedClock(SystemClock):
    """The machine's clocks, known to be what a loop's timers run on."""


SYSTEM_CLOCK: Final = SystemClock()
_SHARED: Final = _SharedClock()


def clock_of(loop: AbstractEventLoop) -> Clock:
    """The clock a loop's timers run on: the machine's own where that is what `loop.time()` tells.

    It is asked several times per chunk of a stream with deadlines, and costs a fifth of `loop.time()`.
    """
    return _SHARED if _tells_system_time(loop) else LoopClock(loop)


def _tells_system_time(loop: AbstractEventLoop) -> bool:
    if type(loop).__module__ == "uvloop":
        return True  # Compiled; the same clock, read once per turn of the loop.
    return getattr(loop.time, "__func__", None) is BaseEventLoop.time
