"""The engine speaks OpenAI's responses: read with httpx, and with OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from streamguard_testing import Ending, Fault, LoopbackEngine, NGramModel, State, Usage

TEXT = "".join(NGramModel().generate(9, seed=5))
BODY: dict[str, Any] = {
    "model": "m",
    "input": "Tell me about the river.",
    "max_output_tokens": 9,
}
PATH = "/v1/responses"


def events(body: bytes) -> list[dict[str, Any]]:
    """Return the payloads of a stream whose events are named after their types and numbered."""
    found = []
    for number, block in enumerate(body.decode().split("\n\n")[:-1]):
        name, data = block.split("\n")
        payload = json.loads(data.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        assert payload["sequence_number"] == number
        found.append(payload)
    return found


async def ask(http: httpx.AsyncClient, fault: Fault | None = None, **rest: Any) -> httpx.Response:
    """Ask for a response."""
    return await http.post(PATH, json=BODY | rest, headers=fault.to_header() if fault else {})


@pytest.fixture
async def sdk(engine: LoopbackEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    """Return OpenAI's own client for the engine."""
    async with openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x", max_retries=0) as client:
        yield client


async def test_events(http: httpx.AsyncClient) -> None:
    """The stream frames a message as an output item, and its last event repeats it with usage."""
    found = events((await ask(http, stream=True)).content)
    deltas = [event["delta"] for event in found if event["type"] == "response.output_text.delta"]
    assert (len(deltas), "".join(deltas)) == (9, TEXT)
    assert [event["type"] for event in found if not event["type"].endswith(".delta")] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    response = found[-1]["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["content"][0]["text"] == TEXT
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["input_tokens"] == 6
    assert response["usage"]["output_tokens"] == 9
    assert [event for event in found[:-1] if "usage" in event] == []
    assert found[0]["response"]["usage"] is None


async def test_own_end() -> None:
    """An answer that comes to its own end is completed, streamed or not."""
    async with LoopbackEngine(seed=5, answer_tokens=9) as engine, httpx.AsyncClient() as http:
        body = BODY | {"max_output_tokens": None}
        said = (await http.post(engine.url + PATH, json=body)).json()
        streamed = await http.post(engine.url + PATH, json=body | {"stream": True})
        last = events(streamed.content)[-1]
        assert (said["status"], last["type"]) == ("completed", "response.completed")
        assert said["output"][0]["content"][0]["text"] == TEXT
        assert said["output"] == [
            item | {"id": said["output"][0]["id"]} for item in last["response"]["output"]
        ]
        assert said["usage"] == last["response"]["usage"]


async def test_input_items_and_instructions_are_counted(http: httpx.AsyncClient) -> None:
    """The input may be a list of items, and instructions are a part of it."""
    parts = [{"type": "input_text", "text": "one two"}]
    said = (await ask(http, input=[{"role": "user", "content": parts}])).json()
    assert said["usage"]["input_tokens"] == 2
    said = (await ask(http, input="one two", instructions="be short")).json()
    assert said["usage"]["input_tokens"] == 4


async def test_usage_that_never_comes(http: httpx.AsyncClient) -> None:
    """Without usage the terminal event has null there."""
    found = events((await ask(http, Fault(usage=Usage.NEVER), stream=True)).content)
    assert found[-1]["response"]["usage"] is None


async def test_error_inside_a_200(http: httpx.AsyncClient) -> None:
    """After so many tokens an error event comes, and then response.failed."""
    fault = Fault(error_after=2, error_message="too bad")
    *_, delta, error, failed = events((await ask(http, fault, stream=True)).content)
    assert delta["type"] == "response.output_text.delta"
    assert (error["type"], error["code"], error["message"]) == ("error", "server_error", "too bad")
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "too bad"}


async def test_cut_has_no_terminal_event(http: httpx.AsyncClient) -> None:
    """A stream that is cut off ends with a delta."""
    found = events((await ask(http, Fault(cut_after=9), stream=True)).content)
    assert found[-1]["type"] == "response.output_text.delta"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": None}, "'input' must be"),
        ({"input": []}, "'input' must be"),
        ({"input": [1]}, "'input' must be"),
        ({"max_output_tokens": 0}, "must be 1 or more"),
        ({"background": 1}, "'background' must be true or false"),
    ],
)
async def test_bad_requests(
    engine: LoopbackEngine, http: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    """A request that makes no sense gets a 400."""
    response = await ask(http, **body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    assert engine.requests == ()


async def test_openai_client_reads_a_stream(sdk: openai.AsyncOpenAI) -> None:
    """OpenAI's own client understands the stream, its usage included."""
    async with sdk.responses.stream(**BODY) as stream:
        found = [event async for event in stream]
    deltas = [event.delta for event in found if event.type == "response.output_text.delta"]
    assert "".join(deltas) == TEXT
    last = found[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == TEXT
    assert last.response.usage is not None
    assert last.response.usage.total_tokens == 15


async def test_openai_client_reads_an_answer(sdk: openai.AsyncOpenAI) -> None:
    """OpenAI's own client understands an answer in one piece."""
    answer = await sdk.responses.create(**BODY)
    assert answer.output_text == TEXT
    assert answer.incomplete_details is not None


async def test_background_answer(engine: LoopbackEngine, sdk: openai.AsyncOpenAI) -> None:
    """A background answer is made without a reader, and fetched afterwards with its usage."""
    queued = await sdk.responses.create(**BODY, background=True)
    assert (queued.status, queued.output, queued.usage) == ("queued", [], None)
    record = await engine.request_ended(queued.id.removeprefix("resp_"))
    assert record.ending is Ending.COMPLETED
    ended = await sdk.responses.retrieve(queued.id)
    assert (ended.status, ended.output_text) == ("incomplete", TEXT)
    assert ended.usage is not None
    assert ended.usage.output_tokens == 9
    assert (await sdk.responses.cancel(queued.id)).status == "incomplete", "it had ended already"


async def test_background_answer_is_cancelled(
    engine: LoopbackEngine, sdk: openai.AsyncOpenAI
) -> None:
    """A background answer that is cancelled stops, and its usage is not told."""
    engine.fault = Fault(stall_after=3)
    queued = await sdk.responses.create(**BODY, background=True)
    name = queued.id.removeprefix("resp_")
    await engine.wait_until(lambda: engine.request(name).generated == 3)
    assert (await sdk.responses.retrieve(queued.id)).status == "in_progress"
    cancelled = await sdk.responses.cancel(queued.id)
    assert (cancelled.status, cancelled.usage) == ("cancelled", None)
    record = await engine.request_ended(name)
    assert (record.generated, record.ending) == (3, Ending.CANCELLED)
    assert (await sdk.responses.retrieve(queued.id)).status == "cancelled"


async def test_background_stream_survives_its_reader(
    engine: LoopbackEngine, sdk: openai.AsyncOpenAI
) -> None:
    """A background stream says its id first, goes on without its reader, and can be cancelled."""
    engine.fault = Fault(stall_after=3)
    stream = await sdk.responses.create(**BODY, background=True, stream=True)
    first = await anext(aiter(stream))
    assert first.type == "response.created"
    name = first.response.id.removeprefix("resp_")
    await stream.close()
    await engine.wait_until(
        lambda: engine.request(name).noticed_at is not None and engine.request(name).generated == 3
    )
    assert engine.request(name).state is State.GENERATING
    assert (await sdk.responses.cancel(first.response.id)).status == "cancelled"
    assert (await engine.request_ended(name)).ending is Ending.CANCELLED


async def test_cancelled_stream_just_ends(engine: LoopbackEngine, sdk: openai.AsyncOpenAI) -> None:
    """A background stream that is cancelled ends for its reader without a terminal event."""
    engine.fault = Fault(stall_after=0)
    stream = await sdk.responses.create(**BODY, background=True, stream=True)
    iterator = aiter(stream)
    first = await anext(iterator)
    assert first.type == "response.created"
    await sdk.responses.cancel(first.response.id)
    async with asyncio.timeout(10.0):
        rest = [event.type async for event in iterator]
    assert rest == ["response.queued", "response.in_progress"]


async def test_background_answer_that_fails(
    engine: LoopbackEngine, sdk: openai.AsyncOpenAI
) -> None:
    """A background answer that fails says so when it is fetched; a refusal is one at once."""
    engine.fault = Fault(error_after=2, error_message="too bad")
    queued = await sdk.responses.create(**BODY, background=True)
    await engine.request_ended(queued.id.removeprefix("resp_"))
    failed = await sdk.responses.retrieve(queued.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error.message == "too bad"
    engine.fault = Fault(status=429)
    with pytest.raises(openai.RateLimitError):
        await sdk.responses.create(**BODY, background=True)


async def test_only_background_answers_are_kept(
    engine: LoopbackEngine, http: httpx.AsyncClient
) -> None:
    """Other answers, and those the engine has forgotten, are not found; methods are checked."""
    name = (await ask(http)).json()["id"]
    assert (await http.get(f"{PATH}/{name}")).status_code == 404
    name = (await ask(http, background=True)).json()["id"]
    assert (await http.post(f"{PATH}/{name}")).status_code == 405
    await engine.wait_idle()
    assert (await http.get(f"{PATH}/{name}")).status_code == 200
    engine.reset()
    assert (await http.get(f"{PATH}/{name}")).status_code == 404


async def test_engine_that_stops_lets_go_of_the_background() -> None:
    """An engine that is stopped does not wait for an answer that nobody reads."""
    async with LoopbackEngine(fault=Fault(stall_after=1)) as engine, httpx.AsyncClient() as http:
        await http.post(engine.url + PATH, json=BODY | {"background": True})
        await engine.wait_until(lambda: engine.requests[0].generated == 1)
    assert engine.requests[0].ending is Ending.STOPPED
