"""OpenAIProducer of responses: what is asked, its id, and the background, which a cutoff cancels."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import httpx
import pytest

from streamguard_core import StreamSession, UsageError
from streamguard_providers import OpenAIProducer, look_up
from streamguard_testing import LoopbackEngine

from .makers import completions_producer, openai_producer, responses_producer
from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .waiting import outcome, until
from .wire import response

BEGUN = head() + chunked(response("a", begun=True))


async def test_what_is_asked_for() -> None:
    """The prompt or the messages are the input; usage comes unasked."""
    good = Answer(head() + chunked(response("a"), end=True), then="next")
    async with scripted(good, good) as server:
        producer = responses_producer(server.url, max_tokens=9, options={"store": False})
        assert await produce(producer, Recorder()) == ["a"]
        messages = [{"role": "user", "content": "q"}]
        await produce(
            OpenAIProducer("m", messages=messages, api="responses", base_url=server.url), Recorder()
        )
        prompt, conversation = server.bodies
    assert prompt == {
        "model": "m",
        "store": False,
        "input": "Tell me about the river.",
        "stream": True,
        "max_output_tokens": 9,
    }
    assert conversation["input"] == messages


async def test_its_id_is_the_name_of_the_call() -> None:
    """The id in the body is what OpenAI answers for later: it is on the report and the attempt."""
    good = head("text/event-stream", "x-request-id: req-1") + chunked(response("a"), end=True)
    async with scripted(Answer(good, then="next")) as server:
        report = Recorder()
        await produce(responses_producer(server.url), report)
    assert report.names[-1] == (None, "resp_1")
    assert report.attempts[0].request_id == "resp_1"


async def test_in_the_background_it_is_cancelled_with_the_stream() -> None:
    """A reader who leaves ends the answer at the provider, too, which goes on without its stream."""
    async with LoopbackEngine(tokens_per_second=100) as engine:
        producer = responses_producer(
            engine.url,
            background=True,
            max_tokens=5000,
            api_key="k",
            headers={"x-engine-request-id": "river"},
        )
        session = StreamSession(producer)
        async with session:
            async for _ in session:
                break
        receipt = await session.receipt()
        await engine.wait_idle()
        (request,) = engine.requests
        assert not request.ran_to_end
        assert request.generated < 1000
        assert receipt.request_id == receipt.attempts[0].request_id == "resp_river"
        # As at the provider: what a cancelled answer used is not told, but it is known there.
        assert await look_up(receipt, api_key="k", base_url=engine.openai_url) is None


async def test_without_the_background_nothing_is_cancelled() -> None:
    """In the foreground closing the connection is the end: no further call is made."""
    async with scripted(Answer(BEGUN), Answer()) as server:
        report = Recorder()
        async for _ in responses_producer(server.url).stream(report=report):
            report.cut()
        await server.left()
        assert len(server.requests) == 1


@pytest.mark.parametrize("contract", ["pull", "push"])
@pytest.mark.parametrize("own", [True, False], ids=["own client", "pool"])
async def test_the_call_that_cancels(contract: str, own: bool) -> None:
    """It has the key, goes the way of the first, and its usage is reported if it has one."""
    said = b'{"id":"resp_1","status":"cancelled","usage":{"input_tokens":3,"output_tokens":7}}'
    cancelled = Answer(head("application/json") + chunked(said, end=True), then="next")
    async with scripted(Answer(BEGUN), cancelled) as server, httpx.AsyncClient() as client:
        options: dict[str, Any] = {"client": client} if own else {}
        producer = responses_producer(server.url, background=True, api_key="k", **options)
        report = Leaver()
        await outcome(produce(producer, report, contract))
        await until(lambda: len(server.requests) == 2)
        _, second = server.requests
    assert server.bodies[0]["background"] is True
    assert second.startswith(b"POST /v1/responses/resp_1/cancel HTTP/1.1")
    assert b"authorization: Bearer k" in second
    assert report.usage is not None
    assert report.usage.output.value == 7


class Leaver(Recorder):
    """Leaves at the first chunk, whichever way it is driven."""

    async def __call__(self, token: Any) -> None:
        await super().__call__(token)
        self.cut()

    def identify(self, **names: Any) -> None:
        super().identify(**names)
        if names.get("request_id") == "resp_1":
            self.cut()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n"])
async def test_a_provider_that_does_not_cancel(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What the provider says to that changes nothing for the stream; it is logged."""
    caplog.set_level(logging.WARNING)
    async with scripted(Answer(BEGUN), Answer(answer, then="close")) as server:
        report = Recorder()
        async for batch in responses_producer(server.url, background=True).stream(report=report):
            report.chunks += batch
            report.cut()
    assert report.chunks == ["a"]
    assert "did not cancel a call in the background (ProviderError)" in caplog.text


async def test_left_before_the_id_was_told(caplog: pytest.LogCaptureFixture) -> None:
    """Without an id nothing can be cancelled: that is said aloud."""
    async with scripted(Answer(head())) as server:
        report = Recorder()
        producer = responses_producer(server.url, background=True)
        task = asyncio.create_task(outcome(produce(producer, report)))
        await server.received.wait()
        report.cut()
        await task
        assert len(server.requests) == 1
    assert "before it told the id" in caplog.text


async def test_a_response_that_has_ended_is_not_cancelled() -> None:
    """What has come to its end needs no call."""
    good = Answer(head() + chunked(response("a"), end=True), then="next")
    async with scripted(good, Answer()) as server:
        await produce(responses_producer(server.url, background=True), Recorder())
        assert len(server.requests) == 1


async def test_completions() -> None:
    """A text completion goes on after its prompt, so that a prefix is simply put behind it."""
    async with LoopbackEngine(tokens_per_second=5000) as engine:
        producer = completions_producer(engine.url, max_tokens=4)
        assert len(await produce(producer, Recorder())) == 4
        assert producer.resumed(" The").continues
        assert producer.resumed(" The")._body["prompt"] == "Tell me about the river. The"
    assert not completions_producer(engine.url, continues=False).continues


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api": "assistants"}, "'responses'"),
        ({"api": "chat", "background": True}, "only responses"),
        ({"api": "responses", "continues": "prefix"}, "cannot go on"),
    ],
)
def test_what_an_api_does_not_have(options: dict[str, Any], said: str) -> None:
    """What cannot be asked for is refused when the producer is made."""
    with pytest.raises(UsageError, match=said):
        openai_producer("http://server", **options)
    with pytest.raises(UsageError, match="takes a prompt"):
        OpenAIProducer("m", messages=[], api="completions", base_url="http://server")


async def test_usage_of_a_cancelled_response_is_on_the_receipt() -> None:
    """Where the provider tells at the cancelling what was used, the receipt has it, and not an estimate."""
    said = b'{"id":"resp_1","status":"cancelled","usage":{"input_tokens":3,"output_tokens":7}}'
    cancelled = Answer(head("application/json") + chunked(said, end=True), then="next")
    async with scripted(Answer(BEGUN), cancelled) as server:
        session = StreamSession(responses_producer(server.url, background=True))
        async with session:
            async for _ in session:
                break
        receipt = await session.receipt()
    assert (receipt.output.value, receipt.usage.input.value) == (7, 3)
