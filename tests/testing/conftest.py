"""Fixtures of the tests of `streamguard_testing`: readers that are cleaned up after."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from streamguard_testing import Fault, LoopbackEngine, RawClient

Ask = Callable[..., Awaitable[RawClient]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Return a function that asks an engine for a stream, on a raw socket that is closed after."""
    opened: list[RawClient] = []

    async def asked(
        engine: LoopbackEngine,
        request_id: str = "it",
        *,
        path: str = "/api/chat",
        tokens: int = 200,
        fault: Fault | None = None,
        receive_buffer: int | None = None,
        **body: Any,
    ) -> RawClient:
        said: dict[str, Any] = {
            "model": "m",
            "messages": [{"role": "user", "content": "Tell me about the river."}],
            "prompt": "Tell me about the river.",
        }
        if path.startswith("/v1"):
            said |= {"max_tokens": tokens, "stream": True}
        else:
            said["options"] = {"num_predict": tokens}
        headers = {"x-engine-request-id": request_id, **(fault.to_header() if fault else {})}
        client = await RawClient.open(
            engine.url, "POST", path, said | body, headers, receive_buffer=receive_buffer
        )
        opened.append(client)
        return client

    yield asked
    for client in opened:
        if not client.closed:
            client.leave("reset")


@pytest.fixture
async def engine() -> AsyncIterator[LoopbackEngine]:
    """Run an engine that speaks as fast as it can."""
    async with LoopbackEngine(seed=5) as running:
        yield running


@pytest.fixture
async def http(engine: LoopbackEngine) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client for the engine."""
    async with httpx.AsyncClient(base_url=engine.url) as client:
        yield client


@pytest.fixture
def objects() -> Callable[[bytes], list[Any]]:
    """Return a function that reads NDJSON or SSE, plainly: what is no JSON stays text."""

    def read(body: bytes) -> list[Any]:
        found: list[Any] = []
        for line in body.decode().split("\n"):
            text = line.removeprefix("data: ")
            if text and not text.startswith(":"):
                found.append(json.loads(text) if text.startswith("{") else text)
        return found

    return read
