"""Waits for work that must be finished, also where AnyIO cancels the waiting task again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from streamguard_asgi._starlette import CancelScope
from streamguard_core import shielding


async def finish(work: Awaitable[object], seconds: float) -> asyncio.Future[object]:
    """Wait as `streamguard_core.shielding.finish()` does, under a shield of AnyIO's own kind.

    AnyIO cancels a task again in every turn of the loop; a plain `Task.cancel()` still gets through.

    Returns:
        The work's task, done or still running.
    """
    task = asyncio.ensure_future(work)
    with CancelScope(shield=True):
        await shielding.finish(task, seconds)
    return task


async def attend(
    work: asyncio.Task[None],
    told: Callable[[asyncio.CancelledError], None],
    seconds: float,
    given_up: asyncio.Future[None],
) -> None:
    """Wait for `work`, which runs in a task of its own so that no host can interrupt its cleanup.

    Args:
        work: what is waited for; what it raises is raised.
        told: called when the waiting task is cancelled, and makes `work` end.
        seconds: how long that may take; the cancellation propagates then.
        given_up: done when `work` is not waited for any more; it goes on by itself.
    """
    try:
        await asyncio.wait([work, given_up], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError as error:
        told(error)
        await finish(work, seconds)
        raise
    if work.done():
        work.result()
