"""Resumable views under ASGI: what was missed is sent again, once, over the newest connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from streamguard_core import Cause, MemoryLedger, OpenRecord, UsageError
from streamguard_core.replay import ResumePoint
from streamguard_django import GuardedStreamingHttpResponse, get_guarded_asgi_application

from ..asgi.driver import BOUND, Server, causes, eos, eventually  # noqa: TID252 - one server for both adapters
from .project import STACKS, Project
from .resuming import Rig, ids, resuming, tokens
from .test_asgi_streams import DJANGOS_OWN

APPS: list[Callable[[Project], Any]] = [
    lambda made: made.asgi(),
    lambda made: get_guarded_asgi_application(made.asgi()),
]
both = pytest.mark.parametrize("app", APPS, ids=["django", "guarded"])
views = pytest.mark.parametrize("view", ["view", "sync_view"])


# Django 5.2 leaves the task behind that listens, and its copy of the request's body.
cancelled = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
UVICORNS = "Task cancelled, timeout graceful shutdown exceeded"


def moved(last_id: str, offset: int) -> str:
    """Another point of the same stream."""
    return f"{last_id.rpartition(':')[0]}:{offset}"


@both
@views
@pytest.mark.parametrize("offset", [0, 1, 3])
async def test_what_was_missed_is_sent_again(app: Any, view: str, offset: int) -> None:
    """From whatever event the reader got last: no gap, no repeat, the same ids, one engine call, one receipt."""
    rig = Rig()
    with resuming(getattr(rig, view)) as made:
        rig.app = app(made)
        last = await rig.broken_off()
        rig.engines[0].make(2)
        async with rig.get(moved(last, offset)) as again:
            await again.events_sent(5 - offset)
            rig.engines[0].finish()
            await again.ended()
        await eventually(lambda: made.receipts)
    assert tokens(again.text) == [f"token{number} " for number in range(offset + 1, 6)]
    assert ids(again.text) == [
        *(moved(last, number) for number in range(offset, 6)),
        f"{last.rpartition(':')[0]}:end",
    ]
    assert again.headers["streamguard-stream-id"] == ResumePoint.parse(last).stream_id
    assert eos(again)["cause"] == "COMPLETED"
    assert [(receipt.cause, receipt.consumed) for receipt in made.receipts] == [
        (Cause.COMPLETED, 5)
    ]
    assert len(rig.engines) == 1


@both
@pytest.mark.parametrize("stack", STACKS)
async def test_in_every_stack(app: Any, stack: str) -> None:
    """Sync middleware above or below changes nothing: the second reader is sent the rest."""
    rig = Rig()
    with resuming(rig.view, STACKS[stack]) as made:
        rig.app = app(made)
        last = await rig.broken_off()
        async with rig.get(last) as again:
            await eventually(lambda: again.bodies)
            rig.engines[0].make(1)
            rig.engines[0].finish()
            await again.ended()
        await eventually(lambda: made.receipts)
    assert tokens(again.text) == ["token4 "]
    assert causes(made.receipts) == [Cause.COMPLETED]


async def test_the_first_bytes_say_where_to_resume() -> None:
    """A reader that loses its connection before the first token does not pay for a second answer."""
    rig = Rig()
    rig.tokens = 0
    with resuming(rig.view, RESUME={"retry": 2.5}) as made:
        rig.app = made.asgi()
        async with rig.get() as server:
            await server.until(lambda: bool(server.bodies))
            server.leave()
            await server.ended()
        assert server.bodies[0].endswith(b":0\nretry: 2500\n\n")
        rig.engines[0].make(1)
        rig.engines[0].finish()
        again = await rig.get(ids(server.text)[-1]).run()
    assert (tokens(again.text), len(rig.engines)) == (["token1 "], 1)


async def test_a_stream_that_ended_meanwhile() -> None:
    """It is replayed to its end, as often as the reader asks, and who has everything is told to ask no more."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        rig.engines[0].make(2)
        rig.engines[0].finish()
        await eventually(lambda: made.receipts)
        for _ in range(2):
            again = await rig.get(last).run()
            assert (again.status, tokens(again.text)) == (200, ["token4 ", "token5 "])
            assert eos(again)["cause"] == "COMPLETED"
        over = await rig.get(f"{last.rpartition(':')[0]}:end").run()
        assert (over.status, over.text, len(rig.engines)) == (204, "", 1)
    (receipt,) = made.receipts
    assert receipt.client_left_early


@both
@pytest.mark.parametrize("stuck", [False, True])
async def test_the_newest_connection_has_the_stream(app: Any, stuck: bool) -> None:
    """The old one is told where it can be, also when its `send` is stuck; its end does not touch the stream."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = app(made)
        async with rig.get() as old:
            await old.events_sent(3)
            if stuck:
                old.stall()
                rig.engines[0].make(1)
                await eventually(lambda: old.senders)
            async with rig.get(ids(old.text)[2]) as new:
                await new.events_sent(2 if stuck else 1)
                if stuck:
                    old.leave()
                await old.ended()
                rig.engines[0].make(2)
                rig.engines[0].finish()
                await new.ended()
        await eventually(lambda: made.receipts)
        if not stuck:
            assert old.events[-1] == ("superseded", "{}")
            assert ids(old.text)[-1].endswith(":end")
    expected = [f"token{number} " for number in range(3, 7 if stuck else 6)]
    assert tokens(new.text) == expected
    (receipt,) = made.receipts
    assert receipt.cause is Cause.COMPLETED
    # That the old connection was closed in the end was not taken for the reader's leaving the new one.
    assert [signal.cause for signal in receipt.history if signal.intent] == [
        Cause.CLIENT_DISCONNECT
    ]


async def test_many_connections_at_once() -> None:
    """Whoever comes last has the stream, and it alone."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        readers = [rig.get(last) for _ in range(5)]
        for reader in readers:
            await reader.__aenter__()
        await eventually(
            lambda: sum(bool(reader.sent) and not reader.complete for reader in readers) == 1
        )
        rig.engines[0].make(1)
        rig.engines[0].finish()
        for reader in readers:
            await reader.ended()
            await reader.__aexit__()
        await eventually(lambda: made.receipts)
    assert [tokens(reader.text) for reader in readers if tokens(reader.text)] == [["token4 "]]


async def test_a_reader_who_comes_back_and_leaves_again() -> None:
    """The window begins anew with each connection that breaks, whichever request opened the stream."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = get_guarded_asgi_application(made.asgi())
        last = await rig.broken_off()
        for number in (4, 5):
            async with rig.get(last) as again:
                rig.engines[0].make(1)
                await again.events_sent(1)
                again.leave()
                await again.ended()
            last = ids(again.text)[-1]
            assert last.endswith(f":{number}")
        assert not rig.engines[0].closed
        rig.engines[0].finish()
        assert eos(await rig.get(last).run())["committed"] == 5
        await eventually(lambda: made.receipts)
    assert causes(made.receipts) == [Cause.COMPLETED]


@both
async def test_the_window(app: Any) -> None:
    """Who does not come back in time ends the stream, and is told so when he comes; nothing is kept of it."""
    rig = Rig()
    with resuming(rig.view, RESUME={"window": 0.02}) as made:
        rig.app = app(made)
        last = await rig.broken_off()
        await eventually(lambda: made.receipts)
        assert rig.engines[0].closed
        await _until_refused(rig, last)
        assert len(rig.engines) == 1
    (receipt,) = made.receipts
    assert (receipt.cause, receipt.policy) == (Cause.CLIENT_DISCONNECT, "grace(0.02s)")


async def _until_refused(rig: Rig, last: str) -> None:
    async with asyncio.timeout(BOUND):
        while (answer := await rig.get(last).run()).status == 200:
            pass
    assert (answer.status, '"error":"unknown"' in answer.text) == (404, True)


@DJANGOS_OWN
@cancelled
async def test_a_server_that_goes_ends_what_a_second_request_reads() -> None:
    """Cancelled by its server, the request that reads the stream ends it as SHUTDOWN, not as its reader's leaving."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = get_guarded_asgi_application(made.asgi())
        last = await rig.broken_off()
        async with rig.get(last) as again:
            await eventually(lambda: again.bodies)
            assert again.task is not None
            again.task.cancel(UVICORNS)
            await asyncio.wait([again.task], timeout=BOUND)
        await eventually(lambda: made.receipts)
    assert causes(made.receipts) == [Cause.SHUTDOWN]


@DJANGOS_OWN
@cancelled
async def test_a_server_that_ends_a_superseded_request_ends_nothing() -> None:
    """The stream is another request's by then."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = get_guarded_asgi_application(made.asgi())
        async with rig.get() as old:
            await old.events_sent(3)
            old.stall()
            rig.engines[0].make(1)
            await eventually(lambda: old.senders)
            async with rig.get(ids(old.text)[-1]) as new:
                await new.events_sent(1)
                assert old.task is not None
                old.task.cancel(UVICORNS)
                await asyncio.wait([old.task], timeout=BOUND)
                rig.engines[0].finish()
                await new.ended()
        await eventually(lambda: made.receipts)
    assert causes(made.receipts) == [Cause.COMPLETED]


async def test_lines_and_text_are_not_resumed() -> None:
    """They have no ids: their reader's leaving ends the stream, as in any other view."""
    rig = Rig()
    with resuming(rig.view) as made:
        rig.app = made.asgi()
        async with rig.get(accept="application/x-ndjson") as server:
            await server.until(lambda: "token3" in server.text)
            server.leave()
            await server.ended()
        await eventually(lambda: made.receipts)
    assert (made.receipts[0].cause, made.receipts[0].policy) == (Cause.CLIENT_DISCONNECT, "cancel")


async def test_a_sync_iterator_outlives_the_thread_of_its_view() -> None:
    """It runs in a thread of its own, which does not end with the request, and goes on for the second reader."""
    gates = [asyncio.Event()]
    loop = asyncio.get_running_loop()

    def words() -> Iterator[str]:
        yield "token1 "
        asyncio.run_coroutine_threadsafe(gates[0].wait(), loop).result(BOUND)
        yield "token2 "

    def view(request: Any) -> GuardedStreamingHttpResponse:
        return GuardedStreamingHttpResponse(words())

    with resuming(view) as made:
        async with Server(made.asgi()) as server:
            await server.events_sent(1)
            server.leave()
            await server.ended()
        gates[0].set()
        last = ids(server.text)[-1]
        again = await Server(made.asgi(), headers=[(b"last-event-id", last.encode())]).run()
        await eventually(lambda: made.receipts)
    assert tokens(again.text) == ["token2 "]
    assert causes(made.receipts) == [Cause.COMPLETED]


async def test_silence_is_bridged_on_every_connection() -> None:
    """A second reader gets keep-alives as the first did."""
    rig = Rig(ping=0.01)
    with resuming(rig.view, PING=0.01) as made:
        rig.app = made.asgi()
        async with rig.get() as server:
            await server.until(lambda: b": ping\n\n" in server.bodies)
            server.leave()
            await server.ended()
        async with rig.get(ids(server.text)[-1]) as again:
            await again.until(lambda: b": ping\n\n" in again.bodies)
            rig.engines[0].finish()
            await again.ended()
        await eventually(lambda: made.receipts)
    assert causes(made.receipts) == [Cause.COMPLETED]


async def test_a_stalled_reader_of_a_second_request_is_cut_off() -> None:
    """`consumer_stall` holds on whatever connection the stream is read."""
    rig = Rig()
    with resuming(rig.view, DEADLINES={"consumer_stall": 0.02}) as made:
        rig.app = get_guarded_asgi_application(made.asgi())
        last = await rig.broken_off()
        async with rig.get(last) as again:
            await eventually(lambda: again.bodies)
            again.stall()
            rig.engines[0].make(1)
            await eventually(lambda: made.receipts)
            await again.ended()
    assert causes(made.receipts) == [Cause.CONSUMER_STALLED]
    assert rig.engines[0].closed


class Slow(MemoryLedger):
    """A ledger whose OPEN records become durable when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.opening: Future[None] = Future()

    def append_open(self, record: OpenRecord) -> Future[None]:
        """See `Ledger`."""
        super().append_open(record)
        return self.opening


async def test_a_reader_who_leaves_before_anything_was_sent_is_not_waited_for() -> None:
    """He was told no id with which he could come back: the stream ends at once, not with the window."""
    rig, ledger = Rig(), Slow()
    with resuming(rig.view, LEDGER=ledger) as made:
        rig.app = made.asgi()
        async with rig.get() as server:
            await eventually(lambda: ledger.opened)
            server.leave()
            await server.ended()
        ledger.opening.set_result(None)
        await eventually(lambda: made.receipts)
    assert causes(made.receipts) == [Cause.CLIENT_DISCONNECT]


@both
@DJANGOS_OWN
async def test_bytes_cannot_be_numbered(app: Any) -> None:
    """What is framed already would be lost or repeated: said at once, and the stream does not wait for anybody."""

    async def framed() -> AsyncIterator[bytes]:
        yield b"data: a\n\n"
        await asyncio.Event().wait()

    async def view(request: Any) -> GuardedStreamingHttpResponse:
        return GuardedStreamingHttpResponse(framed())

    with resuming(view) as made:
        with pytest.raises(UsageError, match="cannot be numbered"):
            await Server(app(made)).run()
        await eventually(lambda: made.receipts)
    assert causes(made.receipts) == [Cause.CONSUMER_ERROR]
