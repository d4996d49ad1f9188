"""The Anthropic dialect: messages as named server-sent events, made of content blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from streamguard_testing.bodies import (
    BadRequest,
    encode,
    flag,
    integer,
    limit,
    mapping,
    objects,
    string,
    text_of,
)
from streamguard_testing.dialects import Ask, Kind, Said, Tool, Totals, Turn, conversation
from streamguard_testing.tools import choose

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERRORS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_DELTAS: Final = {
    Kind.TEXT: ("text_delta", "text"),
    Kind.REASONING: ("thinking_delta", "thinking"),
    Kind.ARGUMENTS: ("input_json_delta", "partial_json"),
}
# As the provider does: the first figure of the output is a placeholder, to be replaced.
_FIRST_OUTPUT: Final = 1
_SIGNATURE: Final = "bG9vcGJhY2s="


class AnthropicVoice:
    """Speaks one answer of `/v1/messages`."""

    early_head = True

    def __init__(self, turn: Turn) -> None:
        self.content_type = (
            "text/event-stream; charset=utf-8" if turn.ask.stream else "application/json"
        )
        self._turn = turn
        self._opened = False
        self._index = -1
        self._block: Kind | None = None

    def open(self) -> bytes:
        """Return nothing: the opening comes together with the first token."""
        return b""

    def tokens(self, kind: Kind, tokens: Sequence[str]) -> bytes:
        """Return one delta a token, in the block of its kind."""
        opening = self._opening() + self._enter(kind)
        return opening + b"".join([self._delta(*_DELTAS[kind], token) for token in tokens])

    def finish(self, reason: str) -> bytes:
        """Return the end of the last block; the reason comes together with the usage."""
        return self._opening() + self._leave()

    def last(self, reason: str, totals: Totals | None) -> bytes:
        """Return the reason with the cumulative usage, and message_stop."""
        delta = {"stop_reason": _STOP_REASONS[reason], "stop_sequence": None}
        usage = {} if totals is None else {"usage": {"output_tokens": totals.generated}}
        return _event("message_delta", delta=delta, **usage) + _event("message_stop")

    def whole(self, said: Said, reason: str, totals: Totals | None) -> bytes:
        """Return the one object that a request without a stream gets."""
        output = None if totals is None else totals.generated
        return encode(self._message(_STOP_REASONS[reason], self._blocks(said), output))

    def error(self, status: int, message: str) -> bytes:
        """Return the event that stands for an error after a 200; no message_stop follows it."""
        return _event(**_error(status, message))

    def carry(self, said: Mapping[str, Any]) -> bytes:
        """Return any object as an event."""
        return b"data: " + encode(said) + b"\n\n"

    def idle(self) -> bytes:
        """Return a ping."""
        return _event("ping")

    def _opening(self) -> bytes:
        if self._opened:
            return b""
        self._opened = True
        return _event("message_start", message=self._message(None, [], _FIRST_OUTPUT))

    def _message(
        self, reason: str | None, content: list[dict[str, object]], output: int | None
    ) -> dict[str, object]:
        said: dict[str, object] = {
            "id": f"msg_{self._turn.request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._turn.ask.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
        }
        if output is not None:
            said["usage"] = {
                "input_tokens": self._turn.prompt_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": output,
            }
        return said

    def _enter(self, kind: Kind) -> bytes:
        """Begin a block, unless it is the one that is open."""
        if self._block is kind:
            return b""
        left = self._leave()
        self._block = kind
        self._index += 1
        start = _event("content_block_start", index=self._index, content_block=self._empty(kind))
        if kind is Kind.ARGUMENTS:
            start += self._delta(*_DELTAS[kind], "")
        return left + start + (_event("ping") if self._index == 0 else b"")

    def _leave(self) -> bytes:
        """End the block that is open, if one is."""
        if self._block is None:
            return b""
        signature = b""
        if self._block is Kind.REASONING:
            signature = self._delta("signature_delta", "signature", _SIGNATURE)
        self._block = None
        return signature + _event("content_block_stop", index=self._index)

    def _delta(self, kind: str, field: str, text: str) -> bytes:
        return _event("content_block_delta", index=self._index, delta={"type": kind, field: text})

    def _empty(self, kind: Kind) -> dict[str, object]:
        if kind is Kind.TEXT:
            return {"type": "text", "text": ""}
        if kind is Kind.REASONING:
            return {"type": "thinking", "thinking": "", "signature": ""}
        return self._call({})

    def _call(self, arguments: object) -> dict[str, object]:
        call = self._turn.call
        assert call is not None
        return {
            "type": "tool_use",
            "id": f"toolu_{self._turn.request_id}",
            "name": call.name,
            "input": arguments,
        }

    def _blocks(self, said: Said) -> list[dict[str, object]]:
        blocks: list[dict[str, object]] = []
        if said.reasoning:
            blocks.append({"type": "thinking", "thinking": said.reasoning, "signature": _SIGNATURE})
        if said.text:
            blocks.append({"type": "text", "text": said.text})
        if said.arguments:
            blocks.append(self._call(_whole_arguments(said.arguments)))
        return blocks


class AnthropicDialect:
    """`/v1/messages`; the field `seed`, which the provider has not, is understood as well."""

    name = "anthropic.messages"

    def ask(self, body: Mapping[str, Any]) -> Ask:
        """Read a request."""
        said = conversation(body)
        if said.count == 0:
            raise BadRequest("'messages' must not be empty")
        if said.written != said.written.rstrip():
            raise BadRequest("final assistant content cannot end with trailing whitespace")
        most = limit(body, "max_tokens")
        if most is None:
            raise BadRequest("'max_tokens' must be there")
        system = text_of(body.get("system"), "system")
        return Ask(
            model=string(body, "model"),
            prompt=f"{system}\n{said.text}" if system else said.text,
            stream=flag(body, "stream", default=False),
            max_tokens=most,
            seed=integer(body, "seed"),
            written=said.written,
            tool=_tool(body),
        )

    def voice(self, turn: Turn) -> AnthropicVoice:
        """Return the voice for one answer."""
        return AnthropicVoice(turn)

    def error_body(self, status: int, message: str) -> bytes:
        """Return the body that goes with an error status."""
        return encode(_error(status, message))


def _tool(body: Mapping[str, Any]) -> Tool | None:
    tools = objects(body, "tools")
    offered = [(string(tool, "name"), mapping(tool, "input_schema")) for tool in tools]
    choice = mapping(body, "tool_choice")
    kind = choice.get("type")
    if not offered or kind == "none":
        return None
    name = string(choice, "name") if kind == "tool" else None
    return choose(offered, name=name, forced=kind == "any")


def _event(type: str, **rest: object) -> bytes:  # noqa: A002 - the wire's word
    return f"event: {type}\ndata: ".encode() + encode({"type": type, **rest}) + b"\n\n"


def _error(status: int, message: str) -> dict[str, Any]:
    kind = _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}


def _whole_arguments(arguments: str) -> object:
    """Return the arguments as an object; an interrupted call has none."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {}
