"""Streams over WebSockets: explicit ends, close codes, many streams, every server's way to say goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.websockets import WebSocket

from streamguard_asgi import SocketGuard, current_scope, stream_websocket
from streamguard_core import (
    CUT,
    Cause,
    Chunk,
    Deadlines,
    MemoryLedger,
    StreamSession,
    UsageError,
    Verdict,
)

from .driver import Engine, eventually, in_virtual_time
from .endpoints import pieces
from .socket_driver import After, Socket
from .socket_rig import Rig, streaming


async def failing() -> AsyncIterator[str]:
    """A producer that fails after its first chunk."""
    yield "a"
    raise ValueError("sk-secret")


class Cutting:
    """A gate that cuts at once."""

    def decide(self, text_so_far: str, chunk: object) -> Verdict:
        return CUT(Cause.GUARDRAIL, "no")


async def test_a_stream_has_a_name_its_text_and_an_end() -> None:
    """The messages are the lines of NDJSON; the close after a completion is 1000."""
    rig = Rig(streaming(lambda: pieces("never ", Chunk("hm", kind="reasoning"), "again")))  # type: ignore[arg-type]
    async with rig.socket() as socket:
        await socket.ended()
    (receipt,) = rig.receipts
    assert socket.said == [
        {"stream_id": receipt.stream_id},
        {"text": "never "},
        {"text": "hm", "kind": "reasoning"},
        {"text": "again"},
        {
            "eos": {
                "cause": "COMPLETED",
                "category": "completed",
                "finish": None,
                "committed": 3,
                "stream_id": receipt.stream_id,
            }
        },
    ]
    assert socket.closed == (1000, "COMPLETED")
    assert (receipt.cause, receipt.consumed) == (Cause.COMPLETED, 3)


async def test_what_is_ready_together_is_one_message() -> None:
    """A list of chunks costs one send, and the first chunk waits for nothing."""

    class Provider:
        async def stream(self, *, report: Any) -> AsyncIterator[list[str]]:
            yield ["first "]
            yield [f"{number} " for number in range(10)]

    rig = Rig(streaming(Provider))
    async with rig.socket() as socket:
        await socket.ended()
    assert [said["text"] for said in socket.said if "text" in said] == [
        "first ",
        "".join(f"{number} " for number in range(10)),
    ]
    assert rig.receipts[0].consumed == 11


async def test_the_first_chunk_is_never_held_back() -> None:
    """A chunk is sent while its producer still thinks about the next."""
    engine = Engine(1)
    rig = Rig(streaming(engine.stream))
    async with rig.socket() as socket:
        await socket.came("token1")
        assert engine.generated == 1


@pytest.mark.parametrize(
    ("options", "code", "cause"),
    [
        ({}, 1011, Cause.PRODUCER_ERROR),
        ({"gates": [Cutting()]}, 1008, Cause.GUARDRAIL),
        ({"deadlines": Deadlines(first_token=0.01)}, 1011, Cause.TIMEOUT_FIRST_TOKEN),
    ],
)
@in_virtual_time
async def test_a_failure_is_told_and_is_no_clean_close(
    options: Any, code: int, cause: Cause
) -> None:
    """G13: the end carries `error`, the code is not 1000, and a provider's words stay here."""
    make = Engine().stream if "deadlines" in options else failing
    rig = Rig(streaming(make, **options))
    async with rig.socket() as socket:
        await socket.ended()
    assert socket.closed == (code, str(cause))
    (end,) = socket.ends
    assert end["cause"] == str(cause)
    assert end["error"]
    assert "secret" not in repr(socket.sent)
    assert [receipt.cause for receipt in rig.receipts] == [cause]


@pytest.mark.parametrize("code", [1001, 1005, 1006, None])
@pytest.mark.parametrize("after", ["silent", "OSError", "RuntimeError"])
@pytest.mark.parametrize("tokens", [0, 2])
async def test_a_reader_that_leaves_ends_the_stream(
    tokens: int, after: After, code: int | None
) -> None:
    """Before the first token and later: whatever `send` does afterwards, and with the code that the server says."""
    engine = Engine(tokens)
    rig = Rig(streaming(engine.stream))
    async with rig.socket(after) as socket:
        await eventually(lambda: engine.started and len(socket.stream_ids) == 1)
        if tokens:
            await socket.came("token2")
        socket.leave(code)
        await socket.ended()
        assert engine.closed
    (receipt,) = rig.receipts
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert receipt.detail == f"the WebSocket was closed ({code or 1005})"
    assert (receipt.produced, socket.sent_after_leaving) == (tokens, 0)


@pytest.mark.parametrize("after", ["OSError", "RuntimeError"])
async def test_a_send_that_raises_first_is_a_disconnect(after: After) -> None:
    """Some servers say it in `send` before they say it in `receive`."""
    engine = Engine(1)
    rig = Rig(streaming(engine.stream))
    async with rig.socket(after) as socket:
        await socket.came("token1")
        socket.left = True
        engine.make(1)
        await eventually(lambda: rig.receipts)
        assert engine.closed
    assert rig.receipts[0].cause is Cause.CLIENT_DISCONNECT


async def test_a_server_that_goes_is_not_the_reader() -> None:
    """G14: a server says 1012 in the reader's place when it is told to go."""
    engine = Engine(1)
    rig = Rig(streaming(engine.stream))
    async with rig.socket() as socket:
        await socket.came("token1")
        socket.leave(1012)
        await socket.ended()
    assert [receipt.cause for receipt in rig.receipts] == [Cause.SHUTDOWN]


async def test_a_shutdown_is_told_with_its_code() -> None:
    """What ends everything under the connection's scope as SHUTDOWN closes it with 1012, also one to be kept."""
    engine = Engine(1)
    rig = Rig(streaming(engine.stream, close=False))
    async with rig.socket() as socket:
        await socket.came("token1")
        socket.scope["state"]["streamguard"].terminate(Cause.SHUTDOWN, "SIGTERM")
        await socket.ended()
    assert socket.closed == (1012, "SHUTDOWN")
    assert socket.ends[0]["category"] == "shutdown"
    assert engine.closed


async def test_many_streams_over_one_connection() -> None:
    """Each has a receipt and an end; what is remembered of them is bounded."""
    guards: list[Any] = []

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        guards.append(websocket.state.streamguard)
        async for text in websocket.iter_text():
            session = await stream_websocket(websocket, pieces(text), close=False)
            assert session.cause is Cause.COMPLETED

    ledger = MemoryLedger()
    rig = Rig(handler, ledger=ledger)
    async with rig.socket() as socket:
        for number in range(50):
            socket.say(f"{number} ")
            await eventually(lambda number=number: len(socket.ends) == number + 1)  # type: ignore[misc]
        assert len(set(socket.stream_ids)) == 50
        assert len(guards[0].receipts) == 32
        await eventually(lambda: guards[0].sessions == [])
        assert guards[0].members == []
    assert len(rig.receipts) == len(ledger.receipts) == 50
    assert socket.text == "".join(f"{number} " for number in range(50))


async def test_the_scope_is_the_connections() -> None:
    """`current_scope()` and `state.streamguard` are one, in the handler and in its producer."""
    seen: list[Any] = []

    async def producer() -> AsyncIterator[str]:
        scope = current_scope()
        assert scope is not None
        seen.extend([scope, scope.session])
        yield "a"

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        seen.extend([websocket.state.streamguard, current_scope()])
        seen.append(await stream_websocket(websocket, producer))

    async with Rig(handler).socket() as socket:
        await socket.ended()
    assert isinstance(seen[0], SocketGuard)
    assert seen[0] is seen[1] is seen[2]
    assert seen[3] is seen[4]
    assert current_scope() is None


async def test_what_is_governed_beside_ends_with_the_reader() -> None:
    """A session that the handler reads itself, or a provider's call, is under the connection like under a request."""
    engine = Engine(1)
    sessions: list[StreamSession] = []

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        session = StreamSession(engine.stream())
        sessions.append(session)
        websocket.state.streamguard.add(session)
        async for chunk in session:
            await websocket.send_json({"text": chunk})

    rig = Rig(handler)
    async with rig.socket() as socket:
        await socket.came("token1")
        socket.leave(1001)
        await socket.ended()
    assert engine.closed
    assert [receipt.cause for receipt in rig.receipts] == [Cause.CLIENT_DISCONNECT]


async def test_silence_is_filled() -> None:
    """A keep-alive is an empty text: a client that appends what comes shows nothing."""
    engine = Engine()
    rig = Rig(streaming(engine.stream, ping=0.02))
    async with rig.socket() as socket:
        await eventually(lambda: socket.said.count({"text": ""}) >= 2)
        engine.make(1)
        engine.finish()
        await socket.ended()
    assert socket.text == "token1 "


@pytest.mark.parametrize("of", ["stream", "middleware"])
@in_virtual_time
async def test_a_reader_that_freezes_is_cut_off(of: str) -> None:
    """`consumer_stall`, given with the stream or to the middleware."""
    engine = Engine(1)
    given = {"consumer_stall": 0.04}
    rig = Rig(
        streaming(engine.stream, **(given if of == "stream" else {})),
        shutdown_grace=0.05,
        **(given if of == "middleware" else {}),
    )
    async with rig.socket() as socket:
        await socket.came("token1")
        socket.stall()
        engine.make(1)
        await socket.ended()
    assert engine.closed
    assert [receipt.cause for receipt in rig.receipts] == [Cause.CONSUMER_STALLED]
    assert socket.closed is None


async def test_a_host_that_cancels_is_the_applications_end() -> None:
    """G14: a server that cancels the handler's task is not the reader, and the producer is closed."""
    engine = Engine(1)
    rig = Rig(streaming(engine.stream))
    async with rig.socket() as socket:
        await socket.came("token1")
        assert socket.task is not None
        socket.task.cancel()
        await asyncio.wait([socket.task])
        assert engine.closed
    assert [receipt.cause for receipt in rig.receipts] == [Cause.OPERATOR_CANCEL]


async def test_what_cannot_work_is_said() -> None:
    """Without the middleware, before it is accepted, two at a time, with options twice."""
    errors: list[str] = []

    async def tried(websocket: WebSocket, content: Any, **options: Any) -> None:
        try:
            await stream_websocket(websocket, content, **options)
        except UsageError as error:
            errors.append(str(error))

    async def handler(websocket: WebSocket) -> None:
        await tried(websocket, pieces("a"))
        await websocket.accept()
        await tried(websocket, StreamSession(pieces("a")), max_tokens=3)
        await tried(websocket, pieces("a"), ping=0)
        first = asyncio.create_task(stream_websocket(websocket, Engine(1).stream))
        await websocket.receive_text()
        await tried(websocket, pieces("a"))
        websocket.state.streamguard.terminate(Cause.OPERATOR_CANCEL)
        await first

    rig = Rig(handler)
    async with rig.socket() as socket:
        await socket.came("token1")
        socket.say("go")
        await socket.ended()

    async def alone(websocket: WebSocket) -> None:
        await websocket.accept()
        await tried(websocket, pieces("a"))

    app = FastAPI()
    app.websocket("/")(alone)
    async with Socket(app) as socket:
        await socket.ended()
    words = ("accept()", "max_tokens", "ping=0", "sending one", "add_middleware")
    assert all(word in error for word, error in zip(words, errors, strict=True))
