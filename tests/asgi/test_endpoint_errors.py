"""An endpoint that raises before there is a stream: its own error is its own, its provider's the provider's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from fastapi import HTTPException

from streamguard_core import AttemptOutcome, Cause, Receipt
from streamguard_providers import GuardedAsyncTransport
from streamguard_testing import Fault, LoopbackEngine

from .endpoints import Rig, pieces

Ask = Callable[[], Any]
"""Asks the model, with the SDK: returns what the endpoint may stream."""


async def receipt_of(endpoint: Any) -> Receipt:
    """The one receipt of a request to an endpoint that raises."""
    rig = Rig(endpoint)
    server = rig.server()
    # Starlette answers 500, and raises for its server's log; what the endpoint has answered it does not.
    with contextlib.suppress(KeyError, TypeError, ExceptionGroup, openai.APIError, httpx.HTTPError):
        await server.run()
    (receipt,) = rig.ledger.receipts
    return receipt


async def looked_up_first(ask: Ask) -> Any:
    """Raises before it asks the model."""
    key = {"model": "m"}["moodel"]
    return await ask(), key


async def looked_up_afterwards(ask: Ask) -> Any:
    """Raises after the model began to answer."""
    stream = await ask()
    return stream[0]


async def caught(ask: Ask) -> Any:
    """Asks in vain, tells the browser so."""
    try:
        return await ask()
    except openai.APIError:
        raise HTTPException(502, "the model does not answer") from None


async def in_a_group(ask: Ask) -> Any:
    """Asks beside something else."""
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(ask())
        group.create_task(asyncio.sleep(0))
    return asked.result()


async def put_off(ask: Ask) -> Any:
    """Asks in vain, goes on without, and raises in what it does then."""
    try:
        await ask()
    except openai.APIError:
        pass
    return {"answer": "none"}["text"]


async def asked(ask: Ask) -> Any:
    """Asks the model."""
    return await ask()


def through(endpoint: Callable[[Ask], Any], engine: LoopbackEngine, transport: Any = None) -> Any:
    """The endpoint with an SDK's client of `engine`; unguarded without a transport."""

    async def answering(name: str) -> Any:
        async with openai.AsyncOpenAI(
            base_url=engine.openai_url,
            api_key="none",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(transport=transport) if transport else None,
        ) as client:
            return await endpoint(
                lambda: client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "hi"}], stream=True
                )
            )

    return answering


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("endpoint", [looked_up_first, looked_up_afterwards])
async def test_an_endpoints_own_error_is_not_its_providers(endpoint: Any, guarded: bool) -> None:
    """G14: a KeyError before any call, or while the provider answers, is the application's."""
    async with LoopbackEngine() as engine:
        transport = GuardedAsyncTransport.httpx2() if guarded else None
        receipt = await receipt_of(through(endpoint, engine, transport))
    assert (receipt.cause, receipt.produced) == (Cause.CONSUMER_ERROR, 0)
    assert receipt.detail.startswith("the endpoint raised ")


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("endpoint", [asked, caught, in_a_group])
async def test_a_providers_error_is_the_providers(endpoint: Any, guarded: bool) -> None:
    """G14: what an SDK raises is its provider's, also within what the endpoint makes of it."""
    async with LoopbackEngine(fault=Fault(status=503)) as engine:
        transport = GuardedAsyncTransport.httpx2() if guarded else None
        receipt = await receipt_of(through(endpoint, engine, transport))
    assert (receipt.cause, receipt.produced) == (Cause.PRODUCER_ERROR, 0)
    assert [attempt.outcome for attempt in receipt.attempts] == [AttemptOutcome.FAILED] * guarded


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_failure_that_was_put_up_with_is_not_what_ended_the_stream(guarded: bool) -> None:
    """G14: an error that came after the provider's, and not of it, is the application's."""
    async with LoopbackEngine(fault=Fault(status=503)) as engine:
        transport = GuardedAsyncTransport.httpx2() if guarded else None
        receipt = await receipt_of(through(put_off, engine, transport))
    assert receipt.cause is Cause.CONSUMER_ERROR
    assert [attempt.outcome for attempt in receipt.attempts] == [AttemptOutcome.FAILED] * guarded


@pytest.mark.parametrize(
    ("transport", "cause"),
    [(GuardedAsyncTransport, Cause.PRODUCER_ERROR), (lambda: None, Cause.CONSUMER_ERROR)],
)
async def test_a_plain_clients_failed_call_needs_a_witness(transport: Any, cause: Cause) -> None:
    """G14: a client may talk to anybody; a guarded transport has seen that it was a provider."""
    async with LoopbackEngine(fault=Fault(status=503)) as engine:

        async def chat(name: str) -> Any:
            async with httpx.AsyncClient(transport=transport()) as client:
                answer = await client.post(
                    f"{engine.openai_url}/chat/completions", json={"model": "m", "messages": []}
                )
                return pieces(answer.raise_for_status().text)

        receipt = await receipt_of(chat)
    assert (receipt.cause, receipt.produced) == (cause, 0)
