"""The invariants of the protocol over whole lives, drawn at random."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamguard_core import (
    Action,
    Cause,
    ConsumerState,
    Deadlines,
    DisconnectPolicy,
    Limits,
    Offer,
    Party,
    ProducerState,
    State,
    StreamProtocol,
    Usage,
    cancel,
    drain,
    grace,
)
from streamguard_core._deadlines import next_due, tick

from .protocols import SECOND, Step, slots

LIMITS = st.builds(
    Limits,
    speculative_buffer_limit=st.integers(1, 4),
    max_inflight_commits=st.integers(1, 4),
    max_buffer_bytes=st.integers(1, 12),
)
POLICIES = st.sampled_from(
    [cancel(), grace(3), grace(3, max_tokens=2), drain(3), drain(3, max_bytes=5)]
)
TIMEOUTS = st.none() | st.integers(1, 6).map(float)
DEADLINES = st.builds(
    Deadlines,
    connect=TIMEOUTS,
    first_token=TIMEOUTS,
    idle=TIMEOUTS,
    total=TIMEOUTS,
    consumer_stall=TIMEOUTS,
    close=st.integers(1, 3).map(float),
    finalisation=st.integers(1, 3).map(float),
)
SIZES = st.integers(0, 14)
CAUSES = st.sampled_from([cause for cause in Cause if cause is not Cause.COMPLETED])


class Life(RuleBasedStateMachine):
    """Whole lives: everybody may do anything at any time, in any order, as often as they like."""

    @initialize(limits=LIMITS, deadlines=DEADLINES, policy=POLICIES)
    def open(self, limits: Limits, deadlines: Deadlines, policy: DisconnectPolicy) -> None:
        self.now = 0
        self.limits = limits
        self.protocol = StreamProtocol(limits, deadlines, policy)
        self.sizes: list[int] = []
        self.counters = (0, 0, 0, 0)
        self.frozen: tuple[int, object] | None = None
        self.eos_count = self.seal_count = 0

    # -- the producer

    @rule(size=SIZES)
    def offer(self, size: int) -> None:
        room = (
            self.protocol.produced - self.protocol.committed < self.limits.speculative_buffer_limit
        )
        fits = self.protocol.buffered_bytes + size <= self.limits.max_buffer_bytes
        answer = self.protocol.offer(size, self.now)
        assert answer is not Offer.ACCEPTED or (room and fits)
        assert answer is not Offer.FULL or not (room and fits)
        self.accepted(size, taken=answer is Offer.ACCEPTED)

    @rule(size=SIZES)
    def relay(self, size: int) -> None:
        before = slots(self.protocol)
        taken = self.protocol.relay(size)
        assert taken or slots(self.protocol) == before
        self.accepted(size, taken=taken)

    def accepted(self, size: int, *, taken: bool) -> None:
        if taken:
            self.sizes.append(size)
            if size:
                self.protocol.content(self.now)

    @rule(blocked=st.booleans())
    def producer_waits(self, blocked: bool) -> None:
        self.protocol.producer_since_ns = None if blocked else self.now

    @rule()
    def connected(self) -> None:
        self.protocol.connected(self.now)

    @rule()
    def finishes(self) -> None:
        self.protocol.producer_finished(self.now)

    @rule(cause=st.sampled_from([Cause.PRODUCER_ERROR, Cause.TRUNCATED]))
    def fails(self, cause: Cause) -> None:
        live = self.protocol.live
        self.protocol.producer_failed(cause, "it raised", self.now)
        if live:
            assert self.protocol.signal is not None
            assert self.protocol.signal.cause is cause

    @rule()
    def overruns(self) -> None:
        self.protocol.overrun("it did not wait", self.now)

    @rule(reason=st.none() | st.just("stop"), output=st.none() | st.integers(0, 9))
    def provider_says(self, reason: str | None, output: int | None) -> None:
        usage = None if output is None else Usage.reported_by_provider(output=output)
        self.protocol.provider_finished(reason, usage)

    # -- gates, the consumer

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        self.protocol.clear(data.draw(st.integers(0, self.protocol.produced)))

    @rule()
    def commit(self) -> None:
        self.protocol.commit(self.now)

    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        inflight = self.protocol.committed - self.protocol.consumed
        chunks = data.draw(st.integers(0, inflight))
        taken, self.sizes = self.sizes[:chunks], self.sizes[chunks:]
        self.protocol.consume(chunks, sum(taken))

    @precondition(lambda self: self.protocol.committed > self.protocol.consumed)
    @rule()
    def release(self) -> None:
        before = slots(self.protocol)
        if self.protocol.release(self.sizes[0]):
            self.sizes.pop(0)
        else:
            assert slots(self.protocol) == before

    @rule(since=st.booleans())
    def is_handed(self, since: bool) -> None:
        self.protocol.consumer_since_ns = self.now if since else None

    @rule()
    def reads(self) -> None:
        self.protocol.reading()

    @rule()
    def leaves(self) -> None:
        self.protocol.disconnected("it left", self.now)

    @rule()
    def reads_no_more(self) -> None:
        self.protocol.leave(self.now)

    @rule()
    def asks_for_eos(self) -> None:
        if self.protocol.take_eos(self.now):
            self.eos_count += 1
            assert not self.protocol.live
            assert self.protocol.consumed == self.protocol.committed

    # -- authority, time, the driver

    @rule(cause=CAUSES, party=st.none() | st.sampled_from(Party))
    def terminate(self, cause: Cause, party: Party | None) -> None:
        live = self.protocol.live
        assert self.protocol.terminate(cause, "somebody said so", self.now, party) is live
        if live:
            assert self.protocol.signal is not None
            assert self.protocol.signal.party is (party or cause.party)

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND
        tick(self.protocol, self.now)
        due = next_due(self.protocol)
        assert due is None or due[0] > self.now

    @rule()
    def gives_up(self) -> None:
        self.protocol.give_up(self.now)

    @rule()
    def stops_draining(self) -> None:
        self.protocol.stop_draining(self.now)

    @rule()
    def closes(self) -> None:
        self.protocol.close_called(self.now)

    @precondition(lambda self: self.asked_to_seal())
    @rule()
    def seals(self) -> None:
        """A driver seals when it is asked to, at once or later."""
        self.seal_count += 1
        self.protocol.seal(self.now)

    def asked_to_seal(self) -> bool:
        return Action.SEAL in self.protocol.pending and self.protocol.state is State.DRAINED

    # -- what holds

    @invariant()
    def counters_only_grow(self) -> None:
        """Invariant: produced >= committed >= consumed, and all three only grow (G3)."""
        protocol = self.protocol
        assert protocol.produced >= protocol.cleared >= protocol.committed >= protocol.consumed >= 0
        counters = (protocol.produced, protocol.committed, protocol.consumed, protocol.late)
        assert all(now >= was for now, was in zip(counters, self.counters, strict=True))
        self.counters = counters

    @invariant()
    def buffers_are_bounded(self) -> None:
        """Invariant: no buffer passes its limit.

        produced - committed <= speculative_buffer_limit, committed - consumed <= max_inflight_commits,
        buffered_bytes <= max_buffer_bytes (G4).
        """
        protocol, limits = self.protocol, self.limits
        assert protocol.produced - protocol.committed <= limits.speculative_buffer_limit
        assert protocol.committed - protocol.consumed <= limits.max_inflight_commits
        assert protocol.buffered_bytes == sum(self.sizes) <= limits.max_buffer_bytes

    @invariant()
    def the_cutoff_is_final(self) -> None:
        """Invariant: from the cutoff on, `committed` and `signal` never change (G1, G2, G8)."""
        protocol = self.protocol
        if protocol.live:
            assert protocol.signal is None
            assert self.frozen is None
        elif self.frozen is None:
            assert protocol.signal is not None
            self.frozen = (protocol.committed, protocol.signal)
        assert self.frozen in (None, (protocol.committed, protocol.signal))

    @invariant()
    def eos_and_seal_come_once(self) -> None:
        """EOS exactly once (G6), one receipt (G11)."""
        assert self.eos_count == (self.protocol.consumer is ConsumerState.ENDED)
        assert self.seal_count == (self.protocol.state is State.SEALED)

    @invariant()
    def what_is_due_is_asked_for(self) -> None:
        """A producer that is to stop is closed (G10); a cutoff wakes whoever is parked (G7)."""
        pending = self.protocol.pending
        if self.protocol.producer is ProducerState.STOPPING:
            assert Action.CLOSE_PRODUCER in pending
        if not self.protocol.live:
            assert {Action.WAKE_CONSUMER, Action.WAKE_PRODUCER} <= set(pending)
        assert len(set(pending)) == len(pending)

    def teardown(self) -> None:
        """From wherever this life got to, a cutoff and time alone lead to the seal (G10, G6)."""
        if not hasattr(self, "protocol"):
            return
        protocol = self.protocol
        protocol.terminate(Cause.SHUTDOWN, "", self.now)
        for _ in range(5):
            due = next_due(protocol)
            tick(protocol, due[0] if due is not None else self.now)
        assert Action.SEAL in protocol.pending
        if protocol.state is State.DRAINED:
            protocol.seal(self.now)
        assert protocol.state is State.SEALED
        assert next_due(protocol) is None


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def _offered(protocol: StreamProtocol) -> None:
    """A chunk on the way of a stream without gates."""
    if protocol.offer(1) is Offer.ACCEPTED:
        protocol.clear(protocol.produced)
        protocol.commit()


def _took_one(protocol: StreamProtocol) -> None:
    if protocol.committed > protocol.consumed:
        protocol.consume(1, 1)
        protocol.commit()


UNGATED_STEPS: list[Step] = [
    _offered,
    _offered,
    _took_one,
    lambda protocol: protocol.disconnected("it left", 0),
    lambda protocol: protocol.reading(),
    lambda protocol: protocol.producer_finished(0),
]


@given(LIMITS, POLICIES, st.lists(st.sampled_from(UNGATED_STEPS), max_size=14), SIZES)
def test_relay_is_offer_clear_and_commit(
    limits: Limits, policy: DisconnectPolicy, steps: list[Step], size: int
) -> None:
    """relay() == offer() + clear() + commit(), or it changes nothing."""
    protocol = StreamProtocol(limits, None, policy)
    for step in steps:
        step(protocol)
    relayed, in_parts = copy.copy(protocol), copy.copy(protocol)
    if relayed.relay(size):
        assert in_parts.offer(size) is Offer.ACCEPTED
        in_parts.clear(in_parts.produced)
        in_parts.commit()
        assert slots(relayed) == slots(in_parts)
    else:
        assert slots(relayed) == slots(protocol)


@given(LIMITS, POLICIES, st.lists(st.sampled_from(UNGATED_STEPS), max_size=14), st.integers(1, 9))
def test_go_past_is_relay_and_release_of_each(
    limits: Limits, policy: DisconnectPolicy, steps: list[Step], chunks: int
) -> None:
    """go_past(n) == n times relay() + release(), or it changes nothing."""
    protocol = StreamProtocol(limits, None, policy)
    for step in steps:
        step(protocol)
    carried, in_parts = copy.copy(protocol), copy.copy(protocol)
    if carried.go_past(chunks):
        assert all(in_parts.relay(0) and in_parts.release(0) for _ in range(chunks))
        assert slots(carried) == slots(in_parts)
    else:
        assert slots(carried) == slots(protocol)


@given(LIMITS, POLICIES, st.lists(st.sampled_from(UNGATED_STEPS), max_size=14))
def test_release_is_consume_and_commit(
    limits: Limits, policy: DisconnectPolicy, steps: list[Step]
) -> None:
    """release() == consume() + commit(), or it changes nothing."""
    protocol = StreamProtocol(limits, None, policy)
    for step in steps:
        step(protocol)
    released, in_parts = copy.copy(protocol), copy.copy(protocol)
    if released.release(1):
        in_parts.consume(1, 1)
        in_parts.commit()
        assert slots(released) == slots(in_parts)
    else:
        assert slots(released) == slots(protocol)
