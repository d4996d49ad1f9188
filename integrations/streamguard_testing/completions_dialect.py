"""The dialect of OpenAI's text completions: a prompt goes on, as server-sent events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from streamguard_testing.bodies import BadRequest, encode, flag, integer, limit, mapping, string
from streamguard_testing.dialects import Ask, Kind, Said, Totals, Turn
from streamguard_testing.openai_dialect import DataEvents, error_of, usage_of


class CompletionsVoice(DataEvents):
    """Speaks one answer of `/v1/completions`."""

    early_head = True

    def __init__(self, turn: Turn) -> None:
        self.content_type = "text/event-stream" if turn.ask.stream else "application/json"
        self._ask = turn.ask
        self._base: Final = {
            "id": f"cmpl-{turn.request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": turn.ask.model,
        }

    def open(self) -> bytes:
        """Return nothing: there is no opening."""
        return b""

    def tokens(self, kind: Kind, tokens: Sequence[str]) -> bytes:
        """Return one event a token; a completion has nothing but text."""
        return b"".join([self._chunk([_choice(token, None)]) for token in tokens])

    def finish(self, reason: str) -> bytes:
        """Return the event with the finish reason."""
        return self._chunk([_choice("", reason)])

    def last(self, reason: str, totals: Totals | None) -> bytes:
        """Return the usage, if it was asked for, and [DONE]."""
        usage = b""
        if self._ask.include_usage and totals is not None:
            usage = self._chunk([], usage=usage_of(totals))
        return usage + b"data: [DONE]\n\n"

    def whole(self, said: Said, reason: str, totals: Totals | None) -> bytes:
        """Return the one object that a request without a stream gets."""
        body: dict[str, object] = {**self._base, "choices": [_choice(said.text, reason)]}
        if totals is not None:
            body["usage"] = usage_of(totals)
        return encode(body)

    def _chunk(self, choices: list[object], **rest: object) -> bytes:
        said: dict[str, object] = {**self._base, "choices": choices}
        if self._ask.include_usage:
            said["usage"] = None
        return b"data: " + encode(said | rest) + b"\n\n"


class CompletionsDialect:
    """`/v1/completions`."""

    name = "openai.completions"

    def ask(self, body: Mapping[str, Any]) -> Ask:
        """Read a request; one prompt gets one choice."""
        if integer(body, "n") not in {None, 1}:
            raise BadRequest("'n' must be 1: this engine makes one choice")
        stream = flag(body, "stream", default=False)
        wanted = flag(mapping(body, "stream_options"), "include_usage", default=False)
        return Ask(
            model=string(body, "model"),
            prompt=_prompt(body.get("prompt")),
            stream=stream,
            max_tokens=limit(body, "max_tokens"),
            seed=integer(body, "seed"),
            include_usage=wanted if stream else True,
            raw=True,
            reasons=False,
        )

    def voice(self, turn: Turn) -> CompletionsVoice:
        """Return the voice for one answer."""
        return CompletionsVoice(turn)

    def error_body(self, status: int, message: str) -> bytes:
        """Return the body that goes with an error status."""
        return encode(error_of(status, message))


def _choice(text: str, reason: str | None) -> dict[str, object]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}


def _prompt(given: object) -> str:
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if not isinstance(given, str):
        raise BadRequest("'prompt' must be a text, or a list of one")
    return given
