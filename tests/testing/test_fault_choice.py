"""Faults that go away after some requests, and headers that come along."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from streamguard_testing import Fault, LoopbackEngine

PATH = "/api/generate"
BODY: dict[str, Any] = {"model": "m", "prompt": "x", "options": {"num_predict": 2}}


async def _statuses(http: httpx.AsyncClient, count: int, headers: dict[str, str]) -> list[int]:
    found = [await http.post(PATH, json=BODY, headers=headers) for _ in range(count)]
    return [response.status_code for response in found]


async def test_engines_fault_for_the_first_requests(
    engine: LoopbackEngine, http: httpx.AsyncClient
) -> None:
    """The engine's own fault holds for so many requests, and for as many again when it is set."""
    for _ in range(2):
        engine.fault = Fault(status=503, times=2)
        assert await _statuses(http, 4, {}) == [503, 503, 200, 200]
    engine.reset()
    assert await _statuses(http, 3, {}) == [503, 503, 200]


async def test_a_requests_fault_for_its_first_tries(http: httpx.AsyncClient) -> None:
    """A request's fault is counted for tries of the same request; another one has its own count."""
    fault = Fault(status=503, times=1).to_header()
    for name in ("one", "two"):
        headers = fault | {"x-engine-request-id": name}
        assert await _statuses(http, 2, headers) == [503, 200]
    assert await _statuses(http, 2, fault) == [503, 200]
    assert (await http.post("/_engine/reset")).json() == {"forgotten": 6, "running": 0}
    assert await _statuses(http, 2, fault) == [503, 200]


async def test_a_requests_fault_does_not_inherit_the_times(
    engine: LoopbackEngine, http: httpx.AsyncClient
) -> None:
    """How often the engine's fault holds says nothing about one that a request chooses."""
    engine.fault = Fault(times=1)
    assert await _statuses(http, 3, Fault(status=503).to_header()) == [503] * 3


async def test_a_client_that_tries_again(engine: LoopbackEngine) -> None:
    """OpenAI's own client gets its answer at the second try."""
    fault = Fault(status=503, times=1, headers={"retry-after-ms": "1"})
    async with openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x", max_retries=1) as client:
        answer = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            extra_headers=fault.to_header(),
        )
    assert answer.choices[0].message.content
    assert [record.generated for record in engine.requests] == [0, 128]


@pytest.mark.parametrize("stream", [True, False])
async def test_headers(http: httpx.AsyncClient, stream: bool) -> None:
    """Headers of a fault come with the response, be it a stream, an answer or an error."""
    limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}
    for status in (None, 429):
        headers = Fault(headers=limits, status=status, retry_after=status and 3).to_header()
        response = await http.post(PATH, json=BODY | {"stream": stream}, headers=headers)
        assert {name: response.headers[name] for name in limits} == limits
        assert response.headers.get("retry-after") == (status and "3")


@pytest.mark.parametrize("headers", [{"a": "b\r\nc: d"}, {"a b": "c"}, {"a": 1}, {"": "x"}])
def test_headers_that_are_none(headers: Any) -> None:
    """What would end a header and begin another one is refused."""
    with pytest.raises(ValueError, match="headers must be names with plain texts"):
        Fault(headers=headers)
