"""Tests of reading a stream to its end, on every path and in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from functools import partial
from typing import Any

import pytest

from streamguard_core import (
    AnyChunk,
    Attempt,
    AttemptOutcome,
    Cause,
    Chunk,
    CloseState,
    MemoryLedger,
    Report,
    StreamSession,
)
from streamguard_core.testing import (
    ScriptedProducer,
    ScriptedPull,
    Step,
    emit,
    fail,
    scripted_blocking,
    scripted_iterator,
    settled,
    truncate,
    wait,
)

Build = Callable[..., Any]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]

WORDS = [f"{number} " for number in range(100)]


async def test_chunks_come_in_order_and_eos_once(build: Build, read_all: ReadAll) -> None:
    """Every chunk comes once, in order; then EOS; the receipt adds up and is in the ledger once (G6, G11)."""
    ledger = MemoryLedger()
    built = build(*(emit(word) for word in WORDS), ledger=ledger)
    assert await read_all(built.session) == WORDS
    receipt = await built.session.receipt()
    assert receipt.cause is Cause.COMPLETED
    assert (receipt.produced, receipt.committed, receipt.consumed, receipt.late) == (
        100,
        100,
        100,
        0,
    )
    assert receipt.eos_delivered
    assert receipt.close is CloseState.ENDED
    assert ledger.receipts == [receipt]
    assert [record.stream_id for record in ledger.opened] == [built.session.stream_id]
    assert built.played.ended == 1


async def test_an_empty_stream_ends(build: Build, read_all: ReadAll) -> None:
    """A stream without a chunk hands EOS over and is receipted (G6)."""
    ledger = MemoryLedger()
    built = build(ledger=ledger)
    assert await read_all(built.session) == []
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.produced, receipt.eos_delivered) == (Cause.COMPLETED, 0, True)
    assert len(ledger.receipts) == 1


async def test_chunks_of_every_kind(build: Build, read_all: ReadAll) -> None:
    """Text, empty text, text beyond ASCII, bytes and `Chunk` objects come through as they are."""
    mixed: list[AnyChunk] = ["a", "", "ünï", b"\x00", Chunk("c", data=b"d"), "\ud83d"]
    built = build(*(emit(chunk) for chunk in mixed))
    assert await read_all(built.session) == mixed
    assert built.session.statistics().buffered_bytes == 0
    await built.session.receipt()


async def test_silence_between_chunks(build: Build, read_all: ReadAll) -> None:
    """A producer that takes its time is waited for."""
    built = build(emit("a"), wait(20), emit("b"), wait(20))
    assert await read_all(built.session) == ["a", "b"]
    assert asyncio.get_running_loop().time() == 40
    await built.session.receipt()


async def test_a_failing_producer_ends_the_stream_as_its_own_fault(
    build: Build, read_all: ReadAll, caplog: pytest.LogCaptureFixture
) -> None:
    """What was committed is delivered, then EOS; the cause is the producer's, its text stays out (G14)."""
    built = build(emit("a"), fail(ConnectionError("secret")))
    built.session.keeps_failure = True
    assert await read_all(built.session) == ["a"]
    receipt = await built.session.receipt()
    assert (receipt.cause, receipt.party) == (Cause.PRODUCER_ERROR, "PRODUCER")
    assert receipt.detail == "ConnectionError"
    assert receipt.eos_delivered
    assert "secret" not in caplog.text
    assert "ConnectionError" in caplog.text
    assert isinstance(built.session.failure, ConnectionError)


async def test_a_truncated_stream_is_no_success(build: Build, read_all: ReadAll) -> None:
    """A missing terminal marker is TRUNCATED, whatever came before (G13)."""
    built = build(emit("a"), truncate())
    assert await read_all(built.session) == ["a"]
    assert (await built.session.receipt()).cause is Cause.TRUNCATED


@pytest.mark.parametrize(
    ("outcomes", "finish", "cause"),
    [
        ("completed", None, Cause.COMPLETED),
        ("truncated", None, Cause.TRUNCATED),
        ("truncated", "stop", Cause.COMPLETED),
        ("truncated completed", None, Cause.COMPLETED),
        ("completed truncated", None, Cause.TRUNCATED),
    ],
)
async def test_a_producer_that_ends_as_if_its_last_call_were_whole(
    outcomes: str, finish: str | None, cause: Cause
) -> None:
    """It is not taken for a completion (G13), unless the producer knows better and says its finish."""

    class Producer:
        async def stream(self, *, report: Report) -> AsyncIterator[list[str]]:
            yield ["a"]
            for outcome in outcomes.split():
                report.attempt(Attempt(provider="p", outcome=AttemptOutcome(outcome)))
            report.finish(finish)

    session = StreamSession(Producer())
    assert [chunk async for chunk in session] == ["a"]
    receipt = await session.receipt()
    assert receipt.cause is cause
    said = "p ended without its terminal marker" if cause is Cause.TRUNCATED else ""
    assert receipt.detail == said


async def test_reading_after_eos(build: Build, read_all: ReadAll) -> None:
    """Whoever asks again gets EOS again, and nothing changes."""
    built = build(emit("a"))
    assert await read_all(built.session) == ["a"]
    receipt = await built.session.receipt()
    assert await read_all(built.session) == []
    assert [chunk async for chunk in built.session] == []
    assert await built.session.read_ready() == []
    assert await built.session.receipt() is receipt


async def test_iterating_twice_goes_on_where_it_stopped(build_pushed: Build) -> None:
    """Under grace and on every pump, a reader that comes back gets what it had not taken."""
    built = build_pushed(emit("a"), emit("b"))
    first = aiter(built.session)
    assert await anext(first) == "a"
    # The first reader never said that it took "a" over.
    assert [chunk async for chunk in built.session] == ["a", "b"]
    with pytest.raises(Exception, match="was read by somebody else meanwhile"):
        await anext(first)
    assert (await built.session.receipt()).consumed == 2


async def test_a_batch_is_what_is_ready_together(build_async: Build) -> None:
    """`read_ready` returns what is there at once, never waits for more, and keeps the order."""
    built = build_async(emit("a", "b"), emit("c"), wait(5), emit("d"))
    seen, loop = [], asyncio.get_running_loop()
    while batch := await built.session.read_ready():
        seen.append((loop.time(), batch))
        await settled()
    assert [time for time, _ in seen] == sorted(time for time, _ in seen)
    assert all(batch for _, batch in seen)
    assert [chunk for time, batch in seen if time == 0 for chunk in batch] == ["a", "b", "c"]
    assert seen[-1] == (5.0, ["d"])


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
async def test_a_batch_is_never_larger_than_asked(build: Build, limit: int) -> None:
    """Neither than `limit` nor than `max_inflight_commits` (G4)."""
    built = build(emit(*WORDS), max_inflight_commits=5)
    read: list[AnyChunk] = []
    while batch := await built.session.read_ready(limit):
        assert len(batch) <= min(limit, 5)
        read += batch
    assert read == WORDS


async def test_batches_are_consumed_when_the_next_is_asked_for(build: Build) -> None:
    """A batch that was handed over is committed; it is consumed once the reader comes back (G3)."""
    built = build(emit("a", "b"), wait(1), emit("c"))
    session = built.session
    first = await session.read_ready()
    assert session.statistics().consumed == 0
    assert session.statistics().committed >= len(first)
    second = await session.read_ready()
    assert session.statistics().consumed == len(first)
    while second:
        second = await session.read_ready()
    assert (await session.receipt()).consumed == 3


async def test_full_batches_let_the_loop_turn() -> None:
    """A producer that is always ready does not starve the loop: a disconnect is heard in between."""

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "x"

    session = StreamSession(endless(), max_inflight_commits=4)
    asyncio.get_running_loop().call_soon(session.disconnected)
    batches = 0
    while await session.read_ready(4):
        batches += 1
        assert batches < 20
    assert (await session.receipt()).cause is Cause.CLIENT_DISCONNECT


async def _words() -> AsyncIterator[str]:
    yield "a"
    yield "b"


def _sync_words(*words: str) -> Iterator[str]:
    yield from words


class _Iterable:
    """An async iterable that is no iterator, whose iterator is no generator and has no aclose()."""

    def __init__(self) -> None:
        self._left = ["b", "a"]

    def __aiter__(self) -> _Iterable:
        return self

    async def __anext__(self) -> str:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class _Awaitables:
    """An async iterator whose steps are futures: awaitables without `send`."""

    def __init__(self) -> None:
        self._left = ["b", "a"]

    def __aiter__(self) -> _Awaitables:
        return self

    def __anext__(self) -> asyncio.Future[str]:
        step: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if self._left:
            asyncio.get_running_loop().call_soon(step.set_result, self._left.pop())
        else:
            step.set_exception(StopAsyncIteration())
        return step


class _Ready:
    """An async iterator whose steps await nothing and have no `send`."""

    class _Step:
        def __init__(self, words: list[str]) -> None:
            self._words = words

        def __await__(self) -> Generator[Any, None, str]:
            if not self._words:
                raise StopAsyncIteration
            yield from ()
            return self._words.pop()

    def __init__(self) -> None:
        self._left = ["b", "a"]

    def __aiter__(self) -> _Ready:
        return self

    def __anext__(self) -> Any:
        return self._Step(self._left)


PRODUCERS: dict[str, Callable[[], object]] = {
    "async generator": _words,
    "async generator function": lambda: _words,
    "async iterable": _Iterable,
    "futures": _Awaitables,
    "ready awaitables": _Ready,
    "run": lambda: ScriptedProducer(emit("a", "b")),
    "stream": lambda: ScriptedPull(emit("a", "b")),
    "sync generator": lambda: _sync_words("a", "b"),
    "sync generator function": lambda: partial(_sync_words, "a", "b"),
    "list": lambda: ["a", "b"],
    "tuple": lambda: ("a", "b"),
    "callable returning an iterator": lambda: _made_words,
    "callable returning a producer": lambda: lambda: ScriptedProducer(emit("a", "b")),
    "callable returning batches": lambda: lambda: ScriptedPull(emit("a", "b")),
    "coroutine function": lambda: _later,
}


def _made_words() -> AsyncIterator[str]:
    return _words()


async def _later() -> AsyncIterator[str]:
    await asyncio.sleep(1)
    return _words()


@pytest.mark.parametrize("producer", PRODUCERS.values(), ids=PRODUCERS)
async def test_every_kind_of_producer(producer: Callable[[], object], read_all: ReadAll) -> None:
    """Whatever the documentation accepts as a producer is driven to its end, also chosen late."""
    session = StreamSession(producer())
    assert await read_all(session) == ["a", "b"]
    assert (await session.receipt()).cause is Cause.COMPLETED
    late = StreamSession()
    late.start()
    late.attach(producer())
    assert await read_all(late) == ["a", "b"]
    assert (await late.receipt()).cause is Cause.COMPLETED


@pytest.mark.parametrize("producer", PRODUCERS.values(), ids=PRODUCERS)
async def test_every_kind_of_producer_in_a_task(producer: Callable[[], object]) -> None:
    """`own_task` changes who runs a producer, not what comes out."""
    session = StreamSession(own_task=True)
    session.attach(producer())
    assert [chunk async for chunk in session] == ["a", "b"]
    assert (await session.receipt()).cause is Cause.COMPLETED


async def test_a_provider_event_of_any_type_is_pulled_through() -> None:
    """A pulled iterator may yield an SDK's own objects; they are passed on untouched."""
    events = [object(), {"a": 1}, 5]

    async def sdk() -> AsyncIterator[Any]:
        for event in events:
            yield event

    session = StreamSession(sdk())
    assert [event async for event in session] == events
    batched = StreamSession(sdk())
    assert await batched.read_ready() == events
    await batched.aclose()


async def test_a_callable_is_called_once_the_open_record_is_durable() -> None:
    """A factory may call the provider, so it is not called when the session is built."""
    calls = []

    def make() -> AsyncIterator[str]:
        calls.append(1)
        return _words()

    session = StreamSession(make)
    session.start()
    assert calls == []
    assert [chunk async for chunk in session] == ["a", "b"]
    assert calls == [1]


async def test_a_callable_that_returns_no_producer_is_an_error_of_ours() -> None:
    """Nobody but the application is to blame for a factory that returns a list or a number."""
    made: list[object] = [[], 5]
    for make in (made.pop, made.pop):
        session = StreamSession(make)
        assert [chunk async for chunk in session] == []
        receipt = await session.receipt()
        assert receipt.cause is Cause.INTERNAL_ERROR
        assert "UsageError" in receipt.detail


@pytest.mark.parametrize("item", [None, 5, object()])
async def test_what_is_no_chunk_ends_a_pushed_stream(build_pushed: Build, item: Any) -> None:
    """A pump refuses what is no chunk, names its type alone, and ends the stream."""
    built = build_pushed(emit("a"), emit(item), emit("b"))
    read = [chunk async for chunk in built.session]
    receipt = await built.session.receipt()
    assert read == ["a"]
    assert receipt.cause is Cause.INTERNAL_ERROR
    assert type(item).__name__ in receipt.detail


async def test_the_two_ways_of_pushing_what_is_ready_agree() -> None:
    """What an iterator yields without waiting, and what run() emits at once, make the same receipt."""
    script: tuple[Step, ...] = (emit("a", "b"), wait(1), emit("c"))
    receipts = []
    for producer in (
        scripted_iterator(*script),
        ScriptedProducer(*script),
        ScriptedPull(*script),
        scripted_blocking(*script),
    ):
        session = StreamSession(producer)
        assert [chunk async for chunk in session] == ["a", "b", "c"]
        receipt = await session.receipt()
        receipts.append(
            (receipt.cause, receipt.produced, receipt.consumed, receipt.output, receipt.waste)
        )
    assert len(set(map(repr, receipts))) == 1
