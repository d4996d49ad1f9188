"""Checks an adapter: whatever reads a session and sends its chunks somewhere.

>>> from streamguard_core.testing import check_adapter, run
>>> async def adapter(session):
...     async with session:
...         async for chunk in session:
...             print(chunk, end=" ")  # send it somewhere
>>> report = run(check_adapter(adapter))  # doctest: +ELLIPSIS
a b c ...
>>> report.runs
7
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from streamguard_core.causes import Cause
from streamguard_core.chunks import AnyChunk, Chunk, text_of
from streamguard_core.ledger import MemoryLedger
from streamguard_core.session import StreamSession
from streamguard_core.testing.conformance import ConformanceReport, Findings
from streamguard_core.testing.producers import ScriptedProducer, ScriptedPull
from streamguard_core.testing.script import Step, call, emit, fail, hang

Adapter = Callable[[StreamSession], Awaitable[object]]

RETURN = "MUST return soon after EOS"
EOS = "MUST read on to EOS"
CONSUME = "MUST take every chunk over, and ask for more only when it was sent"
ORDER = "MUST send every chunk once, in order"
SEAL = "MUST leave exactly one receipt"
CAUSE = "MUST NOT change why the stream ended"
CANCEL = "MUST let an outside cancellation through"
LEAVING = "MUST report that the reader left"

_SHORT = ("a", "b", "c")
_LONG = tuple(f"{number} " for number in range(40))


async def check_adapter(
    adapter: Adapter,
    *,
    sent: Callable[[], Sequence[str]] | None = None,
    leave: Callable[[], object] | None = None,
    within: float = 1.0,
) -> ConformanceReport:
    """Give an adapter streams that end in every way, and see what it makes of them.

    It gets a short stream that is pulled, a long one that is pushed, an empty one, one whose
    producer fails and one that is cut off while the adapter waits; and it is cancelled while it
    waits. With `leave`, its reader leaves as well.

    Args:
        adapter: `async def adapter(session)`; what it raises is its own matter.
        sent: returns the texts the adapter has sent for its latest session, in order.
        leave: makes the reader of the running adapter go away, as its transport would.
        within: how long the adapter may take to notice an ending, in seconds of the running loop.

    Returns:
        How much was checked.

    Raises:
        ConformanceError: lists every rule that was broken, what was attempted, and what to do.
    """
    check = _Check(adapter, sent, within)
    await check.whole("a short stream that is pulled", ScriptedPull(emit(*_SHORT)), _SHORT)
    await check.whole("a long stream that is pushed", ScriptedProducer(emit(*_LONG)), _LONG)
    mixed: tuple[AnyChunk, ...] = (Chunk("one"), "", "zwei", Chunk("três"))
    await check.whole("chunks of every kind", ScriptedPull(emit(*mixed)), mixed)
    await check.whole("an empty stream", ScriptedPull(), ())
    await check.failing()
    await check.cut_off()
    await check.cancelled()
    if leave is not None:
        await check.left(leave)
    return check.findings.conclude(getattr(adapter, "__qualname__", type(adapter).__qualname__))


class _Check:
    def __init__(
        self, adapter: Adapter, sent: Callable[[], Sequence[str]] | None, within: float
    ) -> None:
        self._adapter = adapter
        self._sent = sent
        self._within = within
        self.findings = Findings()

    async def whole(self, what: str, producer: object, chunks: Sequence[AnyChunk]) -> None:
        """A stream that completes."""
        run = self._begin(what, producer)
        await self._ended(run)
        self._compare_sent(run, chunks)
        consumed = run.session.statistics().consumed
        self.findings.chunks = max(self.findings.chunks, consumed)
        if consumed != len(chunks):
            self.findings.add(
                CONSUME,
                f"{what}: it asked past {consumed} of {len(chunks)} chunks",
                "Read the session with `async for`, or call read_ready() until it returns [].",
            )
        await self._sealed(run, Cause.COMPLETED)

    async def failing(self) -> None:
        """The producer fails after two chunks."""
        run = self._begin("a producer that fails", ScriptedPull(emit("a", "b"), fail()))
        await self._ended(run)
        self._compare_sent(run, ("a", "b"))
        await self._sealed(run, Cause.PRODUCER_ERROR)

    async def cut_off(self) -> None:
        """A user's cancel while the adapter waits for a chunk."""
        run = await self._waiting("a stream that is cut off while it waits")
        run.session.cancel("the check cuts it off")
        await self._ended(run)
        await self._sealed(run, Cause.USER_CANCEL)

    async def cancelled(self) -> None:
        """The adapter's own task is cancelled while it waits for a chunk."""
        run = await self._waiting("its task was cancelled while it waited")
        run.task.cancel()
        await asyncio.wait([run.task], timeout=self._within)
        if not run.task.cancelled():
            self.findings.add(
                CANCEL,
                f"{run.what}, and it went on",
                "Catch CancelledError only to clean up and raise it again.",
            )
        await self._sealed(run, None)

    async def left(self, leave: Callable[[], object]) -> None:
        """The reader leaves while the adapter waits for a chunk."""
        run = await self._waiting("its reader left while it waited")
        leave()
        await asyncio.wait([run.task], timeout=self._within)
        if run.session.cause is not Cause.CLIENT_DISCONNECT:
            self.findings.add(
                LEAVING,
                f"{run.what}, and the stream's cause is {run.session.cause}",
                "Call session.disconnected() when the transport is gone, in every phase.",
            )
        await self._sealed(run, None)

    def _begin(self, what: str, producer: object) -> _Run:
        self.findings.runs += 1
        ledger = MemoryLedger()
        session = StreamSession(producer, ledger=ledger)
        return _Run(what, session, ledger, asyncio.ensure_future(self._run(session)))

    async def _run(self, session: StreamSession) -> None:
        try:
            await self._adapter(session)
        except Exception as error:
            self.findings.note_error(error)

    async def _waiting(self, what: str) -> _Run:
        """A run whose adapter has sent two chunks and waits for the third."""
        reached = asyncio.Event()
        script: tuple[Step, ...] = (emit("a"), emit("b"), call(lambda _: reached.set()), hang())
        run = self._begin(what, ScriptedPull(*script))
        reaching = asyncio.ensure_future(reached.wait())
        await asyncio.wait(
            [run.task, reaching], timeout=self._within, return_when="FIRST_COMPLETED"
        )
        reaching.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        return run

    async def _ended(self, run: _Run) -> None:
        """The adapter returns, having read to EOS."""
        await asyncio.wait([run.task], timeout=self._within)
        if not run.task.done():
            self.findings.add(
                RETURN,
                f"{run.what}: {self._within:g} s after its end it still ran",
                "Return when the iteration ends.",
            )
        elif run.session.statistics().consumer != "ended":
            self.findings.add(
                EOS,
                f"{run.what}: it ended before EOS",
                "Read until the iteration ends; it always does.",
            )

    async def _sealed(self, run: _Run, cause: Cause | None) -> None:
        """One receipt, with the cause that was (None for any)."""
        sealed = asyncio.ensure_future(run.session.receipt())
        await asyncio.wait([sealed], timeout=self._within)
        if not sealed.done() or len(run.ledger.receipts) != 1:
            self.findings.add(
                SEAL,
                f"{run.what}: {self._within:g} s later it had {len(run.ledger.receipts)} receipts",
                "Use `async with session`, or await session.aclose() on every way out.",
            )
        elif cause is not None and run.session.cause is not cause:
            self.findings.add(
                CAUSE,
                f"{run.what}: the cause is {run.session.cause} instead of {cause}",
                "Do not end a stream that ends by itself; read on to EOS.",
            )
        for task in (sealed, run.task):
            task.cancel()
        await asyncio.wait([sealed, run.task], timeout=self._within)
        run.session.terminate(Cause.SHUTDOWN, "the check is over")
        await run.session.aclose()

    def _compare_sent(self, run: _Run, chunks: Sequence[AnyChunk]) -> None:
        texts = [text for chunk in chunks if (text := text_of(chunk))]
        if self._sent is not None and "".join(self._sent()) != "".join(texts):
            self.findings.add(
                ORDER,
                f"{run.what}: what was sent is not what was committed",
                "Send each chunk as it comes, from one place.",
            )


class _Run:
    """One adapter with one session."""

    def __init__(
        self, what: str, session: StreamSession, ledger: MemoryLedger, task: asyncio.Task[None]
    ) -> None:
        self.what = what
        self.session = session
        self.ledger = ledger
        self.task = task
