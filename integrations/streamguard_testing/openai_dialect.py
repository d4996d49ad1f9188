"""The OpenAI dialect: chat completions as server-sent events, usage in a chunk of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from streamguard_testing.bodies import BadRequest, encode, flag, integer, limit, mapping, string
from streamguard_testing.dialects import Ask, Kind, Said, Totals, Turn, conversation
from streamguard_testing.tools import openai_tool


class DataEvents:
    """What is alike in OpenAI's older streams: events without names."""

    def error(self, status: int, message: str) -> bytes:
        """Return the event that stands for an error after a 200; no [DONE] follows it."""
        return b"data: " + encode(error_of(status, message)) + b"\n\n"

    def carry(self, said: Mapping[str, Any]) -> bytes:
        """Return any object as an event."""
        return b"data: " + encode(said) + b"\n\n"

    def idle(self) -> bytes:
        """Return a comment."""
        return b": keep-alive\n\n"


class OpenAIVoice(DataEvents):
    """Speaks one answer of `/v1/chat/completions`."""

    # As llama.cpp's server and vLLM do: once the prompt is worked on, the headers are out.
    early_head = True

    def __init__(self, turn: Turn) -> None:
        self.content_type = "text/event-stream" if turn.ask.stream else "application/json"
        self._turn = turn
        self._ask = turn.ask
        self._base: Final = {
            "id": f"chatcmpl-{turn.request_id}",
            "created": int(time.time()),
            "model": turn.ask.model,
        }
        self._opened = False
        self._called = False
        self._prompt_tokens = turn.prompt_tokens
        self._running = turn.ask.continuous_usage and turn.running_usage
        self._generated = 0

    def _chunk(self, choices: list[object], **rest: object) -> bytes:
        said = {**self._base, "object": "chat.completion.chunk", "choices": choices}
        if self._ask.include_usage:
            # When usage was asked for, all other chunks have the field too: with null, or with the
            # counters so far.
            said["usage"] = self._so_far() if self._running else None
        return b"data: " + encode(said | rest) + b"\n\n"

    def _so_far(self) -> dict[str, int]:
        prompt, generated = self._prompt_tokens, self._generated
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }

    def _delta(self, delta: dict[str, object], reason: str | None = None) -> bytes:
        return self._chunk(
            [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        )

    def open(self) -> bytes:
        """Return nothing: the opening comes together with the first token."""
        return b""

    def tokens(self, kind: Kind, tokens: Sequence[str]) -> bytes:
        """Return one event a token, after the event with the role."""
        frames = [self._opening()]
        if kind is Kind.ARGUMENTS and not self._called:
            self._called = True
            frames.append(self._delta({"tool_calls": [{"index": 0, **self._call("")}]}))
        for token in tokens:
            self._generated += 1
            frames.append(self._delta(_part(kind, token)))
        return b"".join(frames)

    def _opening(self) -> bytes:
        if self._opened:
            return b""
        self._opened = True
        content = "" if self._turn.call is None else None
        return self._delta({"role": "assistant", "content": content, "refusal": None})

    def _call(self, arguments: str) -> dict[str, object]:
        call = self._turn.call
        assert call is not None
        return {
            "id": f"call_{self._turn.request_id}",
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    def finish(self, reason: str) -> bytes:
        """Return the event with the finish reason."""
        return self._opening() + self._delta({}, reason)

    def last(self, reason: str, totals: Totals | None) -> bytes:
        """Return the usage, if it was asked for, and [DONE]."""
        usage = b""
        if self._ask.include_usage and totals is not None:
            usage = self._chunk([], usage=usage_of(totals))
        return usage + b"data: [DONE]\n\n"

    def whole(self, said: Said, reason: str, totals: Totals | None) -> bytes:
        """Return the one object that a request without a stream gets."""
        message: dict[str, object] = {
            "role": "assistant",
            "content": said.text if self._turn.call is None else None,
            "refusal": None,
        }
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.arguments:
            message["tool_calls"] = [self._call(said.arguments)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        body: dict[str, object] = {**self._base, "object": "chat.completion", "choices": [choice]}
        if totals is not None:
            body["usage"] = usage_of(totals)
        return encode(body)


class OpenAIDialect:
    """`/v1/chat/completions`."""

    name = "openai.chat"

    def ask(self, body: Mapping[str, Any]) -> Ask:
        """Read a request; only one choice is made."""
        said = conversation(body)
        if said.count == 0:
            raise BadRequest("'messages' must not be empty")
        if integer(body, "n") not in {None, 1}:
            raise BadRequest("'n' must be 1: this engine makes one choice")
        most = limit(body, "max_completion_tokens")
        if most is None:
            most = limit(body, "max_tokens")
        stream = flag(body, "stream", default=False)
        options = mapping(body, "stream_options")
        wanted = flag(options, "include_usage", default=False)
        return Ask(
            model=string(body, "model"),
            prompt=said.text,
            tool=openai_tool(body, nested=True),
            written=said.written,
            stream=stream,
            max_tokens=most,
            seed=integer(body, "seed"),
            include_usage=wanted if stream else True,
            continuous_usage=flag(options, "continuous_usage_stats", default=False),
        )

    def voice(self, turn: Turn) -> OpenAIVoice:
        """Return the voice for one answer."""
        return OpenAIVoice(turn)

    def error_body(self, status: int, message: str) -> bytes:
        """Return the body that goes with an error status."""
        return encode(error_of(status, message))


def _part(kind: Kind, token: str) -> dict[str, object]:
    """Return the delta of a token."""
    match kind:
        case Kind.TEXT:
            return {"content": token}
        case Kind.REASONING:
            # DeepSeek's word for it, which most compatible servers took over.
            return {"reasoning_content": token}
        case Kind.ARGUMENTS:
            return {"tool_calls": [{"index": 0, "function": {"arguments": token}}]}


def models(names: Sequence[str]) -> bytes:
    """Return the answer of `/v1/models`."""
    listed = [
        {"id": name, "object": "model", "created": 0, "owned_by": "streamguard"} for name in names
    ]
    return encode({"object": "list", "data": listed})


def usage_of(totals: Totals) -> dict[str, object]:
    """Return the counters as chat and completions report them."""
    return {
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.generated,
        "total_tokens": totals.prompt_tokens + totals.generated,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": totals.reasoning, "audio_tokens": 0},
    }


def error_of(status: int, message: str) -> dict[str, object]:
    """Return an error as all of OpenAI's endpoints report it."""
    kinds = {
        401: "authentication_error",
        404: "not_found_error",
        429: "rate_limit_error",
        529: "overloaded_error",
    }
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
