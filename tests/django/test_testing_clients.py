"""The test clients for users: streams read part by part and left, over ASGI and over WSGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.signals import request_finished
from django.db import close_old_connections
from django.http import HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path
from django.views.decorators.csrf import csrf_protect

from streamguard_core import Cause
from streamguard_django import GuardedStreamingHttpResponse
from streamguard_django.testing import AsyncStreamClient, StreamClient, collect_receipts

from ..asgi.driver import Engine  # noqa: TID252 - one engine for both adapters
from .project import GUARD

pytestmark = [
    # Django forgets its copy of the body of a request whose response was not completed.
    pytest.mark.filterwarnings("ignore:Unclosed file <tempfile:ResourceWarning"),
    # It never closes a connection to a database in memory, also that of a request's thread; Python 3.13 says so.
    pytest.mark.filterwarnings("ignore:unclosed database in <sqlite3:ResourceWarning"),
]

SESSIONS = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]


def serving(view: Any, *middleware: str) -> Any:
    """Settings of a project with one view."""
    return override_settings(
        ROOT_URLCONF=(path("words", view),),
        MIDDLEWARE=[GUARD, *middleware],
        STREAMGUARD={"MIRROR": False},
    )


class Words:
    """A sync producer that counts what it has made."""

    def __init__(self, count: int = 100) -> None:
        self.count, self.made = count, 0

    def stream(self) -> Iterator[str]:
        """The words."""
        while self.made < self.count:
            self.made += 1
            yield f"word{self.made} "


async def test_a_stream_is_read_part_by_part_and_left() -> None:
    """The engine is never more than one part ahead, and is let go when the reader leaves."""
    engine = Engine(1000)

    async def view(request: Any) -> Any:
        return StreamingHttpResponse(engine.stream())

    with serving(view), collect_receipts() as receipts:
        async with AsyncStreamClient().stream("get", "/words") as response:
            assert [await response.read(), await response.read()] == [b"token1 ", b"token2 "]
            response.leave()
        receipt = await receipts.aonly()
    assert response.status_code == 200
    assert engine.closed
    assert engine.generated <= 3
    assert receipt.cause is Cause.CLIENT_DISCONNECT


async def test_the_end_of_the_block_leaves() -> None:
    """Who does not read on has left; also before the response has begun."""
    begun = asyncio.Event()

    async def view(request: Any) -> Any:
        request.streamguard.new_stream().start()
        begun.set()
        await asyncio.Event().wait()

    with serving(view):
        async with AsyncStreamClient().stream("get", "/words"):
            await begun.wait()


async def test_a_whole_response_is_read_with_its_events() -> None:
    """Head, parts, end, and the events as a page reads them."""

    async def view(request: Any) -> Any:
        return GuardedStreamingHttpResponse(Words(2).stream())

    with serving(view), collect_receipts() as receipts:
        async with AsyncStreamClient().stream("get", "/words") as response:
            assert await response.begun() == 200
            assert b"word2" in await response.read_until(b"word2")
            whole = await response.read_to_end()
            assert await response.read() == b""
        assert (await receipts.aonly()).cause is Cause.COMPLETED
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert [name for name, _ in response.events] == ["message", "message", "eos"]
    assert whole == response.content


def test_a_stream_is_read_part_by_part_over_wsgi() -> None:
    """Nothing is made before it is asked for; leaving closes the response."""
    words = Words()
    with serving(lambda request: StreamingHttpResponse(words.stream())):
        with collect_receipts() as receipts, StreamClient().stream("get", "/words") as response:
            assert response.read_until(b"word2") == b"word1 word2 "
            assert words.made == 2
        assert receipts.only().cause is Cause.CLIENT_DISCONNECT
    assert response.status_code == 200
    assert response.closed


def test_a_whole_response_is_read_over_wsgi() -> None:
    """To the end, with its headers; a read at the end is empty."""
    with (
        serving(lambda request: GuardedStreamingHttpResponse(Words(2).stream())),
        StreamClient().stream("get", "/words") as response,
    ):
        assert response.read_to_end().endswith(b"\n\n")
        assert (response.read(), response.closed) == (b"", True)
    assert response.headers["content-type"].startswith("text/event-stream")


def _said(request: Any) -> Any:
    """What a view knows of its request."""
    user = request.user.username if hasattr(request, "user") else ""
    said = [request.method, request.get_full_path(), request.headers.get("x-tenant", ""), user]
    return HttpResponse(" ".join([*said, request.body.decode()]))


async def test_requests_are_djangos_own_over_asgi() -> None:
    """Query, headers, JSON."""
    client = AsyncStreamClient()
    with serving(_said):
        async with client.stream("get", "/words?a=1", headers={"x-tenant": "acme"}) as response:
            assert await response.read_to_end() == b"GET /words?a=1 acme  "
        async with client.stream(
            "POST", "/words", {"a": 1}, content_type="application/json", headers={"x-tenant": "b"}
        ) as response:
            assert b'b  {"a": 1}' in await response.read_to_end()


def test_requests_are_djangos_own_over_wsgi() -> None:
    """The same over WSGI, and headers of the client."""
    client = StreamClient(headers={"x-tenant": "acme"})
    with serving(_said):
        with client.stream("get", "/words", {"a": 1}) as response:
            assert response.read_to_end() == b"GET /words?a=1 acme  "
        with client.stream("post", "/words", {"a": 1}, content_type="application/json") as response:
            assert response.read_to_end().endswith(b'{"a": 1}')


@pytest.mark.django_db(transaction=True)
async def test_who_is_logged_in_streams_as_himself() -> None:
    """The logins of Django's client hold for streams, and no connection of the test is closed."""
    client = AsyncStreamClient()
    user = await User.objects.acreate_user("ada")
    with serving(_said, *SESSIONS):
        await client.aforce_login(user)
        async with client.stream("get", "/words") as response:
            assert b" ada " in await response.read_to_end()
    assert await User.objects.acount() == 1


@pytest.mark.django_db
def test_who_is_logged_in_streams_as_himself_over_wsgi() -> None:
    """The same over WSGI, in a test's transaction."""
    client = StreamClient()
    client.force_login(User.objects.create_user("ada"))
    with serving(_said, *SESSIONS), client.stream("get", "/words") as response:
        assert b" ada " in response.read_to_end()
    assert User.objects.count() == 1


@pytest.mark.parametrize(("enforced", "status"), [(False, 200), (True, 403)])
async def test_posts_need_a_token_only_on_demand(enforced: bool, status: int) -> None:
    """As with Django's clients: `enforce_csrf_checks`."""
    with serving(csrf_protect(_said)):
        client = AsyncStreamClient(enforce_csrf_checks=enforced)
        async with client.stream("post", "/words", {"a": 1}) as response:
            assert await response.begun() == status
        sync = StreamClient(enforce_csrf_checks=enforced)
        with sync.stream("post", "/words", {"a": 1}) as answered:
            assert answered.status_code == status


async def test_a_response_that_breaks_off_says_so() -> None:
    """What the application raises is raised by the read, once, and not again at the end of the block."""

    async def view(request: Any) -> Any:
        async def failing() -> AsyncIterator[str]:
            yield "a"
            raise ZeroDivisionError

        return StreamingHttpResponse(failing())

    with serving(view), collect_receipts() as receipts:
        async with AsyncStreamClient().stream("get", "/words") as response:
            assert await response.read() == b"a"
            with pytest.raises(ZeroDivisionError):
                await response.read()
        with pytest.raises(ZeroDivisionError):
            async with AsyncStreamClient().stream("get", "/words") as response:
                await response.begun()
        assert len(await receipts.asettle(2)) == 2


async def test_what_does_not_come_is_said() -> None:
    """An end without the words that were waited for is shown."""
    with serving(lambda request: HttpResponse(b"other words")):
        async with AsyncStreamClient().stream("get", "/words") as response:
            with pytest.raises(AssertionError, match="b'mine' did not come; the end was b'other"):
                await response.read_until(b"mine")
        answered = StreamClient().stream("get", "/words")
        with answered as response, pytest.raises(AssertionError, match="b'mine' did not come"):
            response.read_until(b"mine")


async def test_an_application_that_goes_on_without_its_reader_is_said() -> None:
    """What does not answer in time, and does not return when its reader has left, holds no test."""

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def left() -> None:
        async with AsyncStreamClient(stubborn, timeout=0.05).stream("get", "/") as response:
            with pytest.raises(TimeoutError):
                await response.begun()

    with pytest.raises(AssertionError, match="does not return after its reader left"):
        await left()


def test_connections_are_looked_after_again_afterwards() -> None:
    """What is switched off for a response is on again after the last of them."""

    def looked_after() -> bool:
        on = request_finished.disconnect(close_old_connections)
        if on:
            request_finished.connect(close_old_connections)
        return bool(on)

    assert looked_after()
    with serving(_said), StreamClient().stream("get", "/words"):
        assert not looked_after()
    assert looked_after()
