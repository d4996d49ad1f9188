"""Waits for work that must be finished, whoever cancels the waiting task meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def finish(work: Awaitable[object], seconds: float) -> asyncio.Future[object]:
    """Wait until `work` is done, at most `seconds`; it goes on in its own task if it takes longer.

    A cancellation of the waiting task is kept back until the wait is over, and propagates then. Against
    AnyIO, which cancels again in every turn of the loop, a shield of its own kind is needed around this.

    Args:
        work: what must be finished.
        seconds: how long it is waited for, on the loop's clock.

    Returns:
        The work's task, done or still running.

    Raises:
        CancelledError: the last one that was kept back, when the wait is over.
    """
    loop = asyncio.get_running_loop()
    task: asyncio.Future[object] = asyncio.ensure_future(work)
    until = loop.time() + seconds
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and (left := until - loop.time()) > 0:
        try:
            await asyncio.wait([task], timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task
