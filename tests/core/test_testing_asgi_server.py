"""Tests of the ASGI server of one request: what it shows of an application, and what it says of a bad one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamguard_core.testing import ASGIServer, run

START = {"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]}


class Words:
    """An application that sends words, and counts those that it has made."""

    def __init__(self, *words: bytes, end: bool = True) -> None:
        self.words, self.end = words, end
        self.made = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        for word in self.words:
            self.made += 1
            await send({"type": "http.response.body", "body": word, "more_body": True})
        if self.end:
            await send({"type": "http.response.body", "body": b""})


def test_a_paced_application_is_one_part_ahead_at_most() -> None:
    """What nobody asked for is not taken: after two parts, the third is made and waits."""

    async def main() -> None:
        words = Words(b"a", b"", b"b", *[b"c"] * 50)
        async with ASGIServer(words, paced=True) as server:
            assert [await server.read(), await server.read()] == [b"a", b"b"]
            for _ in range(20):
                await asyncio.sleep(0)
            assert words.made == 4
            server.leave()
            await server.ended()
        assert server.text == "ab"
        assert server.sent_after_leaving == 51

    run(main())


def test_an_unpaced_application_runs_ahead_and_is_read_to_its_end() -> None:
    """Everything is taken at once, and can be read afterwards; the end is an empty part, as often as asked."""

    async def main() -> list[bytes]:
        server = await ASGIServer(Words(b"a", b"b")).run()
        assert (server.status, server.headers) == (200, {"x": "y"})
        return [await server.read() for _ in range(4)]

    assert run(main()) == [b"a", b"b", b"", b""]


def test_an_application_that_ends_too_soon_is_told_of() -> None:
    """Who waits for what cannot come any more is told at once, and of what was sent."""

    async def main() -> None:
        async with ASGIServer(Words(b"a", end=False), paced=True) as server:
            assert await server.read() == b"a"
            with pytest.raises(AssertionError, match=r"did not come; it sent 'a'"):
                await server.read()

    run(main())


def test_what_the_application_raises_is_raised_to_who_waits() -> None:
    """A failure is its own; a cancellation is not passed on as if it were the test's."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("of the application")

    async def waiting(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()

    async def main() -> None:
        async with ASGIServer(failing) as server:
            with pytest.raises(ValueError, match="of the application"):
                await server.read()
        async with ASGIServer(waiting) as server:
            assert server.task is not None
            server.task.cancel()
            with pytest.raises(AssertionError, match="the application has ended"):
                await server.read()

    run(main())


def test_a_message_after_the_last_one_is_refused() -> None:
    """A response has one end."""

    async def twice(scope: Any, receive: Any, send: Any) -> None:
        await Words(b"a")(scope, receive, send)
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        with pytest.raises(AssertionError, match="after the last one"):
            await ASGIServer(twice).run()

    run(main())


def test_an_application_that_does_not_end_is_told_of() -> None:
    """One that swallows its cancellation does not hold the test."""
    over = asyncio.Event()

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                pass

    async def main() -> None:
        with pytest.raises(AssertionError, match="does not end within 2 s"):
            async with ASGIServer(stubborn, timeout=2):
                await asyncio.sleep(0)
        over.set()

    run(main())


def test_each_event_has_its_name_and_its_data() -> None:
    """Server-sent events are read as a page reads them; comments are none."""

    async def main() -> Any:
        words = Words(b"data: a\n\n", b": ping\n\n", b"event: eos\ndata: {}\n\n")
        server = await ASGIServer(words).run()
        await server.events_sent(2)
        return server.events

    assert run(main()) == [("message", "a"), ("eos", "{}")]
