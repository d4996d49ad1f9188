"""What a reader says that it has: the arithmetic of one stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core.acknowledgements import Acknowledgements, longest_delay
from streamguard_core.replay import Refusal, ResumeError

SECOND = 1_000_000_000
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.lists(st.booleans(), min_size=1, max_size=4)),
        st.tuples(st.just("take"), st.just(())),
        st.tuples(st.just("acknowledge"), st.integers(0, 40)),
        st.tuples(st.just("wait"), st.integers(1, 5)),
    ),
    max_size=60,
)


class Stream:
    """A stream as a transport sees it: batches are sent, then taken; a chunk has an event or (an empty one) none."""

    def __init__(self, stall: float = 10) -> None:
        self.acks = Acknowledgements(stall)
        self.visible: list[bool] = []
        self.taken = self.now = 0
        self.known = 0
        """The most that the reader has said, of what there was."""

    @property
    def shown(self) -> int:
        """The offset of the last event."""
        return max((at for at, each in enumerate(self.visible, 1) if each), default=0)

    def produce(self, batch: list[bool]) -> None:
        """Send a batch: asking for it says that the ones before were taken."""
        self.take(())
        self.visible += batch
        self.acks.sending(self.shown, self.taken, self.now)

    def take(self, _: object) -> None:
        """The transport has everything."""
        self.taken = len(self.visible)

    def wait(self, seconds: int) -> None:
        """Time passes."""
        self.now += seconds

    def acknowledge(self, offset: int) -> None:
        """The reader says something, which may be nonsense."""
        sent = max(self.shown, self.taken)
        before = self.acks.consumed(self.taken), self.acks.since_ns
        if offset > sent:
            with pytest.raises(ResumeError) as refused:
                self.acks.acknowledge(offset, self.taken, self.now)
            assert refused.value.refusal is Refusal.BEYOND
            assert (self.acks.consumed(self.taken), self.acks.since_ns) == before
        else:
            news = offset > self.acks.acknowledged
            assert self.acks.acknowledge(offset, self.taken, self.now) is news
            self.known = max(self.known, offset)


@given(STEPS)
def test_consumed_is_what_was_acknowledged(steps: list[tuple[str, object]]) -> None:
    """It only grows, is never more than was sent, and counts no chunk with an event that was not acknowledged."""
    stream, before = Stream(), 0
    for step, argument in steps:
        getattr(stream, step)(argument)
        consumed = stream.acks.consumed(stream.taken)
        assert before <= consumed <= len(stream.visible)
        assert stream.known <= consumed
        # What is counted beyond the reader's word are chunks that it could not see.
        assert not any(stream.visible[stream.known : consumed])
        before = consumed


@given(STEPS)
def test_the_deadline_runs_from_the_last_progress(steps: list[tuple[str, object]]) -> None:
    """It runs exactly while something is outstanding, from when that began or from the last news, never earlier."""
    stream, progress = Stream(), 0
    for step, argument in steps:
        outstanding, known = stream.acks.outstanding, stream.acks.acknowledged
        getattr(stream, step)(argument)
        news = step == "acknowledge" and stream.acks.acknowledged > known
        if news or (stream.acks.outstanding and not outstanding):
            progress = stream.now
        expected = progress + 10 * SECOND if stream.acks.outstanding else None
        assert stream.acks.due_ns == expected


def test_a_reader_that_is_away_owes_nothing() -> None:
    """From when it is back it has the whole time again."""
    acks = Acknowledgements(stall=2)
    acks.sending(3, 0, 0)
    due = [acks.due_ns]
    for back_at in (None, 5 * SECOND):
        acks.restart(back_at)
        due.append(acks.due_ns)
    assert due == [2 * SECOND, None, 7 * SECOND]
    acks.acknowledge(3, 3, 6 * SECOND)
    acks.restart(8 * SECOND)
    assert acks.due_ns is None


def test_without_a_stall_nothing_is_due() -> None:
    """A reader that has no deadline is counted, and never late; the last word is waited for all the same."""
    acks = Acknowledgements()
    acks.sending(1, 0, 0)
    assert acks.outstanding
    assert acks.due_ns is None
    assert acks.settle_seconds == 2
    assert Acknowledgements(0.5).settle_seconds == 0.5


@pytest.mark.parametrize(("stall", "delay"), [(None, 1), (60, 1), (4, 1), (2, 0.5), (0.2, 0.05)])
def test_a_reader_may_collect_well_within_its_deadline(stall: float | None, delay: float) -> None:
    """A second, or a quarter of the deadline where that is less."""
    assert longest_delay(stall) == delay
