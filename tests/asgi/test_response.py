"""`GuardedResponse`: the contract of its headers, one explicit end, batches, and gates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.background import BackgroundTask

from streamguard_asgi import STREAM_ID_HEADER, GuardedResponse
from streamguard_core import (
    CUT,
    PASS,
    AnyChunk,
    Cause,
    Chunk,
    LedgerError,
    MemoryLedger,
    StreamSession,
    TruncatedStream,
    UsageError,
    Verdict,
)

from .driver import Engine, Server, eos
from .endpoints import pieces


async def test_the_headers_are_those_of_sse_starlette() -> None:
    """Nothing caches or buffers an event stream, and its reader learns its name."""
    session = StreamSession(pieces("a"))
    server = await Server(GuardedResponse(session)).run()
    assert server.status == 200
    assert server.headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "connection": "keep-alive",
        "x-accel-buffering": "no",
        "vary": "accept",
        STREAM_ID_HEADER: session.stream_id,
    }


async def test_headers_of_the_caller_win() -> None:
    """What the caller says is not said twice."""
    response = GuardedResponse(pieces("a"), 201, {"Cache-Control": "private", "x-mine": "1"})
    response.set_cookie("seen", "1")
    server = await Server(response).run()
    assert server.status == 201
    assert server.headers["cache-control"] == "private"
    assert server.headers["x-mine"] == "1"
    assert "seen=1" in server.headers["set-cookie"]
    assert len(server.sent[0]["headers"]) == len(server.headers)


async def test_a_stream_id_that_is_no_header_is_left_out() -> None:
    """A name with a line end in it cannot forge a header."""
    session = StreamSession(pieces("a"), stream_id="a\r\nx-evil: 1")
    server = await Server(GuardedResponse(session)).run()
    assert STREAM_ID_HEADER not in server.headers


async def test_the_end_is_explicit() -> None:
    """A whole stream ends with `eos`, which says how, and with the last message."""
    session = StreamSession(pieces("never ", "again"))
    server = await Server(GuardedResponse(session)).run()
    assert server.events[:-1] == [("message", "never "), ("message", "again")]
    assert eos(server) == {
        "cause": "COMPLETED",
        "category": "completed",
        "finish": None,
        "committed": 2,
        "stream_id": session.stream_id,
    }
    assert server.complete
    receipt = await session.receipt()
    assert (receipt.consumed, receipt.eos_delivered) == (2, True)


async def test_the_finish_is_what_the_provider_said() -> None:
    """`finish` of the end comes from the producer's report."""

    class Provider:
        async def stream(self, *, report: Any) -> AsyncIterator[list[str]]:
            yield ["a", "b"]
            report.finish("length")

    server = await Server(GuardedResponse(Provider())).run()
    assert eos(server)["finish"] == "length"


async def test_an_empty_stream_ends_too() -> None:
    """No chunk, one end."""
    server = await Server(GuardedResponse(pieces())).run()
    assert eos(server)["committed"] == 0


async def test_what_is_ready_together_is_sent_together() -> None:
    """Chunks that came as one list leave in one `send`, cut at the session's bound."""

    class Provider:
        async def stream(self, *, report: Any) -> AsyncIterator[list[str]]:
            yield ["a"]
            yield [f"{n} " for n in range(20)]

    server = await Server(GuardedResponse(Provider())).run()
    sizes = [body.count(b"data: ") for body in server.bodies]
    assert sum(sizes) == 22
    assert max(sizes) == 16
    assert len(sizes) <= 4


async def test_the_first_chunk_is_never_held_back() -> None:
    """A chunk is sent while its producer still thinks about the next."""
    engine = Engine(1)
    async with Server(GuardedResponse(engine.stream())) as server:
        await server.events_sent(1)
        assert engine.generated == 1
        engine.finish()
        await server.ended()
    assert eos(server)["committed"] == 1


@pytest.mark.parametrize(
    ("error", "cause"),
    [(ValueError("sk-secret"), "PRODUCER_ERROR"), (TruncatedStream("cut"), "TRUNCATED")],
)
async def test_a_failure_is_told_and_tells_no_secret(error: Exception, cause: str) -> None:
    """What was committed is delivered, the end carries `error`, and the provider's words stay here."""

    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise error

    server = await Server(GuardedResponse(failing())).run()
    said = eos(server)
    assert (said["cause"], said["committed"], said["error"]) == (cause, 1, "The model failed.")
    assert "secret" not in server.text


async def test_text_that_failed_is_broken_off() -> None:
    """Plain text has no word for a failure: the response is not completed, and servers close it."""

    async def failing() -> AsyncIterator[str]:
        yield "a"
        raise ValueError

    server = await Server(GuardedResponse(failing(), media_type="text/plain")).run()
    assert server.text == "a"
    assert not server.complete


async def test_lines_and_text_by_accept() -> None:
    """The reader's `Accept` chooses the format, and its content type says so."""
    for accept, start in ((b"application/x-ndjson", '{"text":"a"}\n{"eos":'), (b"text/plain", "a")):
        server = await Server(GuardedResponse(pieces("a")), headers=[(b"accept", accept)]).run()
        assert server.headers["content-type"] == f"{accept.decode()}; charset=utf-8"
        assert server.text.startswith(start)
        assert server.complete


async def test_an_explicit_media_type_is_not_negotiated() -> None:
    """What the application chose holds, whatever the reader accepts."""
    response = GuardedResponse(pieces("a"), media_type="application/x-ndjson")
    server = await Server(response, headers=[(b"accept", b"text/plain")]).run()
    assert server.headers["content-type"] == "application/x-ndjson"
    assert "vary" not in server.headers
    assert server.text.startswith('{"text":"a"}\n')


async def test_bytes_of_an_own_format_are_passed_on() -> None:
    """A media type we do not know is the application's business: bytes in, bytes out, no `eos`."""
    server = await Server(GuardedResponse(pieces(b"\x00", b"\xff"), media_type="audio/wav")).run()
    assert server.headers["content-type"] == "audio/wav"
    assert b"".join(server.bodies) == b"\x00\xff"


async def test_ids_are_commit_offsets() -> None:
    """With `ids` every event says where to resume."""
    server = await Server(GuardedResponse(pieces("a", "b"), ids=True)).run()
    assert "id: 1\ndata: a\n\nid: 2\ndata: b\n\n" in server.text


async def test_head_generates_nothing() -> None:
    """P27: HEAD gets the headers; the producer is never begun, and what was opened is closed."""
    closed = []

    class Opened:
        def __aiter__(self) -> Any:
            raise AssertionError("begun")

        async def aclose(self) -> None:
            closed.append(1)

    ran: list[int] = []
    background = BackgroundTask(ran.append, 1)
    server = await Server(GuardedResponse(Opened(), background=background), method="HEAD").run()
    assert server.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert server.bodies == [b""]
    assert server.complete
    assert (closed, ran) == ([1], [1])


async def test_background_tasks_run_also_when_the_reader_has_left() -> None:
    """What comes after a response comes after every response."""
    engine, ran = Engine(1), []
    response = GuardedResponse(
        engine.stream(), background=BackgroundTask(lambda: ran.append(engine.closed))
    )
    async with Server(response) as server:
        await server.events_sent(1)
        server.leave()
        await server.ended()
    assert ran == [True]


# -- before the response has begun -----------------------------------------------------------------


class Refusing(MemoryLedger):
    """A ledger whose disk is full."""

    def append_open(self, record: Any) -> Any:
        """Fail."""
        future = super().append_open(record)
        future = type(future)()
        future.set_exception(LedgerError("disk full"))
        return future


async def test_no_record_no_stream() -> None:
    """Without a durable OPEN record no provider is called; the reader gets 503 and the reason's category."""
    engine = Engine(1)
    server = await Server(GuardedResponse(engine.stream(), ledger=Refusing())).run()
    assert server.status == 503
    assert eos(server)["cause"] == "INTERNAL_ERROR"
    assert not engine.started


async def test_a_stream_that_was_cut_before_it_began_has_a_status() -> None:
    """A status is still free to say what went wrong."""
    session = StreamSession(pieces("a"))
    session.start()
    session.terminate(Cause.TIMEOUT_CONNECT)
    server = await Server(GuardedResponse(session)).run()
    assert server.status == 504
    assert eos(server)["error"] == "The model took too long."


async def test_wrong_use_is_said_at_once() -> None:
    """Bad arguments raise where they are given, with what to do."""
    with pytest.raises(UsageError, match="ping=0"):
        GuardedResponse(pieces("a"), ping=0)
    with pytest.raises(UsageError, match="consumer_stall=-1"):
        GuardedResponse(pieces("a"), consumer_stall=-1)
    with pytest.raises(UsageError, match="tags were given for a session that is built already"):
        GuardedResponse(StreamSession(pieces("a")), tags={"a": "b"})
    with pytest.raises(UsageError, match="without content"):
        await Server(GuardedResponse()).run()
    with pytest.raises(UsageError, match="websocket"):
        await GuardedResponse(pieces("a"))({"type": "websocket"}, None, None)  # type: ignore[arg-type]


# -- policies and gates ----------------------------------------------------------------------------


async def test_a_gate_that_cuts_ends_the_response_explicitly() -> None:
    """A guardrail's cut is a policy's, and the reader is told no more than that."""

    class NoKeys:
        def decide(self, text_so_far: str, chunk: AnyChunk) -> Verdict:
            return CUT(Cause.GUARDRAIL, "saw sk-...") if "sk-" in str(chunk) else PASS

    session = StreamSession(pieces("a ", Chunk("sk-1"), "b"), gates=[NoKeys()])
    server = await Server(GuardedResponse(session)).run()
    assert [data for name, data in server.events if name == "message"] == ["a "]
    assert eos(server)["cause"] == "GUARDRAIL"
    assert "sk-" not in server.text
