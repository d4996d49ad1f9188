"""The producers: chunks, usage, errors and ends from a real server, by both contracts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from streamguard_core import (
    AnyChunk,
    CountSource,
    Producer,
    PullProducer,
    TruncatedStream,
    UsageError,
)
from streamguard_core.testing import check_producer
from streamguard_providers import (
    GuardedAsyncTransport,
    OllamaProducer,
    OpenAIProducer,
    ProviderError,
)
from streamguard_testing import Fault, LoopbackEngine, run_engine
from streamguard_testing import Usage as When

from .support import (
    DONE,
    LET_GO,
    OK,
    Answer,
    Recorder,
    chunked,
    full_listener,
    head,
    outcome,
    scripted,
    token,
    until,
)

Make = Callable[..., Any]


def _openai(url: str, **options: Any) -> OpenAIProducer:
    return OpenAIProducer("m", prompt="Tell me about the river.", base_url=f"{url}/v1", **options)


def _chat(url: str, **options: Any) -> OllamaProducer:
    messages = [{"role": "user", "content": "Tell me about the river."}]
    return OllamaProducer("m", messages=messages, base_url=url, **options)


def _generate(url: str, **options: Any) -> OllamaProducer:
    return OllamaProducer("m", "Tell me about the river.", base_url=url, **options)


@pytest.fixture(params=[_openai, _chat, _generate], ids=["openai", "chat", "generate"])
def make(request: pytest.FixtureRequest) -> Any:
    """Makes a producer that calls a server."""
    return request.param


@pytest.fixture(params=["pull", "push"])
def contract(request: pytest.FixtureRequest) -> str:
    """The two ways a producer is driven."""
    return str(request.param)


async def produce(producer: Any, report: Recorder, contract: str = "pull") -> list[AnyChunk]:
    """Drive a producer to its end; the report keeps the chunks, too."""
    if contract == "push":
        await producer.run(out=report, cancel_event=asyncio.Event())
        return report.chunks
    async for batch in producer.stream(report=report):
        assert batch, "a batch is never empty"
        report.chunks += batch
    return report.chunks


async def test_a_whole_answer(make: Make, contract: str, engine: LoopbackEngine) -> None:
    """All tokens, the reason, the engine's own usage, the model and one attempt are handed over."""
    report = Recorder()
    chunks = await produce(make(engine.url, max_tokens=25), report, contract)
    (request,) = engine.requests
    assert len(chunks) == request.generated == 25
    assert all(isinstance(chunk, str) for chunk in chunks)
    reason, usage = report.finishes[-1]
    assert (reason, request.max_tokens) == ("length", 25)
    assert usage is not None
    assert (usage.output.value, usage.output.source) == (25, CountSource.PROVIDER_FINAL)
    assert usage.input.value == request.prompt_tokens
    assert report.names[-1][0] == "m"
    (attempt,) = report.attempts
    assert (attempt.status, attempt.cut, attempt.model) == (200, False, "m")
    assert attempt.bytes_received > 0
    assert (report.connections, report.closers) == (1, [])
    await until(lambda: not engine.open_connections)


async def test_both_contracts_are_kept(make: Make) -> None:
    """A producer has the shape of both contracts, and its repr names the model only."""
    producer = make("http://localhost")
    assert isinstance(producer, Producer)
    assert isinstance(producer, PullProducer)
    assert "river" not in repr(producer)
    assert "model='m'" in repr(producer)


async def test_can_be_used_again(make: Make, engine: LoopbackEngine) -> None:
    """Each run is a new call."""
    producer = make(engine.url, max_tokens=3)
    assert await produce(producer, Recorder()) == await produce(producer, Recorder())
    assert len(engine.requests) == 2


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


async def test_usage_that_comes_late_is_read(make: Make) -> None:
    """The finish reason is no end: usage after it is waited for."""
    fault = Fault(usage=When.LATE, usage_delay=0.05)
    async with LoopbackEngine(tokens_per_second=1000, fault=fault) as engine:
        report = Recorder()
        await produce(make(engine.url, max_tokens=5), report)
        assert report.usage is not None
        assert report.usage.output.value == 5


async def test_a_finish_is_told_before_its_usage(engine: LoopbackEngine) -> None:
    """A reader who leaves between finish and usage leaves a whole answer: the session must know."""
    engine.fault = Fault(usage=When.LATE, usage_delay=30.0)
    report = Recorder()
    task = asyncio.create_task(produce(_openai(engine.url, max_tokens=3), report))
    await until(lambda: report.finishes)
    assert report.finishes == [("length", None)]
    assert len(report.chunks) == 3
    assert not task.done()
    report.cut()
    await task


async def test_keeps_its_contract(make: Make, contract: str) -> None:
    """The core's own check of producers finds nothing: held back, cut off at every chunk, and so on."""
    # In a thread of its own: the check looks for tasks that are left behind.
    with run_engine(tokens_per_second=2000, answer_tokens=3) as engine:

        class PushOnly:
            def __init__(self) -> None:
                self._producer = make(engine.url)

            async def run(self, *, out: Any, cancel_event: Any) -> None:
                await self._producer.run(out=out, cancel_event=cancel_event)

        found = await check_producer(
            PushOnly if contract == "push" else lambda: make(engine.url), stop_within=5.0
        )
        assert found.chunks == 3
        assert found.raised == ()


async def test_usage_that_never_comes_is_unknown(make: Make) -> None:
    """Usage that was not told of is not made up."""
    async with LoopbackEngine(tokens_per_second=500, fault=Fault(usage=When.NEVER)) as engine:
        report = Recorder()
        await produce(make(engine.url, max_tokens=5), report)
        assert report.usage is None


@pytest.mark.parametrize("shared", [False, True])
async def test_a_server_that_trickles_on_is_left(make: Make, shared: bool) -> None:
    """After the terminal marker nothing is waited for, and the connection is closed."""
    fault = Fault(trickle_after_done=True)
    async with (
        LoopbackEngine(tokens_per_second=1000, fault=fault) as engine,
        httpx.AsyncClient() as client,
    ):
        begun = time.monotonic()
        options = {"client": client} if shared else {}
        await produce(make(engine.url, max_tokens=3, **options), Recorder())
        assert time.monotonic() - begun < 2
        await engine.wait_idle()
        assert engine.open_connections == 0


async def test_a_shared_client_stays_open_and_keeps_its_connection(
    make: Make, library: Any, engine: LoopbackEngine
) -> None:
    """A client of the caller's, of either library, is used and not closed; its connections are reused."""
    async with library.AsyncClient() as client:
        for _ in range(3):
            report = Recorder()
            assert len(await produce(make(engine.url, max_tokens=5, client=client), report)) == 5
        assert not client.is_closed
        assert engine.open_connections == 1


async def test_what_is_received_together_is_handed_over_together() -> None:
    """Events that came in one read are one batch, even if each has an HTTP chunk of its own."""
    go = asyncio.Event()
    first = head() + chunked(token("a"))
    second = chunked(token("b"), token("c"), token("d") + token("e"))
    last = chunked(token("", "stop"), DONE, end=True)
    async with scripted(Answer(first, second, last, go=go)) as server:
        report = Recorder()
        batches = []
        go.set()
        async for batch in _openai(server.url).stream(report=report):
            batches.append(batch)
            go.set()
        assert batches == [["a"], ["b", "c", "d", "e"]]
        assert report.finishes[-1] == ("stop", None)


async def test_an_error_does_not_swallow_what_came_with_it() -> None:
    """Chunks that were received together with the break are handed over before it is told of."""
    body = head() + chunked(token("a"), token("b")) + b"nonsense, and no chunk\r\n"
    async with scripted(Answer(body, then="close")) as server:
        report = Recorder()
        with pytest.raises(TruncatedStream):
            await produce(_openai(server.url), report)
        assert report.chunks == ["a", "b"]


async def test_a_compressed_stream_is_read(make: Make) -> None:
    """Compressed bodies are undone as they come."""
    import gzip

    if make is _openai:
        kind, body = "text/event-stream", token("a") + token("b", "stop") + DONE
    else:
        kind, body = "application/x-ndjson", b'{"response":"a"}\n{"response":"b","done":true}\n'
    answer = head(kind, "content-encoding: gzip") + chunked(gzip.compress(body), end=True)
    async with scripted(Answer(answer, then="next")) as server:
        assert await produce(make(server.url), Recorder()) == ["a", "b"]


@asynccontextmanager
async def cut_off(
    producer: Any, contract: str
) -> AsyncIterator[tuple[Recorder, asyncio.Task[Any]]]:
    """Run a producer in a task of its own, and stop it however the test ends."""
    report = Recorder()
    event = asyncio.Event()
    if contract == "push":
        report.closers.append(event.set)  # a caller who knows nothing of on_close
        task = asyncio.create_task(outcome(producer.run(out=report, cancel_event=event)))
        report.on_close = lambda callback: lambda: None  # type: ignore[method-assign]
    else:
        task = asyncio.create_task(outcome(produce(producer, report)))
    try:
        yield report, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("phase", ["thinking", "streaming"])
async def test_cut_off(make: Make, contract: str, phase: str, collector: bool) -> None:
    """At the cutoff the connection is closed at once; the producer ends without an error."""
    delay = 30.0 if phase == "thinking" else 0.0
    async with LoopbackEngine(tokens_per_second=200, first_token_delay=delay) as engine:
        producer = make(engine.url, max_tokens=5000)
        async with cut_off(producer, contract) as (report, task):
            if phase == "thinking":
                await engine.wait_until(lambda: bool(engine.requests))
            else:
                await until(lambda: len(report.chunks) > 5)
            instant = time.monotonic()
            report.cut()
            got = await task
            assert not isinstance(got, Exception), got
            await engine.wait_idle()
            (request,) = engine.requests
            assert request.noticed_at is not None
            assert request.noticed_at - instant < LET_GO
            assert request.generated - len(report.chunks) <= 3
            (attempt,) = report.attempts
            assert attempt.cut


async def test_cut_off_while_connecting(make: Make, contract: str) -> None:
    """A connection that does not come to be is given up at the cutoff."""
    with full_listener() as port:
        producer = make(f"http://127.0.0.1:{port}")
        async with cut_off(producer, contract) as (report, task):
            for _ in range(20):
                await asyncio.sleep(0)
            report.cut()
            async with asyncio.timeout(LET_GO):
                got = await task
            assert not isinstance(got, Exception), got
            assert report.chunks == []


async def test_cut_off_between_two_reads(make: Make, engine: LoopbackEngine) -> None:
    """A reader that holds a batch does not keep the connection open."""
    report = Recorder()
    batches = make(engine.url, max_tokens=5000).stream(report=report)
    await anext(batches)
    report.cut()
    await engine.wait_idle()
    assert not engine.requests[0].ran_to_end
    assert await outcome(anext(batches, "end")) == "end"


async def test_nothing_is_sent_after_the_cutoff(make: Make, contract: str) -> None:
    """A producer that starts after its cutoff makes no call."""
    async with scripted(Answer(OK)) as server:
        report = Recorder(cut=True)
        assert await produce(make(server.url), report, contract) == []
        assert server.connections == 0
        assert report.attempts == []


async def test_a_consumer_that_stops_closes_the_connection(
    make: Make, engine: LoopbackEngine, collector: bool
) -> None:
    """Closing the iterator lets go of the engine; the attempt says that we left."""
    report = Recorder()
    stream = make(engine.url, max_tokens=5000).stream(report=report)
    await anext(stream)
    await stream.aclose()
    await engine.wait_idle()
    assert not engine.requests[0].ran_to_end
    assert report.attempts[0].cut
    assert report.closers == []


async def test_a_cancelled_task_closes_the_connection(
    make: Make, contract: str, collector: bool
) -> None:
    """Cancellation from outside passes through, and the engine is let go."""
    async with LoopbackEngine(first_token_delay=30.0) as engine:
        report = Recorder()
        task = asyncio.create_task(produce(make(engine.url), report, contract))
        await engine.wait_until(lambda: bool(engine.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.wait_idle()
        assert report.attempts[0].cut


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
    async with scripted(Answer(body)) as server, cut_off(_openai(server.url), "pull") as (_, task):
        async with asyncio.timeout(4):
            got = await task
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
            await produce(_openai(server.url), Recorder())
        assert (caught.value.type, caught.value.message) == (kind, message)
        assert caught.value.retry_after is None


async def test_what_is_asked_for() -> None:
    """The requests ask for a stream and for usage, with the caller's options beside."""
    answer = Answer(head() + chunked(token("a", "stop"), DONE, end=True), then="next")
    line = b'{"response":"a","done":true}\n'
    answers = [answer, *[Answer(head("x") + chunked(line, end=True), then="next")] * 2]
    async with scripted(*answers) as server:
        options = {"temperature": 0.5, "stream_options": {"include_obfuscation": False}}
        producer = OpenAIProducer(
            "m",
            messages=[{"role": "system", "content": "s"}],
            base_url=f"{server.url}/v1/",
            api_key="key",
            max_tokens=5,
            options=options,
            headers={"x-a": "b"},
        )
        await produce(producer, Recorder())
        await produce(
            _chat(server.url, options={"top_k": 1}, extra_body={"think": True}), Recorder()
        )
        await produce(_generate(server.url, max_tokens=9, api_key="key"), Recorder())
        openai, chat, generate = server.bodies
        assert openai == {
            "model": "m",
            "messages": [{"role": "system", "content": "s"}],
            "temperature": 0.5,
            "stream": True,
            "stream_options": {"include_obfuscation": False, "include_usage": True},
            "max_tokens": 5,
        }
        assert (chat["stream"], chat["options"], chat["think"]) == (True, {"top_k": 1}, True)
        assert (generate["prompt"], generate["options"]) == (
            "Tell me about the river.",
            {"num_predict": 9},
        )
        heads = [request.lower() for request in server.requests]
        assert heads[0].startswith(b"post /v1/chat/completions ")
        assert heads[1].startswith(b"post /api/chat ")
        assert heads[2].startswith(b"post /api/generate ")
        assert [b"authorization: bearer key" in request for request in heads] == [True, False, True]
        assert b"x-a: b" in heads[0]


async def test_request_ids_are_told() -> None:
    """The provider's name for the call is on the report and on the attempt."""
    answer = head("x", "x-request-id: req-9") + chunked(token("a", "stop"), DONE, end=True)
    async with scripted(Answer(answer, then="next")) as server:
        report = Recorder()
        await produce(_openai(server.url), report)
        assert (None, "req-9") in report.names
        assert report.attempts[0].request_id == "req-9"


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


def test_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key of the caller's, that of the environment is used; OpenAI gets the new field."""
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    producer = OpenAIProducer("m", prompt="a", max_tokens=5)
    request = producer._request(httpx.AsyncClient())
    assert request.headers["authorization"] == "Bearer from-environment"
    assert b'"max_completion_tokens":5' in request.content
    assert str(request.url) == "https://api.openai.com/v1/chat/completions"


@pytest.mark.parametrize("guarded", [False, True], ids=["plain", "guarded"])
async def test_a_reused_connection_is_closed_in_the_step_of_the_cutoff(
    library: Any, guarded: bool
) -> None:
    """On a shared client, too, the connection is closed before the headers without a turn of the loop."""
    options = {"transport": GuardedAsyncTransport()} if guarded else {}
    async with (
        scripted(Answer(OK, then="next"), Answer()) as server,
        library.AsyncClient(**options) as client,
    ):
        await client.get(server.url)
        server.received.clear()
        async with cut_off(_openai(server.url, client=client), "pull") as (report, task):
            await server.received.wait()
            assert server.connections == 1
            (cut,) = report.closers
            call: Any = cut.__self__  # type: ignore[attr-defined]  # a bound method
            assert call._network is not None
            report.cut()
            assert call._network is None
            await server.left()
            assert await task == []
