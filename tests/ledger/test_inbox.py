"""The queue is bounded, keeps order, and drops nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import (
    Cause,
    CloseState,
    Instants,
    LedgerError,
    OpenRecord,
    Receipt,
)
from streamguard_ledger.inbox import MAX_BATCH, Inbox, Item

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]


def _ids(batch: list[Item]) -> list[str]:
    return [item.record.stream_id for item in batch]


def test_what_is_there_is_taken_in_order(opening: Opening, closing_of: Closing) -> None:
    """A batch is what has gathered, first in, first out."""
    inbox = Inbox(1 << 20)
    items = [Item(opening("a")), Item(opening("b")), Item(closing_of("a"))]
    for item in items:
        inbox.put(item)
    assert inbox.take() == items


def test_a_batch_is_bounded(opening: Opening) -> None:
    """Nobody waits for a transaction without end."""
    inbox = Inbox(1 << 30)
    for number in range(MAX_BATCH + 3):
        inbox.put(Item(opening(str(number))))
    assert len(inbox.take()) == MAX_BATCH
    assert _ids(inbox.take()) == [str(MAX_BATCH + number) for number in range(3)]


def test_a_full_queue_holds_opens_back_and_lets_receipts_in(
    opening: Opening, closing_of: Closing
) -> None:
    """P18: new streams wait when the queue is full; those that exist can end."""
    inbox = Inbox(1)
    inbox.put(Item(opening("a")))
    inbox.put(Item(opening("b")))
    inbox.put(Item(closing_of("z")))
    inbox.put(Item(opening("c")))
    assert inbox.waiting == 2
    assert _ids(inbox.take()) == ["a", "z"]
    assert _ids(inbox.take()) == ["b"]
    assert _ids(inbox.take()) == ["c"]
    assert inbox.waiting == 0


def test_an_open_that_waits_goes_before_its_own_receipt(
    opening: Opening, closing_of: Closing
) -> None:
    """A stream that was cut off while its OPEN waited still has them in order."""
    inbox = Inbox(1)
    for item in (Item(opening("a")), Item(opening("b")), Item(closing_of("b"))):
        inbox.put(item)
    batch = inbox.take()
    assert [type(item.record).__name__ for item in batch] == ["OpenRecord", "OpenRecord", "Receipt"]
    assert _ids(batch) == ["a", "b", "b"]


def test_a_stopped_inbox_refuses_and_can_still_be_emptied(
    opening: Opening, closing_of: Closing
) -> None:
    """What was taken in before the end is handed over; what comes later fails with its receipt."""
    inbox = Inbox(1)
    inbox.put(Item(opening("a")))
    inbox.put(Item(opening("b")))
    inbox.stop("the ledger is closed")
    inbox.stop("a second reason")
    late = Item(closing_of("c"))
    inbox.put(late)
    assert [_ids(inbox.take()) for _ in range(3)] == [["a"], ["b"], []]
    with pytest.raises(LedgerError, match="the ledger is closed") as caught:
        late.future.result(0)
    assert caught.value.receipt is late.record


def test_waiting_can_be_given_up_without_losing_the_record(opening: Opening) -> None:
    """A cancelled task does not take its record back, nor break the thread that writes it."""
    item = Item(opening("a"))
    assert not item.future.cancel()
    item.settle(None)
    assert item.future.result(0) is None


ACTIONS = st.lists(st.tuples(st.sampled_from(["open", "close", "take"]), st.integers(0, 4)))


@settings(deadline=None)
@given(ACTIONS, st.integers(1, 12_000))
def test_nothing_is_lost_and_every_stream_stays_in_order(
    actions: list[tuple[str, int]], limit: int
) -> None:
    """Invariant: the two records of a stream stay in order, and each record comes out once."""
    inbox = Inbox(limit)
    put: list[Item] = []
    taken: list[Item] = []
    for action, number in actions:
        if action == "take":
            if len(put) > len(taken):
                taken += inbox.take()
            continue
        item = Item(_open(number) if action == "open" else _close(number))
        put.append(item)
        inbox.put(item)
    inbox.stop("")
    while batch := inbox.take():
        taken += batch
    assert sorted(map(id, taken)) == sorted(map(id, put))
    for number in range(5):
        mine = [item for item in put if item.record.stream_id == str(number)]
        assert [item for item in taken if item.record.stream_id == str(number)] == mine


def _open(number: int) -> OpenRecord:
    return OpenRecord(stream_id=str(number), opened_us=1)


def _close(number: int) -> Receipt:
    return Receipt(
        stream_id=str(number),
        cause=Cause.COMPLETED,
        party=None,
        produced=0,
        committed=0,
        consumed=0,
        late=0,
        close=CloseState.ENDED,
        instants=Instants(opened_ns=0),
        opened_us=0,
        sealed_us=0,
    )
