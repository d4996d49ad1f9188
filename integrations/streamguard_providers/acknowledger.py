"""Tells a server what its reader has, together: one request at a time, beside the reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

_MOST_CHUNKS: Final = 64
"""Are collected before one acknowledgement."""
_AGAIN: Final = 0.1
"""Shortest wait before a server that was not reached is tried again, in seconds."""


class Acknowledger:
    """The first event is acknowledged at once; then what came meanwhile, together.

    Args:
        tell: acknowledges an offset; says whether the server took it, and raises `OSError` where it was not reached.
    """

    def __init__(self, tell: Callable[[int], Awaitable[bool]]) -> None:
        self._tell = tell
        self._delay: float | None = None
        self._offset = self._told = 0
        self._told_at = -inf
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def asked(self, milliseconds: str | None) -> None:
        """The server asks for acknowledgements, and says how long may be collected; None when it does not."""
        wanted = milliseconds is not None and milliseconds.isdigit()
        self._delay = int(milliseconds or 0) / 1000 if wanted else None

    def has(self, offset: int, *, now: bool = False) -> None:
        """The reader has everything up to `offset`; `now`, without collecting."""
        if offset <= self._offset:
            return
        self._offset = offset
        if self._delay is None:
            return
        if now or offset - self._told >= _MOST_CHUNKS:
            self._hurry.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def flush(self, seconds: float) -> None:
        """Wait until the server has heard of everything so far, for so long at most."""
        if self._task is not None:
            self._hurry.set()
            await asyncio.wait([self._task], timeout=seconds)

    async def aclose(self, seconds: float) -> None:
        """Nothing more will come: say the last word, for so long at most."""
        await self.flush(seconds)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Acknowledge until everything is."""
        loop, wait = asyncio.get_running_loop(), 0.0
        try:
            while self._delay is not None and self._offset > self._told:
                await self._pause(max(self._told_at + self._delay - loop.time(), wait))
                self._hurry.clear()
                offset, self._told_at = self._offset, loop.time()
                try:
                    if not await self._tell(offset):
                        self._delay = None  # It does not take them, or not any more.
                    self._told, wait = offset, 0.0
                except OSError:
                    wait = _AGAIN
        finally:
            self._task = None

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            try:
                await asyncio.wait_for(self._hurry.wait(), seconds)
            except TimeoutError:
                pass
