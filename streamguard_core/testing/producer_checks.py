"""Checks a producer against its contract: normal, held back, and cut off at every chunk.

    >>> from streamguard_core.testing import ScriptedProducer, check_producer, emit, run, wait
    >>> report = run(check_producer(lambda: ScriptedProducer(emit("a"), wait(5), emit("b"))))
    >>> report.chunks, report.raised
    (2, ())

A producer that keeps on emitting when it was told to stop is found out::

    >>> from streamguard_core.testing import ConformanceError, ignore_cancel
    >>> try:
    ...     run(check_producer(lambda: ScriptedProducer(ignore_cancel(), emit("a"), emit("b"))))
    ... except ConformanceError as error:
    ...     print(error.violations[0].rule)
    MUST stop promptly once cancel_event is set

Producers that talk to a server are checked the same way in a test on a real loop (`await
check_producer(...)`), best against an engine of your own that answers with few chunks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from typing import Any

from streamguard_core.accounting import Usage
from streamguard_core.chunks import AnyChunk, Chunk
from streamguard_core.errors import CutOffError, UsageError
from streamguard_core.producers import Drive, classify
from streamguard_core.receipt import Attempt
from streamguard_core.testing.conformance import ConformanceReport, Findings

STOP = "MUST stop promptly once cancel_event is set"
AWAIT = "MUST await what out() returns before it emits again"
NO_EOS = "MUST NOT emit EOS, nor anything that is no chunk"
AFTER_RETURN = "MUST NOT emit after it returned"
NO_RESULT = "MUST hand back nothing but what it says to out.finish()"
NO_TASKS = "MUST NOT leave tasks behind"
END = "MUST come to an end"
OWN_CANCEL = "MUST NOT raise CancelledError by itself"
BATCHES = "MUST hand over non-empty lists of chunks"
CLOSED = "MUST hand over nothing after aclose()"

_MARKERS = ("[DONE]", b"[DONE]")


async def check_producer(
    factory: Callable[[], object],
    *,
    stop_within: float = 1.0,
    end_within: float = 3600.0,
    cancel_points: int = 16,
) -> ConformanceReport:
    """Run a producer many times, each time in another way, and see whether it keeps its contract.

    It is run to its end; run with a consumer that makes it wait; cut off before its first chunk;
    and cut off at every chunk, both while it waits in `out()` and just after. Raising is allowed.
    Works for `run(*, out, cancel_event)`, `stream(*, report)` and async iterators.

    Args:
        factory: returns a fresh producer for every run. It should give the same few chunks each
            time.
        stop_within: how long it may take to end once it was told to, in seconds of the running
            loop.
        end_within: how long a whole run may take.
        cancel_points: at how many chunks to cut, at most; spread over the stream.

    Returns:
        How much was checked.

    Raises:
        ConformanceError: lists every rule that was broken, what was attempted, and what to do.
        UsageError: when what the factory returns is no producer that can be checked.
    """
    subject: object = factory()
    drive = classify(subject)
    if drive not in (Drive.RUN, Drive.BATCHES, Drive.ASYNC):
        raise UsageError(
            f"check_producer() was given a factory of {drive.value!r} producers; it checks"
            " run(*, out, cancel_event), stream(*, report) and async iterators"
        )
    kind = _PushCheck if drive is Drive.RUN else _PullCheck
    check = kind(factory, drive, stop_within, end_within)
    await check.complete()
    for cut in _spread(check.findings.chunks, cancel_points):
        await check.cut(cut, waiting=True)
        await check.cut(cut, waiting=False)
    return check.findings.conclude(type(subject).__name__)


class _Check:
    """What the push and the pull check share."""

    def __init__(
        self, factory: Callable[[], object], drive: Drive, stop_within: float, end_within: float
    ) -> None:
        self.factory = factory
        self.drive = drive
        self.stop_within = stop_within
        self.end_within = end_within
        self.findings = Findings()

    async def complete(self) -> None:
        """Run to the end, with a quick and with a slow consumer."""
        raise AssertionError("provided by the two kinds of check")

    async def cut(self, after: int, *, waiting: bool) -> None:
        """Cut off after so many chunks: while it waits with the next one, or just then."""
        raise AssertionError("provided by the two kinds of check")

    def begin(self) -> set[asyncio.Task[Any]]:
        """A new run; returns the tasks there are."""
        self.findings.runs += 1
        return asyncio.all_tasks()

    async def stop(self, task: asyncio.Task[Any], attempted: str) -> None:
        """Cancel, and see whether it ends in time."""
        task.cancel()
        await asyncio.wait([task], timeout=self.stop_within)
        self.see_stopped(task, attempted)

    def see_stopped(self, task: asyncio.Task[Any], attempted: str) -> None:
        """Note a task that is not done, though it was told to end."""
        if not task.done():
            what = f"{attempted}; {self.stop_within:g} s later it still ran"
            advice = "Let CancelledError through, and return once cancel_event is set."
            self.findings.add(STOP, what, advice)

    async def leave(self, task: asyncio.Task[Any], before: set[asyncio.Task[Any]]) -> None:
        """Look for what the run left behind, and take it away."""
        for _ in range(5):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - before - {task}
        if left and task.done():
            names = ", ".join(sorted(other.get_name() for other in left))
            self.findings.add(
                NO_TASKS,
                f"after it had ended, {names} went on",
                "Await or cancel them before the end.",
            )
        for other in left | {task}:
            # A deaf one takes one cancellation per await; more than a few mean that it never ends.
            for _ in range(5):
                if not other.done():
                    other.cancel()
                    await asyncio.sleep(0)
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            self.findings.note_error(error)

    def look_at(self, chunk: object) -> None:
        """Note what is no chunk."""
        if not isinstance(chunk, str | bytes | Chunk) or chunk in _MARKERS:
            what = repr(chunk) if chunk in (None, *_MARKERS) else f"a {type(chunk).__name__}"
            self.findings.add(
                NO_EOS, f"it emitted {what}", "End by returning; the session hands out EOS."
            )


class _PushCheck(_Check):
    async def complete(self) -> None:
        for slow in (False, True):
            await self._complete(slow)

    async def _complete(self, slow: bool) -> None:
        before, out = self.begin(), _CheckedOut(self, turns=3 if slow else 0)
        task = asyncio.ensure_future(_run(self.factory(), out))
        await asyncio.wait([task], timeout=self.end_within)
        out.returned = task.done()
        self.findings.chunks = max(self.findings.chunks, out.chunks)
        if not task.done():
            advice = (
                "Return when there is nothing more; raise end_within for a producer that is slow."
            )
            self.findings.add(
                END, f"it was run, and {self.end_within:g} s later it still ran", advice
            )
        elif task.cancelled():
            self.findings.add(OWN_CANCEL, "nobody had cancelled it", "Raise an error of your own.")
        elif task.exception() is None and task.result() is not None:
            advice = "Return None; say what you know with out.finish(reason, usage)."
            self.findings.add(NO_RESULT, f"run() returned a {type(task.result()).__name__}", advice)
        await self.leave(task, before)

    async def cut(self, after: int, *, waiting: bool) -> None:
        before = self.begin()
        park_at, tell_at = (after, None) if waiting else (None, after)
        out = _CheckedOut(self, park_at=park_at, tell_at=tell_at)
        task = asyncio.ensure_future(_run(self.factory(), out))
        told = asyncio.ensure_future(out.told.wait())
        if after == 0 and not waiting:
            await asyncio.sleep(0)
        else:
            await asyncio.wait([task, told], timeout=self.end_within, return_when="FIRST_COMPLETED")
        told.cancel()
        if not task.done():
            out.cut()
            where = (
                f"while it waited in out() with chunk {after + 1}"
                if waiting
                else f"after {after} chunks"
            )
            await self.stop(task, f"it was cancelled {where}")
        out.returned = task.done()
        await self.leave(task, before | {told})


class _CheckedOut:
    """The `out` and the `cancel_event` of one run; watches what the producer does with them."""

    def __init__(
        self, check: _Check, turns: int = 0, park_at: int | None = None, tell_at: int | None = None
    ) -> None:
        self.chunks = 0
        self.returned = False
        self.told = asyncio.Event()
        self.turns = turns
        self._check = check
        self._park_at = park_at
        self._tell_at = tell_at
        self._thread = threading.get_ident()
        self._unawaited = False
        self._cut = asyncio.Event()
        self._closers: list[Callable[[], None]] = []

    def __call__(self, token: AnyChunk) -> _Taken:
        add = self._check.findings.add
        if threading.get_ident() != self._thread:
            add(
                AWAIT,
                "it emitted from another thread",
                "Hand the chunk to the loop and emit there.",
            )
        elif self.returned:
            add(AFTER_RETURN, "it emitted after run() had ended", "Await everything that emits.")
        elif self._cut.is_set():
            add(
                STOP,
                "it emitted after it was told to stop",
                "Let CancelledError and CutOffError through.",
            )
            raise CutOffError("out() was called after the cutoff; return once cancel_event is set")
        elif self._unawaited:
            add(AWAIT, "it emitted again while a chunk waited", "Write `await out(token)`.")
        self._check.look_at(token)
        park = self.chunks == self._park_at
        self.chunks += 1
        self._unawaited = True
        if park or self.chunks == self._tell_at:
            self.told.set()
        return _Taken(self, park)

    async def take(self, park: bool) -> None:
        """What awaiting a chunk does: nothing, a few turns, or waiting for the cutoff."""
        self._unawaited = False
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if park:
            await self._cut.wait()
            raise CutOffError("the stream was cut off while out() waited")

    def cut(self) -> None:
        """The cutoff: transports first, then the event, as in a session."""
        for closer in self._closers:
            closer()
        self._cut.set()

    def is_set(self) -> bool:
        return self._cut.is_set()

    async def wait(self) -> bool:
        return await self._cut.wait()

    def connected(self) -> None: ...

    def finish(self, reason: str | None = None, usage: Usage | None = None) -> None: ...

    def identify(self, *, model: str | None = None, request_id: str | None = None) -> None: ...

    def attempt(self, attempt: Attempt) -> None: ...

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._closers.append(callback)
        return lambda: self._closers.remove(callback)


class _Taken:
    def __init__(self, out: _CheckedOut, park: bool) -> None:
        self._out = out
        self._park = park

    def __await__(self) -> Generator[Any, None, None]:
        return self._out.take(self._park).__await__()


class _PullCheck(_Check):
    async def complete(self) -> None:
        for turns in (0, 3):
            before, out = self.begin(), _CheckedOut(self, turns=turns)
            task = asyncio.ensure_future(self._read(self._iterate(out), None, turns))
            await asyncio.wait([task], timeout=self.end_within)
            if not task.done():
                self.findings.add(
                    END,
                    f"it was read, and {self.end_within:g} s later had not ended",
                    "End the iteration; raise end_within for a producer that is slow.",
                )
            await self.leave(task, before)

    async def cut(self, after: int, *, waiting: bool) -> None:
        before, out = self.begin(), _CheckedOut(self)
        iterator = self._iterate(out)
        task = asyncio.ensure_future(self._read(iterator, after, 0))
        await asyncio.wait([task], timeout=self.end_within)
        if waiting and task.done():
            task = asyncio.ensure_future(_step(iterator))
            await asyncio.sleep(0)
        if not task.done():
            out.cut()
            await self.stop(task, f"its reader was cancelled waiting for chunk {after + 1}")
        await self._close(iterator, after)
        await self.leave(task, before)

    async def _close(self, iterator: Any, after: int) -> None:
        aclose = getattr(iterator, "aclose", None)
        if aclose is None:
            return
        closing = asyncio.ensure_future(_closed(aclose, iterator))
        await asyncio.wait([closing], timeout=self.stop_within)
        self.see_stopped(closing, f"aclose() was called after {after} chunks")
        if not closing.done():
            closing.cancel()
        elif not closing.cancelled() and closing.exception() is None and closing.result():
            self.findings.add(
                CLOSED,
                "it was asked for more after aclose()",
                "Raise StopAsyncIteration from then on.",
            )

    def _iterate(self, out: _CheckedOut) -> AsyncIterator[Any]:
        producer: Any = self.factory()
        iterable = producer.stream(report=out) if self.drive is Drive.BATCHES else producer
        iterator: AsyncIterator[Any] = aiter(iterable)
        return iterator

    async def _read(self, iterator: AsyncIterator[Any], limit: int | None, turns: int) -> None:
        """Read to the end, or until `limit` chunks have come; looks at every one."""
        chunks = 0
        while limit is None or chunks < limit:
            item = await anext(iterator, _END)
            if item is _END:
                break
            chunks += self._look_at_item(item)
            self.findings.chunks = max(self.findings.chunks, chunks)
            for _ in range(turns):
                await asyncio.sleep(0)

    def _look_at_item(self, item: object) -> int:
        if self.drive is not Drive.BATCHES:
            self.look_at(item)
            return 1
        if not isinstance(item, list) or not item:
            what = "an empty list" if item == [] else f"a {type(item).__name__}"
            self.findings.add(BATCHES, f"it handed over {what}", "Leave out what holds no chunk.")
            return 0
        for chunk in item:
            self.look_at(chunk)
        return len(item)


_END = object()


async def _run(producer: Any, out: _CheckedOut) -> Any:
    return await producer.run(out=out, cancel_event=out)


async def _step(iterator: AsyncIterator[Any]) -> None:
    await anext(iterator, None)


async def _closed(aclose: Callable[[], Any], iterator: AsyncIterator[Any]) -> bool:
    """Close; returns whether the iterator still hands something over."""
    await aclose()
    return await anext(iterator, _END) is not _END


def _spread(chunks: int, points: int) -> Iterable[int]:
    """At most `points` numbers from 0 to `chunks`, both ends among them."""
    if chunks < points:
        return range(chunks + 1)
    return sorted({round(index * chunks / (points - 1)) for index in range(points)})
