"""The engine calls a tool where a request or a fault says so, in each dialect's form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from streamguard_testing import Fault, LoopbackEngine, NGramModel

Read = Callable[[bytes], list[Any]]
ARGUMENTS = {"river": "".join(NGramModel().generate(10, seed=5))}
SCHEMA = {
    "type": "object",
    "properties": {"bridges": {"type": "integer"}, "river": {"type": "string"}},
}
MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
FUNCTIONS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("look", "ask")
]
CHAT: dict[str, Any] = {"model": "m", "messages": MESSAGES, "tools": FUNCTIONS}
FLAT = [{"type": "function", **tool["function"]} for tool in FUNCTIONS]
RESPONSES: dict[str, Any] = {"model": "m", "input": "hi", "tools": FLAT}
ANTHROPIC: dict[str, Any] = {
    "model": "m",
    "messages": MESSAGES,
    "max_tokens": 50,
    "tools": [{"name": name, "input_schema": SCHEMA} for name in ("look", "ask")],
}
GEMINI: dict[str, Any] = {
    "contents": [{"parts": [{"text": "hi"}]}],
    "tools": [{"functionDeclarations": [tool["function"] for tool in FUNCTIONS]}],
}
GEMINI_STREAM = "/v1beta/models/m:streamGenerateContent?alt=sse"
CALLS = Fault(tool_call=True).to_header()


async def test_chat(http: httpx.AsyncClient, objects: Read) -> None:
    """A chat has the name in the first piece of the call and the arguments in the others."""
    body = CHAT | {"stream": True}
    response = await http.post("/v1/chat/completions", json=body, headers=CALLS)
    role, first, *pieces, finish, done = objects(response.content)
    assert role["choices"][0]["delta"]["content"] is None
    (call,) = first["choices"][0]["delta"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert (call["index"], call["function"]) == (0, {"name": "look", "arguments": ""})
    texts = [
        event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for event in pieces
    ]
    assert len(texts) == 12
    assert json.loads("".join(texts)) == ARGUMENTS
    assert finish["choices"][0]["finish_reason"] == "tool_calls"
    assert done == "[DONE]"


async def test_openai_client(engine: LoopbackEngine) -> None:
    """OpenAI's own client gets the tool that a chat or a response insists on."""
    async with openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x") as client:
        choice: Any = {"type": "function", "function": {"name": "ask"}}
        answer = await client.chat.completions.create(**CHAT, tool_choice=choice)
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("ask", ARGUMENTS)
        assert answer.choices[0].message.content is None
        async with client.responses.stream(
            **RESPONSES, tool_choice={"type": "function", "name": "ask"}
        ) as stream:
            events = [event async for event in stream]
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert len(deltas) == 12
    assert json.loads("".join(deltas)) == ARGUMENTS
    last = events[-1]
    assert last.type == "response.completed"
    (item,) = last.response.output
    assert item.type == "function_call"
    assert (item.name, item.status, item.call_id[:5]) == ("ask", "completed", "call_")


async def test_response_in_one_piece(http: httpx.AsyncClient) -> None:
    """A response without a stream has the call as its output item."""
    said = (await http.post("/v1/responses", json=RESPONSES | {"tool_choice": "required"})).json()
    (item,) = said["output"]
    assert (item["type"], item["name"]) == ("function_call", "look")
    assert json.loads(item["arguments"]) == ARGUMENTS


async def test_anthropic_client(engine: LoopbackEngine) -> None:
    """Anthropic's own client joins the pieces of a call, and reads one in one piece."""
    anthropic = pytest.importorskip("anthropic")
    async with anthropic.AsyncAnthropic(base_url=engine.url, api_key="x") as client:
        async with client.messages.stream(**ANTHROPIC, tool_choice={"type": "any"}) as stream:
            events = [event async for event in stream]
            message = await stream.get_final_message()
        assert [event.type for event in events].count("input_json") == 13
        choice = {"type": "tool", "name": "ask"}
        whole = await client.messages.create(**ANTHROPIC, tool_choice=choice)
    for found, name in ((message, "look"), (whole, "ask")):
        (block,) = found.content
        assert (block.type, block.name, block.input) == ("tool_use", name, ARGUMENTS)
        assert found.stop_reason == "tool_use"


async def test_gemini(http: httpx.AsyncClient, objects: Read) -> None:
    """Gemini has the call in one part, with its arguments as an object."""
    config = {"mode": "ANY", "allowedFunctionNames": ["ask"]}
    body = GEMINI | {"toolConfig": {"functionCallingConfig": config}}
    chunk, last = objects((await http.post(GEMINI_STREAM, json=body)).content.replace(b"\r", b""))
    (part,) = chunk["candidates"][0]["content"]["parts"]
    assert part["functionCall"] == {"name": "ask", "args": ARGUMENTS}
    assert last["candidates"][0]["finishReason"] == "STOP"
    whole = (await http.post("/v1beta/models/m:generateContent", json=body)).json()
    assert whole["candidates"][0]["content"]["parts"] == [part]


async def test_gemini_streams_arguments(http: httpx.AsyncClient, objects: Read) -> None:
    """Gemini streams the arguments by their path, where the request lets it."""
    config = {"mode": "ANY", "streamFunctionCallArguments": True}
    body = GEMINI | {"toolConfig": {"functionCallingConfig": config}}
    response = await http.post(GEMINI_STREAM, json=body)
    calls = [
        part["functionCall"]
        for chunk in objects(response.content.replace(b"\r", b""))
        for part in chunk["candidates"][0]["content"]["parts"]
        if "functionCall" in part
    ]
    assert calls[0] == {"name": "look", "willContinue": True}
    assert calls[-1] == {}
    (paths,) = {call["partialArgs"][0]["jsonPath"] for call in calls[1:-1]}
    texts = [call["partialArgs"][0]["stringValue"] for call in calls[1:-1]]
    assert (paths, "".join(texts)) == ("$.river", ARGUMENTS["river"])


async def test_google_client(engine: LoopbackEngine) -> None:
    """Google's own client finds the call."""
    genai = pytest.importorskip("google.genai")
    httpx2 = pytest.importorskip("httpx2")
    config = {"tools": GEMINI["tools"], "tool_config": {"function_calling_config": {"mode": "ANY"}}}
    async with httpx2.AsyncClient() as http:
        options = genai.types.HttpOptions(base_url=engine.url, httpx_async_client=http)
        models = genai.Client(api_key="x", http_options=options).aio.models
        answer = await models.generate_content(model="m", contents="hi", config=config)
    (call,) = answer.function_calls
    assert (call.name, call.args) == ("look", ARGUMENTS)


async def test_ollama_client(engine: LoopbackEngine) -> None:
    """Ollama's own client finds the call, whole, in a chunk before the last one."""
    ollama = pytest.importorskip("ollama")
    client = ollama.AsyncClient(host=engine.url, headers=CALLS)
    stream = await client.chat(model="m", messages=MESSAGES, tools=FUNCTIONS, stream=True)
    chunk, last = [chunk async for chunk in stream]
    whole = await client.chat(model="m", messages=MESSAGES, tools=FUNCTIONS)
    for found in (chunk, whole):
        (call,) = found.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("look", ARGUMENTS)
    assert (last.done, last.done_reason, last.eval_count) == (True, "stop", 12)
    await client.close()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"tool_choice": "none"}),
        ("/v1/messages", ANTHROPIC),
        ("/v1/messages", ANTHROPIC | {"tool_choice": {"type": "none"}}),
        ("/v1/responses", RESPONSES),
    ],
)
async def test_nothing_is_called_unless_told(
    http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """Tools that are offered are not called by themselves, and never against the request's word."""
    forbidden = "none" in str(body.get("tool_choice"))
    response = await http.post(path, json=body, headers=CALLS if forbidden else {})
    assert ARGUMENTS["river"] in response.text
    assert '"look"' not in response.text


async def test_interrupted_call(http: httpx.AsyncClient, objects: Read) -> None:
    """A limit within the arguments leaves them incomplete, and the reason says `length`."""
    body = CHAT | {"stream": True, "max_tokens": 5}
    response = await http.post("/v1/chat/completions", json=body, headers=CALLS)
    *events, finish, _ = objects(response.content)
    assert finish["choices"][0]["finish_reason"] == "length"
    assert len(events) == 7
    limited = {"options": {"num_predict": 5}}
    (last,) = objects((await http.post("/api/chat", json=CHAT | limited, headers=CALLS)).content)
    assert (last["done_reason"], "tool_calls" in last["message"]) == ("length", False)
    message = ANTHROPIC | {"max_tokens": 5}
    said = (await http.post("/v1/messages", json=message, headers=CALLS)).json()
    assert (said["stop_reason"], said["content"][0]["input"]) == ("max_tokens", {})
    config = {"generationConfig": {"maxOutputTokens": 5}}
    path = "/v1beta/models/m:generateContent"
    said = (await http.post(path, json=GEMINI | config, headers=CALLS)).json()
    assert said["candidates"][0]["content"]["parts"] == []
    assert said["candidates"][0]["finishReason"] == "MAX_TOKENS"


async def test_text_that_must_be_escaped(objects: Read) -> None:
    """Arguments are JSON whatever the text is, and a tool without a text argument gets `text`."""
    text = 'He said "no}" and \\ went. ' * 3
    model = NGramModel(text)
    async with LoopbackEngine(model=model) as engine, httpx.AsyncClient() as http:
        tools = [{"type": "function", "function": {"name": "f"}}]
        body = CHAT | {"tools": tools, "tool_choice": "required"}
        said = (await http.post(f"{engine.openai_url}/chat/completions", json=body)).json()
    call = said["choices"][0]["message"]["tool_calls"][0]["function"]
    assert json.loads(call["arguments"]) == {"text": "".join(model.generate(10))}


async def test_unknown_tool_is_refused(http: httpx.AsyncClient) -> None:
    """A tool that must be called and is not offered is a mistake of the request's."""
    choice = {"type": "function", "function": {"name": "other"}}
    response = await http.post("/v1/chat/completions", json=CHAT | {"tool_choice": choice})
    assert response.status_code == 400
    assert "none of 'tools'" in response.text
