"""Waits for work that must be finished, whoever cancels the waiting task meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from streamguard_asgi._starlette import CancelScope
from streamguard_core import Cause, current_scope

_UVICORN: Final = "timeout graceful shutdown exceeded"
"""What uvicorn's message says. Messages of others may quote paths, in which shorter words occur."""


async def finish(work: Awaitable[object], seconds: float) -> asyncio.Future[object]:
    """Wait until `work` is done, at most `seconds`; it goes on in its own task if it takes longer.

    AnyIO cancels a task again in every turn of the loop, so a shield of its own kind is needed
    against it; a plain `Task.cancel()` is kept back until the wait is over and propagates then.

    Returns:
        The work's task, done or still running.
    """
    loop = asyncio.get_running_loop()
    task: asyncio.Future[object] = asyncio.ensure_future(work)
    until = loop.time() + seconds
    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
        while not task.done() and (left := until - loop.time()) > 0:
            try:
                await asyncio.wait([task], timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
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


def cause_of(error: BaseException) -> Cause:
    """Whose doing it is that an application's task ended with `error` while a stream was open (G14).

    Nobody says who cancels a task. It is the server, shutting down, after the signal; when the message
    is uvicorn's at the end of its graceful shutdown; and when hypercorn cancels a request, which it
    does for no other reason (its workers get no signal).
    """
    if not isinstance(error, asyncio.CancelledError):
        return Cause.CONSUMER_ERROR
    scope = current_scope()
    told = scope is not None and scope.shutdown is not None and scope.shutdown.begun
    said = any(_UVICORN in str(argument) for argument in error.args)
    if told or said or _is_cancelled_by("hypercorn", getattr(scope, "host", None)):
        return Cause.SHUTDOWN
    return Cause.OPERATOR_CANCEL


def _is_cancelled_by(server: str, host: asyncio.Task[object] | None) -> bool:
    """Whether the task in which a server runs a request is cancelled, and is one of that server's."""
    if host is None or not host.cancelling():
        return False
    frame = getattr(host.get_coro(), "cr_frame", None)
    name = "" if frame is None else str(frame.f_globals.get("__name__"))
    return name.partition(".")[0] == server
