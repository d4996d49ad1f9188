"""Small programs around one session: each is run under every schedule within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from streamguard_core.causes import Cause
from streamguard_core.gates import HOLD, PASS, Verdict
from streamguard_core.ledger import MemoryLedger
from streamguard_core.limits import Deadlines
from streamguard_core.observers import CutOff, Notice
from streamguard_core.policies import DisconnectPolicy, cancel, drain, grace
from streamguard_core.session import StreamSession
from streamguard_core.statistics import Statistics

CHUNKS = 7


@dataclass
class Run:
    """What one execution of a scenario did, as seen from outside the session."""

    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    delivered: list[str] = field(default_factory=list)
    eos: int = 0
    closed: int = 0
    """How often the producer's own `finally` ran."""
    started: int = 0
    at_cutoff: list[Statistics] = field(default_factory=list)
    signals: list[Cause] = field(default_factory=list)
    """The causes somebody called for, in the order of the calls."""
    session: StreamSession | None = None
    cancelling: int = 0
    """What `Task.cancelling()` of the reader was at its end."""

    def observe(self, notice: Notice) -> None:
        """Keep the numbers of the instant of the cutoff."""
        if isinstance(notice, CutOff):
            self.at_cutoff.append(notice.statistics)


class HoldTwo:
    """A gate that lets every second chunk pass what came before it."""

    lookahead = 2

    def decide(self, text_so_far: str, chunk: Any) -> Verdict:
        """PASS at the odd chunks."""
        return PASS if int(str(chunk)) % 2 else HOLD


class PushProducer:
    """The `run` contract; `deaf` swallows the first cancellation and emits late."""

    def __init__(self, run: Run, deaf: bool) -> None:
        self._run = run
        self._deaf = deaf

    async def run(self, *, out: Any, cancel_event: Any) -> None:
        """Emit, waiting a moment now and then."""
        self._run.started += 1
        try:
            for index in range(CHUNKS):
                if index % 2:
                    await asyncio.sleep(0)
                await out(str(index))
            out.finish("stop")
        except asyncio.CancelledError:
            if not self._deaf:
                raise
            await out("late")
        finally:
            self._run.closed += 1


async def pulled(run: Run, fails: bool) -> AsyncIterator[str]:
    """An async generator that waits now and then, and may fail at its end."""
    run.started += 1
    try:
        for index in range(CHUNKS):
            if index % 2:
                await asyncio.sleep(0)
            yield str(index)
        if fails:
            raise ValueError("the provider's words")
        await asyncio.sleep(1.0)
    finally:
        if not fails:
            # Clean-up that awaits must not be interrupted by the cutoff that caused it. (After a failure of
            # its own it may be: the cutoff comes second then.)
            await asyncio.sleep(0)
        run.closed += 1


async def read_all(run: Run) -> None:
    """Read to EOS, one chunk at a time."""
    assert run.session is not None
    async for chunk in run.session:
        run.delivered.append(str(chunk))
    run.eos += 1


async def read_batches(run: Run) -> None:
    """Read to EOS, batch by batch, so slowly that the buffers fill."""
    assert run.session is not None
    while batch := await run.session.read_ready(3):
        run.delivered.extend(map(str, batch))
        await asyncio.sleep(0.01)
    run.eos += 1


async def read_stream_of_batches(run: Run) -> None:
    """Read to EOS by `batches()`, now and then busy in between."""
    assert run.session is not None
    async for batch in run.session.batches(3):
        run.delivered.extend(map(str, batch))
        await asyncio.sleep(0)
    run.eos += 1


async def leave_batches(run: Run) -> None:
    """Leave `batches()` after the first two chunks or more."""
    assert run.session is not None
    batches = run.session.batches(3)
    async for batch in batches:
        run.delivered.extend(map(str, batch))
        if len(run.delivered) >= 2:
            break
    await batches.aclose()


async def read_beside(run: Run) -> None:
    """Read to EOS as an adapter does: sends that take a while, beside a step that is begun."""
    session = run.session
    assert session is not None
    async for batch in session.batches(3, beside=True):
        sending = asyncio.sleep(0.01)
        await (session.beside(sending) if session.reads_ahead else sending)
        run.delivered.extend(map(str, batch))
    run.eos += 1


async def read_two(run: Run) -> None:
    """Leave after two chunks, closing the iterator."""
    assert run.session is not None
    chunks = run.session.__aiter__()
    async for chunk in chunks:
        run.delivered.append(str(chunk))
        if len(run.delivered) == 2:
            break
    await chunks.aclose()


Reader = Callable[[Run], Awaitable[None]]
Signal = Callable[[StreamSession], Any]

PRODUCERS: dict[str, Callable[[Run], object]] = {
    "pull": lambda run: pulled(run, fails=False),
    "pull-fails": lambda run: pulled(run, fails=True),
    "push": lambda run: PushProducer(run, deaf=False),
    "push-deaf": lambda run: PushProducer(run, deaf=True),
}
READERS: dict[str, Reader] = {
    "all": read_all,
    "batches": read_batches,
    "leaves": read_two,
    "batches-all": read_stream_of_batches,
    "batches-leaves": leave_batches,
    "beside": read_beside,
}
SIGNALS: dict[str, tuple[Cause, Signal]] = {
    "cancel": (Cause.USER_CANCEL, lambda session: session.cancel()),
    "disconnect": (Cause.CLIENT_DISCONNECT, lambda session: session.disconnected()),
    "operator": (Cause.OPERATOR_CANCEL, lambda session: session.terminate(Cause.OPERATOR_CANCEL)),
    "shutdown": (Cause.SHUTDOWN, lambda session: session.terminate(Cause.SHUTDOWN)),
}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gated": {"gates": [HoldTwo()]},
    "timed": {"deadlines": Deadlines(first_token=0.5, idle=0.5, total=3.0, consumer_stall=2.0)},
    "grace": {"on_disconnect": grace(0.2, max_tokens=1)},
    "drain": {"on_disconnect": drain(0.2)},
}


@dataclass(frozen=True)
class Scenario:
    """One producer, one reader, one shape of session, and the signals that arrive meanwhile."""

    producer: str
    reader: str
    shape: str
    signals: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.producer}/{self.reader}/{self.shape}/{'+'.join(self.signals) or 'no signal'}"

    @property
    def policy(self) -> DisconnectPolicy:
        """The session's disconnect policy."""
        policy: DisconnectPolicy = SHAPES[self.shape].get("on_disconnect", cancel())
        return policy

    async def play(self, run: Run) -> None:
        """The program: a reader and the signals, as tasks of their own; then the receipt."""
        run.session = StreamSession(
            PRODUCERS[self.producer](run),
            speculative_buffer_limit=3,
            max_inflight_commits=2,
            ledger=run.ledger,
            observers=[run.observe],
            **SHAPES[self.shape],
        )
        run.session.start()
        reader = asyncio.create_task(self._read(run))
        signals = [asyncio.create_task(self._signal(run, name)) for name in self.signals]
        await asyncio.gather(reader, *signals)
        await run.session.aclose()
        await run.session.receipt()

    async def _read(self, run: Run) -> None:
        await READERS[self.reader](run)
        task = asyncio.current_task()
        run.cancelling = task.cancelling() if task is not None else 0

    async def _signal(self, run: Run, name: str) -> None:
        cause, send = SIGNALS[name]
        assert run.session is not None
        # Two turns of its own, so that the schedule decides where among the reader's steps it falls.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        run.signals.append(cause)
        send(run.session)


def scenarios() -> Iterator[Scenario]:
    """Every producer, reader and shape with no signal, each signal, and each pair of different ones."""
    alone = [(), *((name,) for name in SIGNALS)]
    pairs = [("cancel", "disconnect"), ("disconnect", "shutdown"), ("operator", "shutdown")]
    for producer, reader, shape in product(PRODUCERS, READERS, SHAPES):
        for signals in [*alone, *pairs]:
            yield Scenario(producer, reader, shape, signals)
