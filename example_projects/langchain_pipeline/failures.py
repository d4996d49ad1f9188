"""The error handler: routes, breakers, resumption and the answers that stand in, and what it says afterwards."""

from __future__ import annotations

import time
from collections.abc import Sequence

from langchain_pipeline.prompts import Question

from streamguard_core import Receipt
from streamguard_providers import BreakerRule, BreakerState, Retries, Route, RoutedCall, Router

NAME = "pipeline"
"""By which the model asks the router."""
COOLDOWN = 60.0
"""Seconds for which a route that failed twice in a row is left alone."""


class Answers:
    """Whole answers of this program, by question: what stands in where nobody can go on."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def keep(self, question: Question, answer: str) -> None:
        """Remember a whole answer."""
        self._kept[question.text] = answer

    def find(self, call: RoutedCall) -> str | None:
        """The answer to a call's question."""
        return self._kept.get((call.messages or ({},))[-1].get("content", ""))


class ErrorHandler:
    """What happens when a provider fails.

    Before anything is shown: the same route again, then the next one, and no route whose breaker is open.
    Afterwards: another route goes on from the last chunk, else the kept answer, else a part is a part.

    Args:
        routes: in order of preference.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.answers = Answers()
        self._skipped = 0.0
        self.router = Router(
            routes={NAME: list(routes)},
            when_broken=("resume", "cached", "partial"),
            cached=self.answers.find,
            retries=Retries(most=1, base=0.1),
            breaker=BreakerRule(failures=2, cooldown=COOLDOWN, longest=COOLDOWN),
            clock=lambda: time.monotonic() + self._skipped,
        )

    def skip_cooldown(self) -> None:
        """Set the router's clock forward, so that no breaker is open any more: a simulation need not wait."""
        self._skipped += COOLDOWN

    def said(self, receipt: Receipt) -> list[str]:
        """What it did for a stream, and how the routes are that are not well, in lines."""
        stood_in = ["the kept answer stood in"] if receipt.finish == "cached" else []
        ill = [health for health in self.router.health() if health.state is not BreakerState.CLOSED]
        return stood_in + [f"the breaker of the {each.name} is {each.state}" for each in ill]
