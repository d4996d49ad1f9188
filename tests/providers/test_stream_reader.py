"""`StreamReader` against a real server: reads, comes back, acknowledges, stops, and says what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from streamguard_core import UsageError
from streamguard_providers import ReadFailure, StreamReader, StreamReadError

from ..asgi.driver import BOUND  # noqa: TID252 - one bound for all servers
from ..asgi.test_servers import serve  # noqa: TID252 - one server for both ends
from ..examples.reader_app import STALL, make_app  # noqa: TID252 - one application for both readers


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server whose streams are acknowledged."""
    async with serve(make_app(), "h11") as (_, url), httpx.AsyncClient(base_url=url) as client:
        yield client


def reader_of(client: httpx.AsyncClient, path: str, **options: Any) -> StreamReader:
    """A reader that acknowledges."""
    return StreamReader(client, path, **({"streams": "/streams"} | options))


async def texts(reader: StreamReader) -> list[str]:
    """Read to the end."""
    return [event.text async for event in reader]


async def receipt_of(client: httpx.AsyncClient, reader: StreamReader) -> Any:
    """Wait for it."""
    async with asyncio.timeout(STALL + BOUND):
        while not (said := (await client.get(f"/receipts/{reader.stream_id}")).json()):  # noqa: ASYNC110 - a server is asked
            await asyncio.sleep(0.01)
    return said


def words(count: int) -> list[str]:
    """What the application streams."""
    return [f"{number} " for number in range(count)]


async def test_it_reads_to_the_end_and_acknowledges_everything(client: httpx.AsyncClient) -> None:
    """The receipt counts what the reader has, in fewer requests than chunks."""
    asked: list[str] = []

    async def note(request: httpx.Request) -> None:
        asked.append(request.url.path)

    client.event_hooks = {"request": [note]}
    async with reader_of(client, "/words?count=150&pace=0.005") as reader:
        assert await texts(reader) == words(150)
    client.event_hooks = {}
    assert reader.end is not None
    assert (reader.end["cause"], reader.end["committed"]) == ("COMPLETED", 150)
    assert await receipt_of(client, reader) == {"cause": "COMPLETED", "consumed": 150}
    assert 1 <= sum("acknowledged" in path for path in asked) < 50


async def test_a_reader_that_freezes_is_cut_off(client: httpx.AsyncClient) -> None:
    """It asks for no more; what it took is what it had said."""
    async with reader_of(client, "/bounded?count=100000&pace=0.01") as reader:
        events = aiter(reader)
        for _ in range(10):
            await anext(events)
        receipt = await receipt_of(client, reader)
    assert receipt == {"cause": "CONSUMER_STALLED", "consumed": 9}


async def test_a_reader_that_does_not_acknowledge(client: httpx.AsyncClient) -> None:
    """It is a reader as always, with or without the address where it could."""
    for options in ({"acknowledge": False}, {"streams": None}):
        async with reader_of(client, "/words?count=5", **options) as reader:
            assert await texts(reader) == words(5)
        assert (await receipt_of(client, reader))["consumed"] == 5
        # A stop that comes too late is heard, and changes nothing.
        assert await reader.stop() is ("streams" not in options)


async def test_it_comes_back_and_misses_nothing(client: httpx.AsyncClient) -> None:
    """A connection that breaks is taken up where it was; the count goes on over both."""
    async with reader_of(client, "/kept?count=60&pace=0.005&break=20") as reader:
        assert await texts(reader) == words(60)
    assert await receipt_of(client, reader) == {"cause": "COMPLETED", "consumed": 60}
    async with reader_of(client, "/kept", last_event_id=reader.last_event_id) as again:
        assert await texts(again) == []
    assert again.end == {}


async def test_another_reader_goes_on(client: httpx.AsyncClient) -> None:
    """The id of the last event is enough; the older reader is told that it was superseded."""
    async with reader_of(client, "/kept?count=200&pace=0.005") as first:
        events = aiter(first)
        had = [(await anext(events)).text for _ in range(10)]
        async with reader_of(client, "/kept", last_event_id=first.last_event_id) as second:
            assert had + await texts(second) == words(200)
        with pytest.raises(StreamReadError) as failed:
            async for _ in events:
                pass
    assert failed.value.failure is ReadFailure.SUPERSEDED
    assert second.stream_id == first.stream_id


async def test_stop_is_authority_and_leaving_is_not(client: httpx.AsyncClient) -> None:
    """`stop()` ends the stream as its reader's wish, with an end that is read; leaving the block leaves."""
    async with reader_of(client, "/words?count=100000&pace=0.005") as reader:
        count = 0
        async for _ in reader:
            count += 1
            if count == 10:
                assert await reader.stop()
    assert reader.end is not None
    assert await receipt_of(client, reader) == {"cause": "USER_CANCEL", "consumed": count}
    async with reader_of(client, "/words?count=100000&pace=0.005") as left:
        async for _ in left:
            break
    assert left.end is None
    assert (await receipt_of(client, left))["cause"] == "CLIENT_DISCONNECT"


@pytest.mark.parametrize(
    ("path", "options", "failure", "status"),
    [
        ("/nothing", {}, ReadFailure.REFUSED, 404),
        ("/kept", {"last_event_id": "unknown.0:3"}, ReadFailure.REFUSED, 421),
        ("http://127.0.0.1:9/", {}, ReadFailure.UNREACHABLE, None),
        ("/words?count=50&pace=0.005&break=10", {}, ReadFailure.LOST, None),
        (
            "http://127.0.0.1:9/",
            {"last_event_id": "a.b:3", "patience": 0.01},
            ReadFailure.LOST,
            None,
        ),
    ],
)
async def test_what_is_wrong_is_said(
    client: httpx.AsyncClient, path: str, options: Any, failure: ReadFailure, status: int | None
) -> None:
    """As a failure, with the status and the server's own words where it has some."""
    async with reader_of(client, path, **options) as reader:
        with pytest.raises(StreamReadError) as failed:
            await texts(reader)
    assert (failed.value.failure, failed.value.status) == (failure, status)
    if status is not None:
        assert failed.value.detail


async def test_outside_of_its_block(client: httpx.AsyncClient) -> None:
    """There is nothing that would close the connection."""
    with pytest.raises(UsageError, match="async with"):
        aiter(reader_of(client, "/words"))


async def test_a_server_that_stops_listening_is_not_waited_for_long() -> None:
    """The last word is given up on after a moment, and no task is left behind."""
    before = asyncio.all_tasks()
    async with httpx.AsyncClient() as client, serve(make_app(), "h11") as (server, url):
        streams = "http://127.0.0.1:9/streams"
        async with StreamReader(client, f"{url}/words?count=3", streams=streams) as reader:
            assert await texts(reader) == words(3)
            assert not await reader.stop()
        await server.shutdown()
    assert asyncio.all_tasks() == before
