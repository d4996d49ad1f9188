"""Calls of async clients: the cutoff interrupts whoever waits, in every phase of the call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from streamguard_core import CutOffError
from streamguard_providers._httpx import drop, flush, reset_stream
from streamguard_providers.calls import Call

T = TypeVar("T")

#: How long tidying up may take: it writes at most a frame to a peer that may not be reading.
_TIDY_SECONDS: Final = 1.0


async def undisturbed(
    tidying: Coroutine[Any, Any, None], *, seconds: float = _TIDY_SECONDS
) -> None:
    """Have something tidied up, in a task of its own; a cancellation passes once that is done.

    It may take so many `seconds`, and is given up then.

    httpcore shields its closing from anyio's cancellations only. One of asyncio's, while it waits
    for a lock, would leave a connection open that nobody closes any more.
    """
    task = asyncio.ensure_future(_bounded(tidying, seconds))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # the cancellation goes before it
    raise cancelled


async def _bounded(tidying: Coroutine[Any, Any, None], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await tidying


class AsyncCall(Call):
    """A call of an async client. Made in the event loop that runs it.

    Whoever waits in the call does so in `attend`. The cutoff cancels that wait, takes its own
    cancellation back (as `asyncio.timeout` does) and raises the cutoff's error; somebody else's
    cancellation always passes.

    Args:
        cut_off: the error a reader gets at the cutoff.
        tidying: keeps the tasks alive that tidy up after a cutoff.
        rest: as for `Call`.
    """

    def __init__(
        self,
        cut_off: type[CutOffError],
        *,
        tidying: set[asyncio.Task[None]] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(cut_off, **rest)
        self._loop = asyncio.get_running_loop()
        self._tidying = set() if tidying is None else tidying
        self._reader: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._cancelled = False
        self._body: Any = None
        self._request: Any = None

    async def attend(self, awaitable: Awaitable[T]) -> T:
        """Await something of this call's.

        Raises:
            CutOffError: when the cutoff came meanwhile and nothing was received.
        """
        task = asyncio.current_task()
        assert task is not None
        self._reader, self._cancelling = task, task.cancelling()
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._take_back(task):
                raise self.cut_off() from None
            raise
        except Exception as error:
            if self.was_cut:
                raise self.cut_off() from error
            raise
        finally:
            self._reader = None
            self._take_back(task)

    def tracer(
        self, other: Callable[..., Awaitable[None]] | None = None
    ) -> Callable[..., Awaitable[None]]:
        """The `trace` extension for the request; hands everything on to the application's own."""

        async def trace(event: str, info: dict[str, Any]) -> None:
            if event == "http2.send_request_headers.started":
                self._request = info["request"]
            self._trace(event, info)
            if other is not None:
                await other(event, info)

        return trace

    async def hang_up(self) -> None:
        """Close the connection, if it was not given back to the pool, nor closed, by httpcore."""
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(Exception):  # whatever it says, it is closed
                await undisturbed(drop(self._transport, held))

    def reads(self, body: Any) -> None:
        """The response's body, which is closed at the cutoff if nobody is reading it."""
        self._body = body

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        """Call something in so many seconds; returns what takes that back."""
        return self._loop.call_later(seconds, callback).cancel

    async def tidied(self) -> None:
        """Wait until all that a cutoff left to be tidied up is done."""
        while self._tidying:
            await asyncio.wait(self._tidying)

    def _take_back(self, task: asyncio.Task[Any]) -> bool:
        """Take our own cancellation back; True when there was one, and nobody else's beside it."""
        if not self._cancelled:
            return False
        self._cancelled = False
        return task.uncancel() <= self._cancelling

    def _interrupt(self) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._interrupt_here()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all there was
                self._loop.call_soon_threadsafe(self._interrupt_here)

    def _interrupt_here(self) -> None:
        reader = self._reader
        if reader is not None:
            self._cancelled = True
            reader.cancel()
        if self._stream_id is not None or (reader is None and self._body is not None):
            task = self._loop.create_task(self._tidy(read=reader is not None))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)

    async def _tidy(self, *, read: bool) -> None:
        """Give the connection back, which nobody else may ever do.

        The connection of HTTP/1.1 is shut down already. One of HTTP/2 carries other streams, which
        live on.
        """
        with contextlib.suppress(Exception):  # whatever it says, nothing depends on it any more
            if self._stream_id is not None and reset_stream(self._connection, self._stream_id):
                await flush(self._connection, self._request)
        with contextlib.suppress(Exception):
            if not read and self._body is not None:
                await self._body.aclose()


class AsyncBody:
    """The body of a governed response. Combined with the library's own `AsyncByteStream`."""

    def __init__(self, inner: Any, call: AsyncCall) -> None:
        self._inner = inner
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        call = self._call
        parts = self._inner.__aiter__()
        try:
            while True:
                if call.was_cut:
                    raise call.cut_off()
                part = await call.attend(parts.__anext__())
                if call.was_cut:
                    raise call.cut_off()
                call.received(part)
                yield part
        except StopAsyncIteration:
            pass
        except GeneratorExit:
            raise
        except BaseException as error:
            call.finish(error)
            await call.hang_up()
            raise
        finally:
            if hasattr(parts, "aclose"):
                await parts.aclose()
        call.finish(whole=True)

    def __del__(self) -> None:
        """Dropped unread: nobody can read on, and the call's record must not wait for it."""
        self._call.finish()

    async def aclose(self) -> None:
        """Close the response: the call is over."""
        self._call.finish()
        await undisturbed(self._close())

    async def _close(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            await self._call.hang_up()
