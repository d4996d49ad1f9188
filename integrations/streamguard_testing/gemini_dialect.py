"""The Gemini dialect: whole answers in pieces, as server-sent events or as one JSON array."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from streamguard_testing.bodies import (
    BadRequest,
    flag,
    integer,
    limit,
    mapping,
    objects,
    string,
    text_of,
)
from streamguard_testing.dialects import Ask, Kind, Said, Tool, Totals, Turn
from streamguard_testing.tools import LAST_PIECE, choose

_FINISH_REASONS: Final = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_SIGNATURE: Final = "bG9vcGJhY2s="


class GeminiVoice:
    """Speaks one answer of `:streamGenerateContent` or `:generateContent`.

    Args:
        sse: Whether a stream is server-sent events; one JSON array otherwise.
    """

    early_head = True

    def __init__(self, turn: Turn, *, sse: bool) -> None:
        self._turn = turn
        self._sse = sse and turn.ask.stream
        self.content_type = "text/event-stream" if self._sse else "application/json; charset=UTF-8"
        self._items = 0
        self._made = self._reasoned = 0
        self._arguments: list[str] = []
        self._streamed = turn.call is not None and turn.call.streamed

    def open(self) -> bytes:
        """Return nothing: there is no opening."""
        return b""

    def tokens(self, kind: Kind, tokens: Sequence[str]) -> bytes:
        """Return one chunk a token, each with the counters so far.

        A call waits for its end, unless the request lets its arguments be streamed.
        """
        if kind is Kind.ARGUMENTS:
            return b"".join([self._argument(token) for token in tokens])
        return b"".join([self._token(kind, token) for token in tokens])

    def finish(self, reason: str) -> bytes:
        """Return the call of a tool, in one piece; the reason comes together with the usage."""
        if self._streamed or not self._arguments or reason == "length":
            return b""
        return self._chunk([self._call("".join(self._arguments))], self._so_far())

    def last(self, reason: str, totals: Totals | None) -> bytes:
        """Return the chunk with the reason and the usage; there is no terminal marker."""
        usage = None if totals is None else _usage(totals)
        rest = self._chunk([{"text": ""}], usage, finishReason=_FINISH_REASONS[reason])
        return rest if self._sse else rest + b"\n]"

    def whole(self, said: Said, reason: str, totals: Totals | None) -> bytes:
        """Return the one object that a request without a stream gets."""
        parts: list[dict[str, object]] = []
        if said.reasoning:
            parts.append({"text": said.reasoning, "thought": True})
        if said.text:
            parts.append({"text": said.text})
        if said.arguments and reason != "length":
            parts.append(self._call(said.arguments))
        usage = None if totals is None else _usage(totals)
        return _pretty(self._response(parts, usage, finishReason=_FINISH_REASONS[reason]))

    def error(self, status: int, message: str) -> bytes:
        """Return the item that stands for an error after a 200."""
        return self.carry(_error(status, message))

    def carry(self, said: Mapping[str, Any]) -> bytes:
        """Return any object as the last item."""
        item = self._item(said)
        return item if self._sse else item + b"\n]"

    def idle(self) -> bytes:
        """Return a blank line: Google's own client chokes on comments."""
        return b"\r\n"

    def _token(self, kind: Kind, token: str) -> bytes:
        self._made += 1
        part: dict[str, object] = {"text": token}
        if kind is Kind.REASONING:
            self._reasoned += 1
            part["thought"] = True
        return self._chunk([part], self._so_far())

    def _argument(self, piece: str) -> bytes:
        """Keep a piece of the arguments, or tell it if they may be streamed."""
        call = self._turn.call
        assert call is not None
        self._made += 1
        self._arguments.append(piece)
        if not self._streamed:
            return b""
        said: dict[str, object] = {"willContinue": True}
        if len(self._arguments) == 1:
            said["name"] = call.name
        elif piece == LAST_PIECE:
            said = {}
        else:
            path, text = f"$.{call.argument}", json.loads(f'"{piece}"')
            part = {"jsonPath": path, "stringValue": text, "willContinue": True}
            said["partialArgs"] = [part]
        return self._chunk([{"functionCall": said}], self._so_far())

    def _call(self, arguments: str) -> dict[str, object]:
        call = self._turn.call
        assert call is not None
        return {
            "functionCall": {"name": call.name, "args": json.loads(arguments)},
            "thoughtSignature": _SIGNATURE,
        }

    def _so_far(self) -> dict[str, object] | None:
        if not self._turn.running_usage:
            return None
        return _counters(self._turn.prompt_tokens, self._made, self._reasoned)

    def _response(
        self, parts: list[dict[str, object]], usage: dict[str, object] | None, **rest: object
    ) -> dict[str, object]:
        content = {"parts": parts, "role": "model"}
        said: dict[str, object] = {"candidates": [{"content": content, "index": 0, **rest}]}
        if usage is not None:
            said["usageMetadata"] = usage
        return said | {
            "modelVersion": self._turn.ask.model,
            "responseId": self._turn.request_id,
        }

    def _chunk(
        self, parts: list[dict[str, object]], usage: dict[str, object] | None, **rest: object
    ) -> bytes:
        return self._item(self._response(parts, usage, **rest))

    def _item(self, said: Mapping[str, object]) -> bytes:
        self._items += 1
        if self._sse:
            return b"data: " + _compact(said) + b"\r\n\r\n"
        return (b"[" if self._items == 1 else b"\n,\r\n") + _pretty(said)


class GeminiDialect:
    """`/v1beta/models/{model}:streamGenerateContent`, or `:generateContent`.

    Args:
        model: The model that stands in the address.
        stream: Whether the address asks for a stream.
        sse: Whether it asks for server-sent events (`alt=sse`).
    """

    name = "gemini"

    def __init__(self, model: str, *, stream: bool, sse: bool) -> None:
        self._model = model
        self._stream = stream
        self._sse = sse

    def ask(self, body: Mapping[str, Any]) -> Ask:
        """Read a request; only one candidate is made."""
        contents = objects(body, "contents")
        if not contents:
            raise BadRequest("'contents' must not be empty")
        config = mapping(body, "generationConfig")
        if integer(config, "candidateCount") not in {None, 1}:
            raise BadRequest("'candidateCount' must be 1: this engine makes one candidate")
        system = text_of(mapping(body, "systemInstruction").get("parts"), "parts")
        texts = [text_of(content.get("parts"), "parts") for content in contents]
        return Ask(
            model=self._model,
            prompt="\n".join([system, *texts] if system else texts),
            stream=self._stream,
            max_tokens=limit(config, "maxOutputTokens"),
            seed=integer(config, "seed"),
            events=self._sse,
            tool=_tool(body),
            written=texts[-1] if contents[-1].get("role") == "model" else "",
        )

    def voice(self, turn: Turn) -> GeminiVoice:
        """Return the voice for one answer."""
        return GeminiVoice(turn, sse=self._sse)

    def error_body(self, status: int, message: str) -> bytes:
        """Return the body that goes with an error status; that of an array is an array."""
        said = _error(status, message)
        return _pretty([said] if self._stream and not self._sse else said)


def _tool(body: Mapping[str, Any]) -> Tool | None:
    declared = [
        one for tool in objects(body, "tools") for one in objects(tool, "functionDeclarations")
    ]
    offered = [
        (string(one, "name"), mapping(one, "parametersJsonSchema") or mapping(one, "parameters"))
        for one in declared
    ]
    config = mapping(mapping(body, "toolConfig"), "functionCallingConfig")
    mode = config.get("mode")
    if not offered or mode == "NONE":
        return None
    streamed = flag(config, "streamFunctionCallArguments", default=False)
    allowed = config.get("allowedFunctionNames") or [None]
    name = allowed[0] if mode == "ANY" and isinstance(allowed, list) else None
    return choose(offered, name=name, forced=mode == "ANY", streamed=streamed)


def _usage(totals: Totals) -> dict[str, object]:
    return _counters(totals.prompt_tokens, totals.generated, totals.reasoning)


def _counters(prompt: int, generated: int, reasoning: int) -> dict[str, object]:
    counters: dict[str, object] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": generated - reasoning,
        "totalTokenCount": prompt + generated,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
    }
    if reasoning:
        counters["thoughtsTokenCount"] = reasoning
    return counters


def _error(status: int, message: str) -> dict[str, object]:
    kind = _STATUSES.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
    return {"error": {"code": status, "message": message, "status": kind}}


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")


def _pretty(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode(errors="replace")
