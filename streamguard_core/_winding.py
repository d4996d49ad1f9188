"""Winds a pulled iterator down in a task of its own, when no reader is inside it to do so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from streamguard_core._pump import close_iterator
from streamguard_core.chunks import buffer_size
from streamguard_core.producers import Drive
from streamguard_core.transitions import DRAINING

if TYPE_CHECKING:
    from streamguard_core._pull_ending import PullEnding
    from streamguard_core._stepping import Step


class Winding:
    """Reads an iterator on while the policy drains it, then closes it, and reports its end once.

    Holds the session: an ending must not depend on somebody keeping it.
    """

    __slots__ = ("_begun", "_session", "_source", "_step", "_task")

    def __init__(self, session: PullEnding, source: Any, step: Step | None) -> None:
        self._session = session
        self._source = source
        self._step = step
        self._begun = False
        self._task: asyncio.Task[None] | None = None
        assert session._loop is not None
        self._task = session._loop.create_task(self._run())

    def stop(self) -> None:
        """A bound of the drain is reached: interrupt it."""
        # One that has not begun looks at the state first; cancelled now, it would never close anything.
        if self._begun and self._task is not None:
            self._task.cancel("streamguard: drain is over")

    async def _run(self) -> None:
        self._begun = True
        error: BaseException | None = None
        try:
            await self._drain()
            if self._step is not None:
                self._refuse(await self._step.cancel(asyncio.CancelledError()))
        except (StopAsyncIteration, asyncio.CancelledError):
            pass
        except BaseException as raised:
            error = raised
        try:
            await close_iterator(self._source)
        except BaseException as raised:
            error = error or raised
        self._session._producer_ended(error)

    async def _drain(self) -> None:
        """Refuse and count until the iterator ends or is interrupted."""
        session = self._session
        while session._protocol.producer is DRAINING:
            step, self._step = self._step, None
            self._refuse(await (self._source.__anext__() if step is None else step.wait()))
            session._perform()

    def _refuse(self, item: Any) -> None:
        """Count what came after the cutoff (G2)."""
        session = self._session
        for chunk in item if session._drive is Drive.BATCHES else [item]:
            session._protocol.offer(buffer_size(chunk), session._clock.monotonic_ns())
