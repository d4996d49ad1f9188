"""A route: one provider, key and model that can answer, with what is known of its health."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from streamguard_core import PullProducer, UsageError
from streamguard_providers.breaker import Breaker, BreakerRule, BreakerState, Permit
from streamguard_providers.errors import ProviderError
from streamguard_providers.keys import Secret
from streamguard_providers.pacing import Pacer, PacingRule
from streamguard_providers.producers import HTTPProducer

_TOO_MANY: Final = 429
#: What a provider answers when the request itself cannot be served, whoever sends it.
_REQUESTS_OWN: Final = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RoutedCall:
    """What a router was asked for. Its repr shows neither prompt nor messages.

    Args:
        model: the name or alias that was asked for.
        prompt: the user's message, or None.
        messages: the conversation, or None.
        options: further keywords for the producers.
    """

    model: str
    prompt: str | None
    messages: Sequence[Mapping[str, Any]] | None
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<RoutedCall model={self.model!r}>"


class Route:
    """One way to an answer: who is called, with which key, for which model.

    Args:
        factory: makes the producer of one call: a producer's class (`OpenAIProducer`), or a callable
            that takes the model and the keywords below and returns a pull producer.
        model: the provider's name of the model.
        key: the API key. Kept secret; given to the factory as `api_key`.
        provider: who is called, for receipts and errors; by default by the factory's name.
        name: names the route in errors and health reports; `provider/model` by default.
        options: keywords of every call by this route (`base_url`, `max_tokens`, `continues`, ...);
            those of a single call go before them.

    Producers of this package are made without retries of their own: the router makes them.

    Example:
        >>> from streamguard_providers import OpenAIProducer
        >>> Route(OpenAIProducer, "gpt-5-nano", key="sk-...")
        <Route openai/gpt-5-nano>
    """

    def __init__(
        self,
        factory: Callable[..., Any],
        model: str,
        *,
        key: str | None = None,
        provider: str | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        if not callable(factory):
            raise UsageError(
                f"Route({type(factory).__name__}) was made; its factory is a producer's class, or a"
                " callable that returns a pull producer"
            )
        self._factory = factory
        self.model = model
        self.provider = provider or _provider_of(factory)
        self.name = name or f"{self.provider}/{model}"
        self._key = None if key is None else Secret(key)
        self._options = options
        self._ours = _is_ours(factory)
        if self._ours and provider is not None:
            self._options = {"provider": provider, **options}

    def __repr__(self) -> str:
        return f"<Route {self.name}>"

    def producer(self, call: RoutedCall) -> Any:
        """The producer of one call.

        Raises:
            UsageError: when the factory returns no pull producer, or as the producer itself does.
        """
        options: dict[str, Any] = {"retries": 0} if self._ours else {}
        options |= {**self._options, **call.options}
        options |= {"prompt": call.prompt} if call.messages is None else {"messages": call.messages}
        if self._key is not None:
            options["api_key"] = self._key.reveal()
        producer = self._factory(self.model, **options)
        if not isinstance(producer, PullProducer):
            raise UsageError(
                f"the factory of {self!r} returned a {type(producer).__name__}; it returns a pull"
                " producer, which has `stream(*, report)`"
            )
        return producer

    def continue_from(self, call: RoutedCall, prefix: str, used: int) -> Any:
        """A producer of the rest of an answer, or of all of it where the prefix is empty.

        Args:
            call: what was asked for.
            prefix: the text of the answer so far.
            used: how many tokens that took, of those the call may generate.
        """
        producer = self.producer(call)
        if not prefix:
            return producer
        most = call.options.get("max_tokens", self._options.get("max_tokens"))
        if most is None:
            return producer.resumed(prefix)
        # A cap is a matter of money: what is left of it, and never nothing.
        return producer.resumed(prefix, max_tokens=max(1, most - used))


def goes_on(producer: Any) -> bool:
    """Whether a producer can be asked for the rest of an answer."""
    return bool(getattr(producer, "continues", False)) and hasattr(producer, "resumed")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteHealth:
    """How a route is, at one instant.

    Args:
        name: the route's.
        provider: who is called.
        model: for which model.
        state: of its breaker.
        failures: in a row, since its last answer.
        interval: seconds between two calls; 0 where there is no pace.
        wait: seconds until a call may begin, by pace and by what the provider asked for.
        calls: how many were made.
        answered: how many were answered to their end.
        failed: how many the route failed.
    """

    name: str
    provider: str
    model: str
    state: BreakerState
    failures: int
    interval: float
    wait: float
    calls: int
    answered: int
    failed: int


class RouteState:
    """What a router knows of a route; all instants are seconds of the router's clock."""

    def __init__(self, route: Route, breaker: BreakerRule, pacing: PacingRule) -> None:
        self.route = route
        self.breaker = Breaker(breaker)
        self.pacer = Pacer(pacing)
        self.calls = 0
        self.answered = 0
        self.failed = 0

    def __repr__(self) -> str:
        return f"<RouteState {self.route.name} {self.breaker!r} {self.pacer!r}>"

    def health(self, now: float) -> RouteHealth:
        """How it is."""
        return RouteHealth(
            name=self.route.name,
            provider=self.route.provider,
            model=self.route.model,
            state=self.breaker.state(now),
            failures=self.breaker.failures,
            interval=self.pacer.interval,
            wait=self.pacer.wait(now),
            calls=self.calls,
            answered=self.answered,
            failed=self.failed,
        )

    def settle(
        self, permit: Permit, error: Exception | None, *, began: float, now: float, cut: bool
    ) -> None:
        """A call is over: learn from it.

        Args:
            permit: the call's.
            error: how it failed; None where it was answered.
            began: when it began.
            now: this instant.
            cut: we ended it: it says nothing of the route.
        """
        if cut or is_requests_own(error):
            self.breaker.left(permit)
        elif error is None:
            self.answered += 1
            self.breaker.succeeded(permit, now)
            self.pacer.answered(began=began)
        elif isinstance(error, ProviderError) and is_limited(error):
            # A provider that says "not so fast" is well: the pace is at fault, not the route.
            self.breaker.left(permit)
            self.pacer.limited(now=now, began=began, retry_after=error.retry_after)
        else:
            self.failed += 1
            self.breaker.failed(permit, now)


def is_limited(error: Exception | None) -> bool:
    """Whether a call was refused for its rate; a quota that is used up is no matter of pace."""
    return isinstance(error, ProviderError) and error.status == _TOO_MANY and error.retryable


def is_requests_own(error: Exception | None) -> bool:
    """Whether a call was refused for what it asks, so that the route is not to blame."""
    return (
        isinstance(error, ProviderError) and error.status in _REQUESTS_OWN and not error.retryable
    )


def _is_ours(factory: Any) -> bool:
    while isinstance(factory, partial):
        factory = factory.func
    return isinstance(factory, type) and issubclass(factory, HTTPProducer)


def _provider_of(factory: Any) -> str:
    while isinstance(factory, partial):
        factory = factory.func
    name = getattr(factory, "__name__", type(factory).__name__)
    return str(name).removesuffix("Producer").lower() or "provider"
