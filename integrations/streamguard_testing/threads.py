"""Runs a loopback engine in a thread of its own, for tests and scripts without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar, Unpack

from streamguard_testing.engine import LoopbackEngine
from streamguard_testing.faults import Fault
from streamguard_testing.records import EngineRequest
from streamguard_testing.settings import EngineOptions

_T = TypeVar("_T")


class RunningEngine:
    """A loopback engine in another thread; every call here may be made from any thread."""

    def __init__(self, engine: LoopbackEngine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self.url = engine.url
        self.openai_url = engine.openai_url
        self.port = engine.port

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    @property
    def requests(self) -> tuple[EngineRequest, ...]:
        """Records of all remembered requests as they are now, in order of arrival."""
        return self._ask(lambda: self._engine.requests)

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return self._ask(lambda: self._engine.open_connections)

    def request(self, request_id: str) -> EngineRequest:
        """Return the record of one request as it is now.

        Raises:
            LookupError: When no such request is remembered.
        """
        return self._ask(lambda: self._engine.request(request_id))

    def generated_after(self, request_id: str, instant: float) -> int:
        """Return how many tokens a request got after an instant of `time.monotonic()`.

        Raises:
            LookupError: When no such request is remembered.
        """
        return self._ask(lambda: self._engine.generated_after(request_id, instant))

    def set_fault(self, fault: Fault) -> None:
        """Choose what goes wrong with requests that do not choose for themselves."""
        self._ask(lambda: setattr(self._engine, "fault", fault))

    def reset(self) -> None:
        """Forget the requests that have ended; those that run are kept."""
        self._ask(self._engine.reset)

    def wait_idle(self, *, timeout: float = 10.0) -> None:
        """Wait until no request is running.

        Raises:
            TimeoutError: When something still runs.
        """
        waiting = self._engine.wait_idle(timeout=timeout)
        asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    def wait_until(
        self,
        predicate: Callable[[tuple[EngineRequest, ...]], bool],
        *,
        timeout: float = 10.0,
    ) -> None:
        """Wait until a predicate over the records is true; it is called in the engine's thread.

        Raises:
            TimeoutError: When it did not become true in time.
        """
        engine = self._engine
        waiting = engine.wait_until(lambda: predicate(engine.requests), timeout=timeout)
        asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    def request_ended(self, request_id: str, *, timeout: float = 10.0) -> EngineRequest:
        """Wait until a request (which may still have to arrive) has ended, and return its record.

        Raises:
            TimeoutError: When it did not arrive, or did not end, in time.
        """
        waiting = self._engine.request_ended(request_id, timeout=timeout)
        return asyncio.run_coroutine_threadsafe(waiting, self._loop).result()

    def _ask(self, question: Callable[[], _T]) -> _T:
        async def asked() -> _T:
            return question()

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(timeout=10.0)


@contextmanager
def run_engine(**options: Unpack[EngineOptions]) -> Iterator[RunningEngine]:
    """Run a loopback engine in a thread of its own.

    Args:
        options: See `EngineSettings`.

    Raises:
        ValueError: When an option is impossible.
        OSError: When host and port cannot be listened on.

    Example:
        >>> with run_engine(interval=0.01) as engine:
        ...     len(engine.requests)
        0
    """
    engine = LoopbackEngine(**options)
    started: Future[tuple[RunningEngine, asyncio.Event]] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(engine, started)), name="loopback-engine", daemon=True
    )
    thread.start()
    running, leave = started.result(timeout=10.0)
    try:
        yield running
    finally:
        running._loop.call_soon_threadsafe(leave.set)  # noqa: SLF001 - made here
        thread.join(timeout=15.0)


async def _serve(
    engine: LoopbackEngine, started: Future[tuple[RunningEngine, asyncio.Event]]
) -> None:
    leave = asyncio.Event()
    try:
        await engine.start()
    except Exception as error:  # noqa: BLE001 - the caller's thread raises it
        started.set_exception(error)
        return
    started.set_result((RunningEngine(engine, asyncio.get_running_loop()), leave))
    try:
        await leave.wait()
    finally:
        await engine.stop()
