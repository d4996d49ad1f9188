"""`GuardedStreamingHttpResponse`: the same response in every stack, with an explicit end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.http import HttpResponse

from streamguard_core import (
    Cause,
    StreamSession,
    SyncStreamSession,
    UsageError,
    current_scope,
)
from streamguard_django import STREAM_ID_HEADER, GuardedStreamingHttpResponse

from ..asgi.driver import (  # noqa: TID252 - one server for both adapters
    Engine,
    Server,
    causes,
    eos,
    eventually,
)
from .project import STACKS, WSGIServer, project


def words() -> Iterator[str]:
    """A sync producer."""
    yield "never "
    yield "again"


async def awords() -> AsyncIterator[str]:
    """An async one."""
    for word in words():
        yield word


class Batches:
    """A producer that hands over lists, as ours do."""

    def stream(self, *, report: Any) -> AsyncIterator[list[str]]:
        """Two words at once."""

        async def lists() -> AsyncIterator[list[str]]:
            yield list(words())
            report.finish("stop")

        return lists()


class Pushing:
    """A producer that emits."""

    async def run(self, *, out: Any, cancel_event: Any) -> None:
        """Two words, one by one."""
        for word in words():
            await out(word)


PRODUCERS: dict[str, Any] = {
    "generator": words,
    "iterator": lambda: iter(list(words())),
    "async generator": awords,
    "batches": Batches,
    "pushing": Pushing,
    "session": lambda: StreamSession(awords()),
}


def _views(**options: Any) -> Any:
    def sync_view(make: Any) -> Any:
        return lambda request: GuardedStreamingHttpResponse(make(), **options)

    def async_view(make: Any) -> Any:
        async def view(request: Any) -> Any:
            return GuardedStreamingHttpResponse(make(), **options)

        return view

    return sync_view, async_view


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", PRODUCERS)
async def test_every_producer_is_streamed_under_asgi(kind: str, stack: str) -> None:
    """Events, an explicit `eos`, one receipt; in every stack, for every kind of producer."""
    sync_view, _ = _views()
    with project(sync_view(PRODUCERS[kind]), STACKS[stack]) as made:
        server = await Server(made.asgi()).run()
    assert "".join(data for name, data in server.events if name == "message") == "never again"
    assert eos(server)["cause"] == "COMPLETED"
    assert server.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert server.headers["X-Accel-Buffering"] == "no"
    assert "accept" in server.headers["Vary"].lower()
    assert eos(server)["stream_id"] == server.headers[STREAM_ID_HEADER]


@pytest.mark.parametrize("ping", [None, 15.0])
@pytest.mark.parametrize("kind", PRODUCERS)
def test_every_producer_is_streamed_under_wsgi(kind: str, ping: float | None) -> None:
    """The same under WSGI, where a loop in a thread runs what is async."""
    sync_view, _ = _views(ping=ping)
    with project(sync_view(PRODUCERS[kind])) as made:
        body = WSGIServer(made.wsgi()).read_to_end()
        if kind != "session":
            assert causes(made.wait()) == [Cause.COMPLETED]
    assert body.startswith(b"data: never \n\ndata: again\n\nevent: eos\n")
    assert json.loads(body.split(b"data: ")[-1])["committed"] == 2


def test_a_sync_session_is_streamed_under_wsgi() -> None:
    """Who has built a session has it streamed."""
    sync_view, _ = _views()
    with project(sync_view(lambda: SyncStreamSession(words()))) as made:
        assert b"event: eos" in WSGIServer(made.wsgi()).read_to_end()


@pytest.mark.parametrize(
    ("accept", "first"),
    [
        ("application/x-ndjson", b'{"text":"never "}\n'),
        ("text/plain", b"never "),
        ("text/event-stream", b"data: never \n\n"),
    ],
)
async def test_the_reader_chooses_the_format(accept: str, first: bytes) -> None:
    """SSE, NDJSON or text, by `Accept`."""
    _, async_view = _views()
    with project(async_view(awords)) as made:
        server = await Server(made.asgi(), headers=[(b"accept", accept.encode())]).run()
    assert server.bodies[0].startswith(first)
    assert server.headers["Content-Type"].startswith(accept)
    assert server.complete


async def test_the_view_may_choose_instead_and_its_headers_win() -> None:
    """A media type of one's own passes the producer's bytes on; what is given is not overwritten."""

    async def view(request: Any) -> Any:
        return GuardedStreamingHttpResponse(
            iter([b"\x00\x01"]),
            media_type="audio/mpeg",
            headers={"Cache-Control": "private"},
            status=201,
        )

    with project(view) as made:
        server = await Server(made.asgi()).run()
    assert (server.status, server.bodies[0]) == (201, b"\x00\x01")
    assert server.headers["Content-Type"] == "audio/mpeg"
    assert server.headers["Cache-Control"] == "private"


async def test_a_name_that_cannot_stand_in_a_header_stands_in_none() -> None:
    """Who builds a session may name it as he likes; the answer is streamed all the same."""
    _, async_view = _views()
    with project(async_view(lambda: StreamSession(awords(), stream_id="a\nb"))) as made:
        server = await Server(made.asgi()).run()
    assert STREAM_ID_HEADER not in server.headers
    assert eos(server)["stream_id"] == "a\nb"


async def test_events_may_be_numbered() -> None:
    """`ids=True` says with each event how much was committed."""
    _, async_view = _views(ids=True)
    with project(async_view(awords)) as made:
        server = await Server(made.asgi()).run()
    assert "id: 1\ndata: never" in server.text
    assert "id: 2\ndata: again" in server.text


async def test_silence_is_broken_by_comments_and_the_read_goes_on() -> None:
    """A producer that thinks: pings in time, none of its chunks lost, and the reader's leaving ends it."""
    engine = Engine()
    _, async_view = _views(ping=0.01)
    with project(async_view(engine.stream)) as made:
        async with Server(made.asgi()) as server:
            await server.until(lambda: server.bodies.count(b": ping\n\n") >= 2)
            engine.make(2)
            await server.events_sent(2)
            assert [data for _, data in server.events] == ["token1 ", "token2 "]
            server.leave()
            await server.ended()
        await eventually(lambda: made.receipts)
    await eventually(lambda: engine.closed)
    assert causes(made.receipts) == [Cause.CLIENT_DISCONNECT]


def test_silence_is_broken_under_wsgi_too() -> None:
    """A heartbeat is what shows a WSGI server that nobody reads, where its socket cannot be watched."""

    async def silent() -> AsyncIterator[str]:
        yield "a"
        await asyncio.Event().wait()

    sync_view, _ = _views(ping=0.01)
    with project(sync_view(silent)) as made:
        server = WSGIServer(made.wsgi())
        assert server.read() == b"data: a\n\n"
        assert [server.read(), server.read()] == [b": ping\n\n"] * 2
        server.leave()
        assert causes(made.wait()) == [Cause.CLIENT_DISCONNECT]


async def test_a_failure_is_said_in_fixed_words() -> None:
    """G13: `eos` says that something went wrong, and nothing of what a provider said."""

    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise ValueError("sk-secret")

    _, async_view = _views()
    with project(async_view(failing)) as made:
        server = await Server(made.asgi()).run()
    assert eos(server)["cause"] == "PRODUCER_ERROR"
    assert eos(server)["error"] == "The model failed."
    assert "sk-secret" not in server.text


async def test_a_head_request_generates_nothing() -> None:
    """P27: headers as for GET; what was opened for it is closed."""
    engine = Engine(3)
    _, async_view = _views()
    with project(async_view(engine.stream)) as made:
        server = await Server(made.asgi(), method="HEAD").run()
    assert server.text == ""
    assert server.headers["Content-Type"].startswith("text/event-stream")
    assert not engine.started


@pytest.mark.parametrize("stack", STACKS)
async def test_a_response_that_is_not_sent_closes_what_was_opened_for_it(stack: str) -> None:
    """P28: a middleware puts another response in its place; Django closes the one that is sent alone."""
    closed: list[str] = []

    class Opened:
        """An SDK's stream: open before anybody reads it."""

        def __aiter__(self) -> AsyncIterator[str]:
            return awords()

        async def aclose(self) -> None:
            closed.append("closed")

    def view(request: Any) -> Any:
        GuardedStreamingHttpResponse(Opened()).close()
        return HttpResponse(b"instead")

    with project(view, STACKS[stack]) as made:
        assert (await Server(made.asgi()).run()).text == "instead"
    assert closed == ["closed"]


async def test_without_the_middleware_the_request_is_given() -> None:
    """A view under no guard says which request it answers, and is told so if it does not."""

    async def view(request: Any) -> Any:
        assert current_scope() is None
        with pytest.raises(UsageError, match="request=request"):
            GuardedStreamingHttpResponse(awords())
        response = GuardedStreamingHttpResponse(awords(), request=request)
        assert request.streamguard.sessions
        return response

    with project(view, []) as made:
        assert eos(await Server(made.asgi()).run())["cause"] == "COMPLETED"
        await eventually(lambda: made.receipts)


async def test_what_cannot_be_is_said() -> None:
    """Options for a session that is there, a sync session under ASGI, a ping of no time."""

    async def view(request: Any) -> Any:
        with pytest.raises(UsageError, match="model were given for a session"):
            GuardedStreamingHttpResponse(StreamSession(awords()), model="m")
        with pytest.raises(UsageError, match="give a StreamSession"):
            GuardedStreamingHttpResponse(SyncStreamSession(words()))
        with pytest.raises(UsageError, match="ping=0"):
            GuardedStreamingHttpResponse(awords(), ping=0)
        return HttpResponse(b"checked")

    with project(view) as made:
        assert (await Server(made.asgi()).run()).text == "checked"
