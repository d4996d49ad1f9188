"""Opened streams: chunks as they come and exactly one end, whatever provider and network do."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from streamguard_core import UsageError
from streamguard_core.testing import run
from streamguard_providers import (
    AsyncOpenStream,
    End,
    EndState,
    EventTooLarge,
    Obstacle,
    OpenStream,
    ProviderError,
    open_stream,
)

from .wire import DONE, event, token

WHOLE = [token("never "), token("again"), token("", "stop"), DONE]
FAILED = event({"error": {"type": "server_error", "message": "secret"}})
BLOCKED = event({"promptFeedback": {"blockReason": "SAFETY"}})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


class Source:
    """An iterator of bytes, sync and async, that counts how often it is closed.

    Args:
        pieces: bytes that come, an exception that is raised, or an event that is waited for.
    """

    def __init__(self, *pieces: Any) -> None:
        self.pieces = list(pieces)
        self.closed = 0
        self.waiting = asyncio.Event()

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> bytes:
        if not self.pieces:
            raise StopIteration
        piece: Any = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        return bytes(piece) if isinstance(piece, bytes) else piece

    def close(self) -> None:
        self.closed += 1


class AsyncSource(Source):
    """The same, async only."""

    __iter__ = None  # type: ignore[assignment]

    def __aiter__(self) -> AsyncSource:
        return self

    async def __anext__(self) -> bytes:
        if not self.pieces:
            raise StopAsyncIteration
        if isinstance(self.pieces[0], asyncio.Event):
            self.waiting.set()
            await self.pieces.pop(0).wait()
        return next(self)

    async def aclose(self) -> None:
        self.closed += 1


class Read:
    """All that came out of a stream, read one way or the other."""

    def __init__(
        self, how: str, *pieces: Any, dialect: str = "openai-chat", **options: Any
    ) -> None:
        self.source = Source(*pieces) if how == "sync" else AsyncSource(*pieces)
        if isinstance(self.source, AsyncSource):
            items = run(self._collected(open_stream(self.source, dialect, **options)))
        else:
            items = list(open_stream(self.source, dialect, **options))
        assert [isinstance(item, End) for item in items].count(True) == 1
        self.chunks = items[:-1]
        last = items[-1]
        assert isinstance(last, End)
        self.end = last

    async def _collected(self, stream: AsyncOpenStream) -> list[Any]:
        return [item async for item in stream]


@pytest.fixture(params=["sync", "async"])
def how(request: pytest.FixtureRequest) -> str:
    """Which kind of iterator is read."""
    return str(request.param)


def test_a_whole_stream(how: str) -> None:
    """Chunks, then the end with what is known; what follows the marker is not waited for."""
    got = Read(how, *WHOLE[:3], USAGE, DONE, AssertionError("read on"))
    assert got.chunks == ["never ", "again"]
    end = got.end
    assert (end.state, end.dialect, end.finish) == (EndState.COMPLETED, "openai-chat", "stop")
    assert end.reported == {"prompt_tokens": 3, "completion_tokens": 2}
    assert (end.usage.output.value, end.usage_partial) == (2, False)
    assert (end.finishes, end.complete, end.malformed, end.cause) == ({0: "stop"}, True, 0, None)
    assert got.source.closed == 1


def test_provider_errors_are_ends(how: str) -> None:
    """An error inside the stream raises nothing; usage that follows it is still taken."""
    got = Read(how, token("so far"), FAILED, USAGE, token("never"), DONE)
    assert got.chunks == ["so far"]
    assert got.end.state is EndState.PROVIDER_ERROR
    assert got.end.error is not None
    assert (got.end.error.type, got.end.error.retryable) == ("server_error", True)
    assert got.end.usage.output.value == 2
    assert "secret" not in repr(got.end)
    assert got.source.closed == 1
    broken = Read(how, FAILED, ConnectionResetError())
    assert broken.end.state is EndState.PROVIDER_ERROR


def test_after_an_error_little_is_read(how: str) -> None:
    """A provider that goes on sending after its error keeps nobody waiting for long."""
    pieces = [b": still here\n" * 1000] * 20
    got = Read(how, FAILED, *pieces)
    assert got.end.state is EndState.PROVIDER_ERROR
    assert 10 < len(got.source.pieces) < 20


def test_after_an_error_silence_is_not_waited_out() -> None:
    """A provider that says nothing more and does not close either is left after a second."""
    source = AsyncSource(FAILED, asyncio.Event())

    async def read() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        (end,) = [item async for item in open_stream(source, "openai-chat")]
        assert isinstance(end, End)
        assert end.state is EndState.PROVIDER_ERROR
        return loop.time() - start

    assert run(read()) == pytest.approx(1.0)
    assert source.closed == 1


@pytest.mark.parametrize("count", range(len(WHOLE)))
def test_truncation(how: str, count: int) -> None:
    """Bytes that end early are truncated, or, after all finish reasons, an end without its marker."""
    got = Read(how, *WHOLE[:count])
    assert got.end.state is (EndState.COMPLETED if count == 3 else EndState.TRUNCATED)
    assert got.source.closed == 1


def test_a_broken_connection_is_kept_as_the_cause(how: str) -> None:
    """A transport's error ends the stream as truncated, even after the finish reason."""
    broken = ConnectionResetError("by peer")
    got = Read(how, *WHOLE[:3], broken)
    assert (got.end.state, got.end.cause) == (EndState.TRUNCATED, broken)
    assert got.chunks == ["never ", "again"]
    assert got.source.closed == 1


def test_other_ends(how: str) -> None:
    """A marker without a reason, a filter and a refusal each have a state of their own."""
    assert Read(how, token("a"), DONE).end.state is EndState.COMPLETED_UNCONFIRMED
    filtered = Read(how, token("a"), token("", "content_filter"), DONE).end
    assert (filtered.state, filtered.blocked) == (EndState.BLOCKED, "content_filter")
    blocked = Read(how, BLOCKED, dialect="gemini").end
    assert (blocked.state, blocked.blocked, blocked.complete) == (EndState.BLOCKED, "SAFETY", True)
    said = {"choices": [{"delta": {"refusal": "No."}, "finish_reason": "stop"}]}
    refused = Read(how, event(said), DONE).end
    assert (refused.state, refused.refusal) == (EndState.REFUSED, "No.")


@pytest.mark.parametrize("finish", ["error", "insufficient_system_resource"])
def test_a_reason_that_broke_off_is_an_error(how: str, finish: str) -> None:
    """A finish reason that says that the provider gave up is no completion."""
    end = Read(how, token("half"), token("", finish), DONE).end
    assert (end.state, end.finish, end.complete) == (EndState.PROVIDER_ERROR, finish, False)
    with pytest.raises(ProviderError, match=finish):
        end.check()


@pytest.mark.parametrize("finish", [None, "tool_calls"])
def test_an_interrupted_call_is_not_executable(how: str, finish: str | None) -> None:
    """However whole its arguments look: only an end of the provider's own makes them so."""
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    said = {"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": finish}]}
    got = Read(how, event(said)).end
    assert [c.obstacle for c in got.tool_calls] == [None if finish else Obstacle.INTERRUPTED]
    unconfirmed = Read(how, event(said), DONE).end
    assert [c.executable for c in unconfirmed.tool_calls] == [True]


def test_too_many_malformed_payloads(how: str) -> None:
    """A few are counted and skipped; more than the limit are an error."""
    broken = b"data: {nonsense\n\n"
    some = Read(how, broken * 3, *WHOLE).end
    assert (some.state, some.malformed) == (EndState.COMPLETED, 3)
    many = Read(how, broken * 17, *WHOLE).end
    assert many.state is EndState.PROVIDER_ERROR
    assert many.error is not None
    assert many.error.type == "malformed_stream"


def test_what_is_no_stream(how: str) -> None:
    """HTML and compressed bytes are errors that say so; an event without an end is not read on."""
    for body in (b"<html>", gzip.compress(b"data: a\n\n")):
        got = Read(how, body, dialect="auto").end
        assert got.state is EndState.PROVIDER_ERROR
        assert isinstance(got.error, ProviderError)
    huge = Read(how, *[b"data: " + b"x" * 1_000_000] * 6)
    assert (huge.end.state, type(huge.end.cause)) == (EndState.TRUNCATED, EventTooLarge)
    assert huge.source.closed == 1


def test_batches(how: str) -> None:
    """Each piece of the transport gives its chunks as one list; the last one ends in the end."""
    pieces = [WHOLE[0] + WHOLE[1], b": keep-alive\n\n", WHOLE[2] + WHOLE[3]]
    if how == "sync":
        batches = list(open_stream(pieces, "openai-chat").batches())
    else:

        async def read() -> list[list[Any]]:
            stream = open_stream(AsyncSource(*pieces), "openai-chat")
            return [batch async for batch in stream.batches()]

        batches = run(read())
    assert batches[0] == ["never ", "again"]
    assert [type(item) for item in batches[1]] == [End]
    assert len(batches) == 2


def test_closing_early() -> None:
    """Closing closes the source once and ends the stream as cancelled; the end comes all the same."""
    source = Source(*WHOLE)
    with open_stream(source, "openai-chat") as stream:
        assert next(stream) == "never "
    stream.close()
    assert source.closed == 1
    assert stream.end is not None
    assert stream.end.state is EndState.CANCELLED
    assert list(stream) == [stream.end]
    assert list(stream) == []
    assert list(stream.batches()) == []
    assert stream.accumulator.text() == "never "


def test_closing_after_the_end_changes_nothing() -> None:
    """The first ending counts: what was known when the marker came stays so."""
    stream = open_stream([b"".join(WHOLE)], "openai-chat")
    assert next(stream) == "never "
    stream.close()
    (end,) = stream
    assert isinstance(end, End)
    assert end.state is EndState.COMPLETED


async def test_closing_early_async() -> None:
    """The same where it is async, and an end that was seen is not seen again."""
    source = AsyncSource(*WHOLE)
    async with open_stream(source, "openai-chat") as stream:
        assert await anext(stream) == "never "
    await stream.aclose()
    assert source.closed == 1
    assert [item async for item in stream] == [stream.end]
    assert [item async for item in stream] == []
    assert [batch async for batch in stream.batches()] == []
    assert stream.end is not None
    assert stream.end.state is EndState.CANCELLED


async def test_a_cancelled_reader() -> None:
    """Cancelling the task that waits for bytes closes the source once; the stream was cancelled."""
    source = AsyncSource(token("a"), asyncio.Event())
    stream = open_stream(source, "openai-chat")
    assert await anext(stream) == "a"
    task = asyncio.ensure_future(anext(stream))
    await source.waiting.wait()
    with pytest.raises(UsageError, match="cancel that task"):
        await stream.aclose()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stream.aclose()
    assert source.closed == 1
    assert stream.end is not None
    assert stream.end.state is EndState.CANCELLED


def test_generators_are_closed() -> None:
    """What a generator cleans up is cleaned up in the step that closes the stream."""
    steps = []

    def body() -> Iterator[bytes]:
        try:
            yield from WHOLE
        finally:
            steps.append("closed")

    async def async_body() -> AsyncIterator[bytes]:
        for piece in body():
            yield piece

    stream = open_stream(body(), "openai-chat")
    assert next(stream) == "never "
    stream.close()
    assert steps == ["closed"]

    async def leave() -> None:
        opened = open_stream(async_body(), "openai-chat")
        assert await anext(opened) == "never "
        await opened.aclose()

    run(leave())
    assert steps == ["closed", "closed"]


def test_an_iterable_is_closed_beside_its_iterator() -> None:
    """A response object is closed as well as the iterator that reads it; what closing raises is lost."""

    class Response:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            yield from WHOLE

        def close(self) -> None:
            self.closed += 1
            raise OSError

    response = Response()
    with open_stream(response, "openai-chat") as stream:
        assert len(list(stream)) == 3
    assert response.closed == 1


def test_stalled(how: str) -> None:
    """Comments keep a connection alive, but not an answer: after the idle timeout it has stalled."""
    ticks = iter(range(0, 100, 2))
    pieces = [token("a"), b": x\n", b": x\n", token("b"), b": x\n", b": x\n", b": x\n", *WHOLE]
    got = Read(how, *pieces, idle_timeout=5, clock=lambda: float(next(ticks)))
    assert (got.chunks, got.end.state) == (["a", "b"], EndState.STALLED)
    assert (got.source.closed, len(got.source.pieces)) == (1, 4)
    with pytest.raises(UsageError, match="more than 0"):
        open_stream([], idle_timeout=0)


def test_mistakes_are_told() -> None:
    """A name that is none lists those there are; what is no iterator of bytes is named."""
    with pytest.raises(UsageError, match=r"'openai'.*openai-chat.*anthropic.*gemini.*ollama"):
        open_stream([], "openai")
    for wrong in (b"bytes", "text", 7):
        with pytest.raises(UsageError, match="iterator of bytes"):
            open_stream(wrong)  # type: ignore[arg-type]
    source = Source("text", b"")
    stream = open_stream(source)
    with pytest.raises(UsageError, match="yielded str"):
        next(stream)
    assert source.closed == 1
    assert stream.end is not None


def test_shows_its_state() -> None:
    """The repr says whether it goes on, and how much was read."""
    stream = open_stream(WHOLE, "openai-chat")
    assert repr(stream) == "<OpenStream open, 0 bytes>"
    assert isinstance(stream, OpenStream)
    *_, end = stream
    assert repr(end) == "<End completed, finish 'stop'>"
    assert repr(stream).startswith("<OpenStream completed, ")
