"""Keys, prompts and answers: they reach the provider and the reader, and nobody else."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import msgspec
import pytest

from streamguard_core import Receipt, Scope, StreamSession, use_scope
from streamguard_providers import (
    AnthropicProducer,
    GeminiProducer,
    GuardedAsyncTransport,
    OllamaProducer,
    OpenAIProducer,
    ProviderError,
    Retries,
)

from .recorder import Recorder
from .scripted_server import Answer, ScriptedServer, chunked, head, scripted
from .waiting import outcome
from .wire import DONE, candidate, completion, event, message, response, token

KEY = "sk-VERY-SECRET-KEY"
PROMPT = "the prompt that nobody may see"
ANSWER = "the answer that nobody may see"
QUOTE = f"Incorrect key {KEY}: {PROMPT} {ANSWER}"


def line(said: object) -> bytes:
    """A line of NDJSON."""
    return json.dumps(said).encode() + b"\n"


class Wire(NamedTuple):
    """A producer, and how its provider says things."""

    make: Callable[..., Any]
    kind: str
    begun: bytes
    """An answer that has begun."""
    whole: bytes
    said: Callable[[object], bytes]


SSE, LINES, ARRAY = "text/event-stream", "application/x-ndjson", "application/json"
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ANSWER}}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
CHAT = {"message": {"role": "assistant", "content": ANSWER}}
WIRES = {
    "openai": Wire(OpenAIProducer, SSE, token(ANSWER), token(ANSWER, "stop") + DONE, event),
    "responses": Wire(
        partial(OpenAIProducer, api="responses"),
        SSE,
        response(ANSWER, begun=True),
        response(ANSWER),
        event,
    ),
    "completions": Wire(
        partial(OpenAIProducer, api="completions"),
        SSE,
        completion(ANSWER),
        completion(ANSWER, "stop") + DONE,
        event,
    ),
    "generate": Wire(
        OllamaProducer,
        LINES,
        line({"response": ANSWER}),
        line({"response": ANSWER, "done": True}),
        line,
    ),
    "chat": Wire(
        lambda model, prompt, **rest: OllamaProducer(
            model, messages=[{"role": "user", "content": prompt}], **rest
        ),
        LINES,
        line(CHAT),
        line(CHAT | {"done": True}),
        line,
    ),
    "anthropic": Wire(AnthropicProducer, SSE, event(BLOCK) + event(TEXT), message(ANSWER), event),
    "gemini": Wire(
        GeminiProducer, SSE, event(candidate(ANSWER)), event(candidate(ANSWER, "STOP")), event
    ),
    "gemini array": Wire(
        lambda model, prompt, **rest: GeminiProducer(model, prompt=prompt, sse=False, **rest),
        ARRAY,
        b"[" + line(candidate(ANSWER)),
        b"[" + line(candidate(ANSWER, "STOP")) + b"]",
        lambda said: b"," + line(said),
    ),
}


def error(wire: Wire, status: str | None) -> bytes:
    """An error in which the provider quotes key, prompt and answer, as providers do."""
    said = {"error": {"message": QUOTE, "type": QUOTE, "code": QUOTE, "details": [QUOTE]}}
    if status is None:
        return head(wire.kind) + chunked(wire.begun, wire.said(said), end=True)
    refused = head("application/json", "x-request-id: r1", status=status)
    return refused + chunked(json.dumps(said).encode(), end=True)


def unreadable(wire: Wire) -> bytes:
    """Payloads that are no JSON and quote the answer."""
    pieces = [f"data: {ANSWER} {PROMPT}\n\n".encode()] * 20
    return head(wire.kind) + chunked(*pieces, end=True)


BODIES: dict[str, Callable[[Wire], bytes]] = {
    "success": lambda wire: head(wire.kind) + chunked(wire.whole, end=True),
    "refused": lambda wire: error(wire, "401 X"),
    "refused for now": lambda wire: error(wire, "503 X"),
    "error in mid-stream": lambda wire: error(wire, None),
    "truncated": lambda wire: head(wire.kind) + chunked(wire.begun, end=True),
    "broken off": lambda wire: head(wire.kind) + chunked(wire.begun) + b"zzz\r\n",
    "malformed": unreadable,
    "HTML": lambda _: head("text/html") + chunked(f"<p>{PROMPT} {KEY}".encode(), end=True),
    "no answer": lambda _: b"",
    "cut off": lambda wire: head(wire.kind) + chunked(wire.begun),
}


def everything_about(failure: BaseException) -> str:
    """What logs and error trackers print of an exception, with its causes."""
    said = "".join(traceback.format_exception(failure)) + repr(failure) + repr(failure.args)
    cause = failure.__cause__ or failure.__context__
    return said if cause is None else said + everything_about(cause)


async def called(wire: Wire, server: ScriptedServer, *, cut: bool) -> tuple[Any, Any, Receipt, str]:
    """Call the server in a session, and return producer, failure, receipt and what reprs said."""
    producer = wire.make(
        "m",
        prompt=PROMPT,
        base_url=server.url,
        api_key=KEY,
        headers={"x-further": KEY},
        retries=Retries(most=1, base=0.0),
    )
    session = StreamSession(producer)

    async def consume() -> None:
        async with session:
            async for _ in session:
                if cut:
                    session.cancel("stop")

    failure = await outcome(consume())
    said = f"{producer!r} {session!r} {session.statistics()!r} {vars(producer)!r}"
    # The body is the caller's own; what else the producer holds must not show the key.
    return producer, failure, await session.receipt(), said.replace(repr(producer._body), "")


@pytest.mark.parametrize("how", BODIES)
@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES.keys())
async def test_nothing_secret_is_said(
    wire: Wire, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However a call ends, reprs, logs, errors and receipts quote neither key nor prompt nor answer."""
    caplog.set_level(logging.DEBUG)
    body = BODIES[how](wire)
    then = "hold" if how == "cut off" else "close"
    async with scripted(*[Answer(body, then=then)] * 2) as server:
        _, failure, receipt, said = await called(wire, server, cut=how == "cut off")
        assert KEY.encode() in server.requests[0]
        assert PROMPT in json.dumps(server.bodies[0])
    assert receipt.completed == (how == "success")
    assert receipt.attempts
    texts = [said, caplog.text, repr(receipt), json.dumps(receipt.to_record())]
    texts += [str(record.__dict__) for record in caplog.records]
    if isinstance(failure, Exception):
        texts.append(everything_about(failure))
    shown = [text for text in texts if KEY in text or PROMPT in text or ANSWER in text]
    assert shown == []
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
