"""The private corners of httpx that are looked into are where they are looked for; all are optional."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamguard_core import Scope, use_scope
from streamguard_providers import GuardedAsyncTransport, OpenAIProducer
from streamguard_providers import _httpx as corners

from .recorder import Recorder
from .scripted_server import OK, Answer, chunked, head, scripted
from .waiting import outcome
from .wire import DONE, token


async def test_a_connection_of_the_pool_is_found(library: Any) -> None:
    """The connection that will carry a request is known before anything is written, new or reused."""
    found: list[object] = []
    transport = library.AsyncHTTPTransport()

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event == "http11.send_request_headers.started":
            connection = corners.connection_of(transport, info["request"])
            found.append(corners.network_of(connection))

    client = library.AsyncClient(transport=transport)
    async with scripted(*[Answer(OK, then="next")] * 2) as server, client:
        for _ in range(2):
            response = await client.get(server.url, extensions={"trace": trace})
            assert found[-1] is response.extensions["network_stream"]
            assert corners.transport_for(client, response.request) is transport
    assert len(found) == 2
    assert found[0] is found[1]


async def test_a_sync_pool_dials_as_it_is_told(library: Any) -> None:
    """The backend of a plain sync transport can be wrapped."""
    transport = library.HTTPTransport()
    wrapped: list[object] = []

    def wrap(backend: object) -> object:
        wrapped.append(backend)
        return backend

    corners.dial_with(transport, wrap)
    assert hasattr(wrapped[0], "connect_tcp")
    corners.dial_with(object(), wrap)
    assert len(wrapped) == 1
    transport.close()


async def test_what_waits_in_h11_is_seen(library: Any) -> None:
    """After one HTTP chunk was read it is known whether the next one, or the end, is here already."""
    body = head() + chunked(b"one", b"two", end=True)
    async with (
        scripted(
            Answer(body, then="next"), Answer(head() + chunked(b"one") + b"8\r\nhal")
        ) as server,
        library.AsyncClient() as client,
    ):
        seen = []
        async with client.stream("GET", server.url) as response:
            connection = corners.connection_behind(response)
            assert connection is not None
            async for _ in response.aiter_raw():
                seen.append(corners.more_is_here(connection))  # noqa: PERF401 - in turn
        assert seen == [True, True]
        async with client.stream("GET", server.url) as response:
            connection = corners.connection_behind(response)
            await anext(response.aiter_raw())
            assert corners.more_is_here(connection) is False


class Hidden:
    """A response or transport of a version that keeps nothing where we look."""

    def __init__(self) -> None:
        self.stream = object()


def test_nothing_is_needed() -> None:
    """Where a version hides these things elsewhere, the answer is that they cannot be told."""
    nothing = Hidden()
    assert corners.connection_of(nothing, nothing) is None
    assert corners.network_of(nothing) is None
    assert corners.transport_for(nothing, nothing) is None
    assert corners.connection_behind(nothing) is None
    assert corners.more_is_here(nothing) is False
    assert corners.reset_stream(nothing, 1) is False


async def test_works_without_the_corners(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of them hidden, a call from the pool is still cut off, and a producer still reads."""
    monkeypatch.setattr("streamguard_providers.calls.connection_of", lambda *_: None)
    monkeypatch.setattr("streamguard_providers.reading.connection_behind", lambda _: None)
    answers = [
        Answer(OK, then="next"),
        Answer(),
        Answer(head() + chunked(token("a"), token("b", "stop"), DONE, end=True), then="next"),
    ]
    async with scripted(*answers) as server:
        transport = GuardedAsyncTransport()
        async with library.AsyncClient(transport=transport, timeout=None) as client:
            scope = Scope()
            with use_scope(scope):
                await client.get(server.url)
                server.received.clear()
                task = asyncio.create_task(outcome(client.get(server.url)))
            await server.received.wait()
            scope.disconnected()
            assert isinstance(await task, library.ReadError)
            await server.left()
        report = Recorder()
        producer = OpenAIProducer("m", prompt="a", base_url=server.url)
        async for batch in producer.stream(report=report):
            report.chunks += batch
        assert report.chunks == ["a", "b"]
