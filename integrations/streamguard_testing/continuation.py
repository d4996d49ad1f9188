"""Continuation: how much of its own text a request has already, so that the rest goes on after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from streamguard_testing.dialects import Ask


def after(tokens: Iterator[str], ask: Ask) -> tuple[int, Iterator[str]]:
    """Go on after the beginning of the text that a request brings along.

    Invariant: the beginning and the tokens returned, joined, are the tokens given, joined. A
    beginning that is none of this text is no beginning.

    Args:
        tokens: All tokens of the text.
        ask: The request; of a plain prompt, its end may be the beginning of the text.

    Returns:
        How many whole tokens are there already, and the tokens from there on.
    """
    given = ask.prompt if ask.raw else ask.written
    taken = list(_cover(tokens, len(given)))
    text = "".join(taken)
    size = _overlap(given, taken) if ask.raw else len(given) * text.startswith(given)
    return _split(taken, size, tokens)


def _cover(tokens: Iterator[str], size: int) -> Iterator[str]:
    """Yield tokens until they are this long."""
    while size > 0:
        token = next(tokens)
        size -= len(token)
        yield token


def _overlap(prompt: str, tokens: list[str]) -> int:
    """Return how much of a text, one token at least, stands at the end of a prompt."""
    if not tokens:
        return 0
    text = "".join(tokens)
    at = prompt.find(tokens[0])
    while at >= 0:
        size = len(prompt) - at
        # The first look is cheap, and turns away nearly all places that are none.
        if prompt.startswith(text[: min(size, 64)], at) and text.startswith(prompt[at:]):
            return size
        at = prompt.find(tokens[0], at + 1)
    return 0


def _split(taken: list[str], size: int, rest: Iterable[str]) -> tuple[int, Iterator[str]]:
    """Leave the first `size` characters out, which may end within a token."""
    whole = 0
    while whole < len(taken) and len(taken[whole]) <= size:
        size -= len(taken[whole])
        whole += 1
    left = taken[whole:]
    if size:
        left[0] = left[0][size:]
    return whole, chain(left, rest)
