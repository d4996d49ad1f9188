"""The engine speaks Gemini's formats: read with httpx, and with Google's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from streamguard_testing import Ending, Fault, LoopbackEngine, NGramModel, Usage

TEXT = "".join(NGramModel().generate(9, seed=5))
BODY: dict[str, Any] = {
    "contents": [{"role": "user", "parts": [{"text": "Tell me about the river."}]}],
    "generationConfig": {"maxOutputTokens": 9},
}
STREAM = "/v1beta/models/m:streamGenerateContent"
SSE = f"{STREAM}?alt=sse"
WHOLE = "/v1beta/models/m:generateContent"


async def ask(
    http: httpx.AsyncClient, path: str, fault: Fault | None = None, **rest: Any
) -> httpx.Response:
    """Ask for content."""
    return await http.post(path, json=BODY | rest, headers=fault.to_header() if fault else {})


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the chunks of a stream in either form."""
    body = response.content
    if response.headers["content-type"] == "text/event-stream":
        *blocks, rest = body.split(b"\r\n\r\n")
        assert rest == b""
        return [json.loads(block.removeprefix(b"data: ")) for block in blocks]
    found: list[dict[str, Any]] = json.loads(body)
    return found


def text(chunk: dict[str, Any]) -> str:
    """Return the text of a chunk."""
    return "".join(part["text"] for part in chunk["candidates"][0]["content"]["parts"])


@pytest.mark.parametrize("path", [SSE, STREAM])
async def test_chunks(http: httpx.AsyncClient, path: str) -> None:
    """The stream is a chunk a token with the counters so far; the last one has the reason."""
    *tokens, last = chunks(await ask(http, path))
    assert "".join(text(chunk) for chunk in tokens) == TEXT
    counts = [chunk["usageMetadata"]["candidatesTokenCount"] for chunk in (*tokens, last)]
    assert counts == [*range(1, 10), 9]
    assert last["usageMetadata"]["promptTokenCount"] == 6
    assert last["usageMetadata"]["totalTokenCount"] == 15
    reasons = [chunk["candidates"][0].get("finishReason") for chunk in (*tokens, last)]
    assert reasons == [None] * 9 + ["MAX_TOKENS"]


async def test_array_is_pretty(http: httpx.AsyncClient) -> None:
    """Without alt=sse it is one JSON array, over several lines, as application/json."""
    response = await ask(http, STREAM)
    assert response.headers["content-type"].startswith("application/json")
    assert response.content.startswith(b'[{\n  "candidates": [\n')
    assert response.content.count(b"}\n,\r\n{\n") == 9
    assert response.content.endswith(b"}\n]")


@pytest.mark.parametrize("prefix", ["v1", "v1beta", "v1alpha"])
async def test_whole(prefix: str) -> None:
    """`:generateContent` answers in one piece, under each version of the API."""
    async with LoopbackEngine(seed=5, answer_tokens=9) as engine, httpx.AsyncClient() as http:
        url = f"{engine.url}/{prefix}/models/m:generateContent"
        said = (await http.post(url, json=BODY | {"generationConfig": {}})).json()
        assert text(said) == TEXT
        assert said["candidates"][0]["finishReason"] == "STOP"
        assert said["modelVersion"] == "m"
        (record,) = engine.requests
        assert (record.dialect, record.model, record.ending) == ("gemini", "m", Ending.COMPLETED)


async def test_usage_that_never_comes(http: httpx.AsyncClient) -> None:
    """Without usage no chunk has counters; when it is late, the last one alone has."""
    never = chunks(await ask(http, SSE, Fault(usage=Usage.NEVER)))
    assert [chunk for chunk in never if "usageMetadata" in chunk] == []
    late = chunks(await ask(http, SSE, Fault(usage=Usage.LATE, usage_delay=0.01)))
    assert ["usageMetadata" in chunk for chunk in late] == [False] * 9 + [True]


@pytest.mark.parametrize("path", [SSE, STREAM])
async def test_error_inside_a_200(http: httpx.AsyncClient, path: str) -> None:
    """After so many tokens an error comes as an item of its own, and nothing after it."""
    response = await ask(http, path, Fault(error_after=2, error_message="too bad"))
    *tokens, error = chunks(response)
    assert response.status_code == 200
    assert len(tokens) == 2
    assert error == {"error": {"code": 500, "message": "too bad", "status": "INTERNAL"}}


async def test_error_bodies(http: httpx.AsyncClient) -> None:
    """An error status has an error as its body; where an array was asked for, within an array."""
    wanted = {"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}
    fault = Fault(status=429, error_message="no")
    for path, said in ((SSE, wanted), (WHOLE, wanted), (STREAM, [wanted])):
        response = await ask(http, path, fault)
        assert (response.status_code, response.json()) == (429, said)


async def test_cut_has_no_reason(http: httpx.AsyncClient) -> None:
    """A stream that is cut off has no reason, and an array no end."""
    sse = chunks(await ask(http, SSE, Fault(cut_after=9)))
    assert "finishReason" not in sse[-1]["candidates"][0]
    array = await ask(http, STREAM, Fault(cut_after=9))
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(array.content)
    assert len(json.loads(array.content + b"]")) == 9


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"contents": []}, "'contents' must not be empty"),
        ({"contents": 1}, "'contents' must be a list of objects"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "must be 1 or more"),
        ({"generationConfig": {"candidateCount": 2}}, "'candidateCount' must be 1"),
        ({"systemInstruction": {"parts": 1}}, "'parts'"),
    ],
)
async def test_bad_requests(
    engine: LoopbackEngine, http: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    """A request that makes no sense gets a 400 in the provider's form."""
    response = await ask(http, WHOLE, **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert message in error["message"]
    assert engine.requests == ()


@pytest.fixture
async def models(engine: LoopbackEngine) -> AsyncIterator[Any]:
    """Return Google's own client for the engine, on httpx and not on what else is installed."""
    genai = pytest.importorskip("google.genai")
    httpx2 = pytest.importorskip("httpx2")
    async with httpx2.AsyncClient() as http:
        options = genai.types.HttpOptions(base_url=engine.url, httpx_async_client=http)
        yield genai.Client(api_key="x", http_options=options).aio.models


async def test_google_client_reads(models: Any) -> None:
    """Google's own client understands stream and answer, their usage included."""
    config = {"max_output_tokens": 9}
    stream = await models.generate_content_stream(model="m", contents="hi", config=config)
    found = [chunk async for chunk in stream]
    assert "".join(chunk.text or "" for chunk in found) == TEXT
    assert found[-1].usage_metadata.candidates_token_count == 9
    answer = await models.generate_content(model="m", contents="hi", config=config)
    assert answer.text == TEXT


async def test_google_client_raises(engine: LoopbackEngine, models: Any) -> None:
    """Google's own client raises an error that comes inside a 200."""
    errors = pytest.importorskip("google.genai.errors")
    engine.fault = Fault(error_after=2)
    stream = await models.generate_content_stream(model="m", contents="hi")
    with pytest.raises(errors.ServerError, match="told to fail"):
        async for _ in stream:
            pass
