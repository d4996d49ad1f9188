"""What counting costs: a stream read through a guarded transport, with and without a look into its bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Final

import httpx
import httpx2
import openai

from bench.harness import Run, Table, main, measure
from streamguard_core import Scope, use_scope
from streamguard_providers import GuardedAsyncTransport

EVENTS: Final = 2_000
_BYTES: Final = "bytes alone"
_GUARDED: Final = "guarded, not counted"
_COUNTED: Final = "guarded and counted"
_SDK: Final = "the openai SDK, plain"
_SDK_COUNTED: Final = "the openai SDK, guarded and counted"


def _event(said: object) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def _body() -> list[bytes]:
    """One event a piece, as providers send them, of the size that OpenAI's have."""
    delta = {"choices": [{"index": 0, "delta": {"content": " river"}, "finish_reason": None}]}
    frame = {
        "id": "chatcmpl-1234567890",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
    }
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": EVENTS}}
    said = [_event({**frame, **delta})] * EVENTS
    return [*said, _event({**frame, **last}), _event({**frame, **usage}), b"data: [DONE]\n\n"]


BODY: Final = _body()
SIZE: Final = sum(map(len, BODY))


class _Memory(httpx.AsyncByteStream, httpx2.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in BODY:
            yield piece

    async def aclose(self) -> None:
        """Nothing is open."""


class _Replay(httpx.AsyncBaseTransport):
    """Answers from memory: no socket is measured."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        made = httpx2 if type(request).__module__.startswith("httpx2") else httpx
        headers = {"content-type": "text/event-stream"}
        response: httpx.Response = made.Response(200, headers=headers, stream=_Memory())
        return response


def _reading(transport: httpx.AsyncBaseTransport, path: str) -> Run:
    client = httpx.AsyncClient(transport=transport, base_url="http://provider")

    async def run() -> int:
        with use_scope(Scope()):
            async with client.stream("POST", path, json={"model": "m"}) as response:
                async for _ in response.aiter_raw():
                    pass
        return EVENTS

    return run


def _sdk(transport: httpx.AsyncBaseTransport) -> Run:
    http = httpx2.AsyncClient(transport=transport)  # type: ignore[arg-type]
    client = openai.AsyncOpenAI(api_key="k", base_url="http://provider/v1", http_client=http)

    async def run() -> int:
        with use_scope(Scope()):
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=True
            )
            async for _ in stream:
                pass
        return EVENTS

    return run


def cases() -> Iterator[tuple[str, Run]]:
    """Every way to read the same body."""
    guarded = GuardedAsyncTransport(_Replay())
    yield _BYTES, _reading(_Replay(), "/v1/chat/completions")
    yield _GUARDED, _reading(guarded, "/v1/elsewhere")
    yield _COUNTED, _reading(guarded, "/v1/chat/completions")
    yield _SDK, _sdk(_Replay())
    yield _SDK_COUNTED, _sdk(guarded)


async def tables(*, quick: bool, valgrind: bool) -> AsyncIterator[Table]:
    """The one table."""
    series = await measure(dict(cases()), 5 if quick else 25)
    rows = (
        series.row(_BYTES),
        series.row(_GUARDED, _BYTES),
        series.row(_COUNTED, _BYTES),
        series.compare(_COUNTED, _GUARDED, "counted, against not counted", 3.0),
        series.row(_SDK),
        series.compare(_SDK_COUNTED, _SDK, "with the SDK, against it alone", 1.5),
    )
    note = f"One event of {SIZE // len(BODY)} bytes a piece, from memory: with a socket the ratios are smaller."
    yield Table("Reading a stream through a guarded transport", "ns/event", rows, note)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, tables))
