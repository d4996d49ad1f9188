"""What an application's own iterator is asked in: its scope, whoever asks; and what is made of its items."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from django.http import StreamingHttpResponse
from django.test import AsyncRequestFactory
from django.utils.decorators import async_only_middleware

from streamguard_core import Cause, current_scope
from streamguard_django import GuardedStreamingHttpResponse, stream_sealed
from streamguard_django.scope import RequestScope

from ..asgi.driver import Server, causes, eventually  # noqa: TID252 - one server for both adapters
from .project import GUARD, project
from .test_asgi_streams import DJANGOS_OWN


@async_only_middleware
def stepped_elsewhere(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A middleware that asks for each item in a task with a context of its own, as one with a timeout may."""

    async def middleware(request: Any) -> Any:
        response = await get_response(request)
        response.streaming_content = _elsewhere(response.streaming_content)
        return response

    return middleware


async def _elsewhere(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    while True:
        asking = _asked(content)
        item = await loop.create_task(asking, context=contextvars.Context())
        if item is None:
            return
        yield item


async def _asked(content: AsyncIterator[bytes]) -> bytes | None:
    return await anext(content, None)


async def test_every_step_is_in_the_scope_whoever_asks() -> None:
    """A provider that is called in a later step is the request's, too."""
    seen: list[Any] = []
    scopes: list[Any] = []

    async def stream() -> AsyncIterator[str]:
        for item in "abc":
            seen.append(current_scope())
            yield item

    async def view(request: Any) -> Any:
        scopes.append(request.streamguard)
        return StreamingHttpResponse(stream())

    with project(view, [f"{__name__}.stepped_elsewhere", GUARD]) as made:
        assert (await Server(made.asgi()).run()).text == "abc"
    assert seen == scopes * 3


async def _read_up(response: Any) -> None:
    assert [item async for item in response] == [b"a", b"b"]


async def _fail(response: Any) -> None:
    with pytest.raises(ValueError, match="mine"):
        [item async for item in response]


async def _leave(response: Any) -> None:
    await anext(aiter(response))
    response.close()


async def _leave_content(response: Any) -> None:
    content = aiter(response.streaming_content)
    await anext(content)
    await vars(response)["_iterator"].aclose()


async def _cancel(response: Any) -> None:
    content = aiter(response)
    await anext(content)
    await anext(content)
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await anext(content)
    except asyncio.CancelledError:
        task.uncancel()


@pytest.mark.parametrize("way", [_read_up, _fail, _leave, _leave_content, _cancel])
async def test_who_iterates_a_response_is_outside_again(
    way: Callable[[Any], Awaitable[None]],
) -> None:
    """The context that has asked for items is where it was, however that ended."""

    async def stream() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        if way is _fail:
            raise ValueError("mine")
        if way is _cancel:
            await asyncio.Event().wait()

    with project(stream) as made:
        request = AsyncRequestFactory().get("/")
        response = GuardedStreamingHttpResponse(stream(), request=request, media_type="text/html")
        await way(response)
        assert current_scope() is None
        response.close()
        await eventually(lambda: made.receipts)


class _Louder(StreamingHttpResponse):
    """A response of an application that makes its bytes itself."""

    def make_bytes(self, value: Any) -> bytes:
        return bytes(super().make_bytes(value)).upper()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda items: StreamingHttpResponse(items, charset="latin-1"), "a é 1 b".encode("latin-1")),
        (lambda items: StreamingHttpResponse(items, content_type="text/plain; charset=utf-16-le"),
         "a é ".encode("utf-16-le") + "1".encode("utf-16-le") + b" b"),
        (_Louder, b"A \xc3\xa9 1 B"),
    ],
    ids=["charset", "content-type", "own-bytes"],
)  # fmt: skip
async def test_items_are_made_bytes_as_django_makes_them(
    make: Callable[[Any], Any], expected: bytes
) -> None:
    """Texts in the response's charset, bytes as they are, anything else as its text."""

    async def stream() -> AsyncIterator[Any]:
        for item in ("a é ", 1, b" b"):
            yield item

    async def view(request: Any) -> Any:
        return make(stream())

    with project(view) as made:
        unguarded = project(view, [])
        guarded = b"".join((await Server(made.asgi()).run()).bodies)
    with unguarded as bare:
        assert b"".join((await Server(bare.asgi()).run()).bodies) == guarded == expected


@DJANGOS_OWN
async def test_an_item_that_cannot_be_sent_is_the_applications_error() -> None:
    """G14: the provider has done its part; the response fails as it does unguarded."""

    async def stream() -> AsyncIterator[str]:
        yield "a"
        yield "é"

    async def view(request: Any) -> Any:
        return StreamingHttpResponse(stream(), charset="ascii")

    with project(view) as made:
        server = Server(made.asgi())
        with pytest.raises(UnicodeEncodeError):
            await server.run()
        assert not server.complete
        await eventually(lambda: made.receipts)
    assert causes(made.receipts) == [Cause.CONSUMER_ERROR]


async def test_nobody_who_listens_costs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt that nobody is told of is told in no thread."""
    # The application with the models listens.
    monkeypatch.setattr(stream_sealed, "receivers", [])
    told: list[Any] = []
    monkeypatch.setattr(RequestScope, "_tell", lambda self, receipt: told.append(receipt))
    scopes: list[Any] = []

    async def stream() -> AsyncIterator[str]:
        yield "a"

    async def view(request: Any) -> Any:
        scopes.append(request.streamguard)
        return StreamingHttpResponse(stream())

    with project(view, ON_RECEIPT=None) as made:
        await Server(made.asgi()).run()
    assert scopes[0].sessions[0].sealed is not None
    assert told == []
