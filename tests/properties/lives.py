"""How whole lives of streams are drawn: hostile producers, hostile consumers, and what happens outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from streamguard_core import (
    HOLD,
    PASS,
    AnyChunk,
    Cause,
    Deadlines,
    DisconnectPolicy,
    Gate,
    MemoryLedger,
    StreamSession,
    Verdict,
    cancel,
    drain,
    grace,
)
from streamguard_core.testing import (
    Deed,
    Played,
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
    scripted_blocking,
    scripted_iterator,
    second_reader,
    stall,
    truncate,
    wait,
)

PULLED = ("pull", "iterator", "batches", "timed")
PUSHED = ("push", "own task", "batches in a task", "gated", "holding", "made", "thread")
LATE = "late"
BIG = big_chunk(10 << 20)
EMITTING: dict[str, tuple[Callable[..., Step], int]] = {
    "emit": (emit, 1),
    "emit three": (emit, 3),
    "emit unawaited": (emit_without_awaiting, 3),
    "emit from thread": (emit_from_thread, 2),
}
PLAIN: dict[str, Step] = {
    "emit nothing": emit(),
    "emit late": emit_late(LATE),
    "wait": wait(2),
    "hang": hang(),
    "fail": fail(),
    "truncate": truncate(),
    "finish": finish(),
    "ignore cancel": ignore_cancel(),
    "raise in finally": raise_in_finally(),
}
IMPOSSIBLE = {
    "emit late": ("thread",),
    # Plain iterators have nobody to report to.
    "finish": ("pull", "iterator", "timed", "own task", "gated", "thread"),
}


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


WORDS = [*EMITTING, *PLAIN, "cut itself off", "big chunk"]
READS_ON: list[Deed] = [read(), read_ready(16), read_batches(16), read_batches(16, beside=1)]
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
    read_batches(2, 2, beside=0),
    read_batches(16, 2, beside=3),
    read_batches(16, beside=1),
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
        [
            cancel(),
            cancel(),
            grace(3),
            grace(3, max_tokens=2),
            drain(3),
            drain(3, max_bytes=5),
            drain(3, max_tokens=2),
        ]
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
    deeds=st.lists(st.sampled_from([*READS_ON, read(), *DEEDS]), max_size=5).map(tuple),
    closes=st.booleans(),
    signals=st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5, 5.0]), st.sampled_from(SIGNALS)),
        max_size=3,
    ).map(tuple),
)


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

    for word in life.words:
        if word in EMITTING:
            make, count = EMITTING[word]
            steps.append(make(*number(count)))
        elif word == "cut itself off":
            steps.append(call(lambda _: cut()))
        elif word == "big chunk" and BIG not in steps:
            labels.append(str(BIG.chunks[0]))
            steps.append(BIG)
        elif word == "hang" and pulls(life) and ignore_cancel() in steps:
            # A deaf iterator holds the reader that pulls it, for ever: that is what own_task is for.
            steps.append(wait(3))
        elif word in PLAIN and life.path not in IMPOSSIBLE.get(word, ()):
            steps.append(PLAIN[word])
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
    found: dict[str, list[Gate]] = {"gated": [Passing()], "holding": [Holding()]}
    gates = found.get(life.path, [])
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


def allowed_causes(life: Life) -> set[Cause]:
    """Every cause that somebody in this life may be behind (G14)."""
    words, signals = set(life.words), {name for _, name in life.signals}
    causes = {Cause.COMPLETED}
    reads_on = bool(life.deeds) and life.deeds[0] in READS_ON
    if not reads_on or "hang" in words or signals & {"shutdown", "shutdown with grace"}:
        # Else nothing may last until the application goes down.
        causes.add(Cause.SHUTDOWN)
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
