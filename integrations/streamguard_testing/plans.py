"""Plans: what an answer will consist of, settled before its first token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from streamguard_testing.bodies import BadRequest
from streamguard_testing.continuation import after
from streamguard_testing.dialects import Ask, Kind
from streamguard_testing.settings import EngineSettings

_DEFAULT_ANSWER: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The tokens of an answer, endlessly, how many of them are made, and why it ends there."""

    tokens: Iterator[tuple[Kind, str]]
    length: int
    reason: str


def plan(ask: Ask, settings: EngineSettings) -> Plan:
    """Settle an answer.

    Raises:
        BadRequest: When more is asked for than this engine allows.
    """
    seed = settings.seed if ask.seed is None else ask.seed
    done, tokens = after(settings.model.tokens(seed), ask)
    length = 0 if ask.empty else _length(ask.max_tokens, done, settings)
    return Plan(
        tokens=((Kind.TEXT, token) for token in tokens),
        length=length,
        reason="length" if length == ask.max_tokens else "stop",
    )


def _length(max_tokens: int | None, done: int, settings: EngineSettings) -> int:
    """Return how long an answer gets: the model's own end or the caller's, what comes first."""
    limit = settings.max_tokens_limit
    if max_tokens is not None and max_tokens > limit:
        raise BadRequest(f"{max_tokens} tokens were asked for; this engine allows {limit}")
    own = settings.answer_tokens
    if max_tokens is None:
        own = min(own or _DEFAULT_ANSWER, limit)
    elif own is None:
        return max_tokens
    # What an answer has already counts for its own end, but is not made again.
    left = max(0, own - done)
    return left if max_tokens is None else min(left, max_tokens)
