"""What a guarded response is streamed from: an iterator of exactly the kind its server wants."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from asgiref.sync import async_to_sync

from streamguard_core import (
    AnyChunk,
    Cause,
    CutOffError,
    LedgerError,
    Scope,
    StreamSession,
    SyncStreamSession,
)
from streamguard_core.formats import End, Format, Raw
from streamguard_core.scope import current_scope, enter_scope, leave_scope, remain_in
from streamguard_core.shutdown import DETAIL
from streamguard_django.loops import LoopThread
from streamguard_django.scope import RequestScope, Session
from streamguard_django.sources import Make

CLOSED = "the response was closed"


class AsIs(Raw):
    """The bytes of a response of the application's own.

    Args:
        make: Django's, which knows the response's charset.
    """

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make

    def encode(self, batch: Sequence[AnyChunk]) -> bytes:
        """See `Format`."""
        return b"".join(map(self.make, batch))


class Content:
    """What the kinds have in common: the explicit end, once, and never a clean one after a failure (G13).

    Args:
        session: the stream.
        form: how it looks on the wire.
        scope: the request's.
        own: it streams an iterator of the application's own, whose failure is the response's.
    """

    def __init__(
        self, session: Session, form: Format, scope: RequestScope, *, own: bool = False
    ) -> None:
        self.session = session
        self._form = form
        self._scope = scope
        if own:
            session.keeps_failure = True
        self._ended = False

    def disconnected(self, detail: str = "") -> None:
        """The reader has left. Safe from any thread."""
        self.session.disconnected(detail)

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End the stream. Safe from any thread."""
        self.session.terminate(cause, detail)

    def _lost(self, detail: str) -> None:
        """The connection is gone; in the moment of a shutdown, the server has seen to that."""
        if self._scope.server_goes:
            self.terminate(Cause.SHUTDOWN, DETAIL)
        self.disconnected(detail)

    def _failed(self, error: Exception) -> None:
        """A chunk cannot be sent: the response fails, and ends its stream."""
        detail = f"the response ended with {type(error).__name__}"
        self.session.terminate(Cause.CONSUMER_ERROR, detail)

    def _encode(self, batch: Sequence[AnyChunk]) -> bytes:
        try:
            return self._form.encode(batch)
        except Exception as error:
            self._failed(error)
            raise

    def _end(self) -> bytes:
        """The bytes of the end; empty when there is nothing (more) to say.

        Raises:
            Exception: what the application's iterator raised; `CutOffError` where the format has no
                word for a failure. Either breaks the connection off.
        """
        session = self.session
        if self._ended or session.cause is None:
            return b""
        self._ended = True
        failure, session.failure = session.failure, None
        receipt = session.sealed
        finish = None if receipt is None else receipt.finish
        committed = session.statistics().committed
        body = self._form.end(End.of(session.cause, finish, committed, session.stream_id))
        if body is not None:
            return body
        if self._scope.abandoned:
            return b""
        if isinstance(failure, Exception):
            try:
                raise failure
            finally:
                del failure  # Its traceback has this frame: only the collector would free the two.
        raise CutOffError(
            f"stream {session.stream_id} was cut off ({session.cause}) while it was sent;"
            " the connection is broken off, because its format has no word for that"
        )


class AsyncContent(Content):
    """Under ASGI. `close()` may be called from any thread, and also when the loop is closed.

    Args:
        session, form, scope: as for `Content`.
        own: as there; such a stream is read chunk by chunk, straight through, others in what is ready together.
        ping: longest silence in seconds before a keep-alive; None for none.
    """

    session: StreamSession

    def __init__(
        self,
        session: StreamSession,
        form: Format,
        scope: RequestScope,
        *,
        own: bool = False,
        ping: float | None = None,
    ) -> None:
        super().__init__(session, form, scope, own=own)
        self._ping = ping if form.ping else None
        self._chunkwise = own
        self._loop: asyncio.AbstractEventLoop | None = None
        self._step: Callable[[], Awaitable[Any]] | None = None
        """Asks for the next chunk, or the next that are ready together; None where there are keep-alives."""
        self._encoding = _encoding_of(form, chunkwise=own)
        self._before: Scope | None = None
        self._reading: asyncio.Task[bytes] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncContent:
        return self

    async def __anext__(self) -> bytes:
        try:
            if self._loop is None:
                await self._begin()
            while not self._ended:
                # Written out here for the common case: each coroutine more is what a chunk would cost.
                if (step := self._step) is None:
                    body = await self._read_or_ping()
                else:
                    try:
                        chunk = await step()
                    except StopAsyncIteration:
                        body = self._end()
                    else:
                        try:
                            body = self._encoding(chunk)
                        except Exception as error:
                            self._failed(error)
                            raise
                if body:
                    return body
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                # The reader has left: Django cancels nothing for any other reason. It matters only
                # where the session did not see the cancellation itself.
                self._lost("Django cancelled the response")
            self._step_out()
            raise
        self._step_out()
        raise StopAsyncIteration

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._before = current_scope()
        await open_within(self.session, self._scope)
        if self._ping is None:
            chunks = aiter(self.session) if self._chunkwise else self.session.batches()
            self._step = chunks.__anext__

    def _failed(self, error: Exception) -> None:
        super()._failed(error)
        self._leave()  # Django closes no response that has raised.

    def _step_out(self) -> None:
        """The iterator's steps have left this context in their scope: nobody asks for more of them."""
        if current_scope() is self._scope:
            remain_in(self._before)

    async def _read_or_ping(self) -> bytes:
        """The read goes on through any number of pings, and through the cancellation of who waits for it."""
        if self._reading is None:
            assert self._loop is not None
            self._reading = self._loop.create_task(self._part())
        done, _ = await asyncio.wait([self._reading], timeout=self._ping)
        if not done:
            return self._form.ping
        reading, self._reading = self._reading, None
        return reading.result()

    async def _part(self) -> bytes:
        batch = await self.session.read_ready()
        return self._encode(batch) if batch else self._end()

    async def aclose(self) -> None:
        """Nobody reads on: end now, as the policy says."""
        self._closed = True
        self._ended = True
        self._step_out()
        with contextlib.suppress(LedgerError):  # logged by the session
            await self.session.aclose()

    def close(self) -> None:
        """Django has closed the response, in whatever thread: the stream ends now if it has not."""
        self._scope.finish()
        self._step_out()
        if self._closed:
            return
        self._closed = True
        if self._loop is None:
            self._close_unstreamed()
        else:
            self._close_streamed(self._loop)
        self._scope.stay()

    def _close_streamed(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.session.sealed is None:
            self._lost(CLOSED)
            with contextlib.suppress(RuntimeError):  # closed: the session has ended by itself
                loop.call_soon_threadsafe(self._leave)

    def _close_unstreamed(self) -> None:
        """What was opened for a response that is not streamed is closed on the loop that this thread works for."""
        self._ended = True
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            async_to_sync(self.aclose)()
        else:
            self._leave()

    def _leave(self) -> None:
        assert self._loop is not None
        self._scope.keep(self._loop.create_task(self.aclose()))


def _encoding_of(form: Format, *, chunkwise: bool) -> Callable[[Any], bytes]:
    """What makes bytes of what a step brings: one chunk, or those that are ready together."""
    if not chunkwise:
        return form.encode
    return form.make if isinstance(form, AsIs) else lambda chunk: form.encode((chunk,))


async def open_within(session: StreamSession, scope: RequestScope) -> None:
    """Begin a stream where its provider is to be called: in its request's scope.

    Without its OPEN record it is cut off, and its end says so.
    """
    token = enter_scope(scope)
    try:
        session.start()
    finally:
        leave_scope(token)
    with contextlib.suppress(LedgerError):
        await session.opened()


class BlockingContent(Content):
    """What the kinds under WSGI have in common: the server's thread waits for the next bytes."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        while not self._ended:
            body = self._next()
            if body:
                return body
        raise StopIteration

    def _next(self) -> bytes:
        """The next bytes; none where there is nothing to send."""
        raise AssertionError("provided by the two kinds")


class SyncContent(BlockingContent):
    """Under WSGI, where the producer blocks: the server's thread runs it, one chunk at a time."""

    session: SyncStreamSession

    def _next(self) -> bytes:
        try:
            batch = self.session.read_ready()
        except LedgerError:
            batch = []  # it has cut the stream off, and its end says so
        return self._encode(batch) if batch else self._end()

    def close(self) -> None:
        """The server has closed the response: the stream ends now if it has not."""
        self._ended = True
        self._scope.finish()
        if self.session.sealed is None:
            self.session.close()
        self._scope.stay()


class LoopContent(BlockingContent):
    """Under WSGI, where the producer is async, or keep-alives are wanted: a loop in a thread runs it.

    Args:
        session, form, scope, own: as for `Content`.
        loop: where the session runs.
        ping: longest silence in seconds before a keep-alive; None for none.
        close_timeout: how long `close()` waits for the seal, in seconds.
    """

    session: StreamSession

    def __init__(
        self,
        session: StreamSession,
        form: Format,
        scope: RequestScope,
        *,
        loop: LoopThread,
        own: bool = False,
        ping: float | None = None,
        close_timeout: float = 5.0,
    ) -> None:
        super().__init__(session, form, scope, own=own)
        self._run = loop.submit
        self._ping = ping if form.ping else None
        self._close_timeout = close_timeout
        self._reading: Any = None

    def _next(self) -> bytes:
        if self._reading is None:
            self._reading = self._run(self._part())
        try:
            body: bytes = self._reading.result(self._ping)
        except TimeoutError:
            if not self._reading.done():
                return self._form.ping
            raise
        self._reading = None
        return body

    async def _part(self) -> bytes:
        await open_within(self.session, self._scope)
        batch = await self.session.read_ready()
        return self._encode(batch) if batch else self._end()

    @property
    def _open(self) -> bool:
        """There is something to be closed."""
        return self.session.sealed is None

    async def aclose(self) -> None:
        """Nobody reads on: end now, as the policy says."""
        await self.session.aclose()

    def close(self) -> None:
        """The server has closed the response: the stream ends now if it has not."""
        self._ended = True
        self._scope.finish()
        if self._open:
            with contextlib.suppress(TimeoutError, LedgerError):
                self._run(self.aclose()).result(self._close_timeout)
        self._scope.stay()
