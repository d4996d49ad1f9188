"""Runs a producer in a task of its own, for streams in which something looks ahead or reads on."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from streamguard_core._interrupt import current_task
from streamguard_core._out import SessionOut
from streamguard_core.errors import CutOffError, UsageError
from streamguard_core.producers import Drive, classify

Opened = Callable[[], Awaitable[None]]
"""Waits until the OPEN record is durable."""


class CancelFlag:
    """The `cancel_event` of a producer; costs no asyncio.Event until somebody waits for it."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: asyncio.Event | None = None

    def is_set(self) -> bool:
        """True from the cutoff on."""
        return self._set

    async def wait(self) -> bool:
        """Return at the cutoff."""
        if not self._set:
            self._event = self._event or asyncio.Event()
            await self._event.wait()
        return True

    def set(self) -> None:
        """The cutoff has come."""
        self._set = True
        if self._event is not None:
            self._event.set()


class Unread:
    """A producer that is not iterated, to be closed: a provider's stream may be open before it is given."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    async def aclose(self) -> None:
        """Close it in the way it has: `aclose()`, or `close()` as SDKs call it."""
        close = getattr(self._producer, "aclose", None) or getattr(self._producer, "close", None)
        if close is not None:
            closing = close()
            if inspect.isawaitable(closing):
                await closing


class Pump:
    """The task a producer runs in. Knows the session only through `out` and the `ended` callback.

    Args:
        ended: called once, on the loop, with None or the exception the producer raised.
    """

    __slots__ = ("_ended", "_flag", "_out", "_unread", "task")

    def __init__(self, out: SessionOut, ended: Callable[[BaseException | None], None]) -> None:
        self._out = out
        self._flag = CancelFlag()
        self._ended = ended
        self.task: asyncio.Task[None] | None = None
        self._unread: Unread | None = None
        """An iterator that was given and not begun; it may be a provider's open stream."""

    def start(self, drive: Drive, producer: Any, opened: Opened | None) -> None:
        """Begin to produce, once the OPEN record is durable."""
        self._unread = Unread(producer) if drive is Drive.ASYNC else None
        self.task = asyncio.get_running_loop().create_task(self._run(drive, producer, opened))
        self.task.add_done_callback(self._task_done)

    def stop(self) -> None:
        """Tell the producer to end: the event first, then a cancellation."""
        self._flag.set()
        task = self.task
        assert task is not None, "start() comes first"
        if task is current_task():
            # The producer cut its own stream off, mostly in `out()`, which raises: a cancellation on top
            # would only interrupt its clean-up.
            asyncio.get_running_loop().call_soon(self._cancel_unless_told)
        else:
            task.cancel("streamguard: cutoff")

    def _cancel_unless_told(self) -> None:
        assert self.task is not None
        if not self._out.told:
            self.task.cancel("streamguard: cutoff")

    def given_up(self) -> None:
        """The close deadline passed: a last cancellation, whatever it interrupts."""
        assert self.task is not None, "start() comes first"
        self.task.cancel("streamguard: close deadline")

    async def _run(self, drive: Drive, producer: Any, opened: Opened | None) -> None:
        if opened is not None:
            await opened()
            opened = None  # It holds the session, which may be dropped from now on.
        self._unread = None
        if drive is Drive.FACTORY:
            producer = await _call(producer)
            drive = classify(producer)
        if drive is Drive.RUN:
            await producer.run(out=self._out.function(), cancel_event=self._flag)
        elif drive is Drive.BATCHES:
            batches = producer.stream(report=self._out)
            await _then_close(batches, self._emit_batches(batches))
        elif drive is Drive.ASYNC:
            chunks = producer.__aiter__()
            await _then_close(chunks, self._emit_chunks(chunks))
        else:
            raise UsageError(
                f"the callable returned a {type(producer).__name__}; return an async iterator or a producer,"
                " or give a sync iterator itself"
            )
        self._out.returned()

    async def _emit_batches(self, batches: AsyncIterator[list[Any]]) -> None:
        out = self._out.function()
        async for batch in batches:
            rest = iter(batch)
            try:
                for chunk in rest:
                    await out(chunk)
            except BaseException:
                # What came with the chunk at which the cutoff fell was generated as well: it is late.
                self._out.refuse_rest(rest)
                raise

    async def _emit_chunks(self, chunks: AsyncIterator[Any]) -> None:
        out = self._out.function()
        async for chunk in chunks:
            await out(chunk)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        error: BaseException | None = (
            asyncio.CancelledError() if task.cancelled() else task.exception()
        )
        # Only our own cutoff makes this an end; one of another stream is a failure like any other.
        ended = None if isinstance(error, CutOffError) and self._flag.is_set() else error
        if self._unread is None:
            self._ended(ended)
        else:
            self.task = task.get_loop().create_task(self._close_unread(self._unread, ended))

    async def _close_unread(self, unread: Unread, error: BaseException | None) -> None:
        try:
            await unread.aclose()
        except BaseException as raised:
            error = raised
        self._ended(error)


async def _call(factory: Any) -> Any:
    """Call a producer's factory; it may be a coroutine function."""
    result = factory()
    return await result if inspect.isawaitable(result) else result


async def _then_close(iterator: Any, emitting: Awaitable[None]) -> None:
    try:
        await emitting
    except GeneratorExit:
        raise  # This task is collected, after its loop was closed: nothing can be awaited.
    except asyncio.CancelledError:
        await close_iterator(iterator)
        raise
    except BaseException:
        # Why it broke is what counts; that it cannot be closed then says nothing more.
        with contextlib.suppress(Exception):
            await close_iterator(iterator)
        raise
    await close_iterator(iterator)


async def close_iterator(iterator: Any) -> None:
    """`aclose()` an async iterator that has it; without it there is nothing to close."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        await aclose()
