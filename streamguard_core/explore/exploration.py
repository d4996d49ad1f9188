"""Explores all scenarios of a bound, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import msgspec

from streamguard_core.explore.inputs import Bound
from streamguard_core.explore.search import Progress, Search, Violation, Visited
from streamguard_core.explore.world import Driven, Scenario
from streamguard_core.limits import Limits
from streamguard_core.policies import DisconnectPolicy, Rule, cancel, drain, grace

POLICIES: Final[dict[Rule, DisconnectPolicy]] = {
    Rule.CANCEL: cancel(),
    Rule.GRACE: grace(5.0, max_tokens=1),
    Rule.DRAIN: drain(5.0, max_bytes=1, max_tokens=2),
}
"""The policy that is explored for each rule: with every bound that it can have, as low as it goes."""

DEFAULT_BOUND: Final = Bound(tokens=3)
DEFAULT_LIMITS: Final = Limits(
    speculative_buffer_limit=1, max_inflight_commits=1, max_buffer_bytes=1
)
"""Small enough that three chunks fill each of them."""


class Exploration(msgspec.Struct, frozen=True):
    """What was visited, and what was broken.

    Args:
        bound: how far it went.
        limits: of the streams.
        scenarios: what was found, by scenario.
        seconds: how long it took.
    """

    bound: Bound
    limits: Limits
    scenarios: tuple[Visited, ...]
    seconds: float

    @property
    def states(self) -> int:
        """Distinct states. Scenarios differ in their configuration: none is counted twice."""
        return sum(visited.states for visited in self.scenarios)

    @property
    def transitions(self) -> int:
        """How many inputs were tried."""
        return sum(visited.transitions for visited in self.scenarios)

    @property
    def deepest(self) -> tuple[str, ...]:
        """The shortest path to the state that is furthest away."""
        return max((visited.deepest for visited in self.scenarios), key=len, default=())

    @property
    def complete(self) -> bool:
        """False when a search was cut short: at its bound on states, or at the first breach."""
        return all(visited.complete for visited in self.scenarios)

    @property
    def ok(self) -> bool:
        """True when everything was visited and nothing is broken."""
        return self.complete and not self.violations

    @property
    def violations(self) -> list[Violation]:
        """All breaches, those with the shortest path first."""
        found = [violation for visited in self.scenarios for violation in visited.violations]
        return sorted(found, key=lambda violation: len(violation.path))


def explore(
    rules: Iterable[Rule] = tuple(Rule),
    bound: Bound = DEFAULT_BOUND,
    limits: Limits = DEFAULT_LIMITS,
    driven: Driven | None = None,
    progress: Progress | None = None,
    *,
    stop_at_first: bool = False,
) -> Exploration:
    """Drive the protocol through every interleaving of its inputs.

    Args:
        rules: which disconnect policies.
        bound: how far.
        limits: bounds of the stream's buffers.
        driven: what is explored, unless it is the protocol as it is.
        progress: told now and then how many states were found, and how many wait to be expanded.
        stop_at_first: end with the first breach.
    """
    started = time.perf_counter()
    found: list[Visited] = []
    for rule in rules:
        search = Search(
            Scenario(POLICIES[rule], limits),
            bound,
            driven or Driven(),
            stop_at_first=stop_at_first,
        )
        found.append(search.run(progress))
        if stop_at_first and search.visited.violations:
            break
    return Exploration(bound, limits, tuple(found), time.perf_counter() - started)
