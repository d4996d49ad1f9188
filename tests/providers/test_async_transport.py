"""The async transport: the cutoff closes the connection in every phase, whoever is reading."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamguard_core import Cause, CutOffError, Scope, use_scope
from streamguard_providers import GuardedAsyncTransport

from .recorder import Recorder
from .scripted_server import (
    LET_GO,
    OK,
    Answer,
    ScriptedServer,
    chunked,
    full_listener,
    head,
    scripted,
)
from .waiting import outcome, until


@asynccontextmanager
async def client_of(library: Any, **options: Any) -> AsyncIterator[Any]:
    """A client of that library with a guarded transport, as an application makes it."""
    transport = GuardedAsyncTransport(**options)
    async with library.AsyncClient(transport=transport, timeout=None) as client:
        yield client


def start(scope: Scope, work: Callable[[], Any]) -> asyncio.Task[object]:
    """Start an application's task inside a scope; it ends with its result or its exception."""
    with use_scope(scope):
        return asyncio.create_task(outcome(work()))


async def ask(client: Any, url: str, parts: list[bytes] | None = None) -> str:
    """What applications do: stream a response to its end."""
    async with client.stream("POST", url, json={"prompt": "hello"}) as response:
        async for part in response.aiter_bytes():
            if parts is not None:
                parts.append(part)
    return "read to the end"


def assert_cut_off(got: object, library: Any) -> None:
    """The reader got an error that its library knows, and that says who did it."""
    assert isinstance(got, library.ReadError), got
    assert isinstance(got, CutOffError)
    assert type(got).__name__ == "CutOffReadError"
    assert "StreamGuard" in str(got)


async def test_cut_off_before_headers(library: Any, collector: bool) -> None:
    """While the engine thinks, or has the request in its queue, its connection is closed at once."""
    async with scripted(Answer()) as server, client_of(library) as client:
        scope = Scope()
        task = start(scope, lambda: ask(client, server.url))
        await server.received.wait()
        instant = time.monotonic()
        scope.disconnected("reader gone")
        assert_cut_off(await task, library)
        assert await server.left() - instant < LET_GO
        assert scope.members == []


async def test_cut_off_before_headers_on_a_connection_from_the_pool(library: Any) -> None:
    """A connection that served other requests before is closed just the same, and not kept."""
    answers = [Answer(OK, then="next"), Answer(), Answer(OK)]
    async with scripted(*answers) as server, client_of(library) as client:
        scope = Scope()
        await client.get(server.url)
        server.received.clear()
        task = start(scope, lambda: ask(client, server.url))
        await server.received.wait()
        assert server.connections == 1
        scope.terminate(Cause.USER_CANCEL)
        assert_cut_off(await task, library)
        await server.left()
        assert (await client.get(server.url)).text == "ok"
        assert server.connections == 2


async def test_cut_off_while_a_read_waits(library: Any, collector: bool) -> None:
    """A task of the application's that goes on reading, and that nobody cancels, is let go."""
    async with scripted(Answer(head() + chunked(b"one"))) as server, client_of(library) as client:
        scope, parts = Scope(), list[bytes]()
        task = start(scope, lambda: ask(client, server.url, parts))
        await until(lambda: parts)
        instant = time.monotonic()
        scope.disconnected()
        assert_cut_off(await task, library)
        assert await server.left() - instant < LET_GO
        assert parts == [b"one"]
        assert scope.members == []


async def test_cut_off_between_two_reads(library: Any, collector: bool) -> None:
    """A response that somebody holds and does not read is closed, and the next read says why."""
    async with scripted(Answer(head() + chunked(b"one"))) as server, client_of(library) as client:
        scope = Scope()
        with use_scope(scope):
            response = await client.send(client.build_request("GET", server.url), stream=True)
        parts = response.aiter_bytes()
        assert await anext(parts) == b"one"
        scope.disconnected()
        await server.left()  # before anybody reads on
        assert_cut_off(await outcome(anext(parts)), library)
        await response.aclose()


async def test_a_response_nobody_reads_on_gives_its_place_in_the_pool_back(library: Any) -> None:
    """After the cutoff the pool is free again although the application never closes its response."""
    answers = [Answer(head() + chunked(b"one")), Answer(OK)]
    limits = library.Limits(max_connections=1)
    async with scripted(*answers) as server, client_of(library, limits=limits) as client:
        scope = Scope()
        with use_scope(scope):
            held = await client.send(client.build_request("GET", server.url), stream=True)
        scope.disconnected()
        async with asyncio.timeout(2):
            assert (await client.get(server.url)).text == "ok"
        assert held.status_code == 200


async def test_cut_off_while_waiting_for_a_place_in_the_pool(library: Any) -> None:
    """A call that has no connection yet is ended before it gets one."""
    limits = library.Limits(max_connections=1)
    async with scripted(Answer()) as server, client_of(library, limits=limits) as client:
        other, scope = Scope(), Scope()
        first = start(other, lambda: ask(client, server.url))
        await server.received.wait()
        second = start(scope, lambda: ask(client, server.url))
        await until(lambda: scope.members)
        scope.disconnected()
        assert_cut_off(await second, library)
        assert len(server.requests) == 1
        assert not first.done()
        other.disconnected()
        assert_cut_off(await first, library)


async def test_cut_off_while_connecting(library: Any) -> None:
    """A call whose connection does not come to be is ended at once."""
    with full_listener() as port:
        async with client_of(library) as client:
            scope = Scope()
            task = start(scope, lambda: ask(client, f"http://127.0.0.1:{port}"))
            await until(lambda: scope.members)
            await asyncio.sleep(0)
            scope.disconnected()
            async with asyncio.timeout(LET_GO):
                assert_cut_off(await task, library)


async def test_cut_off_during_the_handshake(library: Any, collector: bool) -> None:
    """A connection that stands while TLS is still negotiated is closed as well."""
    async with scripted() as server, client_of(library) as client:
        scope = Scope()
        task = start(scope, lambda: ask(client, server.url.replace("http", "https")))
        await server.received.wait()
        scope.disconnected()
        assert_cut_off(await task, library)
        await server.left()


async def test_closed_before_the_event_loop_turns(library: Any) -> None:
    """The connection is closed in the step of the cutoff itself: the peer need not wait for our loop."""
    async with client_of(library) as client:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            scope = Scope()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            task = start(scope, lambda: ask(client, url))
            loop = asyncio.get_running_loop()
            listener.setblocking(False)
            connection, _ = await loop.sock_accept(listener)
            with connection:
                await loop.sock_recv(connection, 65536)
                scope.disconnected()
                connection.setblocking(True)
                connection.settimeout(LET_GO)
                while connection.recv(65536):  # blocks the loop: only what was done already counts
                    pass
            assert_cut_off(await task, library)


async def test_refused_once_the_reader_is_gone(library: Any) -> None:
    """In a scope whose reader has left no call is made at all."""
    async with scripted(Answer(OK)) as server, client_of(library) as client:
        scope = Scope()
        scope.disconnected()
        assert_cut_off(await start(scope, lambda: ask(client, server.url)), library)
        assert server.connections == 0
        assert scope.members == []


async def test_a_call_that_ends_leaves_its_scope(library: Any) -> None:
    """A call read to its end, closed early or failed is forgotten, and its connection reused if fit."""
    answers = [
        Answer(OK, then="next"),
        Answer(head() + chunked(b"one", end=True), then="next"),
        Answer(head() + chunked(b"one")),
        Answer(b"nonsense\r\n\r\n", then="close"),
    ]
    async with scripted(*answers) as server, client_of(library) as client:
        scope = Scope()
        with use_scope(scope):
            assert (await client.get(server.url)).text == "ok"
            assert scope.members == []
            assert await ask(client, server.url) == "read to the end"
            assert (scope.members, server.connections) == ([], 1)
            async with client.stream("GET", server.url):
                assert len(scope.members) == 1
            assert scope.members == []
            with pytest.raises(library.RemoteProtocolError):
                await client.get(server.url)
            assert scope.members == []
        scope.disconnected()  # nobody is there to be cut off


async def test_a_late_cutoff_leaves_others_alone(library: Any) -> None:
    """Whoever has ended is not closed: his connection may serve somebody else by then."""
    answers = [Answer(OK, then="next"), Answer(head() + chunked(b"one"), chunked(b"two", end=True))]
    async with scripted(*answers) as server, client_of(library) as client:
        first, second = Recorder(), Scope()
        scope = Scope()
        scope.session = first
        request = client.build_request("GET", server.url)
        with use_scope(scope):
            await client.send(request)
        assert first.closers == []
        assert "trace" not in request.extensions  # a retry of this request is another call
        parts: list[bytes] = []
        task = start(second, lambda: ask(client, server.url, parts))
        await until(lambda: parts)
        first.cut()
        assert await task == "read to the end"


async def test_reports_to_the_session_of_its_scope(library: Any) -> None:
    """Where the scope has a session the call is one of its attempts, with all that is known of it."""
    body = head("text/event-stream", "x-request-id: req-7") + chunked(b"12345", b"678", end=True)
    async with scripted(Answer(body, then="next")) as server, client_of(library) as client:
        scope, session = Scope(), Recorder()
        scope.session = session
        before = time.monotonic_ns()
        with use_scope(scope):
            await ask(client, server.url)
        (attempt,) = session.attempts
        assert (attempt.status, attempt.request_id, attempt.bytes_received) == (200, "req-7", 8)
        assert (attempt.cut, attempt.provider) == (False, "127.0.0.1")
        assert attempt.started_ns is not None
        assert attempt.closed_ns is not None
        assert before <= attempt.started_ns <= attempt.closed_ns <= time.monotonic_ns()
        assert (session.connections, session.closers, scope.members) == (1, [], [])


async def test_is_cut_off_with_its_session(library: Any) -> None:
    """The session's cutoff closes the connection, and the attempt says that it was we who did."""
    async with scripted(Answer(head() + chunked(b"one"))) as server, client_of(library) as client:
        scope, session, parts = Scope(), Recorder(), list[bytes]()
        scope.session = session
        task = start(scope, lambda: ask(client, server.url, parts))
        await until(lambda: parts)
        session.cut()
        (attempt,) = session.attempts  # at once, so that no receipt is written without it
        assert (attempt.cut, attempt.status, attempt.bytes_received) == (True, 200, 3)
        assert_cut_off(await task, library)
        await server.left()
        assert_cut_off(await start(scope, lambda: ask(client, server.url)), library)
        assert len(session.attempts) == 1  # what was refused was no attempt
        assert server.connections == 1


async def test_connected_is_told_before_headers(library: Any) -> None:
    """The connect deadline is met when the request can be written, not when the engine answers."""
    async with scripted(Answer()) as server, client_of(library) as client:
        scope, session = Scope(), Recorder()
        scope.session = session
        task = start(scope, lambda: ask(client, server.url))
        await server.received.wait()
        assert session.connections == 1
        session.cut()
        await task
        assert session.attempts[0].status is None


async def test_outside_any_scope_it_is_the_inner_transport(library: Any) -> None:
    """Without a scope nothing is wrapped, traced or counted."""
    async with scripted(Answer(OK)) as server, client_of(library) as client:
        request = client.build_request("GET", server.url)
        response = await client._transport.handle_async_request(request)
        assert type(response.stream).__name__ == "AsyncResponseStream"
        assert "trace" not in request.extensions
        await response.aclose()


@pytest.mark.parametrize("also_cut", [False, True], ids=["alone", "and a cutoff"])
async def test_a_cancellation_from_outside_passes(library: Any, also_cut: bool) -> None:
    """Whoever cancels the application's task gets a cancelled task, even in a cutoff's turn."""
    async with scripted(Answer()) as server, client_of(library) as client:
        scope = Scope()
        task = start(scope, lambda: ask(client, server.url))
        await server.received.wait()
        if also_cut:
            scope.disconnected()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.left()
        assert scope.members == []


PHASES = pytest.mark.parametrize("phase", ["headers", "body"])


def answer_for(phase: str) -> Answer:
    """An answer that leaves its reader waiting in that phase."""
    return Answer() if phase == "headers" else Answer(head() + chunked(b"one"))


async def reached(phase: str, server: ScriptedServer, parts: list[bytes]) -> None:
    """Wait until the reader waits in that phase."""
    await (server.received.wait() if phase == "headers" else until(lambda: parts))


@PHASES
async def test_takes_its_own_cancellation_back(library: Any, phase: str) -> None:
    """After a cutoff the application's task is not cancelled: it may await on, with timeouts."""

    async def work() -> tuple[object, int]:
        got = await outcome(ask(client, server.url, parts))
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return got, task.cancelling()

    async with scripted(answer_for(phase)) as server, client_of(library) as client:
        scope, parts = Scope(), list[bytes]()
        with use_scope(scope):
            task = asyncio.create_task(work())
        await reached(phase, server, parts)
        scope.disconnected()
        got, cancelling = await task
        assert_cut_off(got, library)
        assert cancelling == 0


@PHASES
async def test_cut_off_from_another_thread(library: Any, phase: str) -> None:
    """The cutoff may come from any thread, in every phase."""
    asyncio.get_running_loop().set_debug(True)  # refuses what is not safe across threads
    async with scripted(answer_for(phase)) as server, client_of(library) as client:
        scope, parts = Scope(), list[bytes]()
        task = start(scope, lambda: ask(client, server.url, parts))
        await reached(phase, server, parts)
        await asyncio.to_thread(scope.disconnected)
        assert_cut_off(await task, library)
        await server.left()


async def test_an_end_by_the_connection_is_no_end_after_the_cutoff(library: Any) -> None:
    """Where the body ends with the connection, closing it must not look like the end of the body."""
    body = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\none"
    async with scripted(Answer(body)) as server, client_of(library) as client:
        scope, parts = Scope(), list[bytes]()
        task = start(scope, lambda: ask(client, server.url, parts))
        await until(lambda: parts)
        scope.disconnected()
        assert_cut_off(await task, library)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop on Windows")
@PHASES
def test_on_uvloop(library: Any, phase: str) -> None:
    """On uvloop, whose sockets are stand-ins, every phase works as well."""
    import uvloop

    async def main() -> None:
        async with scripted(answer_for(phase)) as server, client_of(library) as client:
            scope, parts = Scope(), list[bytes]()
            task = start(scope, lambda: ask(client, server.url, parts))
            await reached(phase, server, parts)
            scope.disconnected()
            assert_cut_off(await task, library)
            await server.left()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
