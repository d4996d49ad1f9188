"""The producers: chunks, usage, errors and ends from a real server, by both contracts."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from streamguard_core import (
    CountSource,
    Producer,
    PullProducer,
    Scope,
    use_scope,
)
from streamguard_core.testing import check_producer
from streamguard_providers import (
    GuardedAsyncTransport,
    OpenAIProducer,
)
from streamguard_testing import Fault, LoopbackEngine, run_engine
from streamguard_testing import Usage as When

from .makers import (
    LIMIT_WORDS,
    Make,
    anthropic_producer,
    array_producer,
    chat_producer,
    completions_producer,
    gemini_producer,
    generate_producer,
    no_truth,
    openai_producer,
    responses_producer,
)
from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .waiting import until
from .wire import DONE, candidate, completion, event, message, response, token


async def test_a_whole_answer(make: Make, contract: str, engine: LoopbackEngine) -> None:
    """All tokens, the reason, the engine's own usage, the model and one attempt are handed over."""
    report = Recorder()
    chunks = await produce(make(engine.url, max_tokens=25), report, contract)
    (request,) = engine.requests
    assert len(chunks) == request.generated == 25
    assert all(isinstance(chunk, str) for chunk in chunks)
    reason, usage = report.finishes[-1]
    assert reason in LIMIT_WORDS
    assert request.max_tokens == 25
    assert usage is not None
    assert (usage.output.value, usage.output.source) == (25, CountSource.PROVIDER_FINAL)
    assert usage.input.value == request.prompt_tokens
    assert "m" in [model for model, _ in report.names]
    (attempt,) = report.attempts
    assert (attempt.status, attempt.cut, attempt.model) == (200, False, "m")
    assert attempt.bytes_received > 0
    assert (report.connections, report.closers) == (1, [])


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
    task = asyncio.create_task(produce(openai_producer(engine.url, max_tokens=3), report))
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
        assert no_truth(report.usage)


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
        producer = make(engine.url, max_tokens=3, **options)
        if producer._patience is not None:
            producer._patience = 0.2  # without a marker the end of the body is waited for
        assert len(await produce(producer, Recorder())) == 3
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
        async for batch in openai_producer(server.url).stream(report=report):
            batches.append(batch)
            go.set()
        assert batches == [["a"], ["b", "c", "d", "e"]]
        assert report.finishes[-1] == ("stop", None)


async def test_a_compressed_stream_is_read(make: Make) -> None:
    """Compressed bodies are undone as they come."""
    import gzip

    kind, body = "text/event-stream", token("a") + token("b", "stop") + DONE
    if make is anthropic_producer:
        body = message("a", "b")
    elif make is responses_producer:
        body = response("a", "b")
    elif make is completions_producer:
        body = completion("a") + completion("b", "stop") + DONE
    elif make in {gemini_producer, array_producer}:
        chunks = [candidate("a"), candidate("b", "STOP")]
        body = b"".join(map(event, chunks))
        if make is array_producer:
            kind, body = "application/json", json.dumps(chunks).encode()
    elif make is not openai_producer:
        kind, body = "application/x-ndjson", b'{"response":"a"}\n{"response":"b","done":true}\n'
    answer = head(kind, "content-encoding: gzip") + chunked(gzip.compress(body), end=True)
    async with scripted(Answer(answer, then="next")) as server:
        assert await produce(make(server.url), Recorder()) == ["a", "b"]


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
            chat_producer(server.url, options={"top_k": 1}, extra_body={"think": True}), Recorder()
        )
        await produce(generate_producer(server.url, max_tokens=9, api_key="key"), Recorder())
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
        await produce(openai_producer(server.url), report)
        assert (None, "req-9") in report.names
        assert report.attempts[0].request_id == "req-9"


def test_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key of the caller's, that of the environment is used; OpenAI gets the new field."""
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    producer = OpenAIProducer("m", prompt="a", max_tokens=5)
    request = producer._request(httpx.AsyncClient())
    assert request.headers["authorization"] == "Bearer from-environment"
    assert b'"max_completion_tokens":5' in request.content
    assert str(request.url) == "https://api.openai.com/v1/chat/completions"


async def test_is_one_attempt_even_on_a_guarded_client(engine: LoopbackEngine) -> None:
    """A producer reports for itself: a guarded client it is given does not report it again."""
    report, scope = Recorder(), Scope()
    scope.session = report
    async with httpx.AsyncClient(transport=GuardedAsyncTransport()) as client:
        with use_scope(scope):
            await produce(openai_producer(engine.url, client=client, max_tokens=3), report)
    assert len(report.attempts) == 1


async def test_a_server_that_falls_silent_is_left(library: Any) -> None:
    """The end of the HTTP body is not waited for, not even on a shared client."""
    answer = Answer(head() + chunked(token("a", "stop"), DONE))
    async with scripted(answer) as server, library.AsyncClient() as client:
        async with asyncio.timeout(2):
            assert await produce(openai_producer(server.url, client=client), Recorder()) == ["a"]
        await server.left()
