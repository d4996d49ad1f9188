"""The explorer: it visits what it says, and it finds nothing in the protocol."""

from __future__ import annotations

import pytest

from streamguard_core import Cause, Limits, Rule, StreamProtocol, Usage
from streamguard_core.explore import Bound, Driven, explore
from streamguard_core.explore.checks import ACTOR, GUARANTEES
from streamguard_core.explore.exploration import POLICIES
from streamguard_core.explore.world import FIXED, SHADOW, Scenario, World

from .broken import TIGHT, TINY

ROOMY = Limits(speculative_buffer_limit=1, max_inflight_commits=2, max_buffer_bytes=2)


def test_every_policy_is_explored() -> None:
    """Each rule has its scenario, each with states of its own, and the totals are their sums."""
    found = explore(bound=TINY, limits=TIGHT)
    assert [each.scenario for each in found.scenarios] == [str(POLICIES[rule]) for rule in Rule]
    assert found.violations == []
    assert found.states == sum(each.states for each in found.scenarios)
    assert found.transitions > found.states
    assert all(each.states > 1_000 for each in found.scenarios)
    assert len(found.deepest) == max(len(each.deepest) for each in found.scenarios)


def test_more_tokens_reach_further() -> None:
    """A larger bound visits everything that a smaller one does, and more."""
    one, two = (
        explore((Rule.CANCEL,), Bound(tokens, signals=1, sizes=(1,)), TIGHT) for tokens in (1, 2)
    )
    assert two.states > one.states
    assert len(two.deepest) > len(one.deepest)


def test_every_input_happens() -> None:
    """No input is there for nothing: each leads somewhere, but for a relay of what does not fit."""
    found = explore(bound=Bound(tokens=2, signals=1, sizes=(1,)), limits=ROOMY)
    moved = {name for each in found.scenarios for name, count in each.moved.items() if count}
    every = set(found.scenarios[0].moved)
    assert every - moved == {"relay(3)"}


def test_every_guarantee_can_be_named() -> None:
    """What is checked is what is promised of the protocol, and every cause that can come has its actor."""
    assert {"G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G13", "G14"} <= set(GUARANTEES)
    for cause, (category, party) in ACTOR.items():
        assert (cause.category, cause.party) == (category, party)


def test_every_attribute_of_the_protocol_is_explored() -> None:
    """What is held fixed exists, and everything else is part of a state."""
    world = World(Scenario(POLICIES[Rule.CANCEL], TIGHT), Driven())
    slots = {name for base in StreamProtocol.__mro__ for name in getattr(base, "__slots__", ())}
    assert slots >= FIXED
    assert set(world.names) == slots - FIXED - {"signal", "history", "usage"}


@pytest.mark.parametrize("name", [*SHADOW, "ended", "cut_cause", "signal", "history", "usage"])
def test_a_state_that_differs_is_another_state(name: str) -> None:
    """Each fact makes a state a different one, and thawing brings the first one back."""
    world = World(Scenario(POLICIES[Rule.CANCEL], TIGHT), Driven())
    world.protocol.reading()
    key, frozen = world.key(), world.freeze()
    other = World(Scenario(POLICIES[Rule.CANCEL], TIGHT), Driven())
    other.protocol.terminate(Cause.USER_CANCEL, "", 0)
    other.protocol.provider_finished("stop", Usage.reported_by_provider(output=1))
    owner, value = (
        (world.protocol, getattr(other.protocol, name))
        if hasattr(other.protocol, name)
        else (world, "x")
    )
    setattr(owner, name, value)
    assert world.key() != key
    world.thaw(frozen)
    assert world.key() == key
