"""Streaming views under WSGI: one item at a time, closed in time, with one receipt."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.http import HttpResponse, StreamingHttpResponse

from streamguard_core import Cause, Governed, Scope, current_scope, grace

from .project import BOUND, GUARD, GZIP, WSGIServer, project


class Numbers:
    """A sync producer that notes how it was treated."""

    def __init__(self, count: int = 10) -> None:
        self.count = count
        self.generated = 0
        self.closed = threading.Event()
        self.scopes: list[Scope | None] = []

    def stream(self) -> Iterator[str]:
        """The tokens, as a generator."""
        try:
            for _ in range(self.count):
                self.scopes.append(current_scope())
                self.generated += 1
                yield f"token{self.generated} "
        finally:
            self.closed.set()

    async def astream(self) -> AsyncIterator[str]:
        """The same, as an async generator that really waits, for ever after its tokens if that is negative."""
        try:
            for _ in range(abs(self.count)):
                await asyncio.sleep(0)
                self.scopes.append(current_scope())
                self.generated += 1
                yield f"token{self.generated} "
            if self.count < 0:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


def _view(iterator: Any, seen: list[Any] | None = None) -> Any:
    def view(request: Any) -> Any:
        if seen is not None:
            seen.append(request.streamguard)
        return StreamingHttpResponse(iterator())

    return view


def test_a_whole_stream_is_unchanged() -> None:
    """The view's bytes, part by part; the iterator runs in its request's scope, and nobody else does."""
    numbers, seen = Numbers(3), list[Any]()
    with project(_view(numbers.stream, seen)) as made:
        server = WSGIServer(made.wsgi())
        assert [server.read() for _ in range(4)] == [b"token1 ", b"token2 ", b"token3 ", b""]
        server.leave()
        (receipt,) = made.wait()
    assert numbers.scopes == seen * 3
    assert current_scope() is None
    assert (receipt.cause, receipt.committed, receipt.consumed) == (Cause.COMPLETED, 3, 3)


def test_a_reader_who_leaves_ends_the_stream() -> None:
    """The server's write fails, and it closes the response: nothing more is generated, for one reason."""
    numbers = Numbers(100)
    with project(_view(numbers.stream)) as made:
        server = WSGIServer(made.wsgi())
        assert [server.read(), server.read()] == [b"token1 ", b"token2 "]
        server.leave()
        assert numbers.closed.wait(BOUND)
        (receipt,) = made.wait()
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert numbers.generated == receipt.committed == 2


def test_an_async_iterator_is_not_buffered() -> None:
    """P30: what comes is handed over at once, and what never comes is ended by the reader's leaving."""
    numbers, seen = Numbers(-1), list[Any]()
    with project(_view(numbers.astream, seen)) as made:
        server = WSGIServer(made.wsgi())
        assert server.read() == b"token1 "
        assert not numbers.closed.is_set()
        server.leave()
        assert numbers.closed.wait(BOUND)
        (receipt,) = made.wait()
    assert numbers.scopes == seen
    assert receipt.cause is Cause.CLIENT_DISCONNECT


def test_a_response_that_is_never_read_is_closed() -> None:
    """P28: the server may close what it has not begun; nothing is generated then."""
    numbers = Numbers()
    with project(_view(numbers.stream)) as made:
        WSGIServer(made.wsgi()).leave()
        (receipt,) = made.wait()
    assert numbers.generated == 0
    assert receipt.cause is Cause.CLIENT_DISCONNECT


def test_an_iterator_that_fails_fails_its_response() -> None:
    """G13, G14: its own error passes to the server, as it would unguarded."""

    def failing() -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError

    with project(_view(failing)) as made:
        server = WSGIServer(made.wsgi())
        with pytest.raises(ZeroDivisionError):
            server.read_to_end()
        (receipt,) = made.wait()
    assert receipt.cause is Cause.PRODUCER_ERROR


def test_a_head_request_generates_nothing() -> None:
    """P27: headers as for GET, and the producer is never asked."""
    numbers = Numbers()
    with project(_view(numbers.stream)) as made:
        server = WSGIServer(made.wsgi(), method="HEAD")
        assert server.status_code == 200
        assert server.read_to_end() == b""
    assert numbers.generated == 0


def test_below_gzip_the_reader_still_ends_the_stream() -> None:
    """P55: what is compressed outside the guard is counted and closed inside it."""
    numbers = Numbers(1000)
    with project(_view(numbers.stream), [GZIP, GUARD]) as made:
        server = WSGIServer(made.wsgi(), HTTP_ACCEPT_ENCODING="gzip")
        for _ in range(2):  # gzip's own head comes first
            server.read()
        server.leave()
        (receipt,) = made.wait()
    assert numbers.closed.is_set()
    assert receipt.committed == numbers.generated


def test_under_grace_a_sync_iterator_is_cancelled() -> None:
    """The reader's own thread runs it, so there is nobody who could read on and wait."""
    numbers = Numbers(100)
    with project(_view(numbers.stream), ON_DISCONNECT=grace(30)) as made:
        server = WSGIServer(made.wsgi())
        server.read()
        server.leave()
        (receipt,) = made.wait()
    assert receipt.policy == "cancel"
    assert numbers.generated == 1


# -- the watched socket ----------------------------------------------------------------------------


class Transport:
    """A provider's connection that somebody reads from, and that is closed by its scope."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.closed = threading.Event()

    def disconnected(self, detail: str = "") -> None:
        """The reader has left."""
        self.closed.set()

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """Everything here ends."""
        self.closed.set()

    def read(self) -> bytes:
        """Block until closed, as a provider that thinks."""
        self.reading.set()
        if not self.closed.wait(BOUND):
            raise AssertionError("nobody closed the transport")
        raise ConnectionError("closed")


class Connection:
    """Both ends of a reader's connection."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.reader = socket.create_connection(listening.getsockname())
            self.server, _ = listening.accept()

    def leave(self, how: str) -> None:
        """Close (FIN), reset (RST) or half-close the reader's end."""
        if how == "half":
            self.reader.shutdown(socket.SHUT_WR)
            return
        if how == "reset":
            self.reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.reader.close()

    def leave_after(self, event: threading.Event, how: str) -> None:
        """Leave once `event` is set, from another thread."""
        if event.wait(BOUND):
            self.leave(how)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.server.close()


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_blocked_sync_iterator_is_freed_when_its_reader_leaves(how: str) -> None:
    """P32: FIN, RST and half-close are seen without a write; closing the transport frees the read."""
    transport = Transport()

    def stream() -> Iterator[bytes]:
        scope = current_scope()
        assert scope is not None
        scope.add(transport)
        yield b"first "
        yield transport.read()

    with Connection() as connection, project(_view(stream)) as made:
        server = WSGIServer(made.wsgi(), **{"gunicorn.socket": connection.server})
        assert server.read() == b"first "
        left = threading.Thread(target=connection.leave_after, args=(transport.reading, how))
        left.start()
        assert server.read() == b""  # nobody is left to be told
        left.join()
        server.leave()
        (receipt,) = made.wait()
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert receipt.committed == 1


def test_a_view_that_has_not_answered_is_freed_when_its_reader_leaves() -> None:
    """A plain view that waits for its provider: its provider call is closed."""
    transport = Transport()

    def view(request: Any) -> Any:
        request.streamguard.add(transport)
        try:
            transport.read()
        except ConnectionError:
            return HttpResponse(b"too late")

    with Connection() as connection, project(view) as made:
        left = threading.Thread(target=connection.leave_after, args=(transport.reading, "close"))
        left.start()
        server = WSGIServer(made.wsgi(), **{"gunicorn.socket": connection.server})
        assert server.read_to_end() == b"too late"
        left.join()


def test_what_arrives_from_a_reader_is_no_leaving() -> None:
    """A pipelined request wakes nobody; and after the response, what happens is no disconnect."""
    told: list[str] = []

    class Member:
        def disconnected(self, detail: str = "") -> None:
            told.append(detail)

        def terminate(self, cause: Cause, detail: str = "") -> None:
            told.append(detail)

    def view(request: Any) -> Any:
        member: Governed = Member()
        request.streamguard.add(member)
        return HttpResponse(b"answer")

    with Connection() as connection, project(view) as made:
        app = made.wsgi()
        for _ in range(2):
            connection.reader.sendall(b"GET / HTTP/1.1\r\n\r\n")
            environ = {"gunicorn.socket": connection.server}
            assert WSGIServer(app, **environ).read_to_end() == b"answer"
        connection.leave("close")
        # A second connection that is told of shows that the watcher has looked past the first.
        with Connection() as other:
            waiting = Transport()

            def blocked(request: Any) -> Any:
                request.streamguard.add(waiting)
                other.leave("close")
                with pytest.raises(ConnectionError):
                    waiting.read()
                return HttpResponse(b"")

            with project(blocked) as again:
                WSGIServer(again.wsgi(), **{"gunicorn.socket": other.server}).read_to_end()
    assert told == []


def test_the_socket_is_not_watched_when_the_settings_say_so() -> None:
    """`WATCH_SOCKET: False` leaves servers' sockets alone."""
    scopes: list[Any] = []
    numbers = Numbers(1)
    with (
        Connection() as connection,
        project(_view(numbers.stream, scopes), WATCH_SOCKET=False) as made,
    ):
        WSGIServer(made.wsgi(), **{"gunicorn.socket": connection.server}).read_to_end()
    assert not scopes[0].watched
