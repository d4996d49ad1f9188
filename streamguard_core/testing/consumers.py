"""Consumers that play a script: they read, park, stall, raise, and leave in every way there is.

>>> from streamguard_core import StreamSession
>>> from streamguard_core.testing import ScriptedConsumer, leave, read, run, scripted_iterator, emit
>>> async def main():
...     session = StreamSession(scripted_iterator(emit("a", "b", "c")))
...     consumer = ScriptedConsumer(read(1), leave("aclose"))
...     await consumer.consume(session)
...     return consumer.received, str((await session.receipt()).cause)
>>> run(main())
(['a'], 'CLIENT_DISCONNECT')
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, assert_never

from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import UsageError
from streamguard_core.session import StreamSession

How = Literal["break", "aclose", "cancel", "disconnected"]


class Deed:
    """One word of a consumer's script."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Read(Deed):
    """See `read`."""

    chunks: int | None
    within: float | None


@dataclass(frozen=True, slots=True)
class ReadReady(Deed):
    """See `read_ready`."""

    limit: int
    times: int | None


@dataclass(frozen=True, slots=True)
class ReadBatches(Deed):
    """See `read_batches`."""

    limit: int
    times: int | None
    beside: float | None


@dataclass(frozen=True, slots=True)
class Park(Deed):
    """See `park`."""


@dataclass(frozen=True, slots=True)
class Stall(Deed):
    """See `stall`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Leave(Deed):
    """See `leave`."""

    how: How


@dataclass(frozen=True, slots=True)
class Raise(Deed):
    """See `raise_error`."""

    error: Exception


@dataclass(frozen=True, slots=True)
class SecondReader(Deed):
    """See `second_reader`."""


def read(chunks: int | None = None, *, within: float | None = None) -> Read:
    """Read so many chunks with `async for`, or all to EOS; after EOS, ask once more.

    Args:
        chunks: how many; None for all.
        within: ask for each under `asyncio.wait_for`, which on Python 3.11 is a new task per chunk.
    """
    return Read(chunks, within)


def read_ready(limit: int = 16, times: int | None = None) -> ReadReady:
    """Read batches of at most `limit` chunks, so many times, or to EOS."""
    return ReadReady(limit, times)


def read_batches(
    limit: int = 16, times: int | None = None, *, beside: float | None = None
) -> ReadBatches:
    """Read with `session.batches(limit)`, so many batches, or to EOS.

    Args:
        limit: chunks in a batch, at most.
        times: how many batches; None for all.
        beside: read as an adapter does, with `batches(beside=True)`, and take so many seconds for each send.
    """
    return ReadBatches(limit, times, beside)


def park() -> Park:
    """Hold what was read and ask for nothing, until `ScriptedConsumer.unpark()`."""
    return Park()


def stall(seconds: float) -> Stall:
    """Hold what was read for a time."""
    return Stall(seconds)


def leave(how: How = "break") -> Leave:
    """Leave: drop the iterator, `session.aclose()`, be cancelled, or `session.disconnected()`."""
    return Leave(how)


def raise_error(error: Exception | None = None) -> Raise:
    """Raise `error` (by default a `RuntimeError`) out of the consumer."""
    return Raise(error or RuntimeError("the consumer failed"))


def second_reader() -> SecondReader:
    """Ask for a chunk through a second iterator; note the `UsageError` if that is refused."""
    return SecondReader()


class ScriptedConsumer:
    """Plays a script against a session.

    Attributes:
        received: the chunks, in the order in which they came.
        eos: how often EOS was met; asking again after it meets it again.
        refused: the `UsageError`s of `second_reader()` and of reading in two ways.
    """

    def __init__(self, *script: Deed) -> None:
        self._script = script
        self._iterator: AsyncGenerator[AnyChunk, None] | None = None
        self._batches: AsyncGenerator[list[AnyChunk], None] | None = None
        self._unparked = asyncio.Event()
        self.received: list[AnyChunk] = []
        self.eos = 0
        self.refused: list[UsageError] = []

    def unpark(self) -> None:
        """Let a `park()` go on, now or when it comes."""
        self._unparked.set()

    async def consume(self, session: StreamSession) -> None:
        """Play the script once; what it raises, and a cancellation, come out."""
        try:
            for deed in self._script:
                if await self._do(deed, session):
                    return
        finally:
            # The last reference: the iterator is finalised now, as at the end of a function.
            self._iterator = self._batches = None

    async def _do(self, deed: Deed, session: StreamSession) -> bool:
        """Do one deed; True when it was the last thing this consumer does."""
        match deed:
            case Read(chunks, within):
                await self._read(session, chunks, within)
            case ReadReady(limit, times):
                await self._read_ready(session, limit, times)
            case ReadBatches(limit, times, beside):
                await self._read_batches(session, limit, times, beside)
            case Park():
                await self._unparked.wait()
            case Stall(seconds):
                await asyncio.sleep(seconds)
            case Leave(how):
                await self._leave(session, how)
                return True
            case Raise(error):
                raise error
            case SecondReader():
                await self._second(session)
            case _:
                raise UsageError(f"{deed!r} stands in a script; build it with read(), leave(), ...")
        return False

    async def _read(self, session: StreamSession, chunks: int | None, within: float | None) -> None:
        self._iterator = self._iterator or aiter(session)
        left = chunks
        while left is None or left > 0:
            try:
                step = anext(self._iterator)
                chunk = await (step if within is None else asyncio.wait_for(step, within))
            except StopAsyncIteration:
                self.eos += 1
                return
            self.received.append(chunk)
            left = None if left is None else left - 1

    async def _read_ready(self, session: StreamSession, limit: int, times: int | None) -> None:
        left = times
        while left is None or left > 0:
            batch = await session.read_ready(limit)
            self.received += batch
            if not batch:
                self.eos += 1
                return
            left = None if left is None else left - 1

    async def _read_batches(
        self, session: StreamSession, limit: int, times: int | None, beside: float | None
    ) -> None:
        self._batches = self._batches or session.batches(limit, beside=beside is not None)
        left = times
        while left is None or left > 0:
            batch = await anext(self._batches, None)
            if batch is None:
                self.eos += 1
                return
            self.received += batch
            if beside is not None:
                sending = asyncio.sleep(beside)
                await (session.beside(sending) if session.reads_ahead else sending)
            left = None if left is None else left - 1

    async def _leave(self, session: StreamSession, how: How) -> None:
        match how:
            case "break":
                self._iterator = self._batches = None
            case "aclose":
                await session.aclose()
            case "disconnected":
                session.disconnected("the consumer's script leaves")
            case "cancel":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case _:
                assert_never(how)

    async def _second(self, session: StreamSession) -> None:
        try:
            await anext(aiter(session), None)
        except UsageError as error:
            self.refused.append(error)
