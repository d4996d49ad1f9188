"""What a response is streamed from whose stream outlives it: one connection's turn at a kept stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from streamguard_core import AnyChunk, Cause, LedgerError, StreamSession
from streamguard_core.formats import Events
from streamguard_core.kept import KeptStream
from streamguard_django.content import CLOSED, AsyncContent, Content, LoopContent, open_within
from streamguard_django.scope import RequestScope

Keep = Callable[[], KeptStream]


class Kept(Content):
    """What the kinds have in common. All of it happens on the stream's loop but what says otherwise.

    A member of its request's scope: it is told when that reader has left, and lets go of the stream,
    which waits for him. A part is read in a task of its own, which another connection may interrupt.

    Args:
        session, form, scope, own: as for `Content`.
        keep: keeps the stream, when this is the connection that opens it.
        kept: what is kept of it, when another one did.
        opening: sent before the first chunk, then.
        options: of the kind.
    """

    session: StreamSession

    def __init__(
        self,
        session: StreamSession,
        form: Events,
        scope: RequestScope,
        *,
        own: bool = False,
        keep: Keep | None = None,
        kept: KeptStream | None = None,
        opening: bytes = b"",
        **options: Any,
    ) -> None:
        super().__init__(session, form, scope, own=own, **options)
        self._keep = keep
        self._kept = kept
        self._opening = opening
        self._batches: AsyncGenerator[list[AnyChunk], None] | None = None
        self._undo: Callable[[], None] | None = None
        self._home = None if kept is None else kept.loop
        """The stream's loop, as soon as it is known."""
        self._task: asyncio.Task[Any] | None = None
        """Reads a part now."""
        self._interrupted = False
        self._away = False
        """The reader has left: nothing more is sent."""
        self._left = False
        self.superseded = False
        """Another connection reads the stream now."""

    # -- what it is told ---------------------------------------------------------------------------

    def supersede(self) -> None:
        """See `streamguard_core.kept.Reader`."""
        self.superseded = True
        self._let_go()

    def disconnected(self, detail: str = "") -> None:
        """The reader has left. Safe from any thread."""
        self._away = True
        if not (self.superseded or self._left):
            self.session.disconnected(detail)
        if self._home is not None:
            with contextlib.suppress(RuntimeError):  # closed: the session has ended by itself
                self._home.call_soon_threadsafe(self._let_go)

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End the stream, if it is still this connection's. Safe from any thread."""
        if not (self.superseded or self._left):
            self.session.terminate(cause, detail)

    # -- reading -----------------------------------------------------------------------------------

    async def _part(self) -> bytes:
        """The next bytes to be sent; empty for a chunk that has none, and at the end."""
        self._task = asyncio.current_task()
        batch: list[AnyChunk] | None = None
        try:
            if self._batches is None:
                self._batches = await self._opened()
            if opening := self._opening:
                self._opening = b""
                return opening
            if not (self._away or self._left or self.superseded):
                batch = await anext(self._batches, None)
        except asyncio.CancelledError:
            if not self._absorbed():
                raise
        finally:
            self._task = None
        if batch is None or self.superseded:
            return self._last()
        try:
            return self._encode(batch)
        except Exception:
            # Nobody could come back to it.
            self._let_go()
            raise

    async def _opened(self) -> AsyncGenerator[list[AnyChunk], None]:
        """Begin to read; the first connection opens the stream, and keeps it from now on."""
        self._home = asyncio.get_running_loop()
        await open_within(self.session, self._scope)
        if self._kept is None and self._keep is not None:
            self._kept = kept = self._keep()
            self._form, self._opening = kept.events(0)[0], kept.opening()
            kept.release = lambda: self._scope.release(self.session)
            kept.read_by(self)
        self._undo = self.session.on_close(self._cut_off)
        return self.session.batches()

    def _last(self) -> bytes:
        """What this connection ends with: the stream's end, or the news that another one has it."""
        if self._ended or self._away or self._kept is None:
            self._ended = True
            return b""
        if self.superseded:
            self._ended = True
            return self._kept.farewell()
        last = self._end()
        self._ended = True
        return last

    def _cut_off(self) -> None:
        """A reader that takes nothing is given up, on whatever connection he is by now."""
        cause = self.session.cause
        told = None if cause is None or self.superseded else self._scope.told.get(cause)
        if told is not None:
            told()

    # -- leaving -----------------------------------------------------------------------------------

    def _let_go(self) -> None:
        self._scope.keep(asyncio.get_running_loop().create_task(self.leave()))

    async def leave(self) -> None:
        """Let go of the stream; it goes on, and waits for its reader."""
        if self._left:
            return
        self._left = True
        self._interrupt()
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._undo is not None:
            self._undo()
        if not self.superseded:
            self.session.disconnected(CLOSED)
        if self._batches is not None:
            await self._batches.aclose()
        if self._kept is not None:
            self._kept.left(self)
        else:
            # It was told no id with which it could come back.
            self.session.terminate(Cause.CLIENT_DISCONNECT, CLOSED)
            with contextlib.suppress(LedgerError):  # logged by the session
                await self.session.aclose()

    def _interrupt(self) -> None:
        """Cancel the task that reads; it takes exactly this cancellation back."""
        if self._task is not None and not self._task.cancelling():
            self._interrupted = self._task.cancel("streamguard: this connection reads no more")

    def _absorbed(self) -> bool:
        if not self._interrupted or self._task is None:
            return False
        self._interrupted = False
        return self._task.uncancel() == 0


class KeptAsyncContent(Kept, AsyncContent):
    """Under ASGI."""

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def aclose(self) -> None:
        """Nobody reads on over this connection."""
        self._closed = self._ended = True
        await self.leave()

    def _close_streamed(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lost(CLOSED)
        with contextlib.suppress(RuntimeError):  # closed: the session has ended by itself
            loop.call_soon_threadsafe(self._leave)


class KeptLoopContent(Kept, LoopContent):
    """Under WSGI: the stream lives on the loop in a thread, and its connections in the server's threads."""

    @property
    def _open(self) -> bool:
        return not self._left

    async def aclose(self) -> None:
        """Nobody reads on over this connection."""
        await self.leave()
