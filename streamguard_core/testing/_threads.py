"""Tells which other threads are still at work, so that virtual time does not run away from them."""

from __future__ import annotations

import sys
import threading
import weakref
from concurrent.futures import thread as executor_threads
from types import FrameType
from typing import Final

_WAIT: Final = threading.Condition.wait.__code__
"""Events, semaphores, queues and barriers all wait here."""
_WORKER: Final = executor_threads._worker.__code__
"""A thread of a ThreadPoolExecutor that has nothing to do."""


class OtherThreads:
    """The threads that were started after this object was made.

    A thread waits while it is inside an untimed wait of a threading primitive that nobody has
    ended yet; otherwise it works: it computes, sleeps or reads from a socket. Both are read off
    its topmost frame, so nothing has to be registered and nothing depends on how fast the machine
    is. Frames below it are not looked at: walking those of a thread that runs has crashed Python 3.11.
    """

    def __init__(self) -> None:
        self._before: weakref.WeakSet[threading.Thread] = weakref.WeakSet(threading.enumerate())

    def working(self, calls: int) -> list[threading.Thread]:
        """The threads that may still do something; `calls` are what the loop gave to executors."""
        own = threading.current_thread()
        others = [
            thread
            for thread in threading.enumerate()
            if thread is not own and thread not in self._before
        ]
        if not others:
            return []
        # Documented for such purposes; the frames cannot move while we hold the interpreter.
        frames = sys._current_frames()
        tops = {thread: frames.get(thread.ident or 0) for thread in others}
        idle = [thread for thread, top in tops.items() if top and top.f_code is _WORKER]
        busy = [thread for thread in others if thread not in idle and _works(tops[thread])]
        workers = executor_threads._threads_queues
        inside = sum(thread in workers for thread in others if thread not in idle)
        # A call that no thread is inside of is on its way into one.
        return busy + idle if calls > inside else busy


def _works(top: FrameType | None) -> bool:
    if top is None or top.f_code is not _WAIT:
        # A thread without a frame is on its way out and has nothing more to say.
        return top is not None
    waiter, timeout = top.f_locals.get("waiter"), top.f_locals.get("timeout")
    # notify() releases the waiter: a thread that was notified works, though it has not run yet.
    return timeout is not None or waiter is None or not waiter.locked()
