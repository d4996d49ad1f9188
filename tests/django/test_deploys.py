"""A Django process that is told to go: its streams end in order, and their receipts are kept before it goes."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.test import override_settings

from streamguard_core import Cause, MemoryLedger, Scope, current_scope
from streamguard_django import (
    RequestScope,
    install_shutdown,
)
from streamguard_django.conf import option
from streamguard_django.deploys import deploys
from streamguard_django.watching import SocketWatcher

from ..asgi.driver import Engine, Server, eventually  # noqa: TID252 - one server for both adapters
from ..core.signals import SlowLedger  # noqa: TID252 - see above
from .deploying import sync_view_of, told, view_of, words
from .project import BOUND, WSGIServer, project

pytestmark = pytest.mark.usefixtures("called")


class TestSettings:
    """What the two settings do."""

    def test_one_for_all_requests_of_a_process(self) -> None:
        """As the settings say, until a test overrides them."""
        with override_settings(STREAMGUARD={"SHUTDOWN_GRACE": 0, "SHUTDOWN_FLUSH": 2}):
            made = deploys()
            assert made is not None
            assert (made.grace, made.flush) == (0, 2)
            assert deploys() is made
        default = deploys()
        assert default is not None
        assert (default.grace, default.flush) == (1, 5)

    def test_it_can_be_left_out(self, called: list[int]) -> None:
        """None touches no handler, and no stream at the signal."""
        before = signal.getsignal(signal.SIGTERM)
        with project(sync_view_of(words), SHUTDOWN_GRACE=None) as made:
            server = WSGIServer(made.wsgi())
            server.read()
            assert signal.getsignal(signal.SIGTERM) is before
            told()
            assert b"word" in server.read()
            server.leave()
            assert made.wait()[0].cause is Cause.CLIENT_DISCONNECT

    def test_loading_makes_no_ledger(self) -> None:
        """Servers load a project before they fork: a ledger has a writer, which a fork would not have."""
        made: list[MemoryLedger] = []

        def factory() -> MemoryLedger:
            made.append(MemoryLedger())
            return made[-1]

        before = signal.getsignal(signal.SIGTERM)
        with project(sync_view_of(words), LEDGER=factory) as loaded:
            loaded.wsgi()
            assert made == []
            assert signal.getsignal(signal.SIGTERM) is not before
            WSGIServer(loaded.wsgi()).leave()
            assert len(made) == 1

    @pytest.mark.parametrize("given", [{"SHUTDOWN_GRACE": -1}, {"SHUTDOWN_FLUSH": "long"}, []])
    def test_a_mistake_is_said_at_the_first_request(self, given: Any) -> None:
        """Loading the project is not the time to fail; answering with half of the settings is not, either."""
        with override_settings(STREAMGUARD=given):
            deploys.loaded()
            with pytest.raises(ImproperlyConfigured, match="STREAMGUARD"):
                deploys.serving()

    def test_a_key_alone_is_what_it_is_with_the_others(self) -> None:
        """Before and after the others were read."""
        with override_settings(STREAMGUARD={"PING": 3}):
            found = [option.alone("PING"), option.alone("CLOSE_TIMEOUT")]
            assert found == [option("PING"), option("CLOSE_TIMEOUT")]
            assert option.alone("PING") == 3


class TestHandler:
    """Where it stands, and when."""

    def test_loading_the_project_installs_it(self, called: list[int]) -> None:
        """Gunicorn sets its handlers before; under threads no request runs in the main thread afterwards."""
        with project(sync_view_of(words), SHUTDOWN_GRACE=0) as made:
            app = made.wsgi()
            server: list[WSGIServer] = []
            serving = threading.Thread(target=lambda: server.append(WSGIServer(app)))
            serving.start()
            serving.join(BOUND)
            server[0].read()
            told()
            assert b'"category":"shutdown"' in server[0].read_to_end()
            assert made.wait()[0].cause is Cause.SHUTDOWN
        assert called == [signal.SIGTERM]

    async def test_the_first_request_installs_it_again(self, called: list[int]) -> None:
        """P19: granian and uvicorn's worker set their handlers after they have loaded a project."""
        engine = Engine(1)
        with project(view_of(engine.stream), SHUTDOWN_GRACE=0) as made:
            app = made.asgi()
            signal.signal(signal.SIGTERM, lambda number, frame: called.append(-number))
            async with Server(app) as server:
                await server.until(lambda: "token1" in server.text)
                told()
                await server.ended()
            await eventually(lambda: made.receipts)
        assert made.receipts[0].cause is Cause.SHUTDOWN
        assert "event: eos\nretry: " in server.text
        assert called == [-signal.SIGTERM]

    def test_no_request_in_a_thread_fails(self) -> None:
        """Only the main thread may set a handler; a request elsewhere is served all the same."""
        before = signal.getsignal(signal.SIGTERM)
        serving = threading.Thread(target=deploys.serving)
        serving.start()
        serving.join(BOUND)
        assert signal.getsignal(signal.SIGTERM) is before
        assert deploys.serving() is not None
        assert signal.getsignal(signal.SIGTERM) is not before

    def test_it_can_be_installed_by_a_servers_hook(self) -> None:
        """In the main thread of a worker, whatever it has inherited; it says whether it could be."""
        before = signal.getsignal(signal.SIGTERM)
        found = [install_shutdown()]
        assert signal.getsignal(signal.SIGTERM) is not before
        elsewhere = threading.Thread(target=lambda: found.append(install_shutdown()))
        elsewhere.start()
        elsewhere.join(BOUND)
        with override_settings(STREAMGUARD={"SHUTDOWN_GRACE": None}):
            found.append(install_shutdown())
        assert found == [True, False, False]


class TestWSGI:
    """Threads that carry streams."""

    def test_a_blocked_producer_is_ended(self) -> None:
        """The provider's connection is closed by the cut; the reader's thread says why, and the request is over."""
        blocked, closed = threading.Event(), threading.Event()

        def silent() -> Iterator[str]:
            yield "word "
            scope = current_scope()
            assert scope is not None
            assert scope.session is not None
            scope.session.on_close(closed.set)
            blocked.set()
            assert closed.wait(BOUND)
            raise ConnectionError

        with project(sync_view_of(silent), SHUTDOWN_GRACE=0) as made:
            server = WSGIServer(made.wsgi())
            server.read()
            ends: list[bytes] = []
            reading = threading.Thread(target=lambda: ends.append(server.read_to_end()))
            reading.start()
            assert blocked.wait(BOUND)
            told()
            reading.join(BOUND)
            assert b'"cause":"SHUTDOWN"' in ends[0]
            assert made.wait()[0].cause is Cause.SHUTDOWN

    @pytest.mark.parametrize("ping", [None, 15.0], ids=["in its thread", "on a loop"])
    def test_the_response_is_not_closed_before_its_receipt_is_durable(self, ping: Any) -> None:
        """A server goes when its requests are over: not before what they cost is kept."""
        ledger = SlowLedger()
        view = sync_view_of(words, ping=ping)
        with project(view, LEDGER=ledger, SHUTDOWN_GRACE=0, CLOSE_TIMEOUT=BOUND) as made:
            server = WSGIServer(made.wsgi())
            server.read()
            told()
            ending = threading.Thread(target=server.read_to_end)
            ending.start()
            made.wait()
            ending.join(0.05)
            assert ending.is_alive()
            ledger.writing[0].set_result(None)
            ending.join(BOUND)
            assert not ending.is_alive()

    @pytest.mark.parametrize("cause", [Cause.SHUTDOWN, Cause.CONSUMER_STALLED])
    def test_a_reader_that_takes_nothing_is_given_up(self, cause: Cause) -> None:
        """Where the server shows the socket, it is broken off under the write that a frozen reader blocks."""
        mine, readers = socket.socketpair()
        stall = {"consumer_stall": 0.02} if cause is Cause.CONSUMER_STALLED else {}
        view = sync_view_of(words)
        with mine, readers, project(view, SHUTDOWN_GRACE=0, DEADLINES=stall) as made:
            readers.settimeout(BOUND)
            server = WSGIServer(made.wsgi(), **{"gunicorn.socket": mine})
            server.read()  # and now the server writes, for ever
            if cause is Cause.SHUTDOWN:
                told()
            assert readers.recv(1) == b""
            with pytest.raises(BrokenPipeError):
                mine.send(b"word")
            server.leave()
            assert made.wait()[0].cause is cause

    def test_what_comes_after_a_request_is_not_broken_off(self) -> None:
        """A server may keep the connection, and answer the next request on it."""
        mine, readers = socket.socketpair()
        watcher, scope = SocketWatcher(), RequestScope(asgi=False)
        with mine, readers:
            scope.finish()
            watcher.break_off(mine, scope)
            assert mine.send(b"word") == len(b"word")
            later = RequestScope(asgi=False)
            watcher.break_off(mine, later)
            with pytest.raises(BrokenPipeError):
                mine.send(b"word")
            mine.close()
            watcher.break_off(mine, later)

    def test_a_call_outside_of_a_stream_is_waited_for_as_well(self) -> None:
        """A view that asks a model and answers whole: its receipt is kept before the process goes."""
        ledger = SlowLedger()

        def view(request: Any) -> Any:
            call = request.streamguard.new_stream()
            call.start()
            request.streamguard.add(call)
            told()
            call.ended()
            threading.Timer(0.05, ledger.writing[0].set_result, [None]).start()
            return HttpResponse("a whole answer")

        with project(view, LEDGER=ledger, SHUTDOWN_GRACE=600, CLOSE_TIMEOUT=BOUND) as made:
            app = made.wsgi()
            server = WSGIServer(app)
            assert ledger.writing[0].done()
            assert server.read_to_end() == b"a whole answer"

    def test_without_a_signal_nothing_is_waited_for(self) -> None:
        """A ledger that is slow costs no request anything."""
        ledger = SlowLedger()
        with project(sync_view_of(words), LEDGER=ledger) as made:
            server = WSGIServer(made.wsgi())
            server.read()
            server.leave()
            shutdown = deploys()
            assert shutdown is not None
            assert shutdown.live == 1, "it is known until it is durable"
            ledger.writing[0].set_result(None)
            assert shutdown.live == 0

    def test_after_the_signal_nothing_is_begun(self) -> None:
        """Its reader hears at once that he has to come back."""
        with project(sync_view_of(words), SHUTDOWN_GRACE=600) as made:
            app = made.wsgi()
            server = WSGIServer(app)
            server.read()
            told()
            assert b'"cause":"SHUTDOWN"' in WSGIServer(app).read_to_end()
            assert b"word" in server.read(), "what runs has its grace"
            server.leave()
            assert made.wait(2)[0].committed == 0

    def test_an_answer_without_a_stream_is_what_it_was(self) -> None:
        """A request without a model is none of a shutdown's business."""
        scopes: list[Scope | None] = []

        def view(request: Any) -> Any:
            scopes.append(current_scope())
            return HttpResponse("as ever")

        with project(view) as made:
            app = made.wsgi()
            told()
            assert WSGIServer(app).read_to_end() == b"as ever"
        assert scopes[0] is not None
        assert scopes[0].ended is None
