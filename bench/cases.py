"""The ways to hand a stream from its producer to its consumer that are compared: ours, and their peers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

from streamguard_core import PASS, AnyChunk, Deadlines, StreamSession, Verdict

TOKEN: Final = "token "
CAPACITY: Final = 16

Make = Callable[[], AsyncIterator[str]]
"""Makes a fresh stream."""
Case = Callable[[Make], Coroutine[Any, Any, None]]
"""Reads one stream to its end."""


async def ready(chunks: int) -> AsyncIterator[str]:
    """A producer that never waits: the hot loop."""
    for _ in range(chunks):
        yield TOKEN


async def ticking(chunks: int) -> AsyncIterator[str]:
    """A producer that needs a turn of the event loop before every chunk, as real streams do."""
    for _ in range(chunks):
        await asyncio.sleep(0)
        yield TOKEN


class Pushing:
    """The same stream as a producer with `run()`."""

    def __init__(self, make: Make) -> None:
        self._make = make

    async def run(self, *, out: Callable[[str], Awaitable[None]], cancel_event: object) -> None:
        """Produce the whole stream."""
        async for token in self._make():
            await out(token)


class Passing:
    """A gate that lets everything pass: what looking costs."""

    def decide(self, text_so_far: str, chunk: AnyChunk) -> Verdict:
        """Look, and pass."""
        return PASS


# -- ours -----------------------------------------------------------------------------------------------


async def _iterate(session: StreamSession) -> None:
    async for _ in session:
        pass


async def _drain(session: StreamSession) -> None:
    while await session.read_ready():
        pass


async def _batch(session: StreamSession) -> None:
    async for _ in session.batches():
        pass


async def pull(make: Make) -> None:
    """`async for` over a session that pulls."""
    await _iterate(StreamSession(make()))


async def pull_ready(make: Make) -> None:
    """`read_ready()` of an iterator, which runs in a task of its own then."""
    await _drain(StreamSession(make()))


async def pull_batches(make: Make) -> None:
    """`batches()` of an iterator, which runs in a task of its own then."""
    await _batch(StreamSession(make()))


async def pull_beside(make: Make) -> None:
    """`batches(beside=True)`: what adapters do in their send loop."""
    session = StreamSession(make())
    async for _ in session.batches(beside=True):
        if session.reads_ahead:
            await session.beside(asyncio.sleep(0))


async def pull_timed(make: Make) -> None:
    """`async for` over a session that pulls, with deadlines."""
    await _iterate(StreamSession(make(), deadlines=Deadlines(first_token=30, idle=30, total=300)))


async def push(make: Make) -> None:
    """`async for` over a session whose producer has `run()`."""
    await _iterate(StreamSession(Pushing(make)))


async def push_batches(make: Make) -> None:
    """`batches()` of a session whose producer has `run()`."""
    await _batch(StreamSession(Pushing(make)))


async def push_ready(make: Make) -> None:
    """`read_ready()` on a session whose producer has `run()`."""
    await _drain(StreamSession(Pushing(make)))


async def push_timed(make: Make) -> None:
    """`async for` over a session whose producer has `run()`, with deadlines."""
    deadlines = Deadlines(first_token=30, idle=30, total=300)
    await _iterate(StreamSession(Pushing(make), deadlines=deadlines))


async def gated(make: Make) -> None:
    """`async for` over a session with one gate."""
    await _iterate(StreamSession(make(), gates=[Passing()]))


async def gated_ready(make: Make) -> None:
    """`read_ready()` on a session with one gate."""
    await _drain(StreamSession(make(), gates=[Passing()]))


# -- peers ----------------------------------------------------------------------------------------------


async def bare(make: Make) -> None:
    """The limit: the consumer reads the producer itself."""
    async for _ in make():
        pass


class Handoff:
    """A deque of 16 with one Future a side: the nearest bounded hand-off one can write by hand."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[str | None] = deque()
        self._getter: asyncio.Future[None] | None = None
        self._putter: asyncio.Future[None] | None = None

    async def put(self, token: str | None) -> None:
        """Add a chunk, waiting while it is full."""
        while len(self._queue) >= CAPACITY:
            self._putter = self._loop.create_future()
            await self._putter
        self._queue.append(token)
        if self._getter is not None:
            self._getter.set_result(None)
            self._getter = None

    async def __aiter__(self) -> AsyncIterator[str]:
        queue = self._queue
        while True:
            while not queue:
                self._getter = self._loop.create_future()
                await self._getter
            token = queue.popleft()
            if self._putter is not None:
                self._putter.set_result(None)
                self._putter = None
            if token is None:
                return
            yield token

    async def produce(self, make: Make) -> None:
        """The producer's task."""
        async for token in make():
            await self.put(token)
        await self.put(None)

    async def produce_inlined(self, make: Make) -> None:
        """The same without a call per chunk: no interface is left."""
        queue = self._queue
        async for token in make():
            while len(queue) >= CAPACITY:
                self._putter = self._loop.create_future()
                await self._putter
            queue.append(token)
            if self._getter is not None:
                self._getter.set_result(None)
                self._getter = None
        await self.put(None)

    async def consume_inlined(self) -> None:
        """The same without a generator: the reader is in here."""
        queue = self._queue
        while True:
            while not queue:
                self._getter = self._loop.create_future()
                await self._getter
            token = queue.popleft()
            if self._putter is not None:
                self._putter.set_result(None)
                self._putter = None
            if token is None:
                return


async def deque_future(make: Make) -> None:
    """`await put()` in a producer's task, `async for` in the reader: the interface that a session has."""
    handoff = Handoff()
    task = asyncio.create_task(handoff.produce(make))
    async for _ in handoff:
        pass
    await task


async def deque_inlined(make: Make) -> None:
    """The same, both sides written out by hand around the deque."""
    handoff = Handoff()
    task = asyncio.create_task(handoff.produce_inlined(make))
    await handoff.consume_inlined()
    await task


async def queue(make: Make) -> None:
    """A producer task and `asyncio.Queue(16)`."""
    between: asyncio.Queue[str | None] = asyncio.Queue(CAPACITY)

    async def produce() -> None:
        async for token in make():
            await between.put(token)
        await between.put(None)

    task = asyncio.create_task(produce())
    while await between.get() is not None:
        pass
    await task


async def anyio_stream(make: Make) -> None:
    """A producer task and an anyio memory stream of 16."""
    import anyio

    sender, receiver = anyio.create_memory_object_stream[str](CAPACITY)

    async def produce() -> None:
        async with sender:
            async for token in make():
                await sender.send(token)

    async with anyio.create_task_group() as group, receiver:
        group.start_soon(produce)
        async for _ in receiver:
            pass


BARE: Final = "bare async for"
DEQUE: Final = "deque + Future(16)"
INLINED: Final = "deque + Future(16), inlined"
PULL: Final = "pull, async for"
PUSH: Final = "push run(), async for"

OURS: Final[dict[str, Case]] = {
    PULL: pull,
    "pull, batches(beside=True)": pull_beside,
    "pull, batches": pull_batches,
    "pull, read_ready": pull_ready,
    "pull, deadlines": pull_timed,
    PUSH: push,
    "push run(), batches": push_batches,
    "push run(), read_ready": push_ready,
    "push run(), deadlines": push_timed,
    "one gate, async for": gated,
    "one gate, read_ready": gated_ready,
}


def peers() -> dict[str, Case]:
    """What ours is compared with; anyio only where it is installed."""
    found: dict[str, Case] = {
        DEQUE: deque_future,
        INLINED: deque_inlined,
        "asyncio.Queue(16)": queue,
    }
    try:
        import anyio  # noqa: F401
    except ImportError:
        return found
    return found | {"anyio memory stream(16)": anyio_stream}


def every_case() -> dict[str, Case]:
    """The limit, ours and the peers, in the order they are printed."""
    return {BARE: bare, **OURS, **peers()}
