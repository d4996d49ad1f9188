"""What the tests of the router share: routes over servers, and streams read to their end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from streamguard_core import AnyChunk, Receipt, Report, StreamSession, text_of
from streamguard_providers import OpenAIProducer, Retries, Route, RoutedProducer, Router
from streamguard_testing import LoopbackEngine

KEY = "sk-VERY-SECRET-KEY"
PROMPT = "Tell me about the river."
AT_ONCE = Retries(most=1, random=lambda: 0.0)
"""One retry, without a wait."""


def route(url: str, name: str, **options: Any) -> Route:
    """A route to a server that can go on after a text."""
    options = {"continues": "assistant", "key": KEY} | options
    return Route(OpenAIProducer, "m", base_url=f"{url}/v1", name=name, provider=name, **options)


def router_over(*servers: Any, **options: Any) -> Router:
    """A router whose model `chat` is at these servers: `a`, then `b`, then `c`."""
    routes = [route(server.url, name) for server, name in zip(servers, "abc", strict=False)]
    return Router({"chat": routes}, **{"retries": AT_ONCE} | options)


async def told(producer: RoutedProducer, **options: Any) -> tuple[str, Receipt]:
    """The text of a stream that is read to its end, and its receipt."""
    async with StreamSession(producer, **options) as session:
        text = "".join([text_of(chunk) async for chunk in session])
    return text, await session.receipt()


async def undisturbed(engine: LoopbackEngine) -> str:
    """The text this engine gives when nothing goes wrong."""
    async with LoopbackEngine(
        seed=engine.settings.seed, answer_tokens=engine.settings.answer_tokens
    ) as other:
        text, receipt = await told(router_over(other).producer("chat", prompt=PROMPT))
    assert receipt.completed
    return text


def attempts(receipt: Receipt) -> list[tuple[str | None, str, str]]:
    """Provider, role and outcome of each attempt."""
    return [(each.provider, str(each.role), str(each.outcome)) for each in receipt.attempts]


class Script:
    """A producer that does what a function says; no server, so that time may be virtual."""

    def __init__(self, play: Callable[[Report], AsyncIterator[list[AnyChunk]]]) -> None:
        self._play = play

    def stream(self, *, report: Report) -> AsyncIterator[list[AnyChunk]]:
        """The chunks."""
        return self._play(report)


class Provider:
    """A provider without a server: each call is answered by the next of its answers, the last for ever.

    Args:
        answers: lists of what a call does: chunks to yield, errors to raise, awaitables to make.
    """

    def __init__(self, *answers: list[Any]) -> None:
        self._answers = list(answers)
        self.calls: list[float] = []
        self.ended = 0
        self.clock: Callable[[], float] = lambda: 0.0

    def make(self, model: str, **options: Any) -> Script:
        """The factory of a route."""
        return Script(self._play)

    async def _play(self, report: Report) -> AsyncIterator[list[AnyChunk]]:
        self.calls.append(self.clock())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        try:
            for step in answer:
                if isinstance(step, Exception):
                    raise step
                if callable(step):
                    await step()
                else:
                    yield [step]
        finally:
            self.ended += 1
