"""An event loop with virtual time on which somebody else decides which ready callback runs next."""

from __future__ import annotations

import asyncio
import heapq
from asyncio import Handle, TimerHandle
from collections import deque
from collections.abc import Callable
from typing import Any

Chooser = Callable[[int], int]
"""Given how many callbacks are ready (at least two), the index of the one to run."""


class Deadlock(RuntimeError):
    """Nothing is ready, no timer is set, and the program has not ended."""


class ScheduleLoop(asyncio.BaseEventLoop):
    """Runs one callback a turn, chosen by `chooser`; time jumps to the next timer when nothing is ready."""

    # Both are `BaseEventLoop`'s own queues, named here for the type checker.
    _ready: deque[Handle]
    _scheduled: list[TimerHandle]

    def __init__(self, chooser: Chooser) -> None:
        super().__init__()
        self._chooser = chooser
        self._now = 0.0
        self.problems: list[str] = []
        """What a callback or a task raised and nobody caught."""
        self.set_exception_handler(self._note_problem)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def _note_problem(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.problems.append(
            f"{context['message']} ({type(error).__name__ if error else 'no exception'})"
        )

    def _run_once(self) -> None:
        """One callback: `BaseEventLoop.run_forever` calls this in a loop."""
        ready = self._ready
        while ready and ready[0].cancelled():
            ready.popleft()
        if not ready:
            self._jump()
        if not ready:
            return
        index = self._chooser(len(ready)) if len(ready) > 1 else 0
        handle = ready[index]
        del ready[index]
        if not handle.cancelled():
            handle._run()

    def _jump(self) -> None:
        """Move the clock to the next timer, and make everything due then ready."""
        scheduled = self._scheduled
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)
        if not scheduled:
            if not self._stopping:
                raise Deadlock(f"nothing is left to wait for at {self._now:g} s")
            return
        self._now = max(self._now, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now:
            self._ready.append(heapq.heappop(scheduled))

    _stopping: bool
    _timer_cancelled_count = 0

    def _process_events(self, event_list: object) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There is no selector to wake: everything happens in one thread."""
