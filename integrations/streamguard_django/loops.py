"""An event loop in a thread of its own: where async producers run in a process that has no loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from asgiref.sync import async_to_sync

T = TypeVar("T")


class LoopThread:
    """One loop for all streams of a process, begun when it is first needed, and again after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` on the loop, in a copy of the caller's context."""
        return asyncio.run_coroutine_threadsafe(work, self._running())

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(
                    target=self._loop.run_forever, name="streamguard-loop", daemon=True
                ).start()
            return self._loop

    def stop(self) -> None:
        """End the loop and its thread; what still runs on it does not run on. For tests."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)


def run(work: Coroutine[Any, Any, T], loop: LoopThread | None) -> T:
    """Run `work` where the streams live, and wait for it in a request's thread.

    Args:
        work: what is to be done there.
        loop: theirs; None for the one that serves the request.
    """
    return async_to_sync(_awaited)(work) if loop is None else loop.submit(work).result()


async def arun(work: Coroutine[Any, Any, T], loop: LoopThread | None) -> T:
    """The same for async code."""
    return await (work if loop is None else asyncio.wrap_future(loop.submit(work)))


async def _awaited(work: Coroutine[Any, Any, T]) -> T:
    return await work
