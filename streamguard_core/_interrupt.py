"""Interrupts a task that is parked inside foreign code, and takes exactly those cancellations back."""

from __future__ import annotations

import asyncio
from typing import Any


class Interrupt:
    """The `Task.cancel()` calls we issue to one task.

    Invariant: every call is taken back by `absorb()`, and an outside cancellation always propagates.
    """

    __slots__ = ("_before", "_issued", "_watched", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        """The task to interrupt; a reader whose steps run in tasks of their own changes it per step."""
        self._issued = 0
        self._watched: asyncio.Task[Any] | None = None
        self._before = 0

    def watch(self, task: asyncio.Task[Any] | None) -> None:
        """The running `task` begins something that may be interrupted.

        How often it is being cancelled is noted now: an outside cancellation that comes in the same turn
        as ours, before or after it, must be told from one that was there before.
        """
        self.task = self._watched = task
        self._before = task.cancelling() if task is not None else 0

    @property
    def issued(self) -> bool:
        """True between `send()` and `absorb()`."""
        return self._issued > 0

    def send(self) -> None:
        """Cancel the task, which is parked (it is not the running one)."""
        task = self.task
        if task is None or task.done():
            return
        task.cancel("streamguard: cutoff")
        self._issued += 1

    def send_soon(self) -> None:
        """Cancel the task now where it is parked; where it runs, in the next turn, if it is parked then."""
        if self.task is None:
            return
        if self.task is current_task():
            self.task.get_loop().call_soon(self._send_if_parked)
        else:
            self.send()

    def _send_if_parked(self) -> None:
        if self.task is not None and self.task is not current_task():
            self.send()

    def absorb(self) -> bool:
        """Take our cancellations back, if any; True when somebody else's remain, which must propagate."""
        task, issued = self.task, self._issued
        if task is None:
            return False
        for _ in range(issued):
            task.uncancel()
        self._issued = 0
        # A task that was begun for one step has no past.
        return task.cancelling() > (self._before if task is self._watched else 0)


def current_task() -> asyncio.Task[Any] | None:
    """The running task, or None in a callback and outside of any loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
