"""Who answers: an engine at an address, or two loopback engines that can be told to fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from chat_common.engine import engine_there

from streamguard_providers import OpenAIProducer, Route
from streamguard_testing import Fault, RunningEngine, run_engine


@dataclass(frozen=True, slots=True)
class Engines:
    """Who answers.

    Args:
        routes: in order of preference.
        name: for people.
        model: the model's name.
        loopback: those that can be told to fail; none at an address.
    """

    routes: tuple[Route, ...]
    name: str
    model: str
    loopback: tuple[RunningEngine, ...] = ()

    def fail(self, faults: tuple[Fault, Fault]) -> None:
        """Tell each loopback engine what goes wrong from now on."""
        for engine, fault in zip(self.loopback, faults, strict=True):
            engine.set_fault(fault)


@contextlib.contextmanager
def engines_at(url: str | None, model: str | None) -> Iterator[Engines]:
    """The engine at an address, or two loopback engines in threads of this process.

    Args:
        url: one that ends in `/v1` is OpenAI-compatible, any other is Ollama; None for the loopback engines.
        model: its name; the engine's first one where it is None.
    """
    if url is not None:
        there = engine_there(url, model, option="--base-url")
        route = Route(there.kind, there.model, base_url=there.url)
        yield Engines((route,), there.name, there.model)
        return
    with _loopback() as first, _loopback() as second:
        name = model or "loopback"
        routes = (_route(first, name, "first engine"), _route(second, name, "second engine"))
        yield Engines(routes, "two loopback engines", name, (first, second))


def _loopback() -> contextlib.AbstractContextManager[RunningEngine]:
    return run_engine(tokens_per_second=40, first_token_delay=0.3, answer_tokens=80)


def _route(engine: RunningEngine, model: str, name: str) -> Route:
    return Route(
        OpenAIProducer,
        model,
        key="loopback",
        provider=name.replace(" ", "-"),
        name=name,
        base_url=engine.openai_url,
        continues="assistant",
    )
