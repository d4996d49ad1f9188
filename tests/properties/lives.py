"""Whole lives of streams: how they are drawn, how one is lived, and what must be true of it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from streamguard_core import (
    HOLD,
    PASS,
    AnyChunk,
    Cause,
    Deadlines,
    DisconnectPolicy,
    MemoryLedger,
    Receipt,
    StreamSession,
    UsageError,
    Verdict,
    cancel,
    drain,
    grace,
)
from streamguard_core.testing import (
    Deed,
    JumpingLoop,
    Played,
    ScriptedConsumer,
    ScriptedProducer,
    ScriptedPull,
    Step,
    big_chunk,
    call,
    emit,
    emit_from_thread,
    emit_late,
    emit_without_awaiting,
    fail,
    finish,
    hang,
    ignore_cancel,
    leave,
    park,
    raise_error,
    raise_in_finally,
    read,
    read_batches,
    read_ready,
    run,
    scripted_blocking,
    scripted_iterator,
    second_reader,
    settled,
    stall,
    truncate,
    wait,
)

PULLED = ("pull", "iterator", "batches", "timed")
PUSHED = ("push", "own task", "batches in a task", "gated", "holding", "made", "thread")
REPORTING = ("batches", "batches in a task", "push", "made", "holding")
LATE = "late"
BIG = big_chunk(10 << 20)


@dataclass(frozen=True)
class Life:
    """One life of a stream."""

    path: str
    policy: DisconnectPolicy
    speculative: int
    inflight: int
    deadlines: Deadlines | None
    words: tuple[str, ...]
    """What the producer does."""
    deeds: tuple[Deed, ...]
    closes: bool
    """The consumer uses `async with`."""
    signals: tuple[tuple[float, str], ...]
    """What happens from outside, and when."""


WORDS = [
    "emit",
    "emit three",
    "emit nothing",
    "wait",
    "hang",
    "fail",
    "truncate",
    "finish",
    "ignore cancel",
    "emit late",
    "emit unawaited",
    "emit from thread",
    "raise in finally",
    "cut itself off",
    "big chunk",
]
DEEDS: list[Deed] = [
    read(1),
    read(2),
    read(),
    read(2, within=2),
    read_ready(16, 1),
    read_ready(2, 2),
    read_ready(16),
    read_batches(2, 1),
    read_batches(2, 2),
    read_batches(16),
    stall(1),
    stall(7),
    park(),
    leave("break"),
    leave("aclose"),
    leave("cancel"),
    leave("disconnected"),
    raise_error(),
    second_reader(),
]
SIGNALS = [
    "cancel",
    "terminate",
    "disconnected",
    "reconnected",
    "shutdown",
    "shutdown with grace",
    "aclose",
    "cancel the reader",
    "intrude",
    "cancel from a thread",
]
TIMEOUTS = st.none() | st.sampled_from([1.0, 3.0, 6.0])

lives = st.builds(
    Life,
    path=st.sampled_from(PULLED + PUSHED),
    policy=st.sampled_from(
        [cancel(), cancel(), grace(3), grace(3, max_tokens=2), drain(3), drain(3, max_bytes=5)]
    ),
    speculative=st.integers(1, 4),
    inflight=st.integers(1, 4),
    deadlines=st.none()
    | st.builds(
        Deadlines,
        connect=TIMEOUTS,
        first_token=TIMEOUTS,
        idle=TIMEOUTS,
        total=TIMEOUTS,
        consumer_stall=TIMEOUTS,
        close=st.just(2.0),
        finalisation=st.just(4.0),
    ),
    words=st.lists(
        st.sampled_from(["emit"] * 6 + ["emit three"] * 3 + ["wait"] * 3 + WORDS), max_size=8
    ).map(tuple),
    deeds=st.lists(
        st.sampled_from([read(), read(), read_ready(16), read_batches(16), *DEEDS]), max_size=5
    ).map(tuple),
    closes=st.booleans(),
    signals=st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5, 5.0]), st.sampled_from(SIGNALS)),
        max_size=3,
    ).map(tuple),
)


@dataclass
class Lived:
    """What came of a life."""

    session: StreamSession
    receipt: Receipt
    ledger: MemoryLedger
    consumer: ScriptedConsumer
    played: Played
    labels: list[str]
    """What the producer would emit, in order."""
    outcome: BaseException | None
    """What came out of the consumer's task."""
    cancels: int
    """How often the consumer's task was cancelled from outside."""
    cancelling: list[int] = field(default_factory=list)
    """How many cancellations were pending when the consumer's task ended."""


class Holding:
    """A gate that holds every second chunk, and lets pass with the next."""

    def __init__(self) -> None:
        self._chunks = 0

    def decide(self, text_so_far: str, chunk: AnyChunk) -> Verdict:
        """Hold or pass."""
        self._chunks += 1
        return HOLD if self._chunks % 2 else PASS


class Passing:
    """A gate that lets everything pass."""

    def decide(self, text_so_far: str, chunk: AnyChunk) -> Verdict:
        """Pass."""
        return PASS


class ClassIterator:
    """An async iterator that is no generator."""

    def __init__(self, chunks: AsyncIterator[AnyChunk]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> ClassIterator:
        return self

    async def __anext__(self) -> AnyChunk:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close what it reads from."""
        await self._chunks.aclose()  # type: ignore[attr-defined]


def pulls(life: Life) -> bool:
    """The stream of this life is read without a task."""
    return life.path in PULLED and life.policy == cancel()


def script(life: Life, cut: Callable[[], None]) -> tuple[list[Step], list[str]]:
    """The producer's script, and the chunks in it: numbered, so that order and gaps show."""
    steps: list[Step] = []
    labels: list[str] = []

    def number(count: int) -> list[str]:
        fresh = [f"{len(labels) + index} " for index in range(count)]
        labels.extend(fresh)
        return fresh

    deaf = False
    for word in life.words:
        match word:
            case "emit":
                steps.append(emit(*number(1)))
            case "emit three":
                steps.append(emit(*number(3)))
            case "emit nothing":
                steps.append(emit())
            case "emit unawaited":
                steps.append(emit_without_awaiting(*number(3)))
            case "emit from thread":
                steps.append(emit_from_thread(*number(2)))
            case "emit late" if life.path != "thread":
                steps.append(emit_late(LATE))
            case "big chunk" if BIG not in steps:
                labels.append(str(BIG.chunks[0]))
                steps.append(BIG)
            case "hang":
                # A deaf iterator holds the reader that pulls it, for ever: that is what own_task is for.
                steps.append(wait(3) if deaf and pulls(life) else hang())
            case "wait":
                steps.append(wait(2))
            case "fail":
                steps.append(fail())
            case "truncate":
                steps.append(truncate())
            case "finish" if life.path in REPORTING:
                steps.append(finish())
            case "ignore cancel":
                deaf = True
                steps.append(ignore_cancel())
            case "raise in finally":
                steps.append(raise_in_finally())
            case "cut itself off":
                steps.append(call(lambda _: cut()))
            case _:
                pass
    return steps, labels


def build(life: Life, ledger: MemoryLedger) -> tuple[StreamSession, Played, list[str]]:
    """The session of a life."""
    cell: list[StreamSession] = []
    steps, labels = script(life, lambda: cell[0].cancel("cut itself off"))
    played = Played()
    producer: object
    match life.path:
        case "iterator":
            producer = ClassIterator(scripted_iterator(*steps, played=played))
        case "batches" | "batches in a task":
            pulled = ScriptedPull(*steps)
            producer, played = pulled, pulled.played
        case "push" | "made" | "holding":
            pushed = ScriptedProducer(*steps)
            played = pushed.played
            producer = pushed if life.path != "made" else lambda: pushed
        case "thread":
            producer = scripted_blocking(*steps, played=played)
        case _:
            producer = scripted_iterator(*steps, played=played)
    gates = {"gated": [Passing()], "holding": [Holding()]}.get(life.path, [])
    deadlines = life.deadlines
    if life.path == "timed":
        deadlines = deadlines or Deadlines(total=500)
    session = StreamSession(
        producer,
        speculative_buffer_limit=life.speculative,
        max_inflight_commits=life.inflight,
        on_disconnect=life.policy,
        deadlines=deadlines,
        gates=gates,
        ledger=ledger,
        own_task=life.path in ("own task", "batches in a task"),
    )
    session.on_close(played.release)
    cell.append(session)
    return session, played, labels


class Watch:
    """Looks at a session in every turn of the loop: what must hold at every instant (G1 to G4, G8, G11)."""

    def __init__(self, life: Life, session: StreamSession, ledger: MemoryLedger) -> None:
        self._life = life
        self._session = session
        self._ledger = ledger
        self._before = session.statistics()
        self._receipt: Receipt | None = None

    def __call__(self) -> None:
        """Look."""
        now, before, life = self._session.statistics(), self._before, self._life
        self._before = now
        assert now.produced >= now.committed >= now.consumed >= 0, "G3: ordered"
        for name in ("produced", "committed", "consumed", "late"):
            assert getattr(now, name) >= getattr(before, name), f"G3: {name} only grows"
        assert now.speculative <= life.speculative, "G4: speculative"
        assert now.inflight <= life.inflight, "G4: in flight"
        assert 0 <= now.buffered_bytes <= 1 << 20, "G4: bytes"
        if before.cause is not None:
            assert now.cause is before.cause, "G8: the first cause wins"
            assert now.committed == before.committed, (
                "G1, G2: nothing is committed after the cutoff"
            )
            assert now.produced == before.produced, "G2: what comes late is not produced"
        if self._receipt is not None:
            assert self._session.sealed is self._receipt, "G11: one receipt"
        self._receipt = self._session.sealed
        assert len(self._ledger.receipts) == (self._receipt is not None), "G11: in the ledger once"


def live(life: Life) -> Lived:
    """Live a life to its end, on a loop that fails when somebody hangs."""
    watches: list[Watch] = []
    loop = JumpingLoop(on_turn=lambda: [watch() for watch in watches])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run(_live(life, watches), loop=loop)


async def _live(life: Life, watches: list[Watch]) -> Lived:
    ledger = MemoryLedger()
    session, played, labels = build(life, ledger)
    watches.append(Watch(life, session, ledger))
    consumer = ScriptedConsumer(*life.deeds)
    cancelling: list[int] = []
    reader = asyncio.create_task(_consume(life, session, consumer, cancelling), name="reader")
    stage = _Stage(session, reader)
    began = asyncio.get_running_loop().time()
    for at, signal in sorted(life.signals, key=lambda pair: pair[0]):
        await asyncio.sleep(at - (asyncio.get_running_loop().time() - began))
        stage.signal(signal)
    await asyncio.sleep(20)
    # The application goes down: whatever still lives is ended.
    session.start()
    receipt = await session.shutdown()
    consumer.unpark()
    await asyncio.wait([reader, *stage.tasks])
    for task in stage.tasks:
        assert task.cancelled() or isinstance(task.exception(), UsageError | None)
    played.deaf = False
    played.release()
    await settled()
    await _leave_nothing(life)
    outcome = asyncio.CancelledError() if reader.cancelled() else reader.exception()
    cancels = stage.cancels + any(deed == leave("cancel") for deed in life.deeds)
    return Lived(session, receipt, ledger, consumer, played, labels, outcome, cancels, cancelling)


async def _leave_nothing(life: Life) -> None:
    """After the end only a deaf producer that was given up on may be left; it is taken away."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if "ignore cancel" not in life.words:
        # Closing what was dropped takes a few turns more.
        await asyncio.sleep(10)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left behind: {left}"
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
        for task in left:
            if not task.cancelled():
                task.exception()


async def _consume(
    life: Life, session: StreamSession, consumer: ScriptedConsumer, cancelling: list[int]
) -> None:
    try:
        if life.closes:
            async with session:
                await consumer.consume(session)
        else:
            await consumer.consume(session)
    finally:
        task = asyncio.current_task()
        assert task is not None
        cancelling.append(task.cancelling())


class _Stage:
    """Sends signals from outside."""

    def __init__(self, session: StreamSession, reader: asyncio.Task[None]) -> None:
        self._session = session
        self._reader = reader
        self.tasks: list[asyncio.Task[Any]] = []
        self.cancels = 0

    def signal(self, name: str) -> None:
        """Send one."""
        session = self._session
        match name:
            case "cancel":
                session.cancel("from outside")
            case "terminate":
                session.terminate(Cause.OPERATOR_CANCEL, "from outside")
            case "disconnected":
                session.disconnected("from outside")
            case "reconnected":
                session.reconnected()
            case "cancel the reader":
                self.cancels += self._reader.cancel()
            case "cancel from a thread":
                self._begin(asyncio.to_thread(session.cancel, "from a thread"))
            case "shutdown":
                self._begin(session.shutdown())
            case "shutdown with grace":
                self._begin(session.shutdown(2))
            case "aclose":
                self._begin(session.aclose())
            case "intrude":
                self._begin(ScriptedConsumer(read(1)).consume(session))
            case _:
                raise AssertionError(name)

    def _begin(self, work: Any) -> None:
        self.tasks.append(asyncio.ensure_future(work))


def allowed_causes(life: Life) -> set[Cause]:
    """Every cause that somebody in this life may be behind (G14)."""
    words, signals = set(life.words), {name for _, name in life.signals}
    causes = {Cause.COMPLETED, Cause.SHUTDOWN}
    leaves = any(not isinstance(deed, type(stall(1)) | type(park())) for deed in life.deeds)
    if (
        leaves
        or signals & {"disconnected", "aclose", "cancel the reader", "intrude"}
        or life.closes
    ):
        causes.add(Cause.CLIENT_DISCONNECT)
    if life.closes:
        causes.add(Cause.CONSUMER_ERROR)
    if words & {"fail", "raise in finally"}:
        causes.add(Cause.PRODUCER_ERROR)
    if words & {"truncate", "raise in finally"}:
        causes.add(Cause.TRUNCATED)
    if words & {"emit unawaited", "emit from thread", "big chunk"}:
        causes.add(Cause.PRODUCER_OVERRUN)
    if "cut itself off" in words or signals & {"cancel", "cancel from a thread"}:
        causes.add(Cause.USER_CANCEL)
    if "terminate" in signals:
        causes.add(Cause.OPERATOR_CANCEL)
    if life.path == "holding":
        causes.add(Cause.GUARDRAIL)
    if life.deadlines is not None:
        deadlines = life.deadlines
        causes |= {Cause.TIMEOUT_CONNECT} if deadlines.connect else set()
        causes |= {Cause.TIMEOUT_FIRST_TOKEN} if deadlines.first_token else set()
        causes |= {Cause.TIMEOUT_IDLE} if deadlines.idle else set()
        causes |= {Cause.TIMEOUT_TOTAL} if deadlines.total else set()
        causes |= {Cause.CONSUMER_STALLED} if deadlines.consumer_stall else set()
    return causes
