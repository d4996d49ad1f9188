"""Tests of the dispatcher alone: order, bounds and the two buffers, without a loop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import (
    CUT,
    HOLD,
    PASS,
    AnyChunk,
    Cause,
    Limits,
    Offer,
    StreamProtocol,
    Verdict,
    size_of,
)
from streamguard_core.dispatcher import Dispatcher


class Telling:
    """A gate that answers what it is told to."""

    def __init__(self, answers: list[Verdict]) -> None:
        self._answers = answers
        self.seen: list[AnyChunk] = []

    def decide(self, text_so_far: str, chunk: AnyChunk) -> Verdict:
        """Answer."""
        self.seen.append(chunk)
        return self._answers[(len(self.seen) - 1) % len(self._answers)]


ANSWERS = st.lists(st.sampled_from([PASS, PASS, HOLD, CUT()]), min_size=1, max_size=6)
OPERATIONS = st.lists(st.sampled_from(["offer", "offer", "offer", "take", "finish"]), max_size=60)


@given(
    speculative=st.integers(1, 4),
    inflight=st.integers(1, 4),
    answers=st.lists(ANSWERS, max_size=2),
    operations=OPERATIONS,
)
def test_what_is_taken_is_what_was_accepted_in_order(
    speculative: int, inflight: int, answers: list[list[Verdict]], operations: list[str]
) -> None:
    """Whatever gates answer: in order, within the bounds, and nothing is committed after the cutoff."""
    limits = Limits(speculative_buffer_limit=speculative, max_inflight_commits=inflight)
    protocol = StreamProtocol(limits)
    gates = tuple(Telling(told) for told in answers)
    dispatcher = Dispatcher(protocol, gates)
    accepted: list[str] = []
    taken: list[AnyChunk] = []
    for number, operation in enumerate(operations):
        frozen = None if protocol.live else protocol.committed
        chunk = f"{number} "
        if operation == "offer":
            if dispatcher.offer(chunk, size_of(chunk), number) is Offer.ACCEPTED and protocol.live:
                accepted.append(chunk)
        elif operation == "take" and protocol.committed > protocol.consumed:
            taken.append(dispatcher.queue.popleft())
            dispatcher.taken(size_of(taken[-1]), number)
        elif operation == "finish" and protocol.live:
            dispatcher.finished(number)
            protocol.producer_finished(number)
        if not protocol.live:
            dispatcher.discard()
        waiting = [*dispatcher.queue, *dispatcher.held]
        assert taken == accepted[: len(taken)]
        assert waiting == accepted[len(taken) : len(taken) + len(waiting)]
        assert protocol.produced - protocol.committed <= speculative
        assert protocol.committed - protocol.consumed <= inflight
        assert dispatcher.buffered_bytes() == sum(map(size_of, waiting))
        if frozen is not None:
            assert protocol.committed == frozen
            assert len(waiting) == protocol.committed - protocol.consumed
    for gate in gates[:1]:
        assert gate.seen == sorted(gate.seen, key=lambda chunk: int(str(chunk)))


def test_what_is_discarded_is_no_longer_buffered() -> None:
    """At the cutoff the speculative chunks go, and with them their bytes; the committed ones stay."""
    protocol = StreamProtocol(Limits(speculative_buffer_limit=4, max_inflight_commits=2))
    dispatcher = Dispatcher(protocol)
    for word in ("a", "bb", "ccc", "dddd"):
        dispatcher.offer(word, len(word), 0)
    assert (protocol.produced, protocol.committed) == (4, 2)
    protocol.terminate(Cause.USER_CANCEL, "", 1)
    assert dispatcher.discard() == 2
    assert list(dispatcher.queue) == ["a", "bb"]
    assert dispatcher.buffered_bytes() == 3
    assert dispatcher.discard() == 0


def test_a_full_buffer_says_so_and_takes_again_when_there_is_room() -> None:
    """FULL counts nothing; the same chunk is accepted once the consumer has taken one (G5)."""
    protocol = StreamProtocol(Limits(speculative_buffer_limit=1, max_inflight_commits=1))
    dispatcher = Dispatcher(protocol)
    answers = [dispatcher.offer(word, 1, 0) for word in "abc"]
    assert answers == [Offer.ACCEPTED, Offer.ACCEPTED, Offer.FULL]
    assert (protocol.produced, protocol.late) == (2, 0)
    dispatcher.queue.popleft()
    assert dispatcher.taken(1, 0) == 1
    assert dispatcher.offer("c", 1, 0) is Offer.ACCEPTED
    assert list(dispatcher.queue) == ["b", "c"]
