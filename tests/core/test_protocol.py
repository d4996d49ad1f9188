"""The protocol alone: the cases that have a name."""

from __future__ import annotations

import pytest

from streamguard_core import (
    Action,
    Cause,
    Deadlines,
    Limits,
    ProducerState,
    State,
    StreamProtocol,
    Usage,
    UsageError,
    grace,
)
from streamguard_core._deadlines import tick
from streamguard_core._lifecycle import MAX_HISTORY
from streamguard_core.protocol import TAIL_BYTES, TAIL_SECONDS

from .protocols import SECOND, Step, slots, streaming


def test_relay_takes_what_there_is_room_for() -> None:
    """A stream that runs, without anything held, relays until its buffers are full."""
    protocol = streaming(Limits(speculative_buffer_limit=2, max_inflight_commits=3), chunks=1)
    assert [protocol.relay(1) for _ in range(6)] == [True] * 5 + [False]
    assert (protocol.produced, protocol.committed) == (6, 4)
    assert protocol.release(1)
    assert (protocol.consumed, protocol.committed) == (2, 5)


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
