"""Lives one life of a stream on a virtual loop, and looks at it in every turn."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamguard_core import (
    Cause,
    MemoryLedger,
    Receipt,
    StreamSession,
    SyncStreamSession,
    UsageError,
)
from streamguard_core.testing import (
    JumpingLoop,
    Played,
    ScriptedConsumer,
    leave,
    read,
    run,
    settled,
)

from .lives import Life, build

if TYPE_CHECKING:
    from .sync_lives import SyncLife


@dataclass(repr=False)  # Ten megabytes are no help in a message.
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


class Watch:
    """Looks at a session in every turn of the loop: what must hold at every instant (G1 to G4, G8, G11)."""

    def __init__(
        self,
        life: Life | SyncLife,
        session: StreamSession | SyncStreamSession,
        ledger: MemoryLedger,
    ) -> None:
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

    def look() -> None:
        for watch in watches:
            watch()

    loop = JumpingLoop(on_turn=look)
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
