"""Keys, prompts and answers: they reach the provider and the reader, and nobody else."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from typing import Any

import msgspec
import pytest

from streamguard_core import Scope, use_scope
from streamguard_providers import (
    GuardedAsyncTransport,
    OllamaProducer,
    OpenAIProducer,
    ProviderError,
)

from .support import Answer, Recorder, chunked, head, outcome, scripted, token

KEY = "sk-VERY-SECRET-KEY"
PROMPT = "the prompt that nobody may see"
ANSWER = "the answer that nobody may see"


def error(status: str | None) -> bytes:
    """An error in which the provider quotes key, prompt and answer, as providers do."""
    quote = f"Incorrect key {KEY}: {PROMPT} {ANSWER}"
    said = json.dumps({"error": {"message": quote, "type": quote, "code": quote}}).encode()
    if status is None:
        return head() + chunked(token(ANSWER), b"data: " + said + b"\n\n", end=True)
    return head("application/json", "x-request-id: r1", status=status) + chunked(said, end=True)


BODIES = {
    "refused": error("401 X"),
    "error in mid-stream": error(None),
    "truncated": head() + chunked(token(ANSWER), end=True),
    "broken off": head() + chunked(token(ANSWER)) + b"zzz\r\n",
    "malformed": head() + chunked(*[f"data: {ANSWER} {PROMPT}\n\n".encode()] * 20, end=True),
    "HTML": head("text/html") + chunked(f"<p>{PROMPT} {KEY}".encode(), end=True),
    "no end": head() + chunked(token(ANSWER)),
}


def everything_about(failure: BaseException) -> str:
    """What logs and error trackers print of an exception."""
    return "".join(traceback.format_exception(failure)) + repr(failure) + repr(failure.args)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("kind", [OpenAIProducer, OllamaProducer])
async def test_nothing_secret_is_said(
    body: bytes, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """However a call fails, reprs, logs, errors and records quote neither key nor prompt nor answer."""
    caplog.set_level(logging.DEBUG)
    async with scripted(Answer(body, then="close")) as server:
        producer = kind("m", prompt=PROMPT, base_url=server.url, api_key=KEY)
        report = Recorder()

        async def consume() -> None:
            async for batch in producer.stream(report=report):
                report.chunks += batch
                if body is BODIES["no end"]:
                    report.cut()

        failure = await outcome(consume())
        assert KEY.encode() in server.requests[0]
        assert PROMPT in json.dumps(server.bodies[0])
    said = [repr(producer), repr(report.names), caplog.text]
    said += [msgspec.json.encode(attempt).decode() for attempt in report.attempts]
    if isinstance(failure, Exception):
        said.append(everything_about(failure))
    assert report.attempts
    assert [text for text in said if KEY in text or PROMPT in text or ANSWER in text] == []
    if isinstance(failure, ProviderError) and failure.message:
        assert KEY in failure.message  # kept apart, for whoever asks for it on purpose


async def test_a_transport_says_nothing_either(caplog: pytest.LogCaptureFixture) -> None:
    """Errors, records and reprs of the transport quote nothing of the requests it carries."""
    import httpx

    caplog.set_level(logging.DEBUG)
    async with scripted(Answer()) as server:
        transport = GuardedAsyncTransport()
        async with httpx.AsyncClient(transport=transport) as client:
            scope, session = Scope(), Recorder()
            scope.session = session
            with use_scope(scope):
                call = client.post(
                    server.url,
                    json={"prompt": PROMPT},
                    headers={"authorization": KEY},
                    timeout=None,
                )
                task = asyncio.create_task(outcome(call))
            await server.received.wait()
            session.cut()
            failure = await task
    assert isinstance(failure, Exception)
    said = [everything_about(failure), caplog.text, repr(transport), repr(scope.members)]
    said += [msgspec.json.encode(attempt).decode() for attempt in session.attempts]
    assert [text for text in said if KEY in text or PROMPT in text] == []
