"""Deadlines: which is next, what its passing means, and who owes nothing meanwhile."""

from __future__ import annotations

import pytest

from streamguard_core import Cause, Deadlines, ProducerState, State, StreamProtocol, drain, grace
from streamguard_core._deadlines import next_due, next_look, tick
from streamguard_core.policies import DisconnectPolicy

SECOND = 1_000_000_000


def opened(
    deadlines: Deadlines, policy: DisconnectPolicy | None = None, at_ns: int = 0
) -> StreamProtocol:
    """A stream that somebody reads."""
    protocol = StreamProtocol(None, deadlines, policy, at_ns)
    protocol.reading()
    return protocol


def cause_of(protocol: StreamProtocol) -> tuple[Cause, int] | None:
    """What ended a stream, and when."""
    signal = protocol.signal
    return None if signal is None else (signal.cause, signal.at_ns)


def test_a_stream_without_deadlines_waits_for_nothing() -> None:
    """Without timeouts no instant matters while the stream is live."""
    protocol = opened(Deadlines())
    assert next_due(protocol) is None
    assert next_look(protocol, 5) is None
    tick(protocol, 10**18)
    assert protocol.live


@pytest.mark.parametrize(
    ("deadlines", "cause"),
    [
        (Deadlines(connect=2), Cause.TIMEOUT_CONNECT),
        (Deadlines(first_token=2), Cause.TIMEOUT_FIRST_TOKEN),
        (Deadlines(total=2), Cause.TIMEOUT_TOTAL),
    ],
)
def test_deadlines_count_from_the_opening(deadlines: Deadlines, cause: Cause) -> None:
    """Connect, first token and total run from the instant of opening, and pass when they are due."""
    protocol = opened(deadlines, at_ns=5 * SECOND)
    assert next_due(protocol) == (7 * SECOND, cause)
    tick(protocol, 7 * SECOND - 1)
    assert protocol.live
    tick(protocol, 7 * SECOND)
    assert cause_of(protocol) == (cause, 7 * SECOND)


def test_a_late_tick_ends_the_stream_when_it_was_due() -> None:
    """A driver that looks late gets the instants that were due, the earliest first (G8)."""
    deadlines = Deadlines(connect=3, first_token=2, total=4, close=1, finalisation=2)
    protocol = opened(deadlines)
    tick(protocol, 60 * SECOND)
    assert cause_of(protocol) == (Cause.TIMEOUT_FIRST_TOKEN, 2 * SECOND)
    assert len(protocol.history) == 1
    assert (protocol.producer, protocol.state) == (ProducerState.UNCONFIRMED, State.DRAINED)
    assert next_due(protocol) is None


@pytest.mark.parametrize("how", ["connected", "chunk"])
def test_a_connection_or_a_chunk_meets_the_connect_deadline(how: str) -> None:
    """A producer that cannot report its connection shows it by its first chunk, even an empty one."""
    protocol = opened(Deadlines(connect=1))
    if how == "connected":
        protocol.connected(0)
    else:
        protocol.offer(0, 0)
    assert next_due(protocol) is None


def test_only_content_meets_the_first_token_deadline() -> None:
    """Empty chunks are not tokens: only content meets the deadline, and starts the idle one."""
    protocol = opened(Deadlines(first_token=2, idle=1))
    protocol.offer(0, SECOND)
    assert next_due(protocol) == (2 * SECOND, Cause.TIMEOUT_FIRST_TOKEN)
    protocol.offer(1, SECOND)
    protocol.content(SECOND)
    assert next_due(protocol) == (2 * SECOND, Cause.TIMEOUT_IDLE)
    protocol.content(3 * SECOND)
    assert next_due(protocol) == (4 * SECOND, Cause.TIMEOUT_IDLE)


def test_a_producer_that_waits_for_room_owes_nothing() -> None:
    """Its silence is the consumer's, not its own (G14)."""
    protocol = opened(Deadlines(idle=1))
    protocol.content(0)
    protocol.producer_since_ns = None
    assert next_due(protocol) is None


def test_a_producer_that_has_ended_owes_nothing() -> None:
    """While its chunks wait to be committed, only the total and the consumer's deadline run."""
    protocol = opened(Deadlines(connect=1, first_token=1, idle=1, total=9, consumer_stall=2))
    protocol.offer(1, 0)
    protocol.content(0)
    protocol.producer_finished(0)
    assert next_due(protocol) == (9 * SECOND, Cause.TIMEOUT_TOTAL)
    protocol.consumer_since_ns = SECOND
    assert next_due(protocol) == (3 * SECOND, Cause.CONSUMER_STALLED)


def test_a_consumer_that_is_away_does_not_stall() -> None:
    """A reader under grace is waited for by the policy, not by the stall deadline."""
    protocol = opened(Deadlines(consumer_stall=1), grace(5))
    protocol.consumer_since_ns = 0
    assert next_due(protocol) == (SECOND, Cause.CONSUMER_STALLED)
    protocol.disconnected("", 0)
    assert next_due(protocol) == (5 * SECOND, None)
    tick(protocol, 5 * SECOND)
    assert cause_of(protocol) == (Cause.CLIENT_DISCONNECT, 5 * SECOND)


def test_a_drain_a_close_and_a_finalisation_follow_each_other() -> None:
    """Each wait begins when the one before is over, to the nanosecond."""
    protocol = opened(Deadlines(close=1, finalisation=2, total=1), drain(3))
    protocol.disconnected("", 0)
    assert next_due(protocol) == (3 * SECOND, None)
    tick(protocol, 3 * SECOND)
    assert protocol.producer is ProducerState.STOPPING
    assert next_due(protocol) == (4 * SECOND, None)
    protocol.reading()
    tick(protocol, 4 * SECOND)
    assert protocol.state is State.DRAINED
    assert next_due(protocol) == (6 * SECOND, None)
    tick(protocol, 6 * SECOND)
    protocol.seal(6 * SECOND)
    assert next_due(protocol) is None


def test_the_next_look_is_not_per_chunk() -> None:
    """Waits that may begin with any chunk are looked at after their timeout, not announced by each."""
    protocol = opened(Deadlines(idle=4, consumer_stall=3, total=60))
    assert next_look(protocol, SECOND) == 4 * SECOND
    protocol.content(0)
    assert next_look(protocol, SECOND) == 4 * SECOND
    assert next_look(protocol, 2 * SECOND) == 4 * SECOND
    protocol.terminate(Cause.USER_CANCEL, "", 0)
    assert next_look(protocol, SECOND) == 5 * SECOND
