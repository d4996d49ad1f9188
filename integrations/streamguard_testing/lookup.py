"""The late lookup: what a generation used and costs, asked for by its id when it is over."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qs

from streamguard_testing.http1 import Request
from streamguard_testing.records import Ending, LiveRequest, RequestLog

PATH: Final = "/api/v1/generation"
_PREFIX: Final = re.compile(r"(chatcmpl-|cmpl-|msg_|resp_|gen-)")


def respond(log: RequestLog, request: Request) -> tuple[int, object]:
    """Answer a request for `/api/v1/generation?id=...`, in the manner of OpenRouter.

    Returns:
        The status, and what is to be sent as JSON; a generation that is not over is not found.
    """
    if request.method != "GET":
        return 405, _error(405, f"{PATH} is asked with GET")
    given = parse_qs(request.url.query).get("id", [""])[-1]
    live = log.get(given) or log.get(_PREFIX.sub("", given, count=1))
    if live is None or live.ending is None:
        return 404, _error(404, "no generation with this id is over")
    return 200, {"data": _described(live)}


def _described(live: LiveRequest) -> dict[str, object]:
    record = live.snapshot()
    prompt = 0 if record.ending is Ending.REFUSED else record.prompt_tokens
    ended, received = live.ended_at or 0.0, live.received_at
    first = record.first_token_at
    return {
        "id": record.id,
        "model": record.model,
        "streamed": record.stream,
        "cancelled": record.left_by is not None,
        "finish_reason": live.reason if record.ending is Ending.COMPLETED else None,
        "tokens_prompt": prompt,
        "tokens_completion": record.billed,
        "native_tokens_prompt": prompt,
        "native_tokens_completion": record.billed,
        "native_tokens_reasoning": live.reasoning,
        "native_tokens_cached": 0,
        "latency": None if first is None else round((first - received) * 1e3),
        "generation_time": None if first is None else round((ended - first) * 1e3),
    }


def _error(code: int, message: str) -> dict[str, object]:
    return {"error": {"code": code, "message": message}}
