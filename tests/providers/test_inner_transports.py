"""The async transport over inner transports of other makes, and within a client's machinery."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from streamguard_core import Scope, use_scope
from streamguard_providers import CutOffReadError, GuardedAsyncTransport

from .recorder import Recorder
from .scripted_server import OK, Answer, chunked, head, scripted
from .test_async_transport import ask, assert_cut_off, client_of, start
from .waiting import outcome, until


async def test_hands_on_the_applications_trace() -> None:
    """An application's own trace extension goes on seeing every event."""
    seen: list[str] = []

    async def trace(event: str, info: object) -> None:
        seen.append(event)

    async with scripted(Answer(OK)) as server, client_of(httpx) as client:
        with use_scope(Scope()):
            await client.get(server.url, extensions={"trace": trace})
    assert "http11.receive_response_headers.complete" in seen


class Slow(httpx.AsyncBaseTransport):
    """A transport without any network, as tests and other libraries bring them."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.reading = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/whole":
            return httpx.Response(200, content=b"ok")
        if request.url.path == "/stubborn":
            self.reading.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return httpx.Response(200, stream=SlowBody(self))


class SlowBody(httpx.AsyncByteStream):
    """A body that comes to no end."""

    def __init__(self, transport: Slow) -> None:
        self.transport = transport

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"one"
        self.transport.reading.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise httpx.ReadError("interrupted") from None

    async def aclose(self) -> None:
        self.transport.closed.set()


async def test_governs_any_inner_transport() -> None:
    """A transport that has no connection is cut off all the same: its reader wakes, its body is closed."""
    inner = Slow()
    async with httpx.AsyncClient(transport=GuardedAsyncTransport(inner)) as client:
        scope = Scope()
        task = start(scope, lambda: ask(client, "http://somewhere/"))
        await inner.reading.wait()
        scope.disconnected()
        assert isinstance(await task, CutOffReadError)
        assert inner.closed.is_set()
        scope = Scope()
        with use_scope(scope):
            assert (await client.get("http://somewhere/whole")).text == "ok"
        assert scope.members == []


async def test_an_inner_transport_that_answers_all_the_same() -> None:
    """A response that comes in spite of the cutoff is closed and not handed over."""
    inner = Slow()
    async with httpx.AsyncClient(transport=GuardedAsyncTransport(inner)) as client:
        scope = Scope()
        request = client.build_request("GET", "http://somewhere/stubborn")
        task = start(scope, lambda: client.send(request, stream=True))
        await inner.reading.wait()
        scope.disconnected()
        assert isinstance(await task, CutOffReadError)
        assert inner.closed.is_set()


async def test_nothing_is_read_after_the_cutoff() -> None:
    """A body that is read on after the cutoff is not even asked: it might never answer."""
    inner = Slow()
    async with httpx.AsyncClient(transport=GuardedAsyncTransport(inner)) as client:
        scope = Scope()
        with use_scope(scope):
            request = client.build_request("GET", "http://somewhere/")
            response = await client.send(request, stream=True)
        parts = response.aiter_bytes()
        assert await anext(parts) == b"one"
        scope.disconnected()
        assert isinstance(await outcome(anext(parts)), CutOffReadError)
        assert not inner.reading.is_set()


class Retrying(httpx.AsyncBaseTransport):
    """A transport that, after the first answer, waits before it tries again."""

    def __init__(self) -> None:
        self.pooled = httpx.AsyncHTTPTransport()
        self.waiting = asyncio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self.pooled.handle_async_request(request)
        if request.url.path == "/retry":
            await response.aread()
            await response.aclose()
            self.waiting.set()
            await asyncio.Event().wait()
        return response

    async def aclose(self) -> None:
        await self.pooled.aclose()


async def test_a_connection_given_back_is_not_closed() -> None:
    """Between two tries of an inner transport the connection of the first is somebody else's."""
    inner = Retrying()
    client = httpx.AsyncClient(transport=GuardedAsyncTransport(inner))
    async with scripted(*[Answer(OK, then="next")] * 2) as server, client:
        scope = Scope()
        task = start(scope, lambda: ask(client, f"{server.url}/retry"))
        await inner.waiting.wait()
        scope.disconnected()
        assert isinstance(await task, CutOffReadError)
        assert (await client.get(server.url)).text == "ok"
        assert server.connections == 1


async def test_options_are_for_the_plain_transport() -> None:
    """Options beside an inner transport would be ignored, and are refused."""
    with pytest.raises(TypeError, match="http2 would have no effect"):
        GuardedAsyncTransport(httpx.AsyncHTTPTransport(), http2=True)
    assert "plain" in repr(GuardedAsyncTransport())


async def test_an_inner_transport_is_entered_and_closed() -> None:
    """A given transport lives with the client, and so does the plain one."""
    events: list[str] = []

    class Inner(httpx.AsyncHTTPTransport):
        async def __aenter__(self) -> Inner:
            events.append("enter")
            return self

        async def __aexit__(self, *args: object) -> None:
            events.append("exit")

        async def aclose(self) -> None:
            events.append("close")
            await super().aclose()

    async with httpx.AsyncClient(transport=GuardedAsyncTransport(Inner())):
        pass
    client = httpx.AsyncClient(transport=GuardedAsyncTransport(Inner()))
    await client.aclose()
    assert events == ["enter", "exit", "close"]
    async with scripted(Answer(OK)) as server:
        plain = GuardedAsyncTransport()
        client = httpx.AsyncClient(transport=plain)
        await client.get(server.url)
        await client.aclose()
        await server.left()


def test_for_type_checkers() -> None:
    """For httpx2 there is an instance that is one of its transports, too."""
    import httpx2

    assert isinstance(GuardedAsyncTransport.httpx2(), httpx2.AsyncBaseTransport)
    assert not isinstance(GuardedAsyncTransport.httpx2(), httpx.AsyncBaseTransport)


async def test_redirects_are_calls_of_their_own(library: Any) -> None:
    """Each request of a redirect is an attempt, and the last one is cut off."""
    redirect = b"HTTP/1.1 307 T\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n"
    answers = [Answer(redirect, then="next"), Answer(head() + chunked(b"one"))]
    async with scripted(*answers) as server, client_of(library) as client:
        scope, session, parts = Scope(), Recorder(), list[bytes]()
        scope.session = session
        client.follow_redirects = True
        task = start(scope, lambda: ask(client, server.url, parts))
        await until(lambda: parts)
        session.cut()
        assert_cut_off(await task, library)
        assert [attempt.status for attempt in session.attempts] == [307, 200]
        assert [attempt.cut for attempt in session.attempts] == [False, True]
