"""Readers whose connection breaks, on real sockets, under an ASGI server and a WSGI server: they miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Callable
from io import StringIO
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from streamguard_core import Cause, StreamSession
from streamguard_django import GuardedStreamingHttpResponse, get_guarded_asgi_application
from streamguard_providers import OpenAIProducer
from streamguard_testing import Leave, LoopbackEngine

from ..asgi.readers import SSEReader  # noqa: TID252 - one reader for both adapters
from ..asgi.test_servers import serve, within  # noqa: TID252 - one server for both adapters
from .project import BOUND, Project
from .resuming import resuming

LENGTH = 400


class _Threads(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that is gone is no news here."""


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Nothing."""

    def get_stderr(self) -> Any:
        """Not to the terminal: a reader that is gone is no news here."""
        return StringIO()


@contextlib.asynccontextmanager
async def threaded(app: Any) -> AsyncIterator[str]:
    """A WSGI server with a thread for each connection, on a free port."""
    with make_server("127.0.0.1", 0, app, _Threads, _Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            await asyncio.to_thread(server.shutdown)
            thread.join(BOUND)


@contextlib.asynccontextmanager
async def uvicorn(app: Any, http: str) -> AsyncIterator[str]:
    """uvicorn, with one of its protocols."""
    async with serve(app, http) as (_, url):
        yield url


SERVERS: dict[str, Callable[[Project], Any]] = {
    "uvicorn-h11": lambda made: uvicorn(made.asgi(), "h11"),
    "uvicorn-httptools": lambda made: uvicorn(made.asgi(), "httptools"),
    "uvicorn-guarded": lambda made: uvicorn(get_guarded_asgi_application(made.asgi()), "h11"),
    "wsgi-threads": lambda made: threaded(made.wsgi()),
}
everywhere = pytest.mark.parametrize("server", SERVERS)
views = pytest.mark.parametrize("is_async", [True, False], ids=["async-view", "sync-view"])


def view_of(make: Callable[[], Any], *, is_async: bool) -> Any:
    """A view that streams what `make` makes."""

    async def async_view(request: Any) -> GuardedStreamingHttpResponse:
        return GuardedStreamingHttpResponse(make())

    def view(request: Any) -> GuardedStreamingHttpResponse:
        return GuardedStreamingHttpResponse(make())

    return async_view if is_async else view


@views
@everywhere
async def test_fifty_reconnects(server: str, is_async: bool) -> None:
    """50 connections broken at random points: the text is the engine's, no gap, no repeat, one receipt, one call."""
    chance = random.Random(f"{server} {is_async}")
    async with LoopbackEngine(answer_tokens=LENGTH, interval=0.001) as engine:

        def ask() -> OpenAIProducer:
            return OpenAIProducer(
                "m", base_url=engine.openai_url, prompt="Tell me a story.", options={"seed": 7}
            )

        with resuming(view_of(ask, is_async=is_async), RESUME={"window": BOUND}) as made:
            async with SERVERS[server](made) as url:
                reader = SSEReader(url)
                for index, place in enumerate(sorted(chance.sample(range(1, LENGTH), 50))):
                    assert await reader.connect() == 200
                    assert not await reader.read(place)
                    reader.leave([Leave.CLOSE, Leave.RESET][index % 2])
                assert await reader.connect() == 200
                assert await reader.read(10 * LENGTH)
                reader.leave()
                await within(lambda: made.receipts)
        assert [request.generated for request in engine.requests] == [LENGTH]
        assert reader.text == "".join([str(chunk) async for chunk in StreamSession(ask())])
    numbers = [int(each.rpartition(":")[2]) for each in reader.ids]
    assert numbers == sorted(set(numbers))
    (receipt,) = made.receipts
    assert receipt.cause is Cause.COMPLETED
    # The last of it may have been sealed while the reader was away, and replayed to him afterwards.
    assert reader.eos["committed"] == receipt.committed == LENGTH
    assert {signal.cause for signal in receipt.history if signal.intent} <= {
        Cause.CLIENT_DISCONNECT
    }


@views
@everywhere
async def test_the_stop_button(server: str, is_async: bool) -> None:
    """It ends the stream at once, also at the provider; a second, stale wish is answered and changes nothing."""
    async with LoopbackEngine(answer_tokens=LENGTH, lead=2, interval=3600) as engine:

        def ask() -> OpenAIProducer:
            return OpenAIProducer("m", base_url=engine.openai_url, prompt="Tell me a story.")

        with resuming(view_of(ask, is_async=is_async)) as made:
            async with SERVERS[server](made) as url:
                reader = SSEReader(url)
                assert await reader.connect() == 200
                await reader.read(1)
                for stopped in (b'"stopped":true', b'"stopped":false'):
                    said = await reader.stop()
                    assert stopped in said
                    assert b"USER_CANCEL" in said
                assert await reader.read(LENGTH)
                reader.leave()
                assert reader.eos["cause"] == "USER_CANCEL"
                await within(lambda: made.receipts)
        assert [request.generated < LENGTH for request in engine.requests] == [True]
    (receipt,) = made.receipts
    assert receipt.cause is Cause.USER_CANCEL
