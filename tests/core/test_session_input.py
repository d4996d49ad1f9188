"""Tests of bad input: every message says what was attempted, in which state, and what to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import (
    AnyChunk,
    Cause,
    Deadlines,
    Limits,
    StreamSession,
    SyncStreamSession,
    UsageError,
    cancel,
    drain,
    grace,
)
from streamguard_core.testing import (
    ScriptedConsumer,
    ScriptedProducer,
    emit,
    hang,
    read,
    run,
    scripted_iterator,
    second_reader,
    settled,
    wait,
)

Build = Callable[..., Any]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]

BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"speculative_buffer_limit": -1}, "speculative_buffer_limit=-1 was given .* at least 1"),
    ({"max_inflight_commits": 0}, "max_inflight_commits=0 was given .* at least 1"),
    ({"max_buffer_bytes": 1.5}, "max_buffer_bytes=1.5 was given .* whole number"),
    ({"max_buffer_bytes": True}, "max_buffer_bytes=True was given"),
    ({"max_tokens": -1}, "max_tokens=-1 was given; it is a whole number of tokens, or None"),
    (
        {"tags": {str(number): "" for number in range(17)}},
        "17 tags were given; a receipt carries at most 16",
    ),
    ({"max_tokens": "8"}, "max_tokens='8' was given; it is a whole number of tokens"),
    ({"max_tokens": 1.5}, "max_tokens=1.5 was given; it is a whole number of tokens"),
    ({"tags": ["a"]}, r"tags of type list were given; they are a mapping of names to texts"),
    ({"deadlines": 5}, r"deadlines=5 was given; use Deadlines\(idle=30, \.\.\.\)"),
    ({"ledger": "receipts"}, r"ledger of type str was given; .*SQLiteLedger\(path\)"),
    ({"clock": 5}, "clock of type int was given; .* monotonic_ns"),
    ({"observers": [5]}, "observer of type int was given; .* callable"),
    ({"on_disconnect": "cancel"}, r"on_disconnect='cancel' was given; use cancel\(\), grace"),
    ({"on_disconnect": grace}, "on_disconnect=.* was given; use"),
    ({"gates": [object()]}, r"gate .* has no decide\(text_so_far, chunk\)"),
    ({"producer": 5}, "producer of type int was given; a producer has"),
    ({"producer": "text"}, "producer of type str was given"),
    ({"producer": {"a": 1}}, "producer of type dict was given"),
    ({"producer": b"bytes"}, "producer of type bytes was given"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused_where_they_are_given(
    arguments: dict[str, Any], message: str
) -> None:
    """Nothing is opened, and the text names the argument, its value and what is wanted."""
    with pytest.raises(UsageError, match=message):
        StreamSession(**arguments)


BAD_SECONDS: list[Callable[[Any], object]] = [
    lambda seconds: Deadlines(idle=seconds),
    lambda seconds: Deadlines(close=seconds),
    grace,
    drain,
]


@pytest.mark.parametrize("make", BAD_SECONDS)
@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "5"])
def test_bad_seconds_are_refused(make: Callable[[Any], object], seconds: Any) -> None:
    """A timeout is a positive finite number."""
    with pytest.raises(UsageError, match="was given; it is a positive number of seconds"):
        make(seconds)


@pytest.mark.parametrize("bound", [0, -1, 1.5, True])
def test_bad_bounds_of_policies_are_refused(bound: Any) -> None:
    """The bounds of a policy are whole numbers of at least 1."""
    with pytest.raises(UsageError, match=r"max_tokens=.* at least 1, or None"):
        grace(1, max_tokens=bound)
    with pytest.raises(UsageError, match=r"max_bytes=.* at least 1, or None"):
        drain(1, max_bytes=bound)


def test_limits_are_validated_themselves() -> None:
    """A `Limits` is never invalid."""
    with pytest.raises(UsageError):
        Limits(max_inflight_commits=-3)


def test_starting_outside_a_loop() -> None:
    """A session needs a running loop; the text says so, and names the alternative."""
    session = StreamSession(scripted_iterator())
    with pytest.raises(
        UsageError, match=r"start.. was called outside a running event loop.*SyncStreamSession"
    ):
        session.start()
    with pytest.raises(UsageError, match="outside a running event loop"):
        aiter(session)


def test_a_session_used_on_two_loops() -> None:
    """It belongs to the loop it was started on; what may be called from elsewhere is named."""

    async def begin() -> StreamSession:
        session = StreamSession(scripted_iterator(emit("a")))
        session.start()
        return session

    async def go_on(session: StreamSession) -> None:
        for attempt in (session.start, lambda: aiter(session)):
            with pytest.raises(
                UsageError, match="was started on another event loop; a session belongs to one"
            ):
                attempt()
        with pytest.raises(UsageError, match="another event loop"):
            await session.read_ready()

    session = run(begin())
    run(go_on(session))
    with pytest.raises(UsageError, match="another event loop"):
        session.start()
    session.cancel()
    assert session.sealed is not None


async def test_the_receipt_of_a_stream_that_never_began(build: Build) -> None:
    """It would be waited for for ever."""
    built = build()
    with pytest.raises(
        UsageError, match=r"receipt.. was called before the stream was started; start.. it"
    ):
        await built.session.receipt()
    await built.session.aclose()


async def test_a_second_reader_while_one_waits(build: Build) -> None:
    """The second one is refused; the first is not disturbed and is woken by the cutoff (G7)."""
    built = build(emit("a"), hang())
    first = ScriptedConsumer(read())
    reading = asyncio.create_task(first.consume(built.session))
    await settled()
    for attempt in (
        lambda: anext(aiter(built.session)),
        built.session.read_ready,
        lambda: ScriptedConsumer(read()).consume(built.session),
    ):
        with pytest.raises(UsageError, match="is being read; a stream has one reader at a time"):
            await attempt()
    second = ScriptedConsumer(second_reader())
    await second.consume(built.session)
    assert len(second.refused) == 1
    assert built.session.cause is None
    built.session.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reading.done()
    assert first.received == ["a"]
    await built.session.receipt()


async def test_a_second_batch_reader_while_one_waits(build: Build) -> None:
    """The same with `read_ready` as the first reader."""
    built = build(hang())
    reading = asyncio.create_task(built.session.read_ready())
    await settled()
    for attempt in (lambda: anext(aiter(built.session)), built.session.read_ready):
        with pytest.raises(UsageError, match=r"is being read|in one way"):
            await attempt()
    built.session.cancel()
    assert await reading == []
    await built.session.receipt()


async def test_an_unused_second_iterator_changes_nothing(build: Build) -> None:
    """Asking for an iterator is not reading: the one that reads is woken by the cutoff."""
    built = build(emit("a"), hang())
    first, second = aiter(built.session), aiter(built.session)
    assert await anext(first) == "a"
    third = aiter(built.session)
    waiting = asyncio.create_task(anext(first, "EOS"))
    await settled()
    built.session.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done()
    assert waiting.result() == "EOS"
    await built.session.receipt()
    await second.aclose()
    await third.aclose()


async def test_a_reader_that_takes_the_place_of_one_that_was_just_woken(
    build_pushed: Build,
) -> None:
    """A chunk goes to one of two readers, never to both; the other is told."""
    for first_way in ("read_ready", "async for"):
        for second_way in ("read_ready", "async for"):
            built = build_pushed(hang())
            session = built.session

            def ask(way: str, session: StreamSession = session) -> asyncio.Task[Any]:
                step = session.read_ready() if way == "read_ready" else anext(aiter(session))
                return asyncio.ensure_future(step)

            first = ask(first_way)
            await settled()
            second = ask(second_way)
            # What a chunk does: the first reader is woken, and runs after the second one.
            session._out.wake_consumer()
            done, _ = await asyncio.wait([first, second], return_when="FIRST_COMPLETED")
            assert done == {first}
            with pytest.raises(UsageError, match="was read by somebody else meanwhile"):
                first.result()
            session.cancel()
            await asyncio.wait([second])
            assert second.exception() is not None or second.result() == []
            await session.receipt()


async def test_a_superseded_reader_that_is_cancelled_ends_nothing(build_pushed: Build) -> None:
    """Only the reader in place is a reader that can leave."""
    for way in ("read_ready", "async for"):
        built = build_pushed(hang())
        session = built.session
        step = session.read_ready() if way == "read_ready" else anext(aiter(session))
        first = asyncio.ensure_future(step)
        await settled()
        second = asyncio.ensure_future(session.read_ready())
        session._out.wake_consumer()
        first.cancel()
        await settled()
        assert first.cancelled()
        assert session.cause is None
        session.cancel()
        assert await second == []
        await session.receipt()


async def test_reading_in_two_ways(build: Build) -> None:
    """After `read_ready`, `async for` would lose what was handed over; the text says to choose."""
    built = build(emit("a"), hang())
    assert await built.session.read_ready() == ["a"]
    with pytest.raises(
        UsageError, match=r"`async for` was begun after read_ready..; read a stream in one way"
    ):
        await anext(aiter(built.session))
    await built.session.aclose()


async def test_reading_in_two_ways_at_every_moment(build_pulled: Build) -> None:
    """Whatever waits in the producer: a batch that was handed over is never counted twice (G3, G4)."""
    for script in ([emit("a"), emit("b")], [emit("a", "b")], [emit("a"), hang()], [emit("a")]):
        for early in (False, True):
            built = build_pulled(*script, max_inflight_commits=1)
            created = aiter(built.session)
            assert await built.session.read_ready(1) == ["a"]
            with pytest.raises(UsageError, match="read a stream in one way"):
                await anext(created if early else aiter(built.session))
            assert built.session.statistics().inflight == 1
            await built.session.aclose()
            await created.aclose()


async def test_batches_after_read_ready(build: Build) -> None:
    """These two are the same way of reading: what was handed over is taken as sent."""
    built = build(emit("a"), emit("b"), emit("c"), wait(1), emit("d"))
    first = await built.session.read_ready(1)
    rest = [chunk async for batch in built.session.batches(2) for chunk in batch]
    assert first + rest == ["a", "b", "c", "d"]
    assert (await built.session.receipt()).consumed == 4


async def test_a_batch_of_nothing(build: Build) -> None:
    """A batch has at least one chunk."""
    built = build(emit("a"))
    for limit in (0, -1):
        with pytest.raises(
            UsageError, match=r"read_ready.limit=.* was called; a batch has at least 1 chunk"
        ):
            await built.session.read_ready(limit)
    assert await built.session.read_ready() == ["a"]
    await built.session.aclose()


async def test_a_second_producer(build: Build) -> None:
    """A stream has one producer, given once."""
    built = build(emit("a"))
    with pytest.raises(UsageError, match=r"attach.. was called on a session that has a producer"):
        built.session.attach(ScriptedProducer())
    assert [chunk async for chunk in built.session] == ["a"]
    await built.session.receipt()


async def test_attaching_what_is_no_producer() -> None:
    """The session is as before, and takes a real one."""
    session = StreamSession()
    with pytest.raises(UsageError, match="producer of type int was given"):
        session.attach(5)
    session.start()
    session.attach(ScriptedProducer(emit("a")))
    assert [chunk async for chunk in session] == ["a"]
    await session.receipt()


async def test_reading_without_a_producer(read_all: ReadAll) -> None:
    """The mistake is named, and is the application's own; who reads again finds EOS, and nobody is waited for."""
    session = StreamSession()
    with pytest.raises(
        UsageError, match=r"has no producer to read; give one, or attach.. it first"
    ):
        await read_all(session)
    assert await read_all(session) == []
    assert (await session.receipt()).cause is Cause.INTERNAL_ERROR
    assert asyncio.get_running_loop().time() == 0


async def test_an_iterable_whose_iterator_cannot_be_made(build: Build) -> None:
    """A producer that fails before its first chunk fails like any other."""

    class Broken:
        def __aiter__(self) -> Any:
            raise ConnectionError("refused")

    for own_task in (False, True):
        session = StreamSession(Broken(), own_task=own_task)
        assert [chunk async for chunk in session] == []
        assert (await session.receipt()).cause is Cause.PRODUCER_ERROR


def test_cancel_is_accepted_with_and_without_parentheses() -> None:
    """`on_disconnect=cancel` reads as well as `on_disconnect=cancel()`."""
    for policy in (cancel, cancel()):
        assert StreamSession(on_disconnect=policy).cause is None


async def test_signals_from_other_threads(build: Build) -> None:
    """cancel, terminate and disconnected may be called from any thread, at any time, twice (pitfall 17)."""
    built = build(emit("a"), hang())
    reader = asyncio.create_task(ScriptedConsumer(read()).consume(built.session))
    await settled()
    session = built.session

    def signal() -> None:
        session.terminate(Cause.OPERATOR_CANCEL, "from a thread")
        session.cancel()
        session.disconnected()

    thread = threading.Thread(target=signal)
    thread.start()
    await reader
    thread.join()
    assert (await session.receipt()).cause is Cause.OPERATOR_CANCEL


async def test_a_repr_shows_state_and_no_content(build: Build) -> None:
    """Identity, states and counts; never a chunk."""
    built = build(emit("secret"), hang(), stream_id="the-id")
    assert await anext(aiter(built.session)) == "secret"
    text = repr(built.session)
    assert "StreamSession the-id" in text
    assert "STREAMING" in text
    assert "secret" not in text
    await built.session.aclose()


async def test_an_option_that_there_is_not() -> None:
    """It is refused where it stands, by type checkers as well (which insist on each `ignore` here)."""
    for kind in (StreamSession, SyncStreamSession):
        with pytest.raises(TypeError, match="deadline"):
            kind([], deadline=Deadlines(total=1))  # type: ignore[call-arg]
        with pytest.raises(UsageError, match="deadlines"):
            kind([], deadlines=5)  # type: ignore[arg-type]


async def test_a_long_tag_is_cut() -> None:
    """It may come from a request: it costs nobody the answer, nor the ledger its room."""
    session = StreamSession(iter(["a"]), tags={"k" * 1000: "v" * 100_000})
    assert [chunk async for chunk in session] == ["a"]
    assert (await session.receipt()).tags == {"k" * 256: "v" * 256}
