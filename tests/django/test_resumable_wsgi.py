"""Resumable views under WSGI: the stream lives on a loop in a thread, and each connection in one of the server's."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIRequest

from streamguard_core import Cause, SyncStreamSession, UsageError
from streamguard_django import GuardedStreamingHttpResponse

from ..adapters.resuming import ids, tokens  # noqa: TID252 - one rig for all adapters
from ..asgi.driver import causes  # noqa: TID252 - one server for both adapters
from .project import BOUND
from .resuming import WSGIReader, end_of, post_wsgi, resuming
from .test_wsgi_streams import Connection


class Blocking:
    """A provider that blocks until the test lets it make a token; as a sync iterator or an async one."""

    def __init__(self, allowed: int) -> None:
        self._allowed = threading.Semaphore(allowed)
        self._over = False
        self.generated = 0
        self.calls = 0
        self.closed = threading.Event()

    def make(self, count: int = 1) -> None:
        """Make so many more."""
        self._allowed.release(count)

    def finish(self) -> None:
        """Come to the end."""
        self._over = True
        self._allowed.release()

    def stream(self) -> Generator[str, None, None]:
        """The tokens."""
        self.calls += 1
        try:
            while self._allowed.acquire(timeout=3 * BOUND) and not self._over:
                self.generated += 1
                yield f"token{self.generated} "
        finally:
            self.closed.set()

    async def astream(self) -> Any:
        """The same as an async generator, which runs on the loop in a thread."""
        import asyncio

        steps = self.stream()
        try:
            while (token := await asyncio.to_thread(next, steps, None)) is not None:
                yield token
        finally:
            steps.close()

    def view(self, request: Any) -> GuardedStreamingHttpResponse:
        """A sync view of the sync iterator."""
        return GuardedStreamingHttpResponse(self.stream())

    def view_of_async(self, request: Any) -> GuardedStreamingHttpResponse:
        """A sync view of the async iterator."""
        return GuardedStreamingHttpResponse(self.astream())

    async def async_view(self, request: Any) -> GuardedStreamingHttpResponse:
        """An async view, which Django runs on a loop of its own for as long as the view takes."""
        return GuardedStreamingHttpResponse(self.astream())


views = pytest.mark.parametrize("view", ["view", "view_of_async", "async_view"])


@views
def test_what_was_missed_is_sent_again(view: str) -> None:
    """From whatever event the reader got last: no gap, no repeat, one call, one receipt."""
    engine = Blocking(3)
    with resuming(getattr(engine, view)) as made:
        reader = WSGIReader(made.wsgi())
        last = reader.read_tokens(3)
        reader.leave()
        engine.make(2)
        again = WSGIReader(made.wsgi(), last)
        assert again.status_code == 200
        again.read_tokens(2)
        engine.finish()
        assert tokens(again.read_to_end().decode()) == ["token4 ", "token5 "]
        (receipt,) = made.wait()
        assert end_of(again.text)["cause"] == "COMPLETED"
        for _ in range(2):
            replayed = WSGIReader(made.wsgi(), last)
            assert tokens(replayed.read_to_end().decode()) == ["token4 ", "token5 "]
        assert WSGIReader(made.wsgi(), ids(again.text)[-1]).status_code == 204
    assert (receipt.cause, receipt.consumed, engine.calls) == (Cause.COMPLETED, 5, 1)


@views
def test_the_newest_connection_has_the_stream(view: str) -> None:
    """The thread that waits for the next token is woken, and its reader told."""
    engine = Blocking(1)
    with resuming(getattr(engine, view)) as made:
        old = WSGIReader(made.wsgi())
        last = old.read_tokens(1)
        waiting = threading.Thread(target=old.read_to_end)
        waiting.start()
        new = WSGIReader(made.wsgi(), last)
        waiting.join(BOUND)
        assert not waiting.is_alive()
        assert "event: superseded" in old.text
        engine.make(1)
        new.read_tokens(1)
        engine.finish()
        new.read_to_end()
        made.wait()
    assert (tokens(old.text), tokens(new.text)) == (["token1 "], ["token2 "])
    assert causes(made.receipts) == [Cause.COMPLETED]


@views
def test_the_stop_button(view: str) -> None:
    """The reader that waits in its thread gets its end at once; a stale wish is answered and changes nothing."""
    engine = Blocking(1)
    with resuming(getattr(engine, view)) as made:
        reader = WSGIReader(made.wsgi())
        name = reader.read_tokens(1).rpartition(":")[0]
        waiting = threading.Thread(target=reader.read_to_end)
        waiting.start()
        status, said = post_wsgi(made.wsgi(), f"/streams/{name}/stop")
        assert (status, said["stopped"], said["cause"]) == (200, True, "USER_CANCEL")
        waiting.join(BOUND)
        assert end_of(reader.text)["cause"] == "USER_CANCEL"
        engine.finish()  # it is in its read; nothing else can end that here
        made.wait()
        status, said = post_wsgi(made.wsgi(), f"/streams/{name}/stop")
        assert (status, said["stopped"], said["cause"]) == (200, False, "USER_CANCEL")
    assert causes(made.receipts) == [Cause.USER_CANCEL]


def test_the_window() -> None:
    """Who does not come back in time ends the stream, and is told so when he comes."""
    engine = Blocking(2)
    with resuming(engine.view_of_async, RESUME={"window": 0.02}) as made:
        reader = WSGIReader(made.wsgi())
        last = reader.read_tokens(2)
        reader.leave()
        engine.make()  # the read that is under way in its thread returns
        (receipt,) = made.wait()
        assert receipt.cause is Cause.CLIENT_DISCONNECT
        while (answer := WSGIReader(made.wsgi(), last)).status_code == 200:
            answer.read_to_end()
        assert (answer.status_code, b'"unknown"' in answer.read_to_end()) == (404, True)
    assert engine.calls == 1


def test_a_reader_who_has_got_nothing_but_his_first_id() -> None:
    """He may come back with it; and if he does not, the stream ends with the window."""
    engine = Blocking(0)
    with resuming(engine.view_of_async, RESUME={"window": 0.02}) as made:
        reader = WSGIReader(made.wsgi())
        assert reader.read().startswith(b"id: ")
        reader.leave()
        engine.finish()
        (receipt,) = made.wait()
    assert receipt.cause in {Cause.CLIENT_DISCONNECT, Cause.COMPLETED}
    assert [signal.cause for signal in receipt.history if signal.intent] == [
        Cause.CLIENT_DISCONNECT
    ]


@views
def test_a_second_connection_is_watched_too(view: str) -> None:
    """Its reader leaves while its thread waits for a token: the thread is freed, and the stream waits for him."""
    engine = Blocking(1)
    with resuming(getattr(engine, view)) as made, Connection() as connection:
        reader = WSGIReader(made.wsgi())
        last = reader.read_tokens(1)
        reader.leave()
        again = WSGIReader(made.wsgi(), last, **{"gunicorn.socket": connection.server})
        waiting = threading.Thread(target=again.read_to_end)
        waiting.start()
        connection.leave("close")
        waiting.join(BOUND)
        assert not waiting.is_alive()
        assert tokens(again.text) == []
        assert "eos" not in again.text
        engine.finish()
        third = WSGIReader(made.wsgi(), last)
        assert end_of(third.read_to_end().decode())["cause"] == "COMPLETED"
        made.wait()
    assert causes(made.receipts) == [Cause.COMPLETED]


def test_another_user_is_refused() -> None:
    """`owner` is asked in the request's own thread, where the ORM may be used."""
    threads: list[int] = []

    def owner(request: WSGIRequest) -> str:
        threads.append(threading.get_ident())
        user: str = request.META["HTTP_X_USER"]
        return user

    engine = Blocking(1)
    with resuming(engine.view, RESUME={"owner": owner}) as made:
        reader = WSGIReader(made.wsgi(), HTTP_X_USER="ann")
        last = reader.read_tokens(1)
        reader.leave()
        refused = WSGIReader(made.wsgi(), last, HTTP_X_USER="bob")
        assert (refused.status_code, b'"not_yours"' in refused.read_to_end()) == (403, True)
        name = last.rpartition(":")[0]
        assert post_wsgi(made.wsgi(), f"/streams/{name}/stop", HTTP_X_USER="bob")[0] == 403
        engine.finish()
        again = WSGIReader(made.wsgi(), last, HTTP_X_USER="ann")
        assert end_of(again.read_to_end().decode())["cause"] == "COMPLETED"
    assert set(threads) == {threading.get_ident()}


def test_a_session_that_its_reader_s_thread_runs_is_refused() -> None:
    """Nobody would run it while the reader is away: said at once, with what to do."""
    said: list[str] = []

    def view(request: Any) -> GuardedStreamingHttpResponse:
        with suppress(UsageError), SyncStreamSession(iter(["a"])) as session:
            try:
                return GuardedStreamingHttpResponse(session)
            except UsageError as error:
                said.append(str(error))
                raise
        return GuardedStreamingHttpResponse(iter(["token1 "]))

    with resuming(view) as made:
        WSGIReader(made.wsgi()).read_to_end()
        made.wait()
    assert "give the producer itself" in said[0]
