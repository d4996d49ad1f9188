"""One stream that can be resumed, and the events of it that one connection gets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from streamguard_asgi.delivery import Delivery
from streamguard_core import AnyChunk, LedgerError, StreamSession, UsageError
from streamguard_core.formats import Events
from streamguard_core.replay import Refusal, Replay, ResumeError, ResumePoint


class KeptStream:
    """One stream that can be resumed: its session, whose it is, what was sent, who reads it now.

    Invariant: at most one delivery reads the session.

    Args:
        session: the stream.
        point: its beginning.
        owner: whose it is.
        path: the address at which it was opened.
        replay: what was sent.
    """

    __slots__ = (
        "_over",
        "_timer",
        "_vacant",
        "_watch",
        "delivery",
        "ended",
        "forget",
        "owner",
        "path",
        "point",
        "release",
        "replay",
        "session",
        "turn",
    )

    def __init__(
        self, session: StreamSession, point: ResumePoint, owner: str, path: str, replay: Replay
    ) -> None:
        self.session = session
        self.point = point
        self.owner = owner
        self.path = path
        self.replay = replay
        self.delivery: Delivery | None = None
        """The connection that reads the stream now."""
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

    def events(self, offset: int) -> tuple[KeptEvents, bytes]:
        """How the stream looks from `offset` on, and what of that was sent before.

        Raises:
            ResumeError: when the buffer does not hold it.
        """
        missed = self.replay.since(offset)
        consumed = self.session.statistics().consumed
        form = KeptEvents(self.replay, self.point.prefix, offset, consumed)
        return form, form.again(missed[: max(consumed - offset, 0)])

    def read_by(self, delivery: Delivery) -> None:
        """`delivery` reads from now on."""
        self.delivery = delivery
        self._vacant.clear()

    def left(self, delivery: Delivery) -> None:
        """`delivery` has ended."""
        if self.delivery is delivery:
            self.delivery = None
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

    async def take_over(self, seconds: float) -> None:
        """End the connection that reads, which may be dead without anybody knowing it.

        Raises:
            ResumeError: when it does not end in time.
        """
        self.release()
        if self.delivery is None:
            return
        self.delivery.supersede()
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
        if self.delivery is None:
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
