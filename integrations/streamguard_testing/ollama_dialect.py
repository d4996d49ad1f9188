"""The Ollama dialect: NDJSON, one object a token, counters on the last line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from streamguard_testing.bodies import BadRequest, encode, flag, integer, mapping, string
from streamguard_testing.dialects import Ask, Kind, Said, Totals, Turn, conversation
from streamguard_testing.tools import openai_tool


class OllamaVoice:
    """Speaks one answer of `/api/chat` or `/api/generate`."""

    # Ollama sends nothing at all before the first object: loading, waiting and thinking look alike.
    early_head = False

    def __init__(self, turn: Turn, *, chat: bool) -> None:
        ask = turn.ask
        self.content_type = (
            "application/x-ndjson" if ask.stream else "application/json; charset=utf-8"
        )
        self._model = ask.model
        self._chat = chat
        self._empty = ask.empty
        self._call = turn.call
        self._arguments: list[str] = []

    def _line(
        self, text: str, beside: Mapping[str, object], *, done: bool, **rest: object
    ) -> bytes:
        said: dict[str, object] = {"model": self._model, "created_at": _now()}
        if self._chat:
            said["message"] = {"role": "assistant", "content": text, **beside}
        else:
            said |= {"response": text, **beside}
        return encode(said | {"done": done} | rest) + b"\n"

    def open(self) -> bytes:
        """Return nothing: there is no opening."""
        return b""

    def tokens(self, kind: Kind, tokens: Sequence[str]) -> bytes:
        """Return one line a token; a call waits for its end."""
        if kind is Kind.ARGUMENTS:
            self._arguments += tokens
            return b""
        if kind is Kind.REASONING:
            lines = [self._line("", {"thinking": token}, done=False) for token in tokens]
        else:
            lines = [self._line(token, {}, done=False) for token in tokens]
        return b"".join(lines)

    def finish(self, reason: str) -> bytes:
        """Return the call of a tool, which comes in one piece; the reason is on the last line."""
        beside = self._beside("", "".join(self._arguments), reason)
        return self._line("", beside, done=False) if beside else b""

    def _beside(self, reasoning: str, arguments: str, reason: str) -> dict[str, object]:
        """Return what stands beside the text of a message."""
        beside: dict[str, object] = {}
        if reasoning:
            beside["thinking"] = reasoning
        if arguments and reason != "length" and self._call is not None:
            function = {"name": self._call.name, "arguments": json.loads(arguments)}
            beside["tool_calls"] = [{"function": function}]
        return beside

    def last(self, reason: str, totals: Totals | None) -> bytes:
        """Return the line with done true, the reason and the counters."""
        return self._last("", {}, reason, totals)

    def whole(self, said: Said, reason: str, totals: Totals | None) -> bytes:
        """Return the one object that a request without a stream gets."""
        beside = self._beside(said.reasoning, said.arguments, reason)
        return self._last(said.text, beside, reason, totals)

    def _last(
        self, text: str, beside: Mapping[str, object], reason: str, totals: Totals | None
    ) -> bytes:
        if self._empty:
            return self._line(text, beside, done=True, done_reason="load")
        # There is no reason of its own for a call.
        reason = "stop" if reason == "tool_calls" else reason
        return self._line(text, beside, done=True, done_reason=reason, **_counters(totals))

    def error(self, status: int, message: str) -> bytes:
        """Return the line that stands for an error after a 200."""
        return encode({"error": message}) + b"\n"

    def carry(self, said: Mapping[str, Any]) -> bytes:
        """Return any object as a line."""
        return encode(said) + b"\n"

    def idle(self) -> bytes:
        """Return a blank line."""
        return b"\n"


class OllamaDialect:
    """`/api/chat` or `/api/generate`.

    Args:
        chat: Whether it is `/api/chat`.
    """

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat
        self.name = "ollama.chat" if chat else "ollama.generate"

    def ask(self, body: Mapping[str, Any]) -> Ask:
        """Read a request; streaming is the default, and an empty prompt only loads the model."""
        options = mapping(body, "options")
        prompt, written, empty = self._chatted(body) if self._chat else self._prompted(body)
        limit = integer(options, "num_predict")
        return Ask(
            model=string(body, "model"),
            prompt=prompt,
            stream=flag(body, "stream", default=True),
            # Negative values mean "without end" and "fill the context" to Ollama.
            max_tokens=limit if limit is not None and limit >= 0 else None,
            seed=integer(options, "seed"),
            empty=empty,
            written=written,
            tool=openai_tool(body, nested=True) if self._chat else None,
            raw=not self._chat,
            events=False,
        )

    def _chatted(self, body: Mapping[str, Any]) -> tuple[str, str, bool]:
        if "messages" not in body:
            return "", "", True
        said = conversation(body)
        return said.text, said.written, said.count == 0

    def _prompted(self, body: Mapping[str, Any]) -> tuple[str, str, bool]:
        prompt = body.get("prompt") or ""
        if not isinstance(prompt, str):
            raise BadRequest("'prompt' must be a text")
        return prompt, "", not prompt

    def voice(self, turn: Turn) -> OllamaVoice:
        """Return the voice for one answer."""
        return OllamaVoice(turn, chat=self._chat)

    def error_body(self, status: int, message: str) -> bytes:
        """Return the body that goes with an error status."""
        return encode({"error": message})


def tags(models: Sequence[str]) -> bytes:
    """Return the answer of `/api/tags`."""
    listed = [
        {
            "name": name,
            "model": name,
            "modified_at": "2026-01-01T00:00:00Z",
            "size": 0,
            "digest": "",
            "details": {"format": "n-gram", "family": "streamguard", "parameter_size": "0"},
        }
        for name in models
    ]
    return encode({"models": listed})


def _counters(totals: Totals | None) -> dict[str, object]:
    if totals is None:
        return {}
    generating = totals.total_seconds - totals.prompt_seconds
    return {
        "total_duration": _nanoseconds(totals.total_seconds),
        "load_duration": 0,
        "prompt_eval_count": totals.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(totals.prompt_seconds),
        "eval_count": totals.generated,
        "eval_duration": _nanoseconds(generating),
    }


def _nanoseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e9))


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
