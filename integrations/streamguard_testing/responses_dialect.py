"""The dialect of OpenAI's responses: numbered and named events, made of output items."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from streamguard_testing.bodies import BadRequest, encode, flag, integer, limit, string, text_of
from streamguard_testing.dialects import Ask, Kind, Said, Totals, Turn
from streamguard_testing.openai_dialect import error_of
from streamguard_testing.response_items import Item, items_of
from streamguard_testing.tools import openai_tool


class ResponsesVoice:
    """Speaks one answer of `/v1/responses`."""

    early_head = True

    def __init__(self, turn: Turn) -> None:
        self.content_type = (
            "text/event-stream; charset=utf-8" if turn.ask.stream else "application/json"
        )
        self._turn = turn
        self._created_at = int(time.time())
        self._number = -1
        self._opened = False
        self._items: list[Item] = []

    def open(self) -> bytes:
        """Return what says that there is a response now."""
        if self._opened:
            return b""
        self._opened = True
        status = "queued" if self._turn.ask.background else "in_progress"
        frames = self._event("response.created", response=self.response(status))
        if self._turn.ask.background:
            frames += self._event("response.queued", response=self.response(status))
        return frames + self._event("response.in_progress", response=self.response("in_progress"))

    def tokens(self, kind: Kind, tokens: Sequence[str]) -> bytes:
        """Return one delta a token, in the output item of its kind."""
        frames = [self.open()]
        if not self._items or self._items[-1].kind is not kind:
            frames.append(self._leave())
            self._items.append(Item(kind, self._turn, index=len(self._items)))
            frames += [self._event(name, **rest) for name, rest in self._items[-1].begin()]
        item = self._items[-1]
        frames += [self._event(name, **rest) for token in tokens for name, rest in item.add(token)]
        return b"".join(frames)

    def finish(self, reason: str) -> bytes:
        """Return the end of the last item; the reason comes together with the usage."""
        return self.open() + self._leave("incomplete" if reason == "length" else "completed")

    def last(self, reason: str, totals: Totals | None) -> bytes:
        """Return the terminal event, which repeats the whole answer and alone has the usage."""
        output = [item.as_dict() for item in self._items]
        response = self.ended(reason, output, totals)
        return self._event(f"response.{response['status']}", response=response)

    def whole(self, said: Said, reason: str, totals: Totals | None) -> bytes:
        """Return the one object that a request without a stream gets."""
        return encode(self.ended(reason, self.items(said, reason), totals))

    def error(self, status: int, message: str) -> bytes:
        """Return the event that stands for an error after a 200, and what says that it failed."""
        error = {
            "code": "rate_limit_exceeded" if status == 429 else "server_error",
            "message": message,
        }
        return self._event("error", **error, param=None) + self._event(
            "response.failed", response=self.response("failed", error=error)
        )

    def carry(self, said: Mapping[str, Any]) -> bytes:
        """Return any object as an event."""
        return b"data: " + encode(said) + b"\n\n"

    def idle(self) -> bytes:
        """Return an event that says nothing."""
        return self._event("keepalive")

    def items(self, said: Said, reason: str) -> list[dict[str, object]]:
        """Return the output items of an answer in one piece."""
        return items_of(said, reason, self._turn)

    def ended(
        self, reason: str, output: list[dict[str, object]], totals: Totals | None
    ) -> dict[str, object]:
        """Return the response object of an answer that came to its end."""
        usage = None if totals is None else _usage(totals)
        if reason != "length":
            return self.response("completed", output=output, usage=usage)
        details = {"reason": "max_output_tokens"}
        return self.response("incomplete", output=output, usage=usage, incomplete_details=details)

    def response(self, status: str, **rest: object) -> dict[str, object]:
        """Return the response object."""
        ask = self._turn.ask
        said: dict[str, object] = {
            "id": f"resp_{self._turn.request_id}",
            "object": "response",
            "created_at": self._created_at,
            "status": status,
            "background": ask.background,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": ask.max_tokens,
            "metadata": {},
            "model": ask.model,
            "output": [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
        }
        return said | rest

    def _leave(self, status: str = "completed") -> bytes:
        if not self._items or self._items[-1].status != "in_progress":
            return b""
        events = self._items[-1].end(status)
        return b"".join([self._event(name, **rest) for name, rest in events])

    def _event(self, name: str, /, **rest: object) -> bytes:
        self._number += 1
        data = encode({"type": name, "sequence_number": self._number, **rest})
        return f"event: {name}\ndata: ".encode() + data + b"\n\n"


class ResponsesDialect:
    """`/v1/responses`; the field `seed`, which the provider has not, is understood as well."""

    name = "openai.responses"

    def ask(self, body: Mapping[str, Any]) -> Ask:
        """Read a request."""
        prompt, written = _input(body.get("input"))
        instructions = text_of(body.get("instructions"), "instructions")
        return Ask(
            model=string(body, "model"),
            prompt=f"{instructions}\n{prompt}" if instructions else prompt,
            stream=flag(body, "stream", default=False),
            max_tokens=limit(body, "max_output_tokens"),
            seed=integer(body, "seed"),
            written=written,
            tool=openai_tool(body, nested=False),
            background=flag(body, "background", default=False),
        )

    def voice(self, turn: Turn) -> ResponsesVoice:
        """Return the voice for one answer."""
        return ResponsesVoice(turn)

    def error_body(self, status: int, message: str) -> bytes:
        """Return the body that goes with an error status."""
        return encode(error_of(status, message))


def _input(given: object) -> tuple[str, str]:
    """Return the text of the input, and what the assistant has begun to say at its end."""
    if isinstance(given, str) and given:
        return given, ""
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
        raise BadRequest("'input' must be a text, or a list of items, that is not empty")
    texts = [text_of(item.get("content")) for item in given]
    return "\n".join(texts), texts[-1] if given[-1].get("role") == "assistant" else ""


def _usage(totals: Totals) -> dict[str, object]:
    return {
        "input_tokens": totals.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": totals.generated,
        "output_tokens_details": {"reasoning_tokens": totals.reasoning},
        "total_tokens": totals.prompt_tokens + totals.generated,
    }
