"""Existing streaming views under ASGI, untouched: each ends with its reader, in every stack."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.http import FileResponse, HttpResponse, StreamingHttpResponse

from streamguard_core import Cause, MemoryLedger, RecordedStream, Scope, current_scope
from streamguard_django import stream_opened, stream_sealed

from ..asgi.driver import Engine, Server, causes, eventually  # noqa: TID252 - one server for both adapters
from .project import GUARD, GZIP, STACKS, project

DJANGOS_OWN = pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning")
"""Django forgets its copy of the request's body when a response fails."""


def _view(iterator: Any) -> Any:
    async def view(request: Any) -> Any:
        return StreamingHttpResponse(iterator() if callable(iterator) else iterator)

    return view


def _sync_view(iterator: Any) -> Any:
    def view(request: Any) -> Any:
        return StreamingHttpResponse(iterator() if callable(iterator) else iterator)

    return view


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("make", [_view, _sync_view], ids=["async-view", "sync-view"])
async def test_a_reader_who_leaves_ends_the_stream(stack: str, make: Any) -> None:
    """Mid-stream, in every stack: the producer is closed, and there is one receipt that says why."""
    engine = Engine(3)
    with project(make(engine.stream), STACKS[stack]) as made:
        async with Server(made.asgi()) as server:
            await server.until(lambda: b"token3 " in server.bodies)
            server.leave()
            await server.ended()
        await eventually(lambda: made.receipts)
    assert engine.closed
    assert engine.generated == 3
    assert causes(made.receipts) == [Cause.CLIENT_DISCONNECT]


@pytest.mark.parametrize("stack", STACKS)
async def test_a_reader_who_leaves_before_the_first_token_ends_the_stream(stack: str) -> None:
    """The producer waits for its first token, and is told at once."""
    engine = Engine()
    with project(_view(engine.stream), STACKS[stack]) as made:
        async with Server(made.asgi()) as server:
            await eventually(lambda: engine.started)
            server.leave()
            await server.ended()
        await eventually(lambda: made.receipts)
    assert engine.closed
    assert causes(made.receipts) == [Cause.CLIENT_DISCONNECT]


@pytest.mark.parametrize("stack", STACKS)
async def test_a_whole_stream_is_unchanged(stack: str) -> None:
    """What is streamed are the bytes of the view, one `send` for each, and the receipt says so."""
    engine = Engine(3)
    engine.finish()
    with project(_view(engine.stream), STACKS[stack]) as made:
        async with Server(made.asgi()) as server:
            await server.ended()
        await eventually(lambda: made.receipts)
    assert server.bodies[:3] == [b"token1 ", b"token2 ", b"token3 "]
    assert server.text == "token1 token2 token3 "
    (receipt,) = made.receipts
    assert (receipt.cause, receipt.committed, receipt.consumed) == (Cause.COMPLETED, 3, 3)


class Blocking:
    """A sync iterator whose items come when the test says so, and that notes its threads."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.generated = 0
        self.closed = False
        self.threads: set[int] = set()
        self.scopes: list[Scope | None] = []

    def stream(self) -> Iterator[str]:
        """The tokens, as a generator."""
        try:
            while True:
                self.scopes.append(current_scope())
                self.threads.add(threading.get_ident())
                if not self.allowed.acquire(timeout=10):
                    return
                self.generated += 1
                yield f"token{self.generated} "
        finally:
            self.closed = True


@pytest.mark.parametrize("stack", STACKS)
async def test_a_sync_iterator_is_not_buffered(stack: str) -> None:
    """P29: the first byte is there before the second item is; the reader's leaving ends the rest."""
    blocking = Blocking()
    with project(_sync_view(blocking.stream), STACKS[stack]) as made:
        async with Server(made.asgi()) as server:
            blocking.allowed.release()
            await server.until(lambda: server.bodies == [b"token1 "])
            assert blocking.generated == 1
            server.leave()
            await asyncio.sleep(0)
            blocking.allowed.release()  # it is in its read; nothing else can end that here
            await server.ended()
        await eventually(lambda: made.receipts)
    assert blocking.closed
    assert blocking.generated <= 2
    assert causes(made.receipts) == [Cause.CLIENT_DISCONNECT]


async def test_a_sync_iterator_runs_in_the_thread_of_its_view_and_in_its_scope() -> None:
    """What a view has open in its thread (a database connection) its iterator finds there."""
    blocking = Blocking()
    threads: list[int] = []
    scopes: list[Any] = []

    def view(request: Any) -> Any:
        threads.append(threading.get_ident())
        scopes.append(request.streamguard)
        assert current_scope() is request.streamguard
        return StreamingHttpResponse(blocking.stream())

    with project(view) as made:
        async with Server(made.asgi()) as server:
            blocking.allowed.release()
            await server.until(lambda: len(server.bodies) == 1)
            server.leave()
            blocking.allowed.release()
            await server.ended()
    assert blocking.threads == set(threads)
    assert set(blocking.scopes) == set(scopes)


class Both:
    """Can be iterated either way."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __iter__(self) -> Iterator[str]:
        yield "the sync way"

    def __aiter__(self) -> AsyncIterator[str]:
        return self.engine.stream()


async def test_the_scope_is_in_force_in_an_async_iterator_and_not_in_its_neighbours() -> None:
    """P35: two streams of one task each see their own request, and leave nothing behind."""
    seen: list[Any] = []

    async def stream() -> AsyncIterator[str]:
        seen.append(current_scope())
        yield "a"
        seen.append(current_scope())

    scopes: list[Any] = []

    async def view(request: Any) -> Any:
        scopes.append(request.streamguard)
        return StreamingHttpResponse(stream())

    with project(view) as made:
        app = made.asgi()
        for _ in range(2):
            async with Server(app) as server:
                await server.ended()
            assert current_scope() is None
    assert seen == [scopes[0], scopes[0], scopes[1], scopes[1]]


@pytest.mark.parametrize("stack", STACKS)
async def test_a_stalled_reader_who_leaves_ends_the_stream(stack: str) -> None:
    """P10, P15: Django leaves the generator to the collector then; `close()` in its thread ends it."""
    engine = Engine(5)
    with project(_view(engine.stream), STACKS[stack]) as made:
        async with Server(made.asgi(), mode="blocking") as server:
            await server.until(lambda: len(server.bodies) == 5)
            server.stall()
            engine.make()
            await eventually(lambda: engine.generated == 6)
            server.leave()
            await server.ended()
        await eventually(lambda: made.receipts)
    await eventually(lambda: engine.closed)
    assert causes(made.receipts) == [Cause.CLIENT_DISCONNECT]


async def test_a_view_that_has_not_answered_is_cancelled_with_its_scope() -> None:
    """An async view that waits for its provider: everything of its request ends as its reader's doing."""
    waiting = asyncio.Event()
    scopes: list[Any] = []

    async def view(request: Any) -> Any:
        scopes.append(request.streamguard)
        waiting.set()
        await asyncio.Event().wait()

    with project(view) as made:
        async with Server(made.asgi()) as server:
            await waiting.wait()
            server.leave()
            await server.ended()
    assert scopes[0].gone == "Django cancelled the view"


@DJANGOS_OWN
async def test_an_iterator_that_fails_fails_its_response() -> None:
    """G13, G14: its own error passes, as it would unguarded; the receipt says whose failure it was."""

    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise ZeroDivisionError

    with project(_view(failing)) as made:
        async with Server(made.asgi()) as server:
            with pytest.raises(ZeroDivisionError):
                await server.ended()
        await eventually(lambda: made.receipts)
    assert not server.complete
    assert causes(made.receipts) == [Cause.PRODUCER_ERROR]


@DJANGOS_OWN
async def test_a_stream_that_is_cut_off_is_broken_off() -> None:
    """G13: bytes of an application's own have no word for a failure, so their end is no clean one."""
    engine, scopes = Engine(1), list[Any]()

    async def view(request: Any) -> Any:
        scopes.append(request.streamguard)
        return StreamingHttpResponse(engine.stream())

    with project(view) as made:
        async with Server(made.asgi()) as server:
            await server.until(lambda: len(server.bodies) == 1)
            scopes[0].terminate(Cause.BUDGET, "spent")
            with pytest.raises(Exception, match="BUDGET"):
                await server.ended()
        await eventually(lambda: made.receipts)
    assert not server.complete
    assert engine.closed
    assert causes(made.receipts) == [Cause.BUDGET]


async def test_what_is_no_stream_is_left_alone() -> None:
    """Plain responses, files and excluded paths are what they were, and have no receipt."""
    engine = Engine(1)
    engine.finish()
    answers = [
        HttpResponse(b"plain"),
        FileResponse(iter([b"file"])),
        StreamingHttpResponse(engine.stream()),
    ]

    async def view(request: Any) -> Any:
        return answers.pop(0)

    with project(view, EXCLUDE=["^/excluded"]) as made:
        app = made.asgi()
        assert (await Server(app).run()).text == "plain"
        with pytest.warns(Warning, match="synchronous iterators"):
            assert (await Server(app).run()).text == "file"
        assert (await Server(app, "/excluded").run()).text == "token1 "
    assert made.receipts == []


async def test_a_head_request_generates_nothing() -> None:
    """P27: headers as for GET, and the producer is never asked."""
    engine = Engine(3)
    with project(_view(engine.stream)) as made:
        server = await Server(made.asgi(), method="HEAD").run()
    assert server.status == 200
    assert server.text == ""
    assert not engine.started


async def test_below_gzip_chunks_are_counted_and_the_reader_still_ends_the_stream() -> None:
    """P55: what is compressed outside the guard is counted inside it."""
    engine = Engine(2)
    with project(_view(engine.stream), [GZIP, GUARD]) as made:
        headers = [(b"accept-encoding", b"gzip")]
        async with Server(made.asgi(), headers=headers) as server:
            # Not by what was sent: before 6.1, on Python 3.12 and newer, Django holds back what it compresses.
            await eventually(lambda: engine.asked)
            server.leave()
            await server.ended()
        await eventually(lambda: made.receipts)
    assert engine.closed
    assert made.receipts[0].committed == 2
    assert causes(made.receipts) == [Cause.CLIENT_DISCONNECT]


async def test_records_go_to_the_ledger_with_the_tags_of_the_request() -> None:
    """The settings' ledger, tags and deadlines hold for streams that name none."""
    ledger = MemoryLedger()
    engine = Engine(1)
    engine.finish()

    def tags(request: Any) -> dict[str, str]:
        return {"method": request.method}

    with project(_view(engine.stream), LEDGER=ledger, TAGS=tags, DEADLINES={"idle": 5}) as made:
        await Server(made.asgi()).run()
        await eventually(lambda: made.receipts)
    assert [record.tags for record in ledger.opened] == [{"method": "GET"}]
    assert ledger.receipts == made.receipts


async def test_tags_of_the_request_hold_for_what_others_build_in_it() -> None:
    """A stream that another adapter builds in a view, of a chain say, has the request's ledger and tags."""
    ledger = MemoryLedger()

    async def view(request: Any) -> HttpResponse:
        stream = RecordedStream(**request.streamguard.options)
        stream.start()
        stream.ended()
        return HttpResponse()

    with project(view, LEDGER=ledger, TAGS={"tenant": "a"}) as made:
        await Server(made.asgi()).run()
        await eventually(lambda: made.receipts)
    assert [record.tags for record in ledger.opened] == [{"tenant": "a"}]


async def test_tags_that_raise_leave_the_stream_without() -> None:
    """A label must not cost anybody their answer."""
    engine = Engine(1)
    engine.finish()

    def tags(request: Any) -> dict[str, str]:
        raise LookupError

    with project(_view(engine.stream), TAGS=tags) as made:
        assert (await Server(made.asgi()).run()).text == "token1 "
        await eventually(lambda: made.receipts)
    assert dict(made.receipts[0].tags) == {}


async def test_the_signals_tell_of_each_stream_and_a_receiver_that_raises_changes_nothing() -> None:
    """`send_robust`: the stream ends as it would have, and the other receivers are told."""
    told: list[Any] = []

    def broken(**_: Any) -> None:
        raise ZeroDivisionError

    def opened(request: Any, session: Any, **_: Any) -> None:
        told.append((request, session.stream_id))

    def sealed(request: Any, receipt: Any, **_: Any) -> None:
        told.append((request, receipt.stream_id))
        # The ORM may be used here.
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    engine, requests = Engine(1), list[Any]()
    engine.finish()

    async def view(request: Any) -> Any:
        requests.append(request)
        return StreamingHttpResponse(engine.stream())

    stream_opened.connect(opened)
    stream_sealed.connect(broken)
    stream_sealed.connect(sealed)
    try:
        with project(view) as made:
            assert (await Server(made.asgi()).run()).complete
            await eventually(lambda: made.receipts)
    finally:
        stream_opened.disconnect(opened)
        stream_sealed.disconnect(broken)
        stream_sealed.disconnect(sealed)
    assert [request for request, _ in told] == requests * 2
    assert len({stream_id for _, stream_id in told}) == 1


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_on_receipt_may_be_of_either_kind_and_may_raise(kind: str) -> None:
    """P47: what it raises is logged, and changes nothing."""
    told: list[Any] = []

    def function(receipt: Any) -> None:
        told.append(receipt)
        raise ZeroDivisionError

    async def coroutine_function(receipt: Any) -> None:
        function(receipt)

    chosen = function if kind == "function" else coroutine_function
    engine = Engine(1)
    engine.finish()
    with project(_view(engine.stream), ON_RECEIPT=chosen) as made:
        assert (await Server(made.asgi()).run()).complete
        await eventually(lambda: told)
    assert causes(told) == [Cause.COMPLETED]
