"""Waiting for room or for chunks: on a turn of the event loop where that is enough, else on a future."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from streamguard_core.chunks import AnyChunk
from streamguard_core.protocol import FULL, Offer

if TYPE_CHECKING:
    from streamguard_core._out import SessionOut


@types.coroutine
def turn() -> Generator[None, None, None]:
    """Let the event loop turn once."""
    yield


class Waiting:
    """A chunk for which there was no room; awaiting it hands the chunk over once there is.

    Invariant: whoever is told of room and does not use it tells the next.
    """

    __slots__ = ("_out", "_room", "_told", "chunk", "settled", "size")

    def __init__(self, out: SessionOut, chunk: AnyChunk, size: int) -> None:
        self._out = out
        self._room: asyncio.Future[None] | None = None
        self._told = False
        self.settled = False
        """It was accepted, or counted as late; each chunk is one of them, once."""
        self.chunk = chunk
        self.size = size

    def __await__(self) -> Generator[Any, None, None]:
        """Offer the chunk until it is taken; first come, first served."""
        out = self._out
        if out.unawaited is self:
            out.unawaited = None
        try:
            while not self.settled and (out.is_full() or self._offer() is FULL):
                yield from self._wait()
        except BaseException:
            out.settle(self)
            raise
        finally:
            out.waiting -= 1
        out.refuse_emitter()
        out.grant()
        out.wake_producer()

    def _offer(self) -> Offer:
        self.settled = True
        answer = self._out.offer(self.chunk, self.size)
        self.settled = answer is not FULL
        return answer

    def tell(self) -> bool:
        """There is room, or the cutoff has come; False when whoever waited is gone."""
        if self._room is not None:
            if self._room.done():
                return False
            self._room.set_result(None)
        self._told = True
        return True

    def _wait(self) -> Generator[Any, None, None]:
        out = self._out
        self._told = False
        out.putters.append(self)
        out.mark_blocked()
        try:
            if out.reader_due:
                # It makes room in this turn of the loop; a turn costs half of what a future does.
                yield
            if not self._told:
                self._room = out.loop.create_future()
                yield from self._room
        except BaseException:
            if self._told:
                out.wake_producer()
            raise
        finally:
            self._room = None
            out.emitter_due = False
            if not self._told:
                out.putters.remove(self)
