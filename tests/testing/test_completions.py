"""The engine speaks OpenAI's text completions: read with httpx, and with OpenAI's own client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from streamguard_testing import Fault, LoopbackEngine, NGramModel

TEXT = "".join(NGramModel().generate(9, seed=5))
BODY: dict[str, Any] = {"model": "m", "prompt": "Tell me about the river.", "max_tokens": 9}
PATH = "/v1/completions"
Read = Callable[[bytes], list[Any]]


async def test_events(http: httpx.AsyncClient, objects: Read) -> None:
    """The stream is a text a token, the finish reason, the usage if wanted, and [DONE]."""
    body = BODY | {"stream": True, "stream_options": {"include_usage": True}}
    *tokens, finish, usage, done = objects((await http.post(PATH, json=body)).content)
    assert "".join(event["choices"][0]["text"] for event in tokens) == TEXT
    assert [event["choices"][0]["finish_reason"] for event in (*tokens, finish)] == [
        *[None] * 9,
        "length",
    ]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 9)
    assert [event["usage"] for event in (*tokens, finish)] == [None] * 10
    assert done == "[DONE]"


async def test_usage_only_when_asked_for(http: httpx.AsyncClient, objects: Read) -> None:
    """Nobody gets usage in a stream who did not ask for it."""
    *events, _ = objects((await http.post(PATH, json=BODY | {"stream": True})).content)
    assert [event for event in events if "usage" in event] == []


async def test_error_inside_a_200(http: httpx.AsyncClient, objects: Read) -> None:
    """After so many tokens an error comes, and no [DONE]."""
    fault = Fault(error_after=2, error_message="too bad")
    response = await http.post(PATH, json=BODY | {"stream": True}, headers=fault.to_header())
    *tokens, error = objects(response.content)
    assert len(tokens) == 2
    assert error["error"]["message"] == "too bad"


async def test_openai_client(engine: LoopbackEngine) -> None:
    """OpenAI's own client understands stream and answer; a list of one prompt is a prompt."""
    async with openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x") as client:
        stream = await client.completions.create(**BODY, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == TEXT
        answer = await client.completions.create(**BODY | {"prompt": ["one two"]})
    assert answer.choices[0].text == TEXT
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 9)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": None}, "'prompt' must be a text"),
        ({"prompt": ["a", "b"]}, "a list of one"),
        ({"n": 2}, "'n' must be 1"),
        ({"max_tokens": 0}, "must be 1 or more"),
    ],
)
async def test_bad_requests(
    engine: LoopbackEngine, http: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    """A request that makes no sense gets a 400."""
    response = await http.post(PATH, json=BODY | body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    assert engine.requests == ()
