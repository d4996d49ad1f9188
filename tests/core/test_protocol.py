"""The protocol alone: its invariants over whole lives, and the cases that have a name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
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
    UsageError,
    cancel,
    drain,
    grace,
)
from streamguard_core._deadlines import next_due, tick
from streamguard_core._lifecycle import MAX_HISTORY
from streamguard_core.protocol import TAIL_BYTES, TAIL_SECONDS

SECOND = 1_000_000_000

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


def slots(protocol: StreamProtocol) -> dict[str, Any]:
    """Everything that a protocol knows."""
    names = {name for base in type(protocol).__mro__ for name in getattr(base, "__slots__", ())}
    return {name: getattr(protocol, name) for name in names}


def streaming(
    limits: Limits | None = None,
    policy: DisconnectPolicy | None = None,
    deadlines: Deadlines | None = None,
    chunks: int = 0,
) -> StreamProtocol:
    """A stream that is read, with so many chunks of one byte committed and consumed."""
    protocol = StreamProtocol(limits, deadlines, policy)
    protocol.reading()
    for _ in range(chunks):
        assert protocol.offer(1) is Offer.ACCEPTED
        protocol.clear(protocol.produced)
        assert protocol.commit() == 1
        protocol.consume(1, 1)
    return protocol


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


# -- the fast path is its parts -----------------------------------------------------------------------

Step = Callable[[StreamProtocol], object]


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


def test_relay_takes_what_there_is_room_for() -> None:
    """A stream that runs, without anything held, relays until its buffers are full."""
    protocol = streaming(Limits(speculative_buffer_limit=2, max_inflight_commits=3), chunks=1)
    assert [protocol.relay(1) for _ in range(6)] == [True] * 5 + [False]
    assert (protocol.produced, protocol.committed) == (6, 4)
    assert protocol.release(1)
    assert (protocol.consumed, protocol.committed) == (2, 5)


# -- cases that have a name -----------------------------------------------------------------------------


def test_an_empty_stream_ends() -> None:
    """A producer that yields nothing completes the stream, and EOS can be had at once (G6)."""
    protocol = streaming()
    protocol.producer_finished(7)
    assert protocol.signal is not None
    assert (protocol.signal.cause, protocol.signal.party, protocol.signal.at_ns) == (
        Cause.COMPLETED,
        None,
        7,
    )
    assert protocol.take_eos(8)
    assert not protocol.take_eos(9)
    assert Action.SEAL in protocol.pending


def test_the_last_commit_completes() -> None:
    """A producer that finished while chunks wait completes the stream with their commit, not before."""
    protocol = streaming(Limits(speculative_buffer_limit=2, max_inflight_commits=1))
    for _ in range(2):
        protocol.offer(1)
    protocol.clear(2)
    assert protocol.commit() == 1
    protocol.producer_finished(1)
    assert protocol.live
    protocol.consume(1, 1)
    assert protocol.commit(2) == 1
    assert protocol.signal is not None
    assert (protocol.signal.cause, protocol.signal.at_ns) == (Cause.COMPLETED, 2)


def test_ending_twice_is_ending_once() -> None:
    """A driver that reports a producer's end twice, before and after the cutoff, changes nothing."""
    protocol = streaming()
    protocol.offer(1)
    protocol.producer_finished(1)
    protocol.terminate(Cause.USER_CANCEL, "", 2)
    before = slots(protocol)
    protocol.producer_finished(3)
    assert slots(protocol) == before


def test_a_failure_after_the_cutoff_is_history() -> None:
    """A producer that fails because it was closed is not the cause (G14)."""
    protocol = streaming()
    protocol.terminate(Cause.USER_CANCEL, "stop", 1)
    protocol.producer_failed(Cause.PRODUCER_ERROR, "closed", 2)
    assert protocol.signal is not None
    assert protocol.signal.cause is Cause.USER_CANCEL
    assert [signal.cause for signal in protocol.history] == [
        Cause.USER_CANCEL,
        Cause.PRODUCER_ERROR,
    ]
    assert protocol.close_confirmed_ns == 2


def test_the_first_of_two_in_one_instant_wins() -> None:
    """Two terminal decisions in one instant: the first is the cause, the other is history (G8)."""
    protocol = streaming()
    assert protocol.terminate(Cause.BUDGET, "", 5)
    assert not protocol.terminate(Cause.SHUTDOWN, "", 5)
    assert protocol.signal is protocol.history[0]
    assert [signal.cause for signal in protocol.history] == [Cause.BUDGET, Cause.SHUTDOWN]


def test_the_history_is_bounded() -> None:
    """A stream that is hammered with cancels keeps the first signals and does not grow."""
    protocol = streaming()
    for instant in range(3 * MAX_HISTORY):
        protocol.terminate(Cause.USER_CANCEL, "", instant)
    assert [signal.at_ns for signal in protocol.history] == list(range(MAX_HISTORY))


def test_intents_do_not_crowd_the_cause_out() -> None:
    """The terminal signal is in the history, however often the reader left and came back before (G8)."""
    protocol = streaming(policy=grace(5))
    for instant in range(2 * MAX_HISTORY):
        protocol.disconnected("", instant)
        protocol.reading()
    protocol.terminate(Cause.USER_CANCEL, "", 99)
    assert protocol.signal in protocol.history


def test_only_the_first_instants_count() -> None:
    """The first connection and the first call to close are the ones on the receipt."""
    protocol = streaming()
    for instant in (3, 4):
        protocol.connected(instant)
        protocol.close_called(instant)
    assert (protocol.connected_ns, protocol.close_called_ns) == (3, 3)


def test_the_tail_is_harvested_within_bounds() -> None:
    """A reader that leaves between finish and usage ends a completed stream that is read on (G13)."""
    protocol = streaming(chunks=1)
    protocol.provider_finished("stop", None)
    protocol.disconnected("", 10)
    assert protocol.signal is not None
    assert protocol.signal.cause is Cause.COMPLETED
    assert protocol.client_left_early
    assert (protocol.producer, protocol.policy_applied) == (ProducerState.DRAINING, "tail")
    assert protocol.until_ns == 10 + TAIL_SECONDS * SECOND
    protocol.offer(TAIL_BYTES - 1, 11)
    assert Action.CLOSE_PRODUCER not in protocol.pending
    protocol.offer(1, 12)
    assert Action.CLOSE_PRODUCER in protocol.pending


def test_a_finish_does_not_excuse_what_is_not_committed() -> None:
    """A reader that leaves while chunks are held did not get them all: that is a disconnect."""
    protocol = streaming()
    protocol.offer(1)
    protocol.provider_finished("stop", None)
    protocol.disconnected("", 1)
    assert protocol.signal is not None
    assert protocol.signal.cause is Cause.CLIENT_DISCONNECT


def test_usage_does_not_erase_the_finish() -> None:
    """What the provider does not say again stays known (G12)."""
    protocol = streaming()
    usage = Usage.reported_by_provider(output=0)
    protocol.provider_finished("stop", None)
    protocol.provider_finished(None, usage)
    protocol.provider_finished(None, None)
    assert (protocol.finish, protocol.usage) == ("stop", usage)


def test_a_driver_that_gives_up_leaves_the_reader_its_time() -> None:
    """After the close deadline the consumer still has its own to read what was committed."""
    deadlines = Deadlines(close=1, finalisation=30)
    protocol = streaming(deadlines=deadlines)
    protocol.terminate(Cause.USER_CANCEL, "", 0)
    tick(protocol, SECOND)
    assert (protocol.producer, protocol.state) == (ProducerState.UNCONFIRMED, State.DRAINED)
    assert protocol.until_ns == 31 * SECOND


def test_giving_up_early_leaves_the_reader_its_time() -> None:
    """It is the same when the driver gives up before the close deadline."""
    protocol = streaming(deadlines=Deadlines(close=1, finalisation=30))
    protocol.terminate(Cause.USER_CANCEL, "", 0)
    protocol.give_up(0)
    assert protocol.until_ns == 30 * SECOND


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda protocol: protocol.consume(1), "consume.1. was called with 0 chunks in flight"),
        (lambda protocol: protocol.consume(-1), "consume.-1. was called with 0 chunks in flight"),
        (lambda protocol: protocol.clear(2), "clear.2. was called with 1 chunks produced"),
        (lambda protocol: protocol.seal(0), "seal.. is not allowed in STREAMING"),
    ],
)
def test_a_drivers_mistake_says_what_was_wrong(call: Step, text: str) -> None:
    """A mistake raises with what was attempted and in which state, and changes nothing."""
    protocol = streaming()
    protocol.offer(1)
    before = slots(protocol)
    with pytest.raises(UsageError, match=text):
        call(protocol)
    assert slots(protocol) == before


def test_the_repr_shows_the_state() -> None:
    """Error messages and the explorer show states; there is no text of chunks to show."""
    protocol = streaming(chunks=2)
    protocol.terminate(Cause.BUDGET, "", 0)
    text = repr(protocol)
    assert "CUTOFF producer=STOPPING consumer=READING produced=2" in text
    assert "signal=BUDGET" in text
    assert "signal=None" in repr(StreamProtocol())
