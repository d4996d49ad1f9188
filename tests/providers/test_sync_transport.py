"""The sync transport: the cutoff comes from another thread, and the blocked one wakes."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from streamguard_core import CutOffError, Scope, use_scope
from streamguard_providers import CutOffReadError, GuardedTransport

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
from .waiting import until


class Worker:
    """An application's thread inside a scope; keeps its result or its exception."""

    def __init__(self, scope: Scope, work: Callable[[], object]) -> None:
        self.result: object = None
        with use_scope(scope):
            context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run, work), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            self.result = work()
        except Exception as error:  # noqa: BLE001 - the tests look at it
            self.result = error

    async def ended(self) -> object:
        """Wait until it is done; a thread that is not let go fails the test."""
        await asyncio.to_thread(self._thread.join, 5.0)
        assert not self._thread.is_alive(), "the thread is still blocked"
        return self.result


@contextmanager
def client_of(library: Any, **options: Any) -> Iterator[Any]:
    """A client of that library with a guarded transport."""
    with library.Client(transport=GuardedTransport(**options), timeout=None) as client:
        yield client


def ask(client: Any, url: str, parts: list[bytes] | None = None) -> str:
    """What applications do: stream a response to its end."""
    with client.stream("POST", url, json={"prompt": "hello"}) as response:
        for part in response.iter_bytes():
            if parts is not None:
                parts.append(part)
    return "read to the end"


def assert_cut_off(got: object, library: Any) -> None:
    """The reader got an error that its library knows, and that says who did it."""
    assert isinstance(got, library.ReadError), got
    assert isinstance(got, CutOffError)
    assert "StreamGuard" in str(got)


async def test_cut_off_before_headers(library: Any, collector: bool) -> None:
    """A thread that waits for headers is let go at once, and the engine sees it."""
    async with scripted(Answer()) as server:
        with client_of(library) as client:
            scope = Scope()
            worker = Worker(scope, lambda: ask(client, server.url))
            await server.received.wait()
            instant = time.monotonic()
            scope.disconnected()
            assert await server.left() - instant < LET_GO
            assert_cut_off(await worker.ended(), library)
            assert scope.members == []


async def test_cut_off_before_headers_on_a_connection_from_the_pool(library: Any) -> None:
    """The connection is found although it was opened for another call, and not kept."""
    answers = [Answer(OK, then="next"), Answer(), Answer(OK)]
    async with scripted(*answers) as server:
        with client_of(library) as client:
            await asyncio.to_thread(client.get, server.url)
            server.received.clear()
            scope = Scope()
            worker = Worker(scope, lambda: ask(client, server.url))
            await server.received.wait()
            assert server.connections == 1
            scope.disconnected()
            await server.left()
            assert_cut_off(await worker.ended(), library)
            assert (await asyncio.to_thread(client.get, server.url)).text == "ok"
            assert server.connections == 2


async def test_cut_off_while_a_read_waits(library: Any, collector: bool) -> None:
    """A thread that is blocked in a read wakes and is told why."""
    async with scripted(Answer(head() + chunked(b"one"))) as server:
        with client_of(library) as client:
            scope, parts = Scope(), list[bytes]()
            worker = Worker(scope, lambda: ask(client, server.url, parts))
            await until(lambda: parts)
            instant = time.monotonic()
            scope.disconnected()
            assert await server.left() - instant < LET_GO
            assert_cut_off(await worker.ended(), library)
            assert parts == [b"one"]


async def test_cut_off_between_two_reads(library: Any) -> None:
    """A response that a thread holds without reading is closed, and the next read says why."""
    async with scripted(Answer(head() + chunked(b"one"))) as server:
        with client_of(library) as client:
            scope, go, parts = Scope(), threading.Event(), list[bytes]()

            def work() -> None:
                with client.stream("GET", server.url) as response:
                    for part in response.iter_bytes():
                        parts.append(part)
                        go.wait(5)

            worker = Worker(scope, work)
            await until(lambda: parts)
            scope.disconnected()
            await server.left()  # before the thread reads on
            go.set()
            assert_cut_off(await worker.ended(), library)


async def test_cut_off_during_the_handshake(library: Any) -> None:
    """A connection that stands while TLS is still negotiated is closed as well."""
    async with scripted() as server:
        with client_of(library) as client:
            scope = Scope()
            worker = Worker(scope, lambda: ask(client, server.url.replace("http", "https")))
            await server.received.wait()
            scope.disconnected()
            await server.left()
            assert_cut_off(await worker.ended(), library)


async def test_cut_off_while_connecting(library: Any) -> None:
    """A thread whose connection does not come to be is let go at once."""
    with full_listener() as port, client_of(library) as client:
        scope = Scope()
        worker = Worker(scope, lambda: ask(client, f"http://127.0.0.1:{port}"))
        await until(lambda: scope.members)
        await until(lambda: any(t.name == "streamguard-dial" for t in threading.enumerate()))
        instant = time.monotonic()
        scope.disconnected()
        assert_cut_off(await worker.ended(), library)
        assert time.monotonic() - instant < LET_GO


async def test_a_connection_that_comes_too_late_is_closed(library: Any) -> None:
    """A connection that stands only after the cutoff is closed without a request."""
    async with scripted() as server:
        with client_of(library) as client:
            scope, go, dialled = Scope(), threading.Event(), threading.Event()
            inner = client._transport._transport(_family(library))
            backend = inner._pool._network_backend._inner
            connect = backend.connect_tcp

            def slowly(*args: Any, **options: Any) -> Any:
                dialled.set()
                go.wait(5)
                return connect(*args, **options)

            backend.connect_tcp = slowly
            worker = Worker(scope, lambda: ask(client, server.url))
            await asyncio.to_thread(dialled.wait, 5)
            scope.disconnected()
            assert_cut_off(await worker.ended(), library)
            go.set()
            await until(lambda: server.connections)
            await server.left()
            assert server.requests == []


async def test_a_place_in_the_pool_that_comes_too_late_is_not_used(library: Any) -> None:
    """A thread that gets its place in the pool after the cutoff sends nothing."""
    limits = library.Limits(max_connections=1)
    go = asyncio.Event()
    answer = Answer(head(), chunked(b"one", end=True), then="next", go=go)
    async with scripted(answer) as server:
        with client_of(library, limits=limits) as client:
            first = Worker(Scope(), lambda: ask(client, server.url))
            await server.received.wait()
            scope = Scope()
            second = Worker(scope, lambda: ask(client, server.url))
            await until(lambda: len(client._transport.transports[0]._pool._requests) == 2)
            scope.disconnected()
            go.set()
            await until(lambda: not go.is_set())
            go.set()
            assert await first.ended() == "read to the end"
            assert_cut_off(await second.ended(), library)
            assert len(server.requests) == 1


async def test_what_fails_to_connect_fails_as_ever(library: Any) -> None:
    """The errors of connecting inside a scope are the library's own."""
    async with scripted() as server:
        url = server.url
    with client_of(library) as client:
        scope = Scope()
        got = await Worker(scope, lambda: ask(client, url)).ended()
        assert isinstance(got, library.ConnectError)
        assert scope.members == []


async def test_a_unix_socket_is_dialled_as_well(library: Any, tmp_path: Any) -> None:
    """Calls through a Unix socket are governed like all others."""
    script = ScriptedServer(Answer(OK))
    path = str(tmp_path / "s")
    server = await asyncio.start_unix_server(script.serve, path)
    with client_of(library, uds=path) as client:
        got = await Worker(Scope(), lambda: client.get("http://x/").text).ended()
        assert got == "ok"
    server.close()
    await script.stop()


async def test_refused_once_the_reader_is_gone(library: Any) -> None:
    """In a scope whose reader has left no call is made at all."""
    async with scripted(Answer(OK)) as server:
        with client_of(library) as client:
            scope = Scope()
            scope.disconnected()
            assert_cut_off(await Worker(scope, lambda: ask(client, server.url)).ended(), library)
            assert server.connections == 0


async def test_reports_to_the_session_of_its_scope(library: Any) -> None:
    """Each call is an attempt of the session's, and forgotten when it has ended."""
    answers = [
        Answer(head("x", "x-request-id: req-7") + chunked(b"123", end=True), then="next"),
        Answer(OK, then="next"),
        Answer(head() + chunked(b"12345")),
    ]
    async with scripted(*answers) as server:
        with client_of(library) as client:
            scope, session, parts = Scope(), Recorder(), list[bytes]()
            scope.session = session
            await Worker(scope, lambda: ask(client, server.url)).ended()
            await Worker(scope, lambda: client.post(server.url)).ended()
            assert session.closers == []
            worker = Worker(scope, lambda: ask(client, server.url, parts))
            await until(lambda: parts)
            session.cut()
            assert_cut_off(await worker.ended(), library)
            told = [(a.status, a.request_id, a.bytes_received, a.cut) for a in session.attempts]
            assert told == [(200, "req-7", 3, False), (200, None, 2, False), (200, None, 5, True)]
            assert (session.connections, server.connections) == (3, 1)


async def test_an_end_by_the_connection_is_no_end_after_the_cutoff(library: Any) -> None:
    """Where the body ends with the connection, closing it must not look like the end of the body."""
    body = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\none"
    async with scripted(Answer(body)) as server:
        with client_of(library) as client:
            scope, parts = Scope(), list[bytes]()
            worker = Worker(scope, lambda: ask(client, server.url, parts))
            await until(lambda: parts)
            scope.disconnected()
            assert_cut_off(await worker.ended(), library)


async def test_a_response_closed_early_leaves_its_scope(library: Any) -> None:
    """A response that the application closes before its end, or that fails, is forgotten."""
    answers = [Answer(head() + chunked(b"one")), Answer(head() + chunked(b"one"), then="close")]
    async with scripted(*answers) as server:
        with client_of(library) as client:
            scope = Scope()

            def early() -> int:
                with client.stream("GET", server.url):
                    return len(scope.members)

            assert await Worker(scope, early).ended() == 1
            assert scope.members == []
            got = await Worker(scope, lambda: ask(client, server.url)).ended()
            assert isinstance(got, library.RemoteProtocolError)
            assert scope.members == []


async def test_outside_any_scope_it_is_the_inner_transport(library: Any) -> None:
    """Without a scope nothing is wrapped, traced or counted."""
    async with scripted(Answer(OK)) as server:
        with client_of(library) as client:
            request = client.build_request("GET", server.url)
            response = await asyncio.to_thread(client._transport.handle_request, request)
            assert type(response.stream).__name__ == "ResponseStream"
            assert "trace" not in request.extensions
            response.close()


async def test_hands_on_the_applications_trace() -> None:
    """An application's own trace extension goes on seeing every event."""
    seen: list[str] = []

    def trace(event: str, info: object) -> None:
        seen.append(event)

    async with scripted(Answer(OK)) as server:
        with client_of(httpx) as client:
            get = lambda: client.get(server.url, extensions={"trace": trace})  # noqa: E731
            await Worker(Scope(), get).ended()
    assert "http11.receive_response_headers.complete" in seen


class Whole(httpx.BaseTransport):
    """A transport without any network; ends its scope while it works, or not."""

    def __init__(self, scope: Scope | None = None) -> None:
        self.scope = scope
        self.events: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.scope is not None:
            self.scope.disconnected()
        return httpx.Response(200, content=b"ok")

    def __enter__(self) -> Whole:
        self.events.append("enter")
        return self

    def __exit__(self, *args: object) -> None:
        self.events.append("exit")

    def close(self) -> None:
        self.events.append("close")


def test_governs_any_inner_transport() -> None:
    """A transport that has no connection is governed as far as it goes, and lives with the client."""
    inner = Whole()
    with httpx.Client(transport=GuardedTransport(inner)) as client, use_scope(Scope()) as scope:
        assert client.get("http://x/").text == "ok"
        assert scope.members == []
    client = httpx.Client(transport=GuardedTransport(inner))
    client.close()
    assert inner.events == ["enter", "exit", "close"]
    with use_scope(Scope()) as scope:
        client = httpx.Client(transport=GuardedTransport(Whole(scope)))
        with pytest.raises(CutOffReadError):
            client.get("http://x/")
    with pytest.raises(TypeError, match="verify would have no effect"):
        GuardedTransport(inner, verify=False)


def test_for_type_checkers() -> None:
    """For httpx2 there is an instance that is one of its transports, too."""
    import httpx2

    transport = GuardedTransport.httpx2()
    assert isinstance(transport, httpx2.BaseTransport)
    assert "plain" in repr(transport)
    httpx2.Client(transport=transport).close()


def _family(library: Any) -> Any:
    from streamguard_providers._httpx import family

    return family(library.__name__)
