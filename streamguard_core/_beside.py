"""Awaits a send in a task of its own while a step of the producer's iterator is begun in the reader's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from streamguard_core._stepping import Step


async def run_beside(
    sending: Awaitable[None], step: Step, pending: Callable[[], Step | None]
) -> None:
    """Await `sending`; meanwhile the step goes on in this task when what it waits for is there.

    A cancellation of this task is given to the iterator first: a timeout of its own ends there. One that
    the iterator passes on came from outside, and cancels the send as well.

    Args:
        sending: what is awaited; what it raises is raised.
        step: the step that is begun.
        pending: the step that is begun now; another one, or None, once this one was wound down elsewhere.
    """
    task = asyncio.ensure_future(sending)
    while not task.done():
        ours = pending() is step and not step.finished
        try:
            await _either(task, step if ours else None)
        except asyncio.CancelledError as error:
            # It may have been wound down while this task was being woken.
            if pending() is step and not step.finished:
                step.resume(error)
                if not step.was_cancelled:
                    continue
            await _cancelled(task)
            raise
        if pending() is step and not step.finished and (step.future is None or step.future.done()):
            step.resume()
    task.result()


async def _either(task: asyncio.Future[None], step: Step | None) -> None:
    """Wait until the task is done, or the step can go on."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    task.add_done_callback(wake)
    future = None
    if step is not None:
        future = step.future
        if future is None:
            loop.call_soon(wake)
        else:
            future.add_done_callback(wake)
    try:
        await waiter
    finally:
        task.remove_done_callback(wake)
        if future is not None:
            future.remove_done_callback(wake)


async def _cancelled(task: asyncio.Future[None]) -> None:
    """Cancel the send, and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])
