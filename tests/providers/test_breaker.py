"""The circuit breaker: when it opens, how it heals, and what changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from streamguard_core import UsageError
from streamguard_providers import Breaker, BreakerRule, BreakerState, Permit

RULE = BreakerRule(failures=3, cooldown=10.0, longest=40.0)


def opened(breaker: Breaker, now: float = 0.0) -> None:
    """Fail until it opens."""
    while (permit := breaker.admit(now)) is not None:
        breaker.failed(permit, now)


def permit_of(breaker: Breaker, now: float) -> Permit:
    """A permit that must be there."""
    permit = breaker.admit(now)
    assert permit is not None
    return permit


def test_it_opens_after_failures_in_a_row() -> None:
    """A success between failures begins the count anew."""
    breaker = Breaker(RULE)
    for verdict in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed):
        verdict(permit_of(breaker, 0.0), 0.0)
    breaker.failed(permit_of(breaker, 1.0), 1.0)
    assert breaker.state(1.0) is BreakerState.CLOSED
    breaker.failed(permit_of(breaker, 2.0), 2.0)
    assert breaker.state(2.0) is BreakerState.OPEN
    assert breaker.admit(11.9) is None
    assert breaker.state(12.0) is BreakerState.HALF_OPEN


def test_one_probe_heals_it() -> None:
    """Half-open, one call goes and the others do not; its success closes the breaker."""
    breaker = Breaker(RULE)
    opened(breaker)
    probe = permit_of(breaker, 10.0)
    assert [breaker.admit(10.0 + n) for n in range(20)] == [None] * 20
    breaker.succeeded(probe, 11.0)
    assert breaker.state(11.0) is BreakerState.CLOSED
    assert breaker.admit(11.0) is not None


def test_a_probe_that_fails_doubles_the_time() -> None:
    """Each failed probe doubles the cooldown, up to the longest; a healed one begins anew."""
    breaker, now = Breaker(RULE), 0.0
    opened(breaker)
    for cooldown in (10.0, 20.0, 40.0, 40.0):
        assert breaker.admit(now + cooldown - 0.1) is None
        now += cooldown
        breaker.failed(permit_of(breaker, now), now)
    breaker.succeeded(permit_of(breaker, now + 40.0), now + 40.0)
    opened(breaker, now + 40.0)
    assert breaker.admits(now + 50.0)


def test_a_reader_who_leaves_is_no_verdict() -> None:
    """A call that was left neither opens, nor closes, nor resets; a probe that was left frees its place."""
    breaker = Breaker(RULE)
    breaker.failed(permit_of(breaker, 0.0), 0.0)
    breaker.failed(permit_of(breaker, 0.0), 0.0)
    for _ in range(20):
        breaker.left(permit_of(breaker, 0.0))
    assert (breaker.state(0.0), breaker.failures) == (BreakerState.CLOSED, 2)
    breaker.failed(permit_of(breaker, 0.0), 0.0)
    breaker.left(permit_of(breaker, 10.0))
    assert breaker.state(10.0) is BreakerState.HALF_OPEN
    assert permit_of(breaker, 10.0).probe


def test_late_results_count_for_nothing() -> None:
    """Calls of an earlier generation neither close an open breaker nor open a healed one."""
    breaker = Breaker(RULE)
    late = [permit_of(breaker, 0.0) for _ in range(6)]
    opened(breaker)
    breaker.succeeded(late[0], 1.0)
    assert breaker.state(1.0) is BreakerState.OPEN
    breaker.succeeded(permit_of(breaker, 10.0), 10.0)
    for permit in late[1:]:
        breaker.failed(permit, 11.0)
    assert (breaker.state(11.0), breaker.failures) == (BreakerState.CLOSED, 0)


def test_a_permit_counts_once() -> None:
    """A verdict that is given twice is one."""
    breaker = Breaker(RULE)
    permit = permit_of(breaker, 0.0)
    for _ in range(5):
        breaker.failed(permit, 0.0)
    assert breaker.failures == 1


@pytest.mark.parametrize(
    "numbers",
    [
        {"failures": 0},
        {"failures": True},
        {"cooldown": 0.0},
        {"cooldown": 5.0, "longest": 4.0},
        {"longest": float("inf")},
        {"cooldown": float("nan")},
    ],
)
def test_a_rule_that_cannot_be(numbers: dict[str, Any]) -> None:
    """A rule that makes no sense is refused with what it should be."""
    with pytest.raises(UsageError, match="BreakerRule"):
        BreakerRule(**numbers)


def test_reprs() -> None:
    """Breakers and permits show their state."""
    breaker = Breaker(RULE)
    permit = permit_of(breaker, 0.0)
    assert repr(breaker) == "<Breaker closed, 0 failures>"
    assert repr(permit) == "<Permit call of generation 0>"
    opened(breaker)
    assert repr(breaker) == "<Breaker not closed, probe from 10 on, 3 failures>"
    assert breaker.opens_at() == 10.0
    assert repr(breaker.admit(10.0)) == "<Permit probe of generation 1>"


class Lives(RuleBasedStateMachine):
    """A breaker among callers that take permits, and hand them back late, never, or twice.

    Beside it runs a model of what it should be, as a list of what has counted.
    """

    running = Bundle("running")
    done = Bundle("done")

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(RULE)
        self.now = 0.0
        self.probes: set[Permit] = set()
        self.in_a_row = 0

    @rule(seconds=st.floats(0.0, 50.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=running)
    def call(self) -> Any:
        admits, state = self.breaker.admits(self.now), self.breaker.state(self.now)
        permit = self.breaker.admit(self.now)
        assert (permit is not None) == admits
        if state is BreakerState.CLOSED:
            assert permit is not None
            assert not permit.probe
        elif state is BreakerState.OPEN:
            assert permit is None
        else:
            assert (permit is not None) == (not self.probes)
            if permit is not None:
                assert permit.probe
                self.probes.add(permit)
        return permit

    @rule(target=done, permit=consumes(running), verdict=st.sampled_from(["yes", "no", "left"]))
    def end(self, permit: Permit | None, verdict: str) -> Any:
        self.hand_back(permit, verdict)
        return permit

    @rule(permit=done, verdict=st.sampled_from(["yes", "no", "left"]))
    def again(self, permit: Permit | None, verdict: str) -> None:
        """A second verdict on a permit changes nothing."""
        before = self.everything()
        self.hand_back(permit, verdict)
        assert self.everything() == before

    def hand_back(self, permit: Permit | None, verdict: str) -> None:
        if permit is None:
            return
        breaker, before = self.breaker, self.everything()
        current = permit.generation == breaker.generation and not permit.returned
        self.probes.discard(permit)
        if verdict == "left":
            breaker.left(permit)
            assert self.everything() == before
            return
        (breaker.succeeded if verdict == "yes" else breaker.failed)(permit, self.now)
        if not current:
            assert self.everything() == before
        elif verdict == "yes":
            self.in_a_row = 0
            assert breaker.state(self.now) is BreakerState.CLOSED
        else:
            self.in_a_row += 1
            opens = permit.probe or self.in_a_row >= RULE.failures
            assert (breaker.state(self.now) is BreakerState.OPEN) == opens
        assert (breaker.generation > before[0]) == (
            current and (permit.probe or (verdict == "no" and self.in_a_row >= RULE.failures))
        )

    def everything(self) -> tuple[Any, ...]:
        breaker = self.breaker
        return breaker.generation, breaker.failures, breaker.state(self.now), breaker.opens_at()

    @invariant()
    def one_probe_at_a_time(self) -> None:
        """While it is not closed there is at most one probe under way."""
        assert len(self.probes) <= 1

    @invariant()
    def it_heals(self) -> None:
        """It is never open for longer than the longest time from now."""
        until = self.breaker.opens_at()
        assert until is None or until <= self.now + RULE.longest


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
