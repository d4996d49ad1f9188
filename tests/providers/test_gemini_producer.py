"""GeminiProducer: what is asked, where the key goes, and an end that has no marker."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from streamguard_core import AttemptOutcome, TruncatedStream, UsageError
from streamguard_providers import GeminiProducer, ProviderError, Retries

from .makers import gemini_producer
from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .wire import candidate, event

GOOD = chunked(event(candidate("a", "STOP")), end=True)


async def test_what_is_asked_for() -> None:
    """The request has Gemini's fields, with the caller's options beside, and the key in a header."""
    async with scripted(Answer(head() + GOOD, then="next")) as server:
        producer = GeminiProducer(
            "gemini-x",
            prompt="q",
            system="Be brief.",
            base_url=f"{server.url}/v1beta/",
            api_key="AIza1",
            max_tokens=9,
            options={"generationConfig": {"temperature": 0.5}, "tools": []},
        )
        assert await produce(producer, Recorder()) == ["a"]
        (request,) = server.requests
        assert server.bodies == [
            {
                "generationConfig": {"temperature": 0.5, "maxOutputTokens": 9},
                "tools": [],
                "contents": [{"role": "user", "parts": [{"text": "q"}]}],
                "systemInstruction": {"parts": [{"text": "Be brief."}]},
            }
        ]
    lines = request.split(b"\r\n")
    assert lines[0] == b"POST /v1beta/models/gemini-x:streamGenerateContent?alt=sse HTTP/1.1"
    assert b"x-goog-api-key: AIza1" in lines
    assert b"AIza1" not in lines[0]


async def test_a_conversation_of_messages_is_translated() -> None:
    """Messages as other APIs take them become contents, the system's an instruction behind the caller's own."""
    async with scripted(Answer(head() + GOOD, then="next")) as server:
        producer = gemini_producer(
            server.url,
            prompt=None,
            system="Be brief.",
            messages=[
                {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "parts": [{"text": "as it is"}]},
            ],
        )
        await produce(producer, Recorder())
        (body,) = server.bodies
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}, {"text": "Be kind."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "q"}]},
        {"role": "model", "parts": [{"text": "a"}]},
        {"role": "user", "parts": [{"text": "as it is"}]},
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"messages": ["SECRET"]}, "role None"),
        ({"messages": [5]}, "role None"),
        ({"messages": [{"role": "tool", "content": "SECRET"}]}, "role 'tool'"),
        ({"messages": [{"role": "user", "content": [{"image_url": "SECRET"}]}]}, "than text"),
        ({"messages": [{"role": "system", "content": None}]}, "than text"),
        ({"messages": [], "contents": []}, "both contents and messages"),
        ({"prompt": "SECRET", "messages": []}, "both or neither"),
        ({}, "both or neither"),
    ],
)
def test_what_is_not_translated(given: dict[str, Any], said: str) -> None:
    """A message that cannot be translated is refused when the producer is made; nothing of it is told."""
    with pytest.raises(UsageError, match=said) as caught:
        GeminiProducer("m", api_key="k", **given)
    assert "SECRET" not in str(caught.value)


async def test_the_array_is_asked_for_without_alt() -> None:
    """One JSON array is what Gemini sends when it is not asked for server-sent events."""
    said = head("application/json") + chunked(
        b"[" + json.dumps(candidate("a", "STOP")).encode(), b"]", end=True
    )
    async with scripted(Answer(said, then="next")) as server:
        assert await produce(gemini_producer(server.url, sse=False), Recorder()) == ["a"]
        assert server.requests[0].startswith(b"POST /v1beta/models/m:streamGenerateContent HTTP")


async def test_the_end_of_the_body_is_not_waited_for_for_ever() -> None:
    """An answer with a finish reason is whole when nothing more came for some seconds; its connection is closed."""
    async with scripted(Answer(head() + chunked(event(candidate("a", "STOP"))))) as server:
        producer = gemini_producer(server.url)
        producer._patience = 0.05
        report = Recorder()
        assert await produce(producer, report) == ["a"]
        await server.left()
        assert report.attempts[0].outcome is AttemptOutcome.COMPLETED


async def test_text_after_the_finish_reason_is_waited_for() -> None:
    """A finish reason may be followed by more text: each piece begins the wait anew."""
    go = asyncio.Event()
    pieces = [
        head() + chunked(event(candidate("a", "STOP"))),
        chunked(event(candidate("b"))),
        chunked(event(candidate("c", "STOP")), end=True),
    ]
    async with scripted(Answer(*pieces, go=go)) as server:
        report = Recorder()
        go.set()
        async for batch in gemini_producer(server.url).stream(report=report):
            report.chunks += batch
            go.set()
        assert report.chunks == ["a", "b", "c"]


async def test_without_a_finish_reason_it_is_truncated() -> None:
    """The end of the body alone is no end (G13)."""
    async with scripted(Answer(head() + chunked(event(candidate("a")), end=True))) as server:
        with pytest.raises(TruncatedStream):
            await produce(gemini_producer(server.url), Recorder())


async def test_a_refusal_in_a_list_is_understood() -> None:
    """Without server-sent events Gemini puts its error into a list; the details say when to retry."""
    body = (
        b'[{"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED",'
        b' "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.5s"}]}}\n]'
    )
    refused = head("application/json", status="429 X") + chunked(body, end=True)
    async with scripted(Answer(refused, then="next"), Answer(head() + GOOD)) as server:
        with pytest.raises(ProviderError) as caught:
            await produce(gemini_producer(server.url, sse=False), Recorder())
        assert (caught.value.status, caught.value.retry_after) == (429, 0.5)
        assert caught.value.message == "quota"


async def test_waits_as_long_as_the_details_say() -> None:
    """What Gemini asks for in the body is waited for."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    said = b'{"error": {"details": [{"retryDelay": "7s"}]}}'
    refused = head("application/json", status="503 X") + chunked(said, end=True)
    async with scripted(Answer(refused, then="next"), Answer(head() + GOOD)) as server:
        producer = gemini_producer(server.url, retries=Retries(sleep=sleep))
        assert await produce(producer, Recorder()) == ["a"]
    assert waits == [7.0]


async def test_going_on_is_the_callers_risk() -> None:
    """Gemini does not promise to go on; who asks for it has the model's turn last."""
    assert not gemini_producer("http://server").continues
    async with scripted(Answer(head() + GOOD, then="next")) as server:
        rest = gemini_producer(server.url, continues=True).resumed("The ").resumed("river")
        await produce(rest, Recorder())
        assert server.bodies[0]["contents"][1:] == [
            {"role": "model", "parts": [{"text": "The "}, {"text": "river"}]}
        ]


def test_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key of the caller's, that of the environment is used; Google's API needs one, or a token."""
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="GEMINI_API_KEY"):
        GeminiProducer("m", prompt="q")
    GeminiProducer("m", prompt="q", headers={"Authorization": "Bearer t"})
    monkeypatch.setenv("GOOGLE_API_KEY", "k")
    assert GeminiProducer("m", prompt="q")._headers["x-goog-api-key"].reveal() == "k"


@pytest.mark.parametrize("model", ["", "a b", "m?key=1", "../m", "a/"])
def test_a_model_that_would_change_the_url(model: str) -> None:
    """The model's name is a part of the URL."""
    with pytest.raises(UsageError, match="part of the URL"):
        GeminiProducer(model, prompt="q", base_url="http://server")


def test_a_tuned_model_is_a_path() -> None:
    """A name with a slash is the whole path."""
    producer = GeminiProducer("tunedModels/x-1", prompt="q", base_url="http://server/v1beta")
    assert "/v1beta/tunedModels/x-1:streamGenerateContent?alt=sse" in producer._url
