"""The producers when something goes wrong: truncation, errors of the provider, bad arguments."""

from __future__ import annotations

import asyncio

import pytest

from streamguard_core import (
    TruncatedStream,
    UsageError,
)
from streamguard_providers import (
    OllamaProducer,
    OpenAIProducer,
    ProviderError,
)
from streamguard_testing import Fault, LoopbackEngine

from .makers import Make, openai_producer
from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .waiting import outcome
from .wire import token


@pytest.mark.parametrize("cut", ["clean", "abrupt", "reset"])
@pytest.mark.parametrize("after", [0, 5])
async def test_a_cut_stream_is_truncated(make: Make, cut: str, after: int, contract: str) -> None:
    """However a stream breaks off, what came is handed over and the end is none."""
    fault = Fault(cut_after=after, cut=cut)  # type: ignore[arg-type]  # the word will do
    async with LoopbackEngine(tokens_per_second=500, fault=fault) as engine:
        report = Recorder()
        with pytest.raises((TruncatedStream, ProviderError)) as caught:
            await produce(make(engine.url, max_tokens=25), report, contract)
        assert len(report.chunks) == after
        if after:
            assert isinstance(caught.value, TruncatedStream)
            assert report.attempts[0].cut is False
        assert report.closers == []


async def test_an_error_in_mid_stream(make: Make, contract: str) -> None:
    """An error inside a 200 comes after the chunks before it, as the provider's."""
    fault = Fault(error_after=4, error_message="out of memory near SECRET")
    async with LoopbackEngine(tokens_per_second=500, fault=fault) as engine:
        report = Recorder()
        with pytest.raises(ProviderError) as caught:
            await produce(make(engine.url, max_tokens=25), report, contract)
        assert len(report.chunks) == 4
        assert caught.value.message == "out of memory near SECRET"
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("status", "retryable"), [(429, True), (503, True), (400, False)])
async def test_an_error_status(make: Make, status: int, retryable: bool, contract: str) -> None:
    """A refusal carries status, kind, whether to retry and when, and is an attempt."""
    fault = Fault(status=status, retry_after=7)
    async with LoopbackEngine(fault=fault) as engine:
        report = Recorder()
        with pytest.raises(ProviderError) as caught:
            await produce(make(engine.url), report, contract)
        error = caught.value
        assert (error.status, error.retryable, error.retry_after) == (status, retryable, 7.0)
        assert error.message == "the engine was told to fail"
        assert f"status {status}" in str(error)
        assert [attempt.status for attempt in report.attempts] == [status]


async def test_an_error_does_not_swallow_what_came_with_it() -> None:
    """Chunks that were received together with the break are handed over before it is told of."""
    body = head() + chunked(token("a"), token("b")) + b"nonsense, and no chunk\r\n"
    async with scripted(Answer(body, then="close")) as server:
        report = Recorder()
        with pytest.raises(TruncatedStream):
            await produce(openai_producer(server.url), report)
        assert report.chunks == ["a", "b"]


async def test_a_server_that_is_not_there(make: Make) -> None:
    """A connection that is refused is the provider's error, and may be tried again."""
    async with scripted() as server:
        url = server.url
    report = Recorder()
    with pytest.raises(ProviderError, match=r"could not be reached: ConnectError") as caught:
        await produce(make(url), report)
    assert caught.value.retryable
    assert caught.value.status is None
    assert report.attempts[0].status is None


async def test_an_error_body_without_end_is_not_waited_for() -> None:
    """The status of a refusal says enough if its body does not come."""
    body = head("application/json", status="500 X") + chunked(b'{"error":')
    async with scripted(Answer(body)) as server:
        async with asyncio.timeout(4):
            got = await outcome(produce(openai_producer(server.url), Recorder()))
        assert isinstance(got, ProviderError)
        assert got.status == 500


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b'{"error":{"type":"x y z","code":"a_b","message":"m"}}', None, "m"),
        (b'{"error":"m"}', None, "m"),
        (b'{"detail":"m"}', None, "m"),
        (b'{"object":"error","type":"BadRequestError","message":"m"}', "BadRequestError", "m"),
        (b"<html>", None, None),
    ],
)
async def test_shapes_of_error_bodies(body: bytes, kind: str | None, message: str | None) -> None:
    """Error bodies of all shapes are read; a type that is a sentence is not repeated."""
    answer = head("application/json", "retry-after: soon", status="400 X") + chunked(body, end=True)
    async with scripted(Answer(answer, then="next")) as server:
        with pytest.raises(ProviderError) as caught:
            await produce(openai_producer(server.url), Recorder())
        assert (caught.value.type, caught.value.message) == (kind, message)
        assert caught.value.retry_after is None


def test_bad_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot work is said when the producer is made, with what to do."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="give one of them"):
        OllamaProducer("m")
    with pytest.raises(UsageError, match="give one of them"):
        OpenAIProducer("m", prompt="a", messages=[], base_url="http://x")
    with pytest.raises(UsageError, match="set OPENAI_API_KEY"):
        OpenAIProducer("m", prompt="a")
    with pytest.raises(UsageError, match="http://"):
        OllamaProducer("m", "a", base_url="localhost:11434")
    with pytest.raises(UsageError, match="pass an httpx"):
        OllamaProducer("m", "a", client="client")  # type: ignore[arg-type]
