"""Waits for work that must be finished, also where AnyIO cancels the waiting task again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

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
