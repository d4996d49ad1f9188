"""Producers that play a script, one for each way in which a session drives a producer.

>>> from streamguard_core import StreamSession
>>> from streamguard_core.testing import ScriptedProducer, emit, run, wait
>>> async def main():
...     producer = ScriptedProducer(emit("never"), wait(30), emit("again"))
...     async with StreamSession(producer) as session:
...         return [chunk async for chunk in session], producer.played.accepted
>>> run(main())
(['never', 'again'], 2)
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from typing import TypeVar, cast

from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import CutOffError, UsageError
from streamguard_core.producers import CancelEvent, Out, Report
from streamguard_core.testing.clock import ManualClock
from streamguard_core.testing.loop import JumpingLoop
from streamguard_core.testing.script import (
    Call,
    Emit,
    EmitFromThread,
    EmitLate,
    EmitWithoutAwaiting,
    Fail,
    Finish,
    Hang,
    IgnoreCancel,
    RaiseInFinally,
    Step,
    Wait,
)

T = TypeVar("T")


class Played:
    """What happened while a script was played. Plain counters, to be read by a test.

    Attributes:
        begun: how often it was begun; a stream calls its producer once.
        emitted: chunks that were handed over, whatever became of them.
        accepted: chunks that were taken.
        refused: chunks that came too late and were refused.
        interrupted: cancellations that arrived.
        ended: how often it came to its end, by itself or because it was told to.
    """

    def __init__(self) -> None:
        self.begun = self.emitted = self.accepted = self.refused = 0
        self.interrupted = self.ended = 0
        self.deaf = False
        self.at_end: BaseException | None = None
        self.late: tuple[AnyChunk, ...] = ()
        self._released = threading.Event()
        self._hanging: asyncio.Future[None] | None = None

    def release(self) -> None:
        """Let a thread that hangs go on, as closing its connection would."""
        self._released.set()

    async def _hang(self) -> None:
        # Held here, as a socket would be by its loop: a task that nothing refers to may be collected.
        self._hanging = asyncio.get_running_loop().create_future()
        await self._hanging

    def hang_in_thread(self) -> None:
        """Wait for `release()`."""
        self._released.wait()

    def end(self) -> None:
        """Note the end; raise what the script wants to be raised there."""
        self.ended += 1
        if self.at_end is not None:
            raise self.at_end

    async def sit_out(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Await what `begin` returns; a deaf script begins again when it is interrupted."""
        while True:
            try:
                return await begin()
            except asyncio.CancelledError:
                self.interrupted += 1
                if not self.deaf:
                    raise

    async def silent(self, step: Wait | Hang) -> None:
        """Wait or hang on the loop."""
        if isinstance(step, Wait):
            await self.sit_out(lambda: asyncio.sleep(step.seconds))
        else:
            await self.sit_out(self._hang)

    def common(self, step: Step, report: Report | None) -> None:
        """The steps that every kind of producer plays alike."""
        match step:
            case Fail(error):
                raise error
            case Finish(reason, usage):
                if report is None:
                    raise UsageError(
                        "finish() stands in a script that has no report; give report=session"
                    )
                report.finish(reason, usage)
            case IgnoreCancel():
                self.deaf = True
            case RaiseInFinally(error):
                self.at_end = error
            case Call(function):
                function(report)
            case _:
                raise UsageError(
                    f"{step!r} stands in a script; build its steps with emit(), wait(), ..."
                )


class ScriptedProducer:
    """Plays a script through the push contract, `run(*, out, cancel_event)`."""

    def __init__(self, *script: Step) -> None:
        self._script = script
        self._tasks: list[asyncio.Task[None]] = []
        self.played = Played()

    async def run(self, *, out: Out, cancel_event: CancelEvent) -> None:
        """Play the script once."""
        played = self.played
        played.begun += 1
        try:
            for step in self._script:
                await self._play(step, out)
        finally:
            if played.late:
                self._tasks.append(asyncio.get_running_loop().create_task(self._emit_late(out)))
            played.end()

    async def _play(self, step: Step, out: Out) -> None:
        match step:
            case Emit(chunks):
                for chunk in chunks:
                    await self._emit(out, chunk)
            case EmitWithoutAwaiting(chunks):
                for chunk in chunks:
                    self._call(out, chunk)
            case EmitFromThread(chunks):
                await _in_thread(lambda: [self._offer(out, chunk) for chunk in chunks])
            case EmitLate(chunks):
                self.played.late += chunks
            case Wait() | Hang():
                await self.played.silent(step)
            case _:
                self.played.common(step, out)

    async def _emit(self, out: Out, chunk: AnyChunk) -> None:
        try:
            await self.played.sit_out(lambda: self._offer(out, chunk))
        except CutOffError:
            self.played.refused += 1
            if not self.played.deaf:
                raise
        else:
            self.played.accepted += 1

    def _offer(self, out: Out, chunk: AnyChunk) -> Awaitable[None]:
        self.played.emitted += 1
        return out(chunk)

    def _call(self, out: Out, chunk: AnyChunk) -> None:
        try:
            self._offer(out, chunk)
        except CutOffError:
            self.played.refused += 1

    async def _emit_late(self, out: Out) -> None:
        await asyncio.sleep(0)
        for chunk in self.played.late:
            self._call(out, chunk)


async def scripted_iterator(
    *script: Step, played: Played | None = None, report: Report | None = None
) -> AsyncGenerator[AnyChunk, None]:
    """Play a script as an async generator of chunks.

    Args:
        script: what to do.
        played: where to note what happened.
        report: what `finish()` and `call()` get; usually the session.
    """
    played = played or Played()
    async with aclosing(_play_pull(script, played, report)) as batches:
        async for batch in batches:
            for chunk in batch:
                played.emitted += 1
                yield chunk


class ScriptedPull:
    """Plays a script through the pull contract, `stream(*, report)`; each `emit()` is one batch."""

    def __init__(self, *script: Step) -> None:
        self._script = script
        self.played = Played()

    async def stream(self, *, report: Report) -> AsyncGenerator[list[AnyChunk], None]:
        """Play the script once."""
        async with aclosing(_play_pull(self._script, self.played, report)) as batches:
            async for batch in batches:
                self.played.emitted += len(batch)
                yield batch


def scripted_blocking(
    *script: Step, played: Played | None = None, clock: ManualClock | None = None
) -> Iterator[AnyChunk]:
    """Play a script as a sync generator, for streams whose producer blocks a thread.

    Args:
        script: what to do; `emit_from_thread` and `emit_without_awaiting` are plain `emit`s here.
        played: where to note what happened, and how to release a `hang()`.
        clock: is advanced by `wait()`; without it a `JumpingLoop` that runs now gives the time,
            else real time passes.
    """
    # Looked up here, by the caller's thread: the generator's body runs in another.
    try:
        loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    sleep: Callable[[float], None] = time.sleep
    if clock is not None:
        sleep = clock.advance
    elif isinstance(loop, JumpingLoop):
        sleep = loop.sleep_in_thread
    return _play_blocking(script, played or Played(), sleep)


async def _play_pull(
    script: tuple[Step, ...], played: Played, report: Report | None
) -> AsyncGenerator[list[AnyChunk], None]:
    played.begun += 1
    try:
        for step in script:
            try:
                batch = await _pull_step(step, played, report)
            except asyncio.CancelledError:
                if not played.late:
                    raise
                batch = list(played.late)
            if batch is not None:
                yield batch
                played.accepted += len(batch)
    finally:
        played.end()


async def _pull_step(step: Step, played: Played, report: Report | None) -> list[AnyChunk] | None:
    """Do one step; returns the batch it hands over, if it is one that does."""
    match step:
        case Emit(chunks) | EmitWithoutAwaiting(chunks):
            return list(chunks)
        case EmitFromThread(chunks):
            return await played.sit_out(lambda: _in_thread(lambda: list(chunks)))
        case EmitLate(chunks):
            played.late += chunks
        case Wait() | Hang():
            await played.silent(step)
        case _:
            played.common(step, report)
    return None


def _play_blocking(
    script: tuple[Step, ...], played: Played, sleep: Callable[[float], None]
) -> Iterator[AnyChunk]:
    played.begun += 1
    try:
        for step in script:
            match step:
                case Emit(chunks) | EmitWithoutAwaiting(chunks) | EmitFromThread(chunks):
                    for chunk in chunks:
                        played.emitted += 1
                        yield chunk
                        played.accepted += 1
                case EmitLate(chunks):
                    played.late += chunks
                case Wait(seconds):
                    sleep(seconds)
                case Hang():
                    played.hang_in_thread()
                case _:
                    played.common(step, None)
        for chunk in played.late:
            played.emitted += 1
            yield chunk
    finally:
        played.end()


async def _in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own; not an executor's, which would outlive the test."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def deliver(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(cast("T", value))
        else:
            result.set_exception(error)

    def work() -> None:
        value: T | None = None
        error: BaseException | None = None
        try:
            value = function()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # The loop may be closed by now: nobody waits any more.
            loop.call_soon_threadsafe(deliver, value, error)

    threading.Thread(target=work, name="streamguard-scripted", daemon=True).start()
    return await result
