"""Routes the calls for a model to the providers that can answer, and keeps a stream alive when one fails."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict, Unpack

from streamguard_core import AnyChunk, Report, UsageError
from streamguard_providers.breaker import BreakerRule
from streamguard_providers.failover import FailoverRule, WhenBroken
from streamguard_providers.pacing import PacingRule
from streamguard_providers.producers import check_input
from streamguard_providers.retries import Retries, retries_of
from streamguard_providers.route import Route, RoutedCall, RouteHealth, RouteState
from streamguard_providers.routing import Cached, Routing, RoutingRules
from streamguard_providers.seam import SHORTEST_OVERLAP

_ORDER: Final = (
    (WhenBroken.RESUME,),
    (WhenBroken.CACHED,),
    (WhenBroken.PARTIAL, WhenBroken.FAIL),
)


class RouterOptions(TypedDict, total=False):
    """How a router behaves; keywords of `Router`."""

    when_broken: WhenBroken | str | Iterable[WhenBroken | str]
    """What happens when an attempt breaks off after visible output: one or more of `resume`, `cached`
    and, last, `partial` or `fail`, in this order. `partial` by default; where nothing else is named,
    `fail` comes last."""
    cached: Cached | None
    """Returns a cached answer for a `RoutedCall` (text, chunks, or None), or an awaitable of one."""
    retries: Retries | int
    """How often the same route is tried again before anything is visible; 1 by default."""
    resumes: int
    """How often an answer that broke off is gone on with; 2 by default."""
    calls: int
    """Calls of a stream in all, at most; 8 by default."""
    patience: float
    """Seconds; a route that asks for a longer wait is passed over for one that does not; 1 by default."""
    elsewhere: bool
    """Whether another route is asked when one refused the request itself; False by default."""
    hedge_after: float | None
    """Seconds without a first chunk after which a second call is made beside the first; never by default."""
    overlap: int
    """Characters from which on the start of a resumed answer is taken for a repetition; 0 is never."""
    breaker: BreakerRule
    """When a route is left alone, and for how long."""
    pacing: PacingRule
    """How a route is slowed down after a refusal for its rate."""
    clock: Callable[[], float]
    """Seconds of a monotonic clock; `time.monotonic` by default."""


class Router:
    """Names of models, and the routes that answer for them; keeps the routes' health.

    Make one for the application, and use it in one event loop. A producer it makes goes by the first
    route whose breaker and pace let it. Before anything is visible to the reader, a call that fails is
    made again by the same route, within limits, then by the next. After that `when_broken` decides.
    For a reader who left no call is made, whatever fails.

    Args:
        routes: by name: a `Route`, several in order of preference, or another name (an alias).
        options: see `RouterOptions`.

    Raises:
        UsageError: for a name without routes, an alias that leads nowhere, or an option out of range.

    Example:
        >>> from streamguard_providers import OllamaProducer, OpenAIProducer
        >>> router = Router(
        ...     routes={
        ...         "chat": [
        ...             Route(OpenAIProducer, "gpt-5-nano", key="sk-..."),
        ...             Route(OllamaProducer, "llama3"),
        ...         ],
        ...         "default": "chat",
        ...     },
        ...     when_broken=("resume", "partial"),
        ... )
        >>> router.producer("default", prompt="Hello")
        <RoutedProducer model='default' routes=openai/gpt-5-nano, ollama/llama3>
    """

    def __init__(
        self,
        routes: Mapping[str, Route | str | Sequence[Route]],
        **options: Unpack[RouterOptions],
    ) -> None:
        if unknown := options.keys() - RouterOptions.__annotations__.keys():
            raise UsageError(f"a router takes no keyword {', '.join(sorted(unknown))}")
        self._rules = _rules(options)
        breaker = options.get("breaker") or BreakerRule()
        pacing = options.get("pacing") or PacingRule()
        self._states: dict[Route, RouteState] = {}
        self._routes: dict[str, tuple[RouteState, ...]] = {}
        for name in routes:
            found = _resolved(routes, name)
            for route in found:
                self._states.setdefault(route, RouteState(route, breaker, pacing))
            self._routes[name] = tuple(self._states[route] for route in found)

    def __repr__(self) -> str:
        return f"<Router {', '.join(self._routes)}: {len(self._states)} routes>"

    def producer(
        self,
        model: str,
        *,
        prompt: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> RoutedProducer:
        """A producer of one answer.

        Args:
            model: a name of this router's.
            prompt: the user's message.
            messages: the conversation, in place of `prompt`.
            options: further keywords for the producers of the routes (`max_tokens`, ...).

        Raises:
            UsageError: when there is no such name, when there is not exactly one of prompt and
                messages, or as the producers of the routes do.
        """
        states = self._routes.get(model)
        if states is None:
            known = ", ".join(repr(name) for name in self._routes)
            raise UsageError(f"producer({model!r}) was called; this router knows {known}")
        check_input(prompt, messages)
        call = RoutedCall(model=model, prompt=prompt, messages=messages, options=options)
        return RoutedProducer(call, states, self._rules)

    def health(self) -> tuple[RouteHealth, ...]:
        """How each route is now, in the order in which they were given."""
        now = self._rules.clock()
        return tuple(state.health(now) for state in self._states.values())


class RoutedProducer:
    """One answer, by whichever routes it takes. A pull producer; made by `Router.producer`.

    Args:
        call: what is asked for.
        states: the routes, in order of preference.
        rules: the router's.
    """

    def __init__(self, call: RoutedCall, states: Sequence[RouteState], rules: RoutingRules) -> None:
        self._call = call
        self._states = states
        self._rules = rules
        # What is wrong with a call is said here, also by routes that may never be needed.
        self._made = {state: state.route.producer(call) for state in states}
        self._leading: Any = self._made[states[0]]

    def __repr__(self) -> str:
        names = ", ".join(state.route.name for state in self._states)
        return f"<RoutedProducer model={self._call.model!r} routes={names}>"

    @property
    def provider(self) -> str | None:
        """Who is called: by the route that leads the stream, at first by the first one."""
        return getattr(self._leading, "provider", None)

    @property
    def model(self) -> str | None:
        """The provider's name of the model."""
        return getattr(self._leading, "model", None)

    @property
    def route(self) -> str | None:
        """The dialect that is spoken, as the table of terminations names it."""
        return getattr(self._leading, "route", None)

    @property
    def termination(self) -> Any:
        """What closing saves, at the provider that is called; None where that is not known."""
        return getattr(self._leading, "termination", None)

    async def stream(self, *, report: Report) -> AsyncGenerator[list[AnyChunk], None]:
        """Make the calls and iterate over the chunks of the answer.

        Raises:
            RoutesFailed: when no route answered.
            TruncatedStream: when the answer broke off after visible output and ends as a part of one.
            ProviderError: when it broke off, and `fail` is what is to happen then.
        """
        made, self._made = self._made, {}
        routing = Routing(self._call, self._states, made, self._rules, report, self._led_by)
        batches = routing.batches()
        try:
            async for batch in batches:
                yield batch
        finally:
            await batches.aclose()
            await routing.close()

    def _led_by(self, producer: Any) -> None:
        self._leading = producer


def _rules(options: RouterOptions) -> RoutingRules:
    when_broken = _when_broken(options.get("when_broken", WhenBroken.PARTIAL))
    cached = options.get("cached")
    if (WhenBroken.CACHED in when_broken) != (cached is not None):
        raise UsageError(
            "a router that falls back to cached answers is given both: 'cached' in when_broken, and"
            " cached=..., which returns them"
        )
    hedge_after = options.get("hedge_after")
    if hedge_after is not None and not hedge_after >= 0:
        raise UsageError(f"hedge_after={hedge_after!r} was given; it is seconds, or None")
    overlap = options.get("overlap", SHORTEST_OVERLAP)
    if not overlap >= 0:
        raise UsageError(f"overlap={overlap!r} was given; it is a number of characters, or 0")
    return RoutingRules(
        failover=FailoverRule(
            retries=retries_of(options.get("retries", 1)),
            resumes=options.get("resumes", 2),
            calls=options.get("calls", 8),
            patience=options.get("patience", 1.0),
            elsewhere=options.get("elsewhere", False),
        ),
        when_broken=when_broken,
        cached=cached,
        hedge_after=hedge_after,
        overlap=overlap,
        clock=options.get("clock", time.monotonic),
    )


def _when_broken(
    wanted: WhenBroken | str | Iterable[WhenBroken | str],
) -> tuple[WhenBroken, ...]:
    """Read the keyword `when_broken`.

    Raises:
        UsageError: when a word is unknown, or they are not in their order.
    """
    words = [wanted] if isinstance(wanted, str) else list(wanted)
    try:
        ways = tuple(WhenBroken(word) for word in words)
    except ValueError:
        known = ", ".join(repr(str(way)) for way in WhenBroken)
        raise UsageError(f"when_broken={wanted!r} was given; there are {known}") from None
    places = [next(at for at, same in enumerate(_ORDER) if way in same) for way in ways]
    if places != sorted(set(places)):
        raise UsageError(
            f"when_broken={wanted!r} was given; they are tried in this order, each once: 'resume',"
            " 'cached', then one of 'partial' and 'fail'"
        )
    return ways


def _resolved(routes: Mapping[str, Route | str | Sequence[Route]], name: str) -> tuple[Route, ...]:
    """The routes of a name, through all its aliases.

    Raises:
        UsageError: when there are none.
    """
    seen = [name]
    found = routes[name]
    while isinstance(found, str):
        if found not in routes or found in seen:
            raise UsageError(f"the name {name!r} leads to {found!r}, and that leads nowhere")
        seen.append(found)
        found = routes[found]
    listed = (found,) if isinstance(found, Route) else tuple(found)
    if not listed or not all(isinstance(route, Route) for route in listed):
        raise UsageError(f"the name {name!r} has something else than routes; give Route(...)s")
    return listed
