"""Plans: what an answer will consist of, settled before its first token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from streamguard_testing.bodies import BadRequest
from streamguard_testing.continuation import after
from streamguard_testing.dialects import Ask, Kind, Tool
from streamguard_testing.faults import Fault
from streamguard_testing.settings import EngineSettings
from streamguard_testing.tools import pieces

_DEFAULT_ANSWER: Final = 128
_DEFAULT_ARGUMENTS: Final = 12
# Reasoning has a text of its own, so that the answer is the same with and without it.
_REASONING_SEED: Final = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The tokens of an answer, how many of them are made, and why it ends there.

    Attributes:
        call: The tool that the answer calls; None when it is a text.
    """

    tokens: Iterator[tuple[Kind, str]]
    length: int
    reason: str
    call: Tool | None = None


def plan(ask: Ask, fault: Fault, settings: EngineSettings) -> Plan:
    """Settle an answer.

    Raises:
        BadRequest: When more is asked for than this engine allows.
    """
    most = settings.max_tokens_limit
    if ask.max_tokens is not None and ask.max_tokens > most:
        raise BadRequest(f"{ask.max_tokens} tokens were asked for; this engine allows {most}")
    seed = settings.seed if ask.seed is None else ask.seed
    thought = _reasoning(ask, fault)
    left = None if ask.max_tokens is None else ask.max_tokens - thought
    called = ask.tool is not None and (ask.tool.forced or fault.tool_call)
    answer = _call(ask, left, seed, settings) if called else _text(ask, left, seed, settings)
    reasoning = islice(settings.model.tokens(seed + _REASONING_SEED), thought)
    length = 0 if ask.empty else thought + answer.length
    return Plan(
        tokens=chain(((Kind.REASONING, token) for token in reasoning), answer.tokens),
        length=length,
        reason=answer.reason,
        call=answer.call,
    )


def _reasoning(ask: Ask, fault: Fault) -> int:
    if not ask.reasons or ask.empty:
        return 0
    if ask.max_tokens is None:
        return fault.reasoning_tokens
    return min(fault.reasoning_tokens, ask.max_tokens)


def _text(ask: Ask, left: int | None, seed: int, settings: EngineSettings) -> Plan:
    done, tokens = after(settings.model.tokens(seed), ask)
    length = 0 if ask.empty else _length(left, done, settings)
    return Plan(
        tokens=((Kind.TEXT, token) for token in tokens),
        length=length,
        reason="length" if length == left else "stop",
    )


def _call(ask: Ask, left: int | None, seed: int, settings: EngineSettings) -> Plan:
    assert ask.tool is not None
    own = max(2, settings.answer_tokens or _DEFAULT_ARGUMENTS)
    length = own if left is None else min(own, left)
    arguments = pieces(ask.tool, settings.model.tokens(seed), own)
    return Plan(
        tokens=((Kind.ARGUMENTS, piece) for piece in arguments),
        length=length,
        reason="tool_calls" if length == own else "length",
        call=ask.tool,
    )


def _length(left: int | None, done: int, settings: EngineSettings) -> int:
    """Return how long a text gets: the model's own end or the caller's, what comes first."""
    own = settings.answer_tokens
    if left is None:
        own = min(own or _DEFAULT_ANSWER, settings.max_tokens_limit)
    elif own is None:
        return left
    # What an answer has already counts for its own end, but is not made again.
    rest = max(0, own - done)
    return rest if left is None else min(rest, left)
