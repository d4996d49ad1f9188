"""What still runs after its request: held until it is done, because asyncio itself would forget it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

logger = logging.getLogger("streamguard")


class Late:
    """Tasks that outlive what began them. What they raise is logged, by type, and changes nothing.

    Belongs to one event loop.

    Example:
        >>> async def main():
        ...     late = Late()
        ...     late.keep(asyncio.ensure_future(asyncio.sleep(0)))
        ...     await late.all_done()
        >>> asyncio.run(main())
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Hold `task` until it is done; a second time changes nothing."""
        if task.done():
            self._done(task)
        elif task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._done)

    async def all_done(self) -> None:
        """Wait until nothing is held any more, what is added meanwhile included. The caller bounds it."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("after the end of a stream, %s was raised", type(error).__name__)
