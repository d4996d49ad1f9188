"""An event loop on which time is virtual: it jumps to the next timer, and never hangs.

A test of an hour of silence takes a millisecond, and a test that would hang fails at once, saying
who waits for what::

    >>> import asyncio
    >>> from streamguard_core.testing import run
    >>> async def main():
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run(main())
    3600.0

**Threads.** A producer in a thread lives in real time. While another thread that was started after
the loop works (computes, sleeps, reads a socket), the loop neither jumps nor gives up: it waits
really, up to `patience` seconds. A thread that waits on a threading primitive (`Event`,
`Condition`, `Semaphore`, `queue.Queue`) counts as waiting, since only the loop can wake it.
Nothing has to be registered. Threads that lived before the loop was made are not waited for.

**Sockets** are served, but their peers live in real time as well: tests with real sockets belong
on a real loop.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

from streamguard_core.errors import StreamGuardError, UsageError
from streamguard_core.testing._threads import OtherThreads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_Events = list[tuple[selectors.SelectorKey, int]]


class Deadlock(StreamGuardError, AssertionError):
    """Nothing is ready, no timer is set, no thread works: what is still awaited can never come."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """A `SelectorEventLoop` whose clock jumps to the next timer whenever nothing is ready.

    Args:
        start: what `time()` says at first.
        patience: how many real seconds a thread that works is waited for.
        horizon: how many virtual seconds may pass in all; a timer that is set again and again is
            found out.
        on_turn: called once per turn of the loop, to check what must hold at every instant; what it
            raises comes out of `run_until_complete()`.

    Raises:
        Deadlock: out of `run_until_complete()`, when nothing is left to wait for, when a thread
            works for longer than `patience`, or when `horizon` is reached. The message lists what
            the tasks wait for.
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        patience: float = 10.0,
        horizon: float = 86400.0,
        on_turn: Callable[[], object] | None = None,
    ) -> None:
        self._now = start
        self._patience = patience
        self._end = start + horizon
        self.on_turn = on_turn
        self._threads = OtherThreads()
        self._calls = 0
        self._sleepers: set[threading.Event] = set()
        self._settling: list[asyncio.Future[None]] = []
        self.turns = 0
        """How often the loop has turned: what is scheduled in one turn runs in the next."""
        self._inner = selectors.DefaultSelector()
        super().__init__(_JumpingSelector(self._inner, self._select))

    def time(self) -> float:
        """Virtual seconds; moved by the loop alone."""
        return self._now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As usual; what runs in a thread is waited for really."""
        future = super().run_in_executor(executor, func, *args)
        self._calls += 1
        future.add_done_callback(self._called)
        return future

    def sleep_in_thread(self, seconds: float) -> None:
        """`time.sleep` in virtual time, for threads other than the loop's."""
        over = threading.Event()
        self._sleepers.add(over)
        self.call_soon_threadsafe(self.call_later, seconds, over.set)
        over.wait()
        self._sleepers.discard(over)

    async def settled(self) -> None:
        """Wait until all others wait: nothing is ready and no thread works; no time passes."""
        waiting = self.create_future()
        self._settling.append(waiting)
        await waiting

    def close(self) -> None:
        """Close the loop and wake the threads that sleep in its time."""
        super().close()
        for over in tuple(self._sleepers):
            over.set()

    def _called(self, _: asyncio.Future[Any]) -> None:
        self._calls -= 1

    def _select(self, timeout: float | None) -> _Events:
        self.turns += 1
        if self.on_turn is not None:
            self.on_turn()
        ready = timeout is not None and timeout <= 0
        return self._inner.select(0) if ready else self._idle(timeout)

    def _idle(self, timeout: float | None) -> _Events:
        """Nothing is ready: wait for threads, jump to the next timer, or give up."""
        began: float | None = None
        while True:
            # Looked at before the poll: what waits now can do nothing until this loop goes on.
            working = self._threads.working(self._calls)
            if events := self._inner.select(0.001 if began is not None and working else 0):
                return events
            if not working:
                break
            began = began or time.monotonic()
            if time.monotonic() - began > self._patience:
                names = ", ".join(thread.name for thread in working)
                raise Deadlock(
                    f"threads have worked for {self._patience:g} s without a word: {names}"
                )
        if self._settling:
            return self._settle()
        if timeout is None:
            raise Deadlock(self._report("nothing is ready, no timer is set and no thread works"))
        self._now += timeout
        if self._now >= self._end:
            raise Deadlock(self._report("the horizon is reached: timers are set again and again"))
        return []

    def _settle(self) -> _Events:
        """Tell those who waited for this; they go on before time does."""
        settling, self._settling = self._settling, []
        for waiting in settling:
            if not waiting.done():
                waiting.set_result(None)
        return []

    def _report(self, what: str) -> str:
        lines = [f"  {task.get_name()}: {_where(task)}" for task in asyncio.all_tasks(self)]
        waits = "\n".join(sorted(lines)) or "  no task; something else runs the loop for ever"
        advice = "Set what they wait for, or give it a timeout."
        return f"at {self._now:g} s {what}. These wait:\n{waits}\n{advice}"


class _JumpingSelector(selectors.BaseSelector):
    """Asks the loop what to do where a selector would block."""

    def __init__(
        self, inner: selectors.BaseSelector, select: Callable[[float | None], _Events]
    ) -> None:
        self._inner = inner
        self._select = select

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> _Events:
        return self._select(timeout)

    def close(self) -> None:
        self._inner.close()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()


def jumping_loop() -> JumpingLoop:
    """A fresh `JumpingLoop`: a loop factory for `asyncio.Runner` or pytest-asyncio.

    With pytest-asyncio, in `conftest.py`::

        def pytest_asyncio_loop_factories(config, item):
            return {"jumping": jumping_loop}
    """
    return JumpingLoop()


async def settled() -> None:
    """Wait until all other tasks wait, instead of sleeping for "long enough".

    Raises:
        UsageError: when the running loop is no `JumpingLoop`: only that one knows.

    Example:
        >>> async def main():
        ...     words = asyncio.Queue()
        ...     reader = asyncio.create_task(words.get())
        ...     await settled()  # the reader waits now
        ...     words.put_nowait("never")
        ...     return await reader
        >>> run(main())
        'never'
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, JumpingLoop):
        raise UsageError(f"settled() was awaited on a {type(loop).__name__}; run it with run()")
    await loop.settled()


def run(main: Coroutine[Any, Any, T], *, loop: JumpingLoop | None = None) -> T:
    """Run `main` to its end in virtual time, as `asyncio.run` does in real time.

    Args:
        main: the coroutine.
        loop: a loop of your own making; it is closed afterwards.

    Raises:
        Deadlock: when `main`, or a task it left behind that ignores its cancellation, can never
            end.
    """
    loop = loop or jumping_loop()
    runner = asyncio.Runner(loop_factory=lambda: loop)
    try:
        result = runner.run(main)
    except BaseException:
        loop.on_turn = None
        try:
            runner.close()
        except Deadlock:
            pass  # The first failure is the one to show.
        raise
    runner.close()
    return result


def _where(task: asyncio.Task[Any]) -> str:
    """The chain of coroutines a task is suspended in, outermost first."""
    chain: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(chain) < 20:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            code = frame.f_code
            chain.append(
                f"{code.co_qualname} ({code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"
            )
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return " > ".join(chain) or "not started"
