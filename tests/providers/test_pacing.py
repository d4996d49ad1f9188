"""The pace of a route: it slows down after refusals, recovers, and respects what a provider asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from streamguard_core import UsageError
from streamguard_providers import Pacer, PacingRule, Slot

RULE = PacingRule(first=0.5, slowest=8.0)


def test_there_is_no_pace_until_a_refusal() -> None:
    """Nothing waits on a route that was never refused."""
    pacer = Pacer(RULE)
    assert [pacer.take(1.0).at for _ in range(5)] == [1.0] * 5
    assert pacer.wait(1.0) == 0.0


def test_what_a_provider_asks_for_is_waited() -> None:
    """No call begins before the named instant; a shorter wish does not shorten a longer one."""
    pacer = Pacer(RULE)
    pacer.limited(now=0.0, began=0.0, retry_after=30.0)
    pacer.limited(now=1.0, began=-1.0, retry_after=2.0)
    assert pacer.wait(1.0) == 29.0
    assert [pacer.take(1.0).at for _ in range(3)] == [30.0, 30.5, 31.0]


def test_refusals_slow_down_and_answers_recover() -> None:
    """The interval doubles up to the slowest, and shrinks by a tenth per answer until there is none."""
    pacer, now = Pacer(RULE), 0.0
    for interval in (0.5, 1.0, 2.0, 4.0, 8.0, 8.0):
        pacer.limited(now=now, began=now, retry_after=0.0)
        assert pacer.interval == interval
        now += 1.0
    intervals = []
    while pacer.interval:
        pacer.answered(began=now)
        intervals.append(pacer.interval)
    assert intervals[0] == pytest.approx(7.2)
    assert intervals == sorted(intervals, reverse=True)
    pacer.answered(began=now)
    assert pacer.interval == 0.0


def test_refusals_that_belong_together_slow_once() -> None:
    """Calls that began before the slowing down are its consequences; their answers speed nothing up."""
    pacer = Pacer(RULE)
    for _ in range(10):
        pacer.limited(now=2.0, began=1.0)
    pacer.answered(began=1.0)
    assert pacer.interval == 0.5
    pacer.limited(now=3.0, began=2.0)
    assert pacer.interval == 1.0


def test_without_a_wish_one_interval_is_waited() -> None:
    """A refusal that names no time keeps calls away for as long as the pace has become."""
    pacer = Pacer(RULE)
    pacer.limited(now=5.0, began=5.0)
    assert pacer.wait(5.0) == 0.5


def test_places_that_are_given_back() -> None:
    """The last place goes to the next caller; one before it stays empty."""
    pacer = Pacer(RULE)
    pacer.limited(now=0.0, began=0.0, retry_after=0.0)
    first, second, third = (pacer.take(0.0) for _ in range(3))
    assert (first.at, second.at, third.at) == (0.0, 0.5, 1.0)
    pacer.give_back(second)
    assert pacer.wait(0.0) == 1.5
    pacer.give_back(third)
    assert pacer.take(0.0).at == 1.0
    assert repr(first) == "<Slot at 0>"
    assert repr(pacer) == "<Pacer 0.5 s between calls>"


def test_a_place_is_given_back_by_whoever_has_it() -> None:
    """Of two places at the same instant, one that is not used does not free the other, which is."""
    pacer = Pacer(RULE)
    unused, _ = pacer.take(0.0), pacer.take(0.0)
    pacer.limited(now=0.0, began=0.0, retry_after=0.0)
    pacer.give_back(unused)
    assert pacer.take(0.0).at == 0.5


def test_a_place_before_a_later_wish_does_not_hold() -> None:
    """A place that was taken before the provider named a later instant is not used."""
    pacer = Pacer(RULE)
    slot = pacer.take(1.0)
    assert pacer.holds(slot)
    pacer.limited(now=1.0, began=0.0, retry_after=5.0)
    assert not pacer.holds(slot)


@pytest.mark.parametrize(
    "numbers",
    [
        {"first": 0.0},
        {"first": 2.0, "slowest": 1.0},
        {"slowest": float("inf")},
        {"slower": 1.0},
        {"faster": 1.0},
        {"faster": 0.0},
        {"first": float("nan")},
    ],
)
def test_a_rule_that_cannot_be(numbers: dict[str, Any]) -> None:
    """A rule that makes no sense is refused with what it should be."""
    with pytest.raises(UsageError, match="PacingRule"):
        PacingRule(**numbers)


class Lives(RuleBasedStateMachine):
    """A pacer among callers that take places, wait, call, are refused or answered, or leave."""

    waiting = Bundle("waiting")
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.pacer = Pacer(RULE)
        self.now = 0.0
        self.named = 0.0
        self.places: list[Slot] = []

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=waiting)
    def take(self) -> Slot:
        wait = self.pacer.wait(self.now)
        slot = self.pacer.take(self.now)
        assert slot.at == pytest.approx(self.now + wait)
        assert slot.at >= max(self.now, self.named)
        if self.places:
            assert slot.at >= self.places[-1].at + self.pacer.interval - 1e-9
        self.places.append(slot)
        return slot

    @rule(target=running, slot=consumes(waiting))
    def begin(self, slot: Slot) -> float:
        self.now = max(self.now, slot.at)
        if self.pacer.holds(slot):
            assert self.now >= self.named
        return self.now

    @rule(slot=consumes(waiting))
    def leave(self, slot: Slot) -> None:
        self.pacer.give_back(slot)
        if self.places and self.places[-1] is slot:
            self.places.pop()

    @rule(began=consumes(running), after=st.none() | st.floats(0.0, 20.0))
    def refused(self, began: float, after: float | None) -> None:
        before = self.pacer.interval
        self.pacer.limited(now=self.now, began=began, retry_after=after)
        assert self.pacer.interval >= max(before, RULE.first)
        if after is not None:
            self.named = max(self.named, self.now + after)
        assert self.pacer.blocked_until >= self.named

    @rule(began=consumes(running))
    def answered(self, began: float) -> None:
        before = self.pacer.interval
        self.pacer.answered(began=began)
        assert self.pacer.interval <= before

    @invariant()
    def the_interval_is_bounded(self) -> None:
        """There is no pace, or one between the first and the slowest."""
        interval = self.pacer.interval
        assert interval == 0.0 or RULE.first <= interval <= RULE.slowest


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
