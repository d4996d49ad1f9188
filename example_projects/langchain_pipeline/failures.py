"""The error handler: routes, breakers, resumption and the answers that stand in, and what it says afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from langchain_pipeline.prompts import Question

from streamguard_core import Receipt
from streamguard_providers import BreakerRule, BreakerState, Retries, Route, RoutedCall, Router

NAME = "pipeline"
"""By which the model asks the router."""


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
        cooldown: seconds for which a route that failed twice in a row is left alone.
    """

    def __init__(self, routes: Sequence[Route], *, cooldown: float = 10.0) -> None:
        self.answers = Answers()
        self.router = Router(
            routes={NAME: list(routes)},
            when_broken=("resume", "cached", "partial"),
            cached=self.answers.find,
            retries=Retries(most=1, base=0.1),
            breaker=BreakerRule(failures=2, cooldown=cooldown, longest=cooldown),
        )

    async def breakers_let_through(self) -> None:
        """Wait until no breaker is open."""
        # A breaker is a decision without a clock: there is nobody who could tell.
        while any(health.state is BreakerState.OPEN for health in self.router.health()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def said(self, receipt: Receipt) -> list[str]:
        """What it did for a stream, and how the routes are that are not well, in lines."""
        stood_in = ["the kept answer stood in"] if receipt.finish == "cached" else []
        ill = [health for health in self.router.health() if health.state is not BreakerState.CLOSED]
        return stood_in + [f"the breaker of the {each.name} is {each.state}" for each in ill]
