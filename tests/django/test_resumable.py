"""Resumable views under ASGI: what was missed is sent again, once, over the newest connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from streamguard_core import Cause, UsageError
from streamguard_django import (
    GuardedStreamingHttpResponse,
    get_guarded_asgi_application,
    resumable,
)

from ..adapters.resumed import Resumed  # noqa: TID252 - the same for all adapters
from ..adapters.resuming import ids, tokens  # noqa: TID252
from ..asgi.driver import BOUND, Server, causes, eventually  # noqa: TID252 - one server for both adapters
from ..providers.counting import Slow  # noqa: TID252 - one slow ledger
from .project import STACKS, Project
from .resuming import Rig, resuming
from .test_asgi_streams import DJANGOS_OWN

APPS: list[Callable[[Project], Any]] = [
    lambda made: made.asgi(),
    lambda made: get_guarded_asgi_application(made.asgi()),
]
both = pytest.mark.parametrize("app", APPS, ids=["django", "guarded"])

# Django 5.2 leaves the task behind that listens, and its copy of the request's body.
cancelled = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
UVICORNS = "Task cancelled, timeout graceful shutdown exceeded"


class TestResumed(Resumed):
    """A resumable view."""


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


async def test_a_reader_who_leaves_before_anything_was_sent_is_not_waited_for() -> None:
    """He was told no id with which he could come back: the stream ends at once, not with the window."""
    opening = Future[None]()
    rig, ledger = Rig(), Slow(opening)
    with resuming(rig.view, LEDGER=ledger) as made:
        rig.app = made.asgi()
        async with rig.get() as server:
            await eventually(lambda: ledger.opened)
            server.leave()
            await server.ended()
        opening.set_result(None)
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


async def test_without_the_middleware() -> None:
    """The response knows its request, and the stream outlives that all the same."""
    rig = Rig()
    with resuming(rig.view, []) as made:
        rig.app = made.asgi()
        last = await rig.broken_off()
        rig.engines[0].make(1)
        rig.engines[0].finish()
        assert tokens((await rig.get(last).run()).text) == ["token4 "]
        await eventually(lambda: made.receipts)


async def test_head_keeps_nothing() -> None:
    """A HEAD request opens no stream that could be resumed."""
    rig = Rig()
    with resuming(rig.view) as made:
        server = await Server(made.asgi(), method="HEAD").run()
        name = server.headers["streamguard-stream-id"]
        rig.app = made.asgi()
        assert (await rig.post(f"/streams/{name}/stop"))[0] == 404


def test_a_decorated_view_keeps_its_marks() -> None:
    """What other decorators have said of it still holds."""

    def view(request: Any) -> Any:
        """Nothing."""

    view.csrf_exempt = True  # type: ignore[attr-defined]
    assert resumable(view).csrf_exempt  # type: ignore[attr-defined]
