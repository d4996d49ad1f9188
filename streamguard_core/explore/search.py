"""Visits every state that can be reached, nearest first, and checks each state and each step."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from streamguard_core.explore import invariants
from streamguard_core.explore.alphabet import alphabet
from streamguard_core.explore.checks import Before, Broken, before, step
from streamguard_core.explore.inputs import Bound, Input, Phase
from streamguard_core.explore.probes import probe
from streamguard_core.explore.world import Driven, Frozen, Key, Scenario, World

Progress = Callable[[int, int], None]
"""Told now and then how many states were found and how many still wait to be expanded."""

EVERY: Final = 4096
"""How many expanded states lie between two reports of progress."""
MOST_WAITS: Final = 8
"""Drain, close and finalisation are three; more than a few waits in a row are a circle."""
NOWHERE: Final = -1
UNKNOWN: Final = -2
"""Where time leads from a state that was not expanded, or to one that was not visited."""


class Violation(msgspec.Struct, frozen=True):
    """A breach, and the shortest way to it.

    Args:
        guarantee: which one is broken.
        text: how.
        scenario: what was held fixed.
        path: the inputs that lead there from a fresh stream, in order.
    """

    guarantee: str
    text: str
    scenario: str
    path: tuple[str, ...]


class Visited(msgspec.Struct):
    """What the exploration of one scenario found."""

    scenario: str
    states: int = 0
    transitions: int = 0
    deepest: tuple[str, ...] = ()
    """The longest of the shortest paths."""
    moved: dict[str, int] = {}
    """How often each input led from one state to another."""
    violations: list[Violation] = []
    complete: bool = True
    """False when the search was cut short: what it did not visit is not proved."""


class Search:
    """Breadth first through one scenario, so that the first path to a state is a shortest one.

    Args:
        scenario: what is held fixed.
        bound: how far to go.
        driven: the protocol.
        stop_at_first: end with the first breach.
    """

    def __init__(
        self, scenario: Scenario, bound: Bound, driven: Driven, *, stop_at_first: bool = False
    ) -> None:
        self.visited = Visited(str(scenario))
        self._world = World(scenario, driven)
        self._inputs = alphabet(bound, scenario.limits)
        numbered = list(enumerate(self._inputs))
        self._live = [(number, one) for number, one in numbered if one.phase is not Phase.CUT]
        self._cut = [(number, one) for number, one in numbered if one.phase is not Phase.LIVE]
        self._stop_at_first = stop_at_first
        self._most_states = bound.states
        self._full = False
        self._seen: dict[Key, int] = {}
        self._waiting: deque[tuple[int, Frozen]] = deque()
        # By state: how it was first reached, and where time alone leads from it.
        self._parent = array("l")
        self._by = array("b")
        self._later = array("l")
        self._needs_no_time = bytearray()
        self._moved = [0] * len(self._inputs)
        self._reported: set[Broken] = set()

    def run(self, progress: Progress | None = None) -> Visited:
        """Visit everything, or everything up to the bound on states or the first breach."""
        self._note(self._world.key(), -1, -1)
        expanded = 0
        while self._waiting and not self._full and not self._stopped:
            self._expand(*self._waiting.popleft())
            expanded += 1
            if progress is not None and expanded % EVERY == 0:
                progress(len(self._seen), len(self._waiting))
        if not self._stopped:
            self._check_that_time_seals()
        names = (one.name for one in self._inputs)
        self.visited.moved = dict(zip(names, self._moved, strict=True))
        self.visited.states = len(self._seen)
        self.visited.complete = not self._full and not self._stopped
        self.visited.deepest = self._path(len(self._parent) - 1)
        return self.visited

    @property
    def _stopped(self) -> bool:
        return self._stop_at_first and bool(self.visited.violations)

    def _expand(self, index: int, frozen: Frozen) -> None:
        """Ask what one state answers, and try every input in it."""
        world = self._world
        try:
            self._report(probe(world, frozen), index)
        except Exception as error:
            self._report([_raised(error)], index)
        world.thaw(frozen)
        own, was = world.key(), before(world)
        self._later[index] = NOWHERE
        moved = False
        for number, one in self._live if was.live else self._cut:
            if moved:
                world.thaw(frozen)
                moved = False
            if not one.enabled(world):
                continue
            self.visited.transitions += 1
            broken = self._apply(one, was)
            key = world.key()
            moved = key != own
            self._moved[number] += moved
            child = self._seen.get(key)
            if child is None:
                child = self._note_if_room(key, index, number)
            if one.takes_time:
                self._later[index] = child
            self._report(broken, index, one)

    def _apply(self, one: Input, was: Before) -> list[Broken]:
        """Make one input happen, and check the step."""
        world = self._world
        expected = one.expected(world)
        try:
            answer = one.apply(world)
        except Exception as error:
            return [_raised(error)]
        world.settle()
        broken = step(was, world, expected)
        if answer is not None:
            broken.append(answer)
        return broken

    def _note_if_room(self, key: Key, parent: int, by: int) -> int:
        """A state that was not seen before, unless that is one too many."""
        self._full = self._full or len(self._seen) >= self._most_states
        return UNKNOWN if self._full else self._note(key, parent, by)

    def _note(self, key: Key, parent: int, by: int) -> int:
        """A state that was not seen before."""
        world = self._world
        index = self._seen[key] = len(self._seen)
        self._parent.append(parent)
        self._by.append(by)
        self._later.append(UNKNOWN)
        self._needs_no_time.append(world.live or world.seal_asked)
        self._waiting.append((index, world.freeze()))
        self._report(invariants.state(world), index)
        return index

    def _check_that_time_seals(self) -> None:
        """From every state after the cutoff, time alone leads to one that asks for the seal (G10)."""
        for start in range(len(self._seen)):
            index, waits = start, 0
            while index >= 0 and not self._needs_no_time[index] and waits < MOST_WAITS:
                index, waits = self._later[index], waits + 1
            if index == NOWHERE or waits == MOST_WAITS:
                self._report([Broken("G10", "time alone never brings the seal")], start)

    def _path(self, index: int) -> tuple[str, ...]:
        names: list[str] = []
        while self._parent[index] >= 0:
            names.append(self._inputs[self._by[index]].name)
            index = self._parent[index]
        return tuple(reversed(names))

    def _report(self, broken: Iterable[Broken], index: int, one: Input | None = None) -> None:
        """Keep the first, and with it shortest, path to each breach."""
        for each in broken:
            if each not in self._reported:
                self._reported.add(each)
                path = self._path(index) + ((one.name,) if one else ())
                name = self.visited.scenario
                self.visited.violations.append(Violation(each.guarantee, each.text, name, path))


def _raised(error: Exception) -> Broken:
    text = f"the driver got {type(error).__name__} instead of a decision: {error}"
    return Broken("G11", text)
