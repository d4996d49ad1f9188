"""One stream that can be resumed, and the events of it that one connection gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import LedgerError, UsageError
from streamguard_core.formats import Events, Format, ToldEvents
from streamguard_core.replay import Refusal, Replay, ResumeError, ResumePoint
from streamguard_core.session import StreamSession
from streamguard_core.sse import encode_event


class Reader(Protocol):
    """A connection that reads a kept stream, as an adapter has it."""

    def supersede(self) -> None:
        """Another connection reads the stream from now on: end, and say `KeptStream.left()`; the session goes on."""


R = TypeVar("R", bound=Reader)


class KeptStream:
    """One stream that can be resumed: its session, whose it is, what was sent, who reads it now.

    All of it happens on the session's event loop.

    Invariant: at most one reader reads the session.

    Args:
        session: the stream.
        point: its beginning.
        owner: whose it is.
        path: the address at which it was opened.
        replay: what was sent.
        retry: the hint to readers how long to wait before they reconnect, in seconds.
    """

    __slots__ = (
        "_over",
        "_retry_ms",
        "_timer",
        "_vacant",
        "_watch",
        "ended",
        "forget",
        "loop",
        "owner",
        "path",
        "point",
        "reader",
        "release",
        "replay",
        "session",
        "turn",
    )

    def __init__(
        self,
        session: StreamSession,
        point: ResumePoint,
        owner: str,
        path: str,
        replay: Replay,
        retry: float = 1.0,
    ) -> None:
        self.session = session
        self.point = point
        self.owner = owner
        self.path = path
        self.replay = replay
        self.reader: Reader | None = None
        """The connection that reads the stream now."""
        self._retry_ms = round(retry * 1000)
        self.loop = asyncio.get_running_loop()
        self.turn = asyncio.Lock()
        """Held while a reader takes over; the last one to come has the stream."""
        self.release: Callable[[], None] = _nothing
        """Takes the stream out of the hands of the request that opened it."""
        self.ended: Callable[[], None] = _nothing
        """To be called, once or more, when the stream has ended."""
        self.forget: Callable[[], None] = _nothing
        self._watch: asyncio.Task[None] | None = None
        self._vacant = asyncio.Event()
        self._over = False
        """Its window is over."""
        self._timer: asyncio.TimerHandle | None = None

    def at(self, offset: int | None) -> ResumePoint:
        """A point in this stream; None is its end."""
        return ResumePoint(self.point.stream_id, self.point.place, offset)

    def opening(self, offset: int = 0) -> bytes:
        """What a response begins with: from its first byte on a reader can resume, not only from its first chunk."""
        return f"id: {self.at(offset)}\nretry: {self._retry_ms}\n\n".encode()

    def farewell(self) -> bytes:
        """What tells a reader that another connection has its stream; its id keeps an EventSource from coming back."""
        return encode_event("{}", event="superseded", id=str(self.at(None)))

    def events(self, offset: int) -> tuple[Format, bytes]:
        """How the stream looks from `offset` on, and what of that was sent before.

        Raises:
            ResumeError: when the buffer does not hold it.
        """
        missed = self.replay.since(offset)
        taken = self.session.taken
        form = KeptEvents(self.replay, self.point.prefix, offset, taken)
        again = form.again(missed[: max(taken - offset, 0)])
        if self.session.acknowledges:
            self.session.sending(form.shown)
            return ToldEvents(form, self.session.sending), again
        return form, again

    def read_by(self, reader: Reader) -> None:
        """`reader` reads from now on."""
        self.reader = reader
        self._vacant.clear()

    def left(self, reader: Reader) -> None:
        """`reader` has ended."""
        if self.reader is reader:
            self.reader = None
            self._vacant.set()
            if self._over:
                self.forget()
            elif self.session.cause is not None:
                self.ended()
            elif self._watch is None:
                self._watch = asyncio.get_running_loop().create_task(self._until_sealed())

    async def _until_sealed(self) -> None:
        """Nobody reads it now: it may end by itself, or because its window is over."""
        with contextlib.suppress(LedgerError):
            await self.session.receipt()
        self._watch = None
        self.ended()

    async def taken_over(
        self, offset: int, seconds: float, make: Callable[[Format, bytes], R]
    ) -> R:
        """End the connection that reads the stream, and read it by another one from `offset` on.

        Args:
            offset: how much the new reader has.
            seconds: how long the old one may take to let go.
            make: makes the new reader, of how the stream looks and of what it is sent first.

        Raises:
            ResumeError: when the stream cannot be read from there, which ends no other connection; or
                when the old one does not let go.
        """
        if self.loop is not asyncio.get_running_loop():
            raise ResumeError(
                Refusal.ELSEWHERE,
                "this stream runs on another event loop of this process than its reader was sent to; serve both by one",
            )
        async with self.turn:
            self.replay.since(offset)
            await self._vacated(seconds)
            self.session.reader_returned(offset)
            form, again = self.events(offset)
            reader = make(form, self.opening(offset) + again)
            self.read_by(reader)
            return reader

    async def _vacated(self, seconds: float) -> None:
        """End the connection that reads, which may be dead without anybody knowing it."""
        self.release()
        if self.reader is None:
            return
        self.reader.supersede()
        try:
            async with asyncio.timeout(seconds):
                await self._vacant.wait()
        except TimeoutError:
            raise ResumeError(
                Refusal.BUSY, "the stream is still being sent to an older connection; try again"
            ) from None

    def retire(self, window: float) -> None:
        """The stream has ended: forget it after `window` seconds, or when whoever reads it then has left."""
        self._timer = asyncio.get_running_loop().call_later(window, self._retired)

    def _retired(self) -> None:
        self._over = True
        if self.reader is None:
            self.forget()

    def stop_timer(self) -> None:
        """It is forgotten."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class KeptEvents(Events):
    """The events of one connection: numbered, recorded before they are sent, without what its reader has.

    Args:
        replay: where they are recorded.
        prefix: of their ids.
        offset: how much the reader has.
        handed: how much of the stream was handed over by its session before.
    """

    def __init__(self, replay: Replay, prefix: str, offset: int, handed: int) -> None:
        super().__init__(offset, prefix)
        self._replay = replay
        self._handed = handed
        self.encode = self._encode_recorded

    def again(self, missed: Sequence[AnyChunk]) -> bytes:
        """What was sent before and did not arrive."""
        return self._encode_numbered(missed)

    def _encode_recorded(self, batch: Sequence[AnyChunk]) -> bytes:
        if bytes in map(type, batch):
            raise UsageError(
                "a stream with resume=... was given bytes, which cannot be numbered; hand over text or Chunks"
            )
        self._replay.record(self._handed, batch)
        known = self._offset - self._handed
        self._handed += len(batch)
        return self._encode_numbered(batch[known:] if known > 0 else batch)


def _nothing() -> None:
    """Do nothing."""
