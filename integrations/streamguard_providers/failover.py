"""Decides which route a stream's next call takes, after how long, and when there is none; does nothing.

A *leg* is the way to more chunks: the first begins with the stream, and each break after visible
output begins another. Within a leg a route that failed is tried again within limits, then the next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from streamguard_core import AttemptRole, ProducerError, TruncatedStream, UsageError
from streamguard_providers.attempts import error_word
from streamguard_providers.errors import ProviderError, provider_error
from streamguard_providers.retries import Retries
from streamguard_providers.route import RouteState, is_requests_own


class WhenBroken(StrEnum):
    """What happens when an attempt breaks off after output was visible."""

    RESUME = "resume"
    """A route whose provider can goes on after the text so far; nothing is repeated, nothing lost."""
    CACHED = "cached"
    """The caller's cached answer, if it begins with the text so far, provides the rest."""
    PARTIAL = "partial"
    """The stream ends as truncated, and says so."""
    FAIL = "fail"
    """The provider's failure is the stream's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverRule:
    """The bounds of all that is done for one stream.

    Args:
        retries: how often, and after how long, the same route is tried again in a leg.
        resumes: how many times an answer that broke off is gone on with.
        calls: calls of a stream in all, at most; hedges count.
        patience: seconds; a route that asks for a longer wait is passed over for one that does not.
        elsewhere: whether another route is asked when one refused the request itself (400, 413, 422).

    Raises:
        UsageError: when a number is negative.
    """

    retries: Retries = field(default_factory=lambda: Retries(most=1))
    resumes: int = 2
    calls: int = 8
    patience: float = 1.0
    elsewhere: bool = False

    def __post_init__(self) -> None:
        for name, least in (("resumes", 0), ("calls", 1), ("patience", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
                raise UsageError(f"{name}={value!r} was given; it is {least} or more")


@dataclass(frozen=True, slots=True)
class NextCall:
    """A call to make.

    Args:
        state: of the route it takes.
        role: why it is made.
        wait: seconds until then, for a retry; the route's own pace comes on top.
    """

    state: RouteState
    role: AttemptRole
    wait: float = 0.0


class RoutesFailed(ProducerError):
    """No route answered. The text names routes, statuses and error words; never what a provider wrote.

    Args:
        text: what is shown.
        tried: the routes that were called, and one word for how each call failed, in order.
        retry_after: seconds after which one of them may be called again, where that is known.
    """

    def __init__(
        self,
        text: str,
        *,
        tried: tuple[tuple[str, str], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        self.tried = tried
        self.retry_after = retry_after


class Failover:
    """The decisions for one stream. All instants are seconds of the router's clock.

    Args:
        model: what was asked for.
        states: the routes, in order of preference.
        rule: the bounds.
        able: those of the routes that can go on after a text.
        began: when the stream began.
    """

    def __init__(
        self,
        model: str,
        states: Sequence[RouteState],
        rule: FailoverRule,
        *,
        able: Collection[RouteState] = (),
        began: float = 0.0,
    ) -> None:
        self._model = model
        self._order = list(states)
        self._rule = rule
        self._able = able
        self._began = began
        self._spent: set[RouteState] = set()
        self._tries: dict[RouteState, int] = {}
        self._not_before: dict[RouteState, float] = {}
        self._asked: dict[RouteState, float] = {}
        """Until when a failed route asked to be left alone, whatever its failure."""
        self._resuming = False
        self._needs_able = False
        self._over = False
        self.calls = 0
        """Made so far."""
        self.resumes = 0
        """How often the answer broke off and was to be gone on with."""
        self.tried: list[tuple[str, str]] = []

    def next(self, now: float) -> NextCall | None:
        """The next call; None when nothing is left to try."""
        if self._over or self.calls >= self._rule.calls or self.resumes > self._rule.resumes:
            return None
        waits = [(state, self._wait(state, now)) for state in self._candidates(now)]
        longest = self._rule.retries.max_retry_after
        ready = [state for state, _ in waits if self._asks(state, now) <= self._rule.patience]
        if ready:
            state = ready[0]
        elif waits and min(wait for _, wait in waits) <= longest:
            state = min(waits, key=lambda pair: pair[1])[0]
        else:
            return None
        return NextCall(state, self._role(state), max(0.0, self._not_before.get(state, now) - now))

    def hedge(self, now: float, beside: RouteState) -> NextCall | None:
        """A call beside one that is slow: by another route that is free at once, else by the same."""
        if self.calls >= self._rule.calls:
            return None
        free = [state for state in self._candidates(now) if self._wait(state, now) <= 0.0]
        free.sort(key=lambda state: state is beside)
        return NextCall(free[0], AttemptRole.HEDGE) if free else None

    def begun(self) -> None:
        """A call was made."""
        self.calls += 1

    def failed(self, state: RouteState, error: Exception, now: float) -> None:
        """A call failed, with nothing of it visible."""
        self._note(state, error)
        tries = self._tries[state] = self._tries.get(state, 0) + 1
        wait = self._rule.retries.wait(tries - 1, _as_provider_error(error), now - self._began)
        if wait is None:
            self._spent.add(state)
        else:
            self._not_before[state] = now + wait
            self._asked[state] = now + (getattr(error, "retry_after", None) or 0.0)
        if is_requests_own(error) and not self._rule.elsewhere:
            self._over = True

    def broke(self, state: RouteState, error: Exception, now: float, *, text: bool) -> None:
        """A call failed after some of it was visible; another leg begins.

        Args:
            state: of the route.
            error: how it failed.
            now: this instant.
            text: there is text to go on after; else the answer is begun anew.
        """
        self._note(state, error)
        self._resuming, self._needs_able = True, text
        self.resumes += 1
        self._began = now
        self._spent, self._tries, self._not_before, self._asked = set(), {}, {}, {}
        if isinstance(error, ProviderError) and not error.retryable:
            self._spent.add(state)
        # It may well answer again; but whoever is there beside it has not just broken off.
        self._order.remove(state)
        self._order.append(state)

    def failure(self, now: float) -> RoutesFailed:
        """The error that says what was tried, and what was not."""
        called = {name for name, _ in self.tried}
        parts = [f"{name} ({word})" for name, word in self.tried]
        parts += [
            f"{state.route.name} (not called: {self._obstacle(state, now)})"
            for state in self._order
            if state.route.name not in called
        ]
        waits = [self._wait(state, now) for state in self._order if state.breaker.admits(now)]
        soonest = min(waits, default=0.0)
        hint = "change what is asked for" if self._over else "look at Router.health()"
        return RoutesFailed(
            f"no route for {self._model!r} answered: {', '.join(parts)}; {hint}",
            tried=tuple(self.tried),
            retry_after=soonest if soonest > 0.0 else None,
        )

    def _candidates(self, now: float) -> list[RouteState]:
        return [
            state
            for state in self._order
            if state not in self._spent
            and state.breaker.admits(now)
            and (not self._needs_able or state in self._able)
        ]

    def _wait(self, state: RouteState, now: float) -> float:
        return max(state.pacer.wait(now), self._not_before.get(state, now) - now, 0.0)

    def _asks(self, state: RouteState, now: float) -> float:
        """Seconds for which the provider asks not to be called; our own wait for a retry is not among them."""
        return max(state.pacer.wait(now), self._asked.get(state, now) - now)

    def _role(self, state: RouteState) -> AttemptRole:
        if self._resuming:
            return AttemptRole.RESUME
        if not self.calls:
            return AttemptRole.FIRST
        return AttemptRole.RETRY if state in self._tries else AttemptRole.FALLBACK

    def _note(self, state: RouteState, error: Exception) -> None:
        status = error.status if isinstance(error, ProviderError) else None
        word = error_word(error) or "failed"
        if status is not None and word != f"status_{status}":
            word = f"{word}, status {status}"
        self.tried.append((state.route.name, word))

    def _obstacle(self, state: RouteState, now: float) -> str:
        if self._over:
            return "the request itself was refused, and `elsewhere` is False"
        if not state.breaker.admits(now):
            return "its breaker is open"
        if state.pacer.wait(now) > 0.0:
            return f"it asks to wait for {state.pacer.wait(now):.0f} s"
        if self._needs_able and state not in self._able:
            return "it cannot go on after a text"
        return "the bounds of this stream were reached first"


def _as_provider_error(error: Exception) -> Exception:
    """What an end without a terminal marker is to the rule of retries, while nothing was visible."""
    if isinstance(error, TruncatedStream):
        return provider_error("provider", retryable=True)
    return error
