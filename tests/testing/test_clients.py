"""Raw readers read only when told to, keep what was not asked for, and say how a body ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from streamguard_testing import LoopbackEngine, RawClient, free_port

Serve = Callable[[bytes], AbstractAsyncContextManager[str]]


@pytest.fixture
def serve() -> Serve:
    """Return a function that runs a server which sends these bytes to everybody, and closes."""

    @asynccontextmanager
    async def serving(data: bytes) -> AsyncIterator[str]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    return serving


SSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    b": hello\r\n\r\ndata: one\r\ndata: two\r\n\r\nevent: x\r\n\r\ndata:three\r\n\r\ndata: cut"
)


async def test_events_of_sse(serve: Serve) -> None:
    """Events are read with CRLF or LF; comments and events without data do not count."""
    async with serve(SSE) as url, await RawClient.open(url) as client:
        assert await client.read_until(1) == ["one\ntwo"]
        assert await client.read_until(5) == ["three"]
        assert await client.read_some() == b"data: cut"


async def test_lines_of_ndjson(serve: Serve) -> None:
    """Anything else is lines, of which blank ones do not count; what is left over is kept."""
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\na\n\nb\nc\nd"
    async with serve(data) as url, await RawClient.open(url) as client:
        assert await client.read_until(2) == ["a", "b"]
        assert await client.read_until(2) == ["c"]
        assert await client.read_to_end() == b"d"
        assert (client.complete, client.truncated) == (True, False)


async def test_truncated(serve: Serve) -> None:
    """A body that ends before HTTP says so is truncated, not complete."""
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"
    async with serve(data) as url, await RawClient.open(url) as client:
        assert await client.read_head() == 200
        assert client.headers["content-length"] == "9"
        assert await client.read_to_end() == b"abc"
        assert client.truncated


async def test_no_response_at_all(serve: Serve) -> None:
    """A connection that ends before the head has the status 0."""
    async with serve(b"") as url, await RawClient.open(url) as client:
        assert await client.read_head() == 0
        assert client.truncated


async def test_leaving_once() -> None:
    """A reader leaves once, and does not read after that; a half-closed one still may do both."""
    async with LoopbackEngine() as engine:
        async with await RawClient.open(engine.url, path="/_engine/health") as client:
            await client.read_head()
            client.leave("half_close")
            states = [client.closed]
            client.leave("close")
            assert [*states, client.closed] == [False, True]
            with pytest.raises(ConnectionError, match="has left"):
                client.leave()
        client = await RawClient.open(engine.url, path="/_engine/health")
        client.leave("reset")
        with pytest.raises(ConnectionError, match="has left"):
            await client.read_some()


async def test_there_are_three_ways_to_leave() -> None:
    """A way to leave that does not exist is refused, and the reader stays."""
    async with (
        LoopbackEngine() as engine,
        await RawClient.open(engine.url, path="/_engine/health") as client,
    ):
        with pytest.raises(ValueError, match="quietly"):
            client.leave("quietly")
        assert await client.read_head() == 200


async def test_reading_is_bounded() -> None:
    """A reader does not wait for ever."""
    async with LoopbackEngine(first_token_delay=60.0) as engine:
        body = {"model": "m", "prompt": "x"}
        async with await RawClient.open(
            engine.url, "POST", "/api/generate", body, timeout=0.05
        ) as client:
            with pytest.raises(TimeoutError, match=r"nothing came to this reader for 0.05 s"):
                await client.read_some()


async def test_nobody_there() -> None:
    """Connecting where nobody listens raises, and leaves no socket open."""
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await RawClient.open(f"http://127.0.0.1:{free_port()}")


async def test_path_of_the_url_comes_first() -> None:
    """The path is put behind that of the URL; a body may be bytes."""
    async with LoopbackEngine() as engine:
        async with await RawClient.open(engine.openai_url, path="/models") as client:
            assert b'"loopback"' in await client.read_to_end()
        async with await RawClient.open(
            engine.url, "POST", "/api/generate", b'{"model":"m"}'
        ) as client:
            assert b'"load"' in await client.read_to_end()
