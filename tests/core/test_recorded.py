"""`RecordedStream`: exactly one receipt for a stream whose chunks go past, decided by the same protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from streamguard_core import (
    Attempt,
    AttemptOutcome,
    Cause,
    CloseState,
    LedgerError,
    MemoryLedger,
    Notice,
    Party,
    Receipt,
    RecordedStream,
    Scope,
    Usage,
)


def recorded(**options: object) -> tuple[RecordedStream, MemoryLedger]:
    """A stream that was started, and its ledger."""
    ledger = MemoryLedger()
    stream = RecordedStream(ledger=ledger, model="m", **options)  # type: ignore[arg-type]
    stream.start()
    return stream, ledger


def sealed(stream: RecordedStream) -> Receipt:
    """Its receipt, which must exist."""
    assert stream.sealed is not None
    return stream.sealed


def test_opened_before_and_sealed_after() -> None:
    """The OPEN record comes at the start, one receipt at the end, with what has passed."""
    stream, ledger = recorded()
    assert [record.model for record in ledger.opened] == ["m"]
    stream.passed(3)
    stream.passed(0)
    stream.passed(40)
    assert ledger.receipts == []
    stream.ended()
    stream.ended(Cause.PRODUCER_ERROR, "too late")
    (receipt,) = ledger.receipts
    assert receipt.cause is Cause.COMPLETED
    assert (receipt.produced, receipt.committed, receipt.consumed) == (43, 43, 43)
    assert receipt.eos_delivered
    assert receipt.close is CloseState.ENDED


def test_the_first_chunk_has_the_instant_that_is_told() -> None:
    """Whoever counts later than the bytes came says when they came."""
    stream, _ = recorded()
    stream.passed(1, at_ns=12)
    stream.passed(1)
    stream.ended()
    assert sealed(stream).instants.first_chunk_ns == 12


@pytest.mark.parametrize("cause", [Cause.TRUNCATED, Cause.PRODUCER_ERROR])
def test_a_failure_of_the_provider(cause: Cause) -> None:
    """What the provider failed with is the cause, with our words and no EOS."""
    stream, _ = recorded()
    stream.passed(1)
    stream.ended(cause, "our words")
    receipt = sealed(stream)
    assert (receipt.cause, receipt.party, receipt.detail) == (cause, Party.PRODUCER, "our words")
    assert not receipt.eos_delivered


def test_the_reader_leaves() -> None:
    """A disconnect is the end: what is open is closed in the same step, and the close is confirmed (G10)."""
    stream, ledger = recorded()
    stream.passed(2)
    closed: list[int] = []
    stream.on_close(lambda: closed.append(len(ledger.receipts)))
    stream.disconnected("the tab was closed")
    assert closed == [0]
    (receipt,) = ledger.receipts
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    assert receipt.policy == "cancel"
    assert receipt.close is CloseState.CONFIRMED
    assert receipt.consumed == 2
    stream.passed(1)
    stream.ended(Cause.TRUNCATED)
    stream.terminate(Cause.SHUTDOWN)
    assert ledger.receipts == [receipt]


def test_a_reader_who_leaves_between_finish_and_usage() -> None:
    """With the finish told and all of it passed nothing was lost: completed, though nobody reads on."""
    stream, _ = recorded()
    stream.passed(2)
    stream.finish("stop")
    stream.disconnected()
    receipt = sealed(stream)
    assert receipt.cause is Cause.COMPLETED
    assert receipt.client_left_early


def test_a_chunk_after_the_cutoff_is_late() -> None:
    """While something is being closed, what still comes is counted as late (G2)."""
    stream, _ = recorded()
    stream.on_close(lambda: stream.passed(2))
    stream.terminate(Cause.OPERATOR_CANCEL)
    receipt = sealed(stream)
    assert (receipt.produced, receipt.late) == (0, 2)


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (RecordedStream.ended, Cause.COMPLETED),
        (RecordedStream.disconnected, Cause.CLIENT_DISCONNECT),
        (lambda stream: stream.terminate(Cause.SHUTDOWN), Cause.SHUTDOWN),
    ],
)
def test_what_its_carrier_only_counted(end: Callable[[RecordedStream], None], cause: Cause) -> None:
    """Chunks that whoever carries them has counted are in every snapshot and in the receipt, once."""
    stream, _ = recorded()
    stream.passed(1, at_ns=12)
    stream.carried = lambda: 40
    assert [stream.statistics().consumed for _ in range(2)] == [41, 41]
    stream.carried = lambda: 41
    end(stream)
    receipt = sealed(stream)
    assert (receipt.cause, receipt.consumed, receipt.late) == (cause, 42, 0)


def test_what_its_carrier_counted_after_the_cutoff() -> None:
    """It is late like any other chunk, while the producer has not ended (G2)."""
    stream, _ = recorded()
    stream.held = True
    stream.passed(1)
    stream.terminate(Cause.OPERATOR_CANCEL)
    stream.carried = lambda: 2
    stream.ended()
    receipt = sealed(stream)
    assert (receipt.consumed, receipt.late) == (1, 2)


@pytest.mark.parametrize("how", ["disconnected", "terminate"])
def test_what_had_passed_before_is_counted(how: str) -> None:
    """Whoever counts behind the bytes catches up before the cutoff: that was not late."""
    stream, _ = recorded()
    stream.passed(1)
    stream.catch_up = lambda: stream.passed(2)
    if how == "terminate":
        stream.terminate(Cause.SHUTDOWN)
    else:
        stream.disconnected()
    receipt = sealed(stream)
    assert (receipt.produced, receipt.late) == (3, 0)


def test_never_started_leaves_no_receipt() -> None:
    """What was ended before its start has called nobody: there is nothing to be recorded."""
    ledger = MemoryLedger()
    stream = RecordedStream(ledger=ledger)
    stream.disconnected()
    assert stream.start() is None
    assert stream.cause is Cause.CLIENT_DISCONNECT
    assert stream.sealed is None
    assert (ledger.opened, ledger.receipts) == ([], [])


def test_starting_twice_opens_once() -> None:
    """The second start is nothing, and gives the same to be waited for."""
    stream, ledger = recorded()
    first = stream.start()
    assert first is not None
    assert stream.start() is first
    assert len(ledger.opened) == 1
    stream.ended()


def test_ended_by_another_thread() -> None:
    """Many threads end it at once: one of them wins, and there is one receipt (G8, G11)."""
    stream, ledger = recorded()
    gate = threading.Barrier(8)

    def end(cause: Cause) -> None:
        gate.wait()
        stream.terminate(cause)

    causes = [Cause.USER_CANCEL, Cause.SHUTDOWN] * 4
    threads = [threading.Thread(target=end, args=(cause,)) for cause in causes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (receipt,) = ledger.receipts
    assert receipt.cause in causes


def test_a_ledger_that_fails_is_told_by_its_future() -> None:
    """The start hands out what the ledger says; the caller decides not to call."""

    class Broken(MemoryLedger):
        def append_open(self, record: object) -> Future[None]:
            raise LedgerError("disk full")

    stream = RecordedStream(ledger=Broken())
    opening = stream.start()
    assert opening is not None
    assert isinstance(opening.exception(), LedgerError)
    stream.terminate(Cause.INTERNAL_ERROR)


def test_usage_finish_and_names_come_from_the_attempts() -> None:
    """What nobody else has said, the calls have; the second one's finish is the stream's."""
    stream, _ = recorded(provider="mine")
    usage = Usage.reported_by_provider(input=10, output=2)
    refused = Attempt(outcome=AttemptOutcome.FAILED, status=429, finish=None)
    stream.attempt(refused)
    stream.attempt(
        Attempt(
            outcome=AttemptOutcome.COMPLETED,
            provider="theirs",
            request_id="r",
            finish="stop",
            usage=usage,
        )
    )
    stream.ended()
    receipt = sealed(stream)
    assert (receipt.finish, receipt.usage) == ("stop", usage)
    assert (receipt.model, receipt.provider, receipt.request_id) == ("m", "mine", "r")


@pytest.mark.parametrize(
    "other",
    [
        Attempt(outcome=AttemptOutcome.CUT),
        Attempt(outcome=AttemptOutcome.FAILED, status=200, chunks=17),
        Attempt(outcome=AttemptOutcome.FAILED, status=504),
        Attempt(outcome=AttemptOutcome.FAILED, connected=True),
    ],
    ids=["cut off", "failed in mid-stream", "a gateway's timeout", "broken off before it answered"],
)
def test_a_call_of_unknown_usage_leaves_a_lower_bound(other: Attempt) -> None:
    """Of two calls one may have cost something unsaid: what the other reported is the least that was spent (G12)."""
    stream, _ = recorded()
    stream.attempt(
        Attempt(
            outcome=AttemptOutcome.COMPLETED,
            finish="tool_calls",
            usage=Usage.reported_by_provider(input=10, output=2),
        )
    )
    stream.attempt(other)
    stream.disconnected()
    receipt = sealed(stream)
    assert receipt.finish is None
    assert (receipt.usage.output.value, receipt.usage.output.lower) == (None, 2)
    assert receipt.usage.output.upper is None


@pytest.mark.parametrize(
    "nothing",
    [
        Attempt(outcome=AttemptOutcome.FAILED, status=429),
        Attempt(outcome=AttemptOutcome.CUT, connected=False),
    ],
    ids=["refused", "never sent"],
)
def test_a_call_that_cost_nothing_leaves_the_usage_exact(nothing: Attempt) -> None:
    """What was refused, or never sent, adds nothing to what the other call reported."""
    stream, _ = recorded()
    usage = Usage.reported_by_provider(input=10, output=2)
    stream.attempt(nothing)
    stream.attempt(Attempt(outcome=AttemptOutcome.COMPLETED, status=200, usage=usage))
    stream.ended()
    assert sealed(stream).usage == usage


def test_what_was_told_is_not_counted_twice() -> None:
    """A producer that reports for itself is believed; its attempts change nothing of it."""
    stream, _ = recorded()
    told = Usage.reported_by_provider(input=1, output=1)
    stream.finish("length", told)
    stream.attempt(Attempt(finish="stop", usage=Usage.reported_by_provider(input=10, output=2)))
    stream.ended()
    receipt = sealed(stream)
    assert (receipt.finish, receipt.usage) == ("length", told)


def test_a_scope_makes_them() -> None:
    """A scope gives its streams its ledger, its observers and its tags."""
    ledger, seen = MemoryLedger(), list[Notice]()
    scope = Scope(ledger=ledger, observers=(seen.append,), tags={"job": "nightly"})
    stream = scope.new_stream(model="m", provider="p", max_tokens=5)
    scope.add(stream)
    stream.start()
    scope.disconnected("gone")
    assert scope.closed
    (receipt,) = ledger.receipts
    assert (receipt.tags, receipt.max_tokens, receipt.provider) == ({"job": "nightly"}, 5, "p")
    assert [type(notice).__name__ for notice in seen] == ["Opened", "CutOff", "Sealed"]


@pytest.mark.parametrize("close", ["confirmed", "unconfirmed"])
def test_a_producer_that_closing_transports_does_not_end(close: str) -> None:
    """The receipt waits for whoever ends an application's code, and says whether it was seen to end (G10)."""
    stream = RecordedStream()
    stream.held = True
    stream.start()
    stream.passed(2)
    stream.disconnected("left")
    before = stream.sealed
    if close == "confirmed":
        stream.ended()
    else:
        stream.unconfirmed()
    receipt = stream.sealed
    assert before is None
    assert receipt is not None
    assert (str(receipt.close), receipt.eos_delivered) == (close, False)
