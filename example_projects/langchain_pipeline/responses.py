"""The response handler: lets through what is text and may be shown, and cuts the stream off where it is not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from langchain_core.messages import BaseMessage
from langchain_pipeline.guardrails import Guardrails

from streamguard_core import Cause

LONGEST = 40_000
"""Characters of an answer."""

Cut = Callable[[Cause, str], None]
"""Ends the stream: why, in a word, and in our own words."""


class EmptyAnswer(ValueError):
    """A model came to its end, and has said nothing."""


class ResponseHandler:
    """Checks one answer while it comes.

    Args:
        guardrails: what must not be shown; None lets all text through.
        cut: ends the stream.
    """

    def __init__(self, guardrails: Guardrails | None, cut: Cut) -> None:
        self._window = None if guardrails is None else guardrails.window()
        self._cut = cut
        self._characters = 0

    async def check(self, chunks: AsyncIterator[BaseMessage]) -> AsyncIterator[str]:
        """From the model's chunks to text that may be shown. A part of a chain."""
        async for chunk in chunks:
            text = shown(str(chunk.text))
            self._characters += len(text)
            if text and (released := self._take(text)):
                yield released
            if self._over():
                return
        if self._characters == 0:
            raise EmptyAnswer("the model has answered nothing")
        if self._window is not None:
            rest = self._window.rest()
            self._over()
            yield rest

    def _take(self, text: str) -> str:
        return text if self._window is None else self._window.take(text)

    def _over(self) -> bool:
        """Cut the stream off if there is a reason to."""
        if self._window is not None and self._window.broken is not None:
            self._cut(Cause.GUARDRAIL, f"rule {self._window.broken!r}")
            return True
        if self._characters > LONGEST:
            self._cut(Cause.BUDGET, f"the answer is longer than {LONGEST} characters")
            return True
        return False


def shown(text: str) -> str:
    """Text for a terminal: what a model sends may hold sequences that steer it."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text
    )
