"""The engine reasons before it answers where a fault says so, in each dialect's form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from streamguard_testing import Fault, LoopbackEngine, NGramModel

Read = Callable[[bytes], list[Any]]
TEXT = "".join(NGramModel().generate(6, seed=5))
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"model": "m", "messages": MESSAGES, "max_tokens": 9}
REASONS = Fault(reasoning_tokens=3).to_header()


async def test_chat(http: httpx.AsyncClient, objects: Read) -> None:
    """A chat has reasoning_content before its content; both count for limit and usage."""
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    response = await http.post("/v1/chat/completions", json=body, headers=REASONS)
    _, *tokens, _, usage, _ = objects(response.content)
    deltas = [event["choices"][0]["delta"] for event in tokens]
    assert [list(delta) for delta in deltas] == [["reasoning_content"]] * 3 + [["content"]] * 6
    assert "".join(delta.get("content", "") for delta in deltas) == TEXT
    assert usage["usage"]["completion_tokens"] == 9
    assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    whole = (await http.post("/v1/chat/completions", json=CHAT, headers=REASONS)).json()
    message = whole["choices"][0]["message"]
    thought = "".join(delta.get("reasoning_content", "") for delta in deltas)
    assert thought
    assert not TEXT.startswith(thought), "it has a text of its own"
    assert (message["content"], message["reasoning_content"]) == (TEXT, thought)


async def test_responses(engine: LoopbackEngine) -> None:
    """OpenAI's own client finds a summary of reasoning in an item of its own."""
    async with (
        openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x") as client,
        client.responses.stream(
            model="m", input="hi", max_output_tokens=9, extra_headers=REASONS
        ) as stream,
    ):
        events = [event async for event in stream]
    summary = [e.delta for e in events if e.type == "response.reasoning_summary_text.delta"]
    last = events[-1]
    assert last.type == "response.incomplete"
    reasoning, message = last.response.output
    assert reasoning.type == "reasoning"
    assert reasoning.summary[0].text == "".join(summary) != ""
    assert message.type == "message"
    assert last.response.output_text == TEXT
    assert last.response.usage is not None
    assert last.response.usage.output_tokens_details.reasoning_tokens == 3


async def test_anthropic(engine: LoopbackEngine) -> None:
    """Anthropic's own client finds a thinking block with its signature before the text."""
    anthropic = pytest.importorskip("anthropic")
    async with anthropic.AsyncAnthropic(base_url=engine.url, api_key="x") as client:
        async with client.messages.stream(**CHAT, extra_headers=REASONS) as stream:
            streamed = await stream.get_final_message()
        whole = await client.messages.create(**CHAT, extra_headers=REASONS)
    for message in (streamed, whole):
        thinking, text = message.content
        assert (thinking.type, text.text) == ("thinking", TEXT)
        assert thinking.signature
    assert streamed.content[0].thinking == whole.content[0].thinking != ""


async def test_gemini(http: httpx.AsyncClient, objects: Read) -> None:
    """Gemini marks parts as thoughts, and counts them beside the candidates."""
    body = {
        "contents": [{"parts": [{"text": "hi"}]}],
        "generationConfig": {"maxOutputTokens": 9},
    }
    path = "/v1beta/models/m:streamGenerateContent?alt=sse"
    response = await http.post(path, json=body, headers=REASONS)
    chunks = objects(response.content.replace(b"\r", b""))
    parts = [chunk["candidates"][0]["content"]["parts"][0] for chunk in chunks]
    assert ["thought" in part for part in parts] == [True] * 3 + [False] * 7
    assert "".join(part["text"] for part in parts if "thought" not in part) == TEXT
    usage = chunks[-1]["usageMetadata"]
    assert (usage["thoughtsTokenCount"], usage["candidatesTokenCount"]) == (3, 6)
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + 9
    path = "/v1beta/models/m:generateContent"
    whole = (await http.post(path, json=body, headers=REASONS)).json()
    thought, text = whole["candidates"][0]["content"]["parts"]
    assert (thought["thought"], text["text"]) == (True, TEXT)


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_ollama(http: httpx.AsyncClient, objects: Read, path: str) -> None:
    """Ollama has `thinking` beside the text."""
    body = {"model": "m", "messages": MESSAGES, "prompt": "x", "options": {"num_predict": 9}}
    *lines, last = objects((await http.post(path, json=body, headers=REASONS)).content)
    said = [line.get("message", line) for line in lines]
    thoughts = [one["thinking"] for one in said if "thinking" in one]
    texts = [one.get("content", one.get("response")) for one in said]
    assert (len(thoughts), "".join(texts)) == (3, TEXT)
    assert last["eval_count"] == 9
    whole = (await http.post(path, json=body | {"stream": False}, headers=REASONS)).json()
    assert whole.get("message", whole)["thinking"] == "".join(thoughts) != ""


async def test_own_end_counts_the_answer(objects: Read) -> None:
    """Reasoning comes on top of the model's own end, and is in the engine's record."""
    fault = Fault(reasoning_tokens=3)
    async with LoopbackEngine(answer_tokens=6, seed=5, fault=fault) as engine:
        async with httpx.AsyncClient(base_url=engine.url) as http:
            body = {"model": "m", "prompt": "x"}
            lines = objects((await http.post("/api/generate", json=body)).content)
            said = (await http.post("/v1/completions", json=body)).json()
        assert (len(lines), lines[-1]["done_reason"]) == (10, "stop")
        # A completion is text and nothing else, so there is nothing to reason in.
        assert said["choices"][0]["text"] == TEXT
        assert [(one.generated, one.reasoning) for one in engine.requests] == [(9, 3), (6, 0)]


async def test_limit_within_the_reasoning(http: httpx.AsyncClient) -> None:
    """A limit that is reached while the model reasons leaves no answer."""
    body = CHAT | {"max_tokens": 2}
    said = (await http.post("/v1/chat/completions", json=body, headers=REASONS)).json()
    assert said["choices"][0]["message"]["content"] == ""
    assert said["choices"][0]["finish_reason"] == "length"
    assert said["usage"]["completion_tokens"] == 2
