"""`guard_stream`: responses of Starlette and sse-starlette are streamed under guard and stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import StreamingResponse

from streamguard_core import (
    Cause,
)

from .driver import Engine, eventually
from .endpoints import TAKEN_OVER, Rig


@pytest.mark.parametrize("name", TAKEN_OVER)
async def test_a_response_of_starlettes_stays_what_it_is(name: str) -> None:
    """Bytes, status, headers and media type are the application's; the stream is ours."""
    rig = Rig(TAKEN_OVER[name])
    server = await rig.server("/hello?loud=1&n=2").run()
    assert server.text == "hello!!"
    assert (server.status, server.headers["x-mine"]) == (201, "1")
    assert server.headers["content-type"] == "text/plain; charset=utf-8"
    assert server.complete
    assert rig.causes == [Cause.COMPLETED]


async def test_sse_starlettes_response_is_taken_over_too() -> None:
    """Its items are encoded by its own rules; its headers stay; a blocking or failing one is governed."""
    sse = pytest.importorskip("sse_starlette")

    async def chat() -> Any:
        async def items() -> Any:
            yield {"data": "a\nb", "event": "note"}
            yield "plain"

        return sse.EventSourceResponse(items(), headers={"x-mine": "1"})

    rig = Rig(chat)
    server = await rig.server().run()
    assert server.text == "event: note\r\ndata: a\r\ndata: b\r\n\r\ndata: plain\r\n\r\n"
    assert server.headers["x-mine"] == "1"
    assert rig.causes == [Cause.COMPLETED]


async def test_the_reader_of_sse_starlettes_response_leaves() -> None:
    """Its generator is closed, not dropped, wherever it is."""
    sse = pytest.importorskip("sse_starlette")
    engine = Engine(2)

    async def chat() -> Any:
        return sse.EventSourceResponse(engine.stream())

    for stalled in (False, True):
        engine = Engine(2)
        rig = Rig(chat)
        async with rig.server() as server:
            await server.until(lambda: server.text.count("token") == 2)
            if stalled:
                server.stall()
                engine.make(50)
                await eventually(lambda: server.senders)
            server.leave()
            await server.ended()
        assert rig.causes == [Cause.CLIENT_DISCONNECT]
        assert engine.closed


async def test_failures_of_taken_over_responses_do_not_end_cleanly() -> None:
    """G13: bytes that broke off are not followed by a last message."""

    async def failing() -> Any:
        yield b"half"
        raise ValueError

    async def chat() -> Any:
        return StreamingResponse(failing())

    rig = Rig(chat)
    server = await rig.server().run()
    assert server.text == "half"
    assert not server.complete
    assert rig.causes == [Cause.PRODUCER_ERROR]
