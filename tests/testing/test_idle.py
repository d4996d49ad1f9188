"""A connection that is kept open after the end carries what says nothing in its dialect."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from streamguard_testing import Ending, Fault, LoopbackEngine

MESSAGES = [{"role": "user", "content": "hi"}]
GEMINI = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 2}}
CHAT = {"model": "m", "messages": MESSAGES, "stream": True}
CHAT |= {"max_tokens": 2, "max_output_tokens": 2, "options": {"num_predict": 2}}


@pytest.mark.parametrize(
    ("path", "body", "end", "idle"),
    [
        ("/v1/chat/completions", CHAT, b"data: [DONE]\n\n", b": keep-alive\n\n"),
        ("/v1/completions", CHAT | {"prompt": "hi"}, b"data: [DONE]\n\n", b": keep-alive\n\n"),
        ("/v1/messages", CHAT, b'"message_stop"}\n\n', b'event: ping\ndata: {"type":"ping"}\n\n'),
        ("/v1/responses", CHAT | {"input": "hi"}, b"}}\n\n", b"event: keepalive\ndata: "),
        ("/v1beta/models/m:streamGenerateContent?alt=sse", GEMINI, b"}\r\n\r\n", b"\r\n"),
        ("/v1beta/models/m:streamGenerateContent", GEMINI, b"}\n]", b"\r\n"),
        ("/api/chat", CHAT, b"}\n", b"\n"),
    ],
)
async def test_idle(
    engine: LoopbackEngine,
    http: httpx.AsyncClient,
    path: str,
    body: dict[str, Any],
    end: bytes,
    idle: bytes,
) -> None:
    """After the terminal marker it says nothing, again and again, until the reader leaves."""
    fault = Fault(trickle_after_done=True, trickle_interval=0.001)
    read = b""
    async with http.stream("POST", path, json=body, headers=fault.to_header()) as response:
        async for data in response.aiter_raw():
            read += data
            if idle in read.rpartition(end)[2]:
                break
    await engine.wait_idle()
    (record,) = engine.requests
    assert (record.generated, record.ending) == (2, Ending.COMPLETED)
