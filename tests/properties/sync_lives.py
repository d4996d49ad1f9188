"""Whole lives of streams without a loop: how they are drawn, and how one is lived."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import strategies as st

from streamguard_core import (
    AnyChunk,
    Cause,
    DisconnectPolicy,
    Gate,
    MemoryLedger,
    Receipt,
    SyncStreamSession,
    UsageError,
    cancel,
    drain,
)
from streamguard_core.testing import (
    Played,
    Step,
    call,
    emit,
    fail,
    raise_in_finally,
    scripted_blocking,
    truncate,
)

from .lives import BIG, LATE, Holding, Passing
from .living import Watch

EMITTING = {"emit": 1, "emit three": 3, "emit from thread": 1}
PLAIN: dict[str, Step] = {
    "emit nothing": emit(),
    "fail": fail(),
    "truncate": truncate(),
    "raise in finally": raise_in_finally(),
}
SIGNALS: dict[str, Callable[[SyncStreamSession], object]] = {
    "cancel": lambda session: session.cancel("enough"),
    "terminate": lambda session: session.terminate(Cause.OPERATOR_CANCEL, "enough"),
    "disconnected": lambda session: session.disconnected("gone"),
    "close": lambda session: session.close(),
}
"""What may come from any thread, at any time."""
WORDS = [*EMITTING, *PLAIN, *SIGNALS, "cut itself off", "big chunk", "ignore close", "emit late"]
READING = ["read 1", "read 2", "read", "read_ready 1", "read_ready 2", "read_ready"]
DEEDS = [*READING, *SIGNALS, "break", "raise", "second reader", "second thread"]
GATES: dict[str, Callable[[], list[Gate]]] = {
    "pull": list,
    "gated": lambda: [Passing()],
    "holding": lambda: [Holding()],
}


@dataclass(frozen=True)
class SyncLife:
    """One life of a stream."""

    path: str
    policy: DisconnectPolicy
    speculative: int
    inflight: int
    words: tuple[str, ...]
    """What the producer does; signals come from another thread while the reader's is inside it."""
    deeds: tuple[str, ...]
    """What the consumer does; signals come from another thread while it holds what it has read."""
    closes: bool
    """The consumer uses `with`."""


sync_lives = st.builds(
    SyncLife,
    path=st.sampled_from(sorted(GATES)),
    policy=st.sampled_from(
        [cancel(), drain(3600), drain(3600, max_bytes=5), drain(3600, max_tokens=2)]
    ),
    speculative=st.integers(1, 4),
    inflight=st.integers(1, 4),
    words=st.lists(st.sampled_from(["emit"] * 6 + ["emit three"] * 3 + WORDS), max_size=8).map(
        tuple
    ),
    deeds=st.lists(st.sampled_from(["read"] * 2 + READING + DEEDS), max_size=5).map(tuple),
    closes=st.booleans(),
)


def elsewhere(work: Callable[[], object]) -> None:
    """Do `work` in another thread, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


class Failed(Exception):
    """What a consumer raises."""


class Sly:
    """A producer that may ignore its close, and go on when it has said that it was at its end."""

    def __init__(self, chunks: Iterator[AnyChunk], life: SyncLife) -> None:
        self._chunks = chunks
        self._deaf = "ignore close" in life.words
        self._late = "emit late" in life.words
        self._over = False

    def __iter__(self) -> Iterator[AnyChunk]:
        return self

    def __next__(self) -> AnyChunk:
        if self._over and self._late:
            return LATE
        try:
            return next(self._chunks)
        except BaseException:
            self._over = True
            raise

    def close(self) -> None:
        """Close, or not."""
        if not self._deaf:
            self._chunks.close()  # type: ignore[attr-defined]


@dataclass(repr=False)
class SyncLived:
    """What came of a life."""

    session: SyncStreamSession
    ledger: MemoryLedger
    played: Played
    labels: list[str]
    """What the producer would emit, in order."""
    received: list[AnyChunk] = field(default_factory=list)
    eos: int = 0
    refused: int = 0
    """How often a second reader was refused."""

    @property
    def receipt(self) -> Receipt:
        """The receipt, which must be there when the consumer has left."""
        receipt = self.session.sealed
        assert receipt is not None, "G11: it waits for nobody"
        return receipt


def live(life: SyncLife) -> SyncLived:
    """Live a life to its end, and look at it after every step of everybody."""
    ledger, played, cell = MemoryLedger(), Played(), list[SyncStreamSession]()
    steps, labels = _script(life, cell)
    chunks = scripted_blocking(*steps, played=played)
    session = SyncStreamSession(
        Sly(chunks, life),
        speculative_buffer_limit=life.speculative,
        max_inflight_commits=life.inflight,
        on_disconnect=life.policy,
        gates=GATES[life.path](),
        ledger=ledger,
    )
    cell.append(session)
    lived = SyncLived(session, ledger, played, labels)
    try:
        if life.closes:
            with session:
                _consume(life, lived)
        else:
            _consume(life, lived)
    except Failed:
        pass
    session.close()
    if "ignore close" in life.words:
        # Not left to the collector, which would complain of what it raises.
        with suppress(RuntimeError):
            chunks.close()  # type: ignore[attr-defined]
    return lived


def _script(life: SyncLife, cell: list[SyncStreamSession]) -> tuple[list[Step], list[str]]:
    """The producer's script, and the chunks in it: numbered, so that order and gaps show."""
    steps: list[Step] = []
    labels: list[str] = []
    for word in life.words:
        if word in EMITTING:
            fresh = [f"{len(labels) + index} " for index in range(EMITTING[word])]
            labels += fresh
            steps += [emit(chunk) for chunk in fresh]
        elif word in SIGNALS:
            steps.append(call(_from_outside(SIGNALS[word], cell)))
        elif word == "cut itself off":
            steps.append(call(lambda _: cell[0].cancel("cut itself off")))
        elif word == "big chunk" and BIG not in steps:
            labels.append(str(BIG.chunks[0]))
            steps.append(BIG)
        elif word in PLAIN:
            steps.append(PLAIN[word])
    return steps, labels


def _from_outside(
    signal: Callable[[SyncStreamSession], object], cell: list[SyncStreamSession]
) -> Callable[[object], None]:
    return lambda _: elsewhere(lambda: signal(cell[0]))


def _consume(life: SyncLife, lived: SyncLived) -> None:
    watch = Watch(life, lived.session, lived.ledger)
    consumer = _Consumer(lived)
    for deed in life.deeds:
        try:
            consumer.do(deed)
        finally:
            watch()


class _Consumer:
    """Reads in both ways, and misbehaves."""

    def __init__(self, lived: SyncLived) -> None:
        self._lived = lived
        self._session = lived.session
        self._iterator: Iterator[AnyChunk] | None = None

    def do(self, deed: str) -> None:
        """Do one deed; a reader that is refused goes on with the next."""
        session = self._session
        name, _, count = deed.partition(" ")
        match name:
            case "read":
                self._guarded(lambda: self._read(int(count or 99)))
            case "read_ready":
                self._guarded(lambda: self._read_ready(int(count or 99)))
            case "break":
                self._iterator = None
            case "raise":
                raise Failed
            case "second":
                second = _Consumer(self._lived)
                if count == "reader":
                    second.do("read 1")
                else:
                    elsewhere(lambda: second.do("read 1"))
            case _:
                elsewhere(lambda: SIGNALS[name](session))

    def _guarded(self, read: Callable[[], None]) -> None:
        try:
            read()
        except UsageError:
            self._lived.refused += 1

    def _read(self, chunks: int) -> None:
        self._iterator = self._iterator or iter(self._session)
        for _ in range(chunks):
            chunk = next(self._iterator, None)
            if chunk is None:
                self._lived.eos += 1
                self._iterator = None
                return
            self._lived.received.append(chunk)

    def _read_ready(self, batches: int) -> None:
        for _ in range(batches):
            batch = self._session.read_ready(2)
            self._lived.received += batch
            if not batch:
                self._lived.eos += 1
                return
