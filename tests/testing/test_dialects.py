"""The engine speaks the providers' formats: read with httpx, and with OpenAI's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import openai
import pytest

from streamguard_testing import Ending, LoopbackEngine, NGramModel

TEXT = "".join(NGramModel().generate(9, seed=5))
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me about the river."}]
Read = Callable[[bytes], list[Any]]


@pytest.fixture
async def sdk(engine: LoopbackEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    """Return OpenAI's own client for the engine."""
    async with openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x", max_retries=0) as client:
        yield client


async def test_ollama_chat_streams_by_default(http: httpx.AsyncClient, objects: Read) -> None:
    """A chat is NDJSON, one message a token, and ends with done, the reason and the counters."""
    body = {"model": "m", "messages": MESSAGES, "options": {"num_predict": 9}}
    response = await http.post("/api/chat", json=body)
    *lines, last = objects(response.content)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert [line["done"] for line in lines] == [False] * 9
    assert "".join(line["message"]["content"] for line in lines) == TEXT
    assert last["message"] == {"role": "assistant", "content": ""}
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert (last["eval_count"], last["prompt_eval_count"]) == (9, 6)
    durations = [last[f"{name}_duration"] for name in ("total", "load", "prompt_eval", "eval")]
    assert all(isinstance(duration, int) for duration in durations)
    assert durations[0] >= sum(durations[1:]) > 0


async def test_ollama_generate(http: httpx.AsyncClient, objects: Read) -> None:
    """A generation has its text in `response`."""
    body = {"model": "m", "prompt": "Tell me about the river.", "options": {"num_predict": 9}}
    *lines, last = objects((await http.post("/api/generate", json=body)).content)
    assert "".join(line["response"] for line in lines) == TEXT
    assert (last["response"], last["done"], last["eval_count"]) == ("", True, 9)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_ollama_without_a_stream(http: httpx.AsyncClient, path: str) -> None:
    """Without a stream it is one object with everything in it."""
    body = {
        "model": "m",
        "messages": MESSAGES,
        "prompt": "x",
        "stream": False,
        "options": {"num_predict": 9},
    }
    response = await http.post(path, json=body)
    said = response.json()
    assert response.headers["content-length"] == str(len(response.content))
    assert (said["message"]["content"] if "message" in said else said["response"]) == TEXT
    assert (said["done"], said["done_reason"], said["eval_count"]) == (True, "length", 9)


@pytest.mark.parametrize(
    ("path", "body"), [("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})]
)
async def test_ollama_loads_a_model(
    engine: LoopbackEngine, http: httpx.AsyncClient, objects: Read, path: str, body: dict[str, Any]
) -> None:
    """An empty prompt generates nothing and is answered with the reason `load`."""
    (said,) = objects((await http.post(path, json={"model": "m", **body})).content)
    assert (said["done"], said["done_reason"]) == (True, "load")
    (record,) = engine.requests
    assert (record.generated, record.ending) == (0, Ending.COMPLETED)


async def test_model_stops_by_itself(http: httpx.AsyncClient, objects: Read) -> None:
    """Without a limit, or without end (-1), the model comes to its own end, and says `stop`."""
    for options in ({}, {"num_predict": -1}):
        body = {"model": "m", "prompt": "x", "options": options}
        *lines, last = objects((await http.post("/api/generate", json=body)).content)
        assert (len(lines), last["done_reason"]) == (128, "stop")


@pytest.mark.parametrize(("limit", "length", "reason"), [(3, 3, "length"), (9, 7, "stop")])
async def test_own_end_or_the_callers(objects: Read, limit: int, length: int, reason: str) -> None:
    """An answer ends at the model's own end or at the caller's limit, whichever comes first."""
    async with LoopbackEngine(answer_tokens=7) as engine, httpx.AsyncClient() as http:
        body = {"model": "m", "prompt": "x", "options": {"num_predict": limit}}
        response = await http.post(f"{engine.url}/api/generate", json=body)
        *lines, last = objects(response.content)
        assert (len(lines), last["done_reason"]) == (length, reason)


async def test_openai_events(http: httpx.AsyncClient, objects: Read) -> None:
    """The stream is role, contents, finish, usage with empty choices, [DONE]."""
    body = {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    response = await http.post("/v1/chat/completions", json=body)
    role, *contents, finish, usage, done = objects(response.content)
    assert response.headers["content-type"] == "text/event-stream"
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(event["choices"][0]["delta"]["content"] for event in contents) == TEXT
    assert finish["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "length",
    }
    assert usage["choices"] == []
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (6, 9)
    assert [event["usage"] for event in (role, *contents, finish)] == [None] * 11
    assert done == "[DONE]"
    assert len({event["id"] for event in (role, *contents, finish, usage)}) == 1


async def test_openai_usage_only_when_asked_for(http: httpx.AsyncClient, objects: Read) -> None:
    """Nobody gets usage in a stream who did not ask for it."""
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 2, "stream": True}
    *events, done = objects((await http.post("/v1/chat/completions", json=body)).content)
    assert done == "[DONE]"
    assert not [event for event in events if "usage" in event or not event["choices"]]


async def test_openai_counters_with_every_token(http: httpx.AsyncClient, objects: Read) -> None:
    """As vLLM does: who asks for continuous usage has the counters so far in every event."""
    body = {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    response = await http.post("/v1/chat/completions", json=body)
    *events, done = objects(response.content)
    assert done == "[DONE]"
    assert [event["usage"]["completion_tokens"] for event in events] == [0, 1, 2, 3, 3, 3]
    assert {event["usage"]["prompt_tokens"] for event in events} == {6}
    assert [event["usage"]["total_tokens"] for event in events] == [6, 7, 8, 9, 9, 9]


async def test_openai_client_reads_a_stream(sdk: openai.AsyncOpenAI) -> None:
    """OpenAI's own client understands the stream, its usage included."""
    stream = await sdk.chat.completions.create(
        model="m",
        messages=MESSAGES,
        max_completion_tokens=9,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 15


async def test_openai_client_reads_an_answer(sdk: openai.AsyncOpenAI) -> None:
    """OpenAI's own client understands an answer in one piece."""
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "one two"}]}]
    answer = await sdk.chat.completions.create(
        model="m", messages=[*parts, {"role": "assistant", "content": None}], max_tokens=9
    )
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 9)


async def test_openai_client_lists_models(sdk: openai.AsyncOpenAI) -> None:
    """OpenAI's own client can list the models."""
    assert [model.id async for model in sdk.models.list()] == ["loopback"]


async def test_ollama_lists_models(http: httpx.AsyncClient) -> None:
    """`/api/tags` lists the models."""
    said = (await http.get("/api/tags")).json()
    assert [model["name"] for model in said["models"]] == ["loopback"]


async def test_a_request_may_bring_its_seed(http: httpx.AsyncClient) -> None:
    """The seed of a request comes before the engine's, in both dialects."""
    ollama = {"model": "m", "prompt": "x", "stream": False, "options": {"seed": 2}}
    said = (await http.post("/api/generate", json=ollama)).json()
    wanted = "".join(NGramModel().generate(128, seed=2))
    assert said["response"] == wanted
    body = {"model": "m", "messages": MESSAGES, "seed": 2}
    said = (await http.post("/v1/chat/completions", json=body)).json()
    assert said["choices"][0]["message"]["content"] == wanted


async def test_a_lone_surrogate_is_no_accident(http: httpx.AsyncClient) -> None:
    """A model name that is no Unicode text gets an answer all the same."""
    response = await http.post("/api/generate", content=b'{"model": "\\ud800", "prompt": ""}')
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/chat", b"nonsense", "must be a JSON object"),
        ("/api/chat", b"[" * 100_000, "must be a JSON object"),
        ("/api/chat", b"[]", "must be a JSON object"),
        ("/api/chat", b'{"messages": [{}]}', "'model' must be a text"),
        ("/api/chat", b'{"model": "m", "messages": {}}', "'messages' must be a list"),
        ("/api/chat", b'{"model": "m", "messages": [{"content": 1}]}', "must be a text or a list"),
        ("/api/chat", b'{"model": "m", "options": 1}', "'options' must be an object"),
        ("/api/chat", b'{"model": "m", "stream": 1}', "'stream' must be true or false"),
        ("/api/generate", b'{"model": "m", "prompt": [1]}', "'prompt' must be a text"),
        ("/api/generate", b'{"model": "m", "options": {"seed": "x"}}', "'seed' must be an integer"),
        (
            "/api/generate",
            b'{"model": "m", "prompt": "x", "options": {"num_predict": 100001}}',
            "this engine allows 100000",
        ),
        ("/v1/chat/completions", b'{"model": "m", "messages": []}', "must not be empty"),
        ("/v1/chat/completions", b'{"model": "m", "messages": [{}], "n": 2}', "'n' must be 1"),
        (
            "/v1/chat/completions",
            b'{"model": "m", "messages": [{}], "max_tokens": 0}',
            "'max_tokens' must be 1 or more",
        ),
    ],
)
async def test_bad_requests_are_refused(
    engine: LoopbackEngine, http: httpx.AsyncClient, path: str, body: bytes, message: str
) -> None:
    """A request that makes no sense gets a 400 in its dialect, and nothing is generated for it."""
    response = await http.post(path, content=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in (error if path.startswith("/api") else error["message"])
    assert engine.requests == ()


async def test_a_body_that_is_too_large_is_refused() -> None:
    """A body beyond the engine's bound is not taken in."""
    async with LoopbackEngine(max_body_bytes=100) as engine, httpx.AsyncClient() as http:
        response = await http.post(f"{engine.url}/api/chat", content=b"x" * 101)
        assert response.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/chat", 405), ("GET", "/", 404), ("POST", "/v1/embeddings", 404)],
)
async def test_other_addresses(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    """An address or method the engine does not know gets an error that names those it knows."""
    response = await http.request(method, path)
    assert response.status_code == status
    assert "error" in response.json()
