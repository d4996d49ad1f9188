"""The engine goes on after the beginning of its own text, in every dialect."""

from __future__ import annotations

from itertools import islice
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_testing import LoopbackEngine, NGramModel
from streamguard_testing.continuation import after
from streamguard_testing.dialects import Ask

TOKENS = NGramModel().generate(40, seed=5)
TEXT = "".join(TOKENS)
QUESTION = "Tell me about the river."


def _chat(begun: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    if begun:
        messages.append({"role": "assistant", "content": begun})
    return {"model": "m", "messages": messages, "stream": False}


def _gemini(begun: str) -> dict[str, Any]:
    contents = [{"role": "user", "parts": [{"text": QUESTION}]}]
    if begun:
        contents.append({"role": "model", "parts": [{"text": begun}]})
    return {"contents": contents}


def _request(path: str, begun: str) -> dict[str, Any]:
    """Return a request for the text whose beginning is there already."""
    if path.startswith("/v1beta"):
        return _gemini(begun)
    if path == "/v1/responses":
        return {"model": "m", "input": _chat(begun)["messages"]}
    if path in {"/api/generate", "/v1/completions"}:
        return {"model": "m", "prompt": QUESTION + begun, "stream": False}
    return _chat(begun) | ({"max_tokens": 1000} if path == "/v1/messages" else {})


def _text(path: str, said: dict[str, Any]) -> str:
    """Return the text of an answer in one piece."""
    match path:
        case "/api/chat":
            found = said["message"]["content"]
        case "/api/generate":
            found = said["response"]
        case "/v1/chat/completions":
            found = said["choices"][0]["message"]["content"]
        case "/v1/completions":
            found = said["choices"][0]["text"]
        case "/v1/messages":
            found = "".join(block["text"] for block in said["content"])
        case "/v1/responses":
            found = said["output"][0]["content"][0]["text"] if said["output"] else ""
        case _:
            parts = said["candidates"][0]["content"]["parts"]
            found = "".join(part["text"] for part in parts)
    assert isinstance(found, str)
    return found


PATHS = [
    "/api/chat",
    "/api/generate",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1beta/models/m:generateContent",
]
# After whole tokens, within one, at the very end, and none.
CUTS = [len("".join(TOKENS[:7])), len("".join(TOKENS[:8])) + 2, len(TEXT), 0]


@pytest.mark.parametrize("path", PATHS)
async def test_every_dialect_goes_on(path: str) -> None:
    """What came before and what comes after are the uninterrupted text, up to its own end."""
    async with LoopbackEngine(seed=5, answer_tokens=40) as engine, httpx.AsyncClient() as http:
        for cut in CUTS:
            body = _request(path, TEXT[:cut])
            said = (await http.post(engine.url + path, json=body)).json()
            assert TEXT[:cut] + _text(path, said) == TEXT
        assert [record.generated for record in engine.requests] == [33, 32, 0, 40]


async def test_streams_go_on() -> None:
    """A stream that was interrupted goes on in another dialect, with the limit that was left."""
    async with LoopbackEngine(seed=5) as engine, httpx.AsyncClient() as http:
        body = _chat("".join(TOKENS[:10])) | {"max_tokens": 30}
        said = (await http.post(engine.openai_url + "/chat/completions", json=body)).json()
        assert "".join(TOKENS[:10]) + _text("/v1/chat/completions", said) == TEXT
        assert said["choices"][0]["finish_reason"] == "length"


async def test_seed_decides_whose_beginning_it_is() -> None:
    """A beginning that is not of this seed's text is none, and the text begins at its start."""
    other = "".join(NGramModel().generate(9, seed=2))
    assert not TEXT.startswith(other)
    async with LoopbackEngine(seed=5, answer_tokens=40) as engine, httpx.AsyncClient() as http:
        for path in PATHS:
            said = (await http.post(engine.url + path, json=_request(path, other))).json()
            assert _text(path, said) == TEXT
        body = _request("/api/chat", other) | {"options": {"seed": 2}}
        said = (await http.post(engine.url + "/api/chat", json=body)).json()
        whole = "".join(NGramModel().generate(40, seed=2))
        assert other + _text("/api/chat", said) == whole


@given(
    cut=st.integers(0, len(TEXT)), raw=st.booleans(), asked=st.sampled_from(["", TEXT[:3] + "x"])
)
def test_nothing_is_lost_or_said_twice(cut: int, raw: bool, asked: str) -> None:
    """At whatever character a text is cut, the beginning and the rest are the text."""
    begun = TEXT[:cut]
    if raw and 0 < cut < len(TOKENS[0]):
        return  # less than a token at the end of a prompt is no beginning
    ask = Ask(model="m", prompt=asked + begun, stream=True, written="" if raw else begun, raw=raw)
    done, rest = after(NGramModel().tokens(seed=5), ask)
    assert begun + "".join(islice(rest, len(TOKENS) - done)) == TEXT
    assert len("".join(TOKENS[:done])) <= cut
    assert done == len(TOKENS) or len("".join(TOKENS[: done + 1])) > cut
