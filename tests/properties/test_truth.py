"""Property: whatever a provider really billed lies within the receipt's bounds, wherever the stream was cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import (
    Count,
    CountSource,
    DrainEnd,
    OnClose,
    Receipt,
    SyncStreamSession,
    Termination,
    Usage,
    by_provider,
    cancel,
    drain,
)
from streamguard_core.testing import ManualClock


@dataclass(frozen=True, slots=True)
class Truth:
    """What a provider does, and when its stream is cut.

    Args:
        chunks: the tokens in each chunk; the model needs as many for what it does not show.
        hidden: tokens it makes without showing them, before the first chunk.
        counts: whether it says a running count with every chunk.
        says: whether it says its usage at the end.
        on_close: what it bills when it is closed.
        cap: how many tokens the request allowed beyond those that it makes; None for no cap.
        after: how many chunks the reader takes.
        leaves: whether the reader leaves then, or somebody cancels.
        most: the tokens after which a drain is over; None for no bound.
    """

    chunks: tuple[int, ...]
    hidden: int
    counts: bool
    says: bool
    on_close: OnClose
    cap: int | None
    after: int
    leaves: bool
    most: int | None

    @property
    def total(self) -> int:
        """The tokens of the whole generation."""
        return self.hidden + sum(self.chunks)

    @property
    def max_tokens(self) -> int | None:
        """The request's own cap."""
        return None if self.cap is None else self.total + self.cap


TRUTHS = st.builds(
    Truth,
    chunks=st.lists(st.integers(1, 5), max_size=8).map(tuple),
    hidden=st.integers(0, 9),
    counts=st.booleans(),
    says=st.booleans(),
    on_close=st.sampled_from(OnClose),
    cap=st.none() | st.integers(0, 50),
    after=st.integers(0, 8),
    leaves=st.booleans(),
    most=st.none() | st.integers(1, 6),
)


@dataclass(slots=True)
class Provider:
    """Generates, and counts what it has generated."""

    truth: Truth
    generated: int = 0

    def run(self, session: SyncStreamSession) -> Iterator[str]:
        """The stream: chunks, a count where there is one, finish and usage."""
        truth = self.truth
        self.generated = truth.hidden
        for number, tokens in enumerate(truth.chunks):
            self.generated += tokens
            if truth.counts:
                counted = Usage.reported_by_provider(output=self.generated, final=False)
                session.finish(None, counted)
            yield f"chunk {number}"
        usage = Usage.reported_by_provider(output=truth.total) if truth.says else None
        session.finish("stop", usage)


def lived(truth: Truth) -> tuple[Receipt, int]:
    """The receipt of a life, and how many tokens were billed for it."""
    row = Termination(provider="p", on_close=truth.on_close)
    session = SyncStreamSession(
        on_disconnect=by_provider(bills=drain(60, max_tokens=truth.most), unknown=cancel()),
        termination=row,
        max_tokens=truth.max_tokens,
        clock=ManualClock(),
    )
    provider = Provider(truth)
    session.attach(provider.run(session))
    reading = iter(session)
    for _ in range(truth.after):
        next(reading, None)
    if not truth.leaves:
        session.cancel("enough")
    session.close()
    # One that was never called has billed nothing; that a closed one bills all is what the row says.
    called = provider.generated > 0 or truth.after > 0
    goes_on = called and truth.on_close is OnClose.BILLS_FULL
    return session.receipt(), truth.total if goes_on else provider.generated


@given(TRUTHS)
def test_what_was_billed_lies_within_the_bounds(truth: Truth) -> None:
    """Lower <= billed <= upper, for output and waste, at every point of the stream (G12, P25, P33)."""
    receipt, billed = lived(truth)
    assert receipt.output.lower <= billed
    assert receipt.output.upper is None or billed <= receipt.output.upper
    delivered = sum(truth.chunks[: receipt.consumed])
    wasted = max(billed - delivered, 0)
    if receipt.waste.upper is not None and not receipt.completed:
        assert receipt.waste.lower <= wasted <= receipt.waste.upper
    if receipt.drain is DrainEnd.FINISHED and truth.says:
        assert receipt.output == Count.exact(truth.total, CountSource.PROVIDER_FINAL)


@given(TRUTHS)
def test_what_was_prevented_lies_within_the_bounds(truth: Truth) -> None:
    """And is exactly nothing where all is billed anyway, or where nothing was left to be made (P33)."""
    receipt, billed = lived(truth)
    prevented = receipt.prevented
    if truth.on_close is OnClose.BILLS_FULL or receipt.finish is not None:
        assert prevented == Count.exact(0, CountSource.CHUNKS)
        return
    assert prevented.lower <= truth.total - billed
    assert prevented.upper is None or truth.total - billed <= prevented.upper
