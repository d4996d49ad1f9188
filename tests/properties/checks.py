"""What must hold of a whole life of a stream, whoever was in it."""

from __future__ import annotations

import asyncio

from streamguard_core import CloseState, LedgerError, UsageError
from streamguard_core.testing import second_reader

from .lives import LATE, Life, allowed_causes, pulls
from .living import Lived


def check_all(life: Life, lived: Lived) -> None:
    """Everything below."""
    check_one_receipt(lived)
    check_cause(life, lived)
    check_order(life, lived)
    check_eos(life, lived)
    check_counts(life, lived)
    check_cancellation(life, lived)


def check_one_receipt(lived: Lived) -> None:
    """Exactly one receipt, in the ledger, and it is what everybody sees (G11)."""
    assert lived.ledger.receipts == [lived.receipt]
    assert len(lived.ledger.opened) == 1
    assert lived.session.sealed is lived.receipt


def check_cause(life: Life, lived: Lived) -> None:
    """The cause is one that somebody in this life is behind, the first with authority, and consistent (G8, G14)."""
    receipt = lived.receipt
    assert receipt.cause in allowed_causes(life), receipt
    authoritative = [signal for signal in receipt.history if not signal.intent]
    assert authoritative[0].cause is receipt.cause
    assert receipt.party is receipt.cause.party
    instants = [signal.at_ns for signal in receipt.history]
    assert instants == sorted(instants)
    if receipt.completed and not receipt.client_left_early:
        assert receipt.produced == receipt.committed, "completion: everything is committed"
        assert receipt.close is CloseState.ENDED
        ends = {"fail", "truncate", "raise in finally"}
        if not swallows(life):
            # There a hang may be one that was sat out.
            ends.add("hang")
        assert not ends & set(life.words), "G13"


def swallows(life: Life) -> bool:
    """A pulled iterator runs in the reader's task: one that swallows cancellations swallows the reader's."""
    return pulls(life) and bool({"ignore cancel", "emit late"} & set(life.words))


def check_order(life: Life, lived: Lived) -> None:
    """Committed chunks in order without gap or repeat; nothing that was not committed (G2, G6)."""
    received = [str(chunk) for chunk in lived.consumer.received]
    if swallows(life) and lived.cancels:
        received = [chunk for chunk in received if chunk != LATE]
    assert LATE not in received, "G2: a late chunk was delivered"
    # A reader that was superseded or came back gets again what it had not taken.
    once = list(dict.fromkeys(received))
    assert once == lived.labels[: len(once)]
    assert len(once) <= lived.receipt.committed
    if not lived.session.statistics().consumed > lived.receipt.consumed:
        assert lived.receipt.consumed <= lived.receipt.committed


def check_eos(life: Life, lived: Lived) -> None:
    """EOS after every committed chunk, and once it was met, nothing more comes (G6)."""
    consumer, receipt = lived.consumer, lived.receipt
    # Another reader may have taken a chunk away and left: that one was not delivered to the end.
    alone = second_reader() not in life.deeds and "intrude" not in {
        name for _, name in life.signals
    }
    if consumer.eos and alone:
        assert lived.session.statistics().consumer == "ended"
        assert len(dict.fromkeys(consumer.received)) <= receipt.committed
    if receipt.eos_delivered:
        assert receipt.consumed == receipt.committed


def check_counts(life: Life, lived: Lived) -> None:
    """What was emitted is accounted for, the numbers contradict nothing (G3, G12)."""
    receipt, played = lived.receipt, lived.played
    assert played.begun <= 1, "the provider is called once"
    if "ignore cancel" not in life.words:
        assert played.begun == played.ended, "the producer is always closed"
    assert receipt.produced <= len(lived.labels)
    counted = lived.session.statistics()
    assert counted.produced + counted.late == played.emitted, (
        "G2: produced or late, each chunk once"
    )
    if life.path in ("push", "made", "holding"):
        # Under a drain late chunks are refused without a word.
        assert played.accepted <= receipt.produced + lived.session.statistics().late
    assert receipt.waste.value is not None
    assert receipt.waste.value >= 0
    for count in (receipt.output, receipt.waste, receipt.prevented):
        assert count.upper is None or count.upper >= (count.value or 0)
    instants = receipt.instants
    assert instants.cutoff_ns is not None
    assert instants.sealed_ns is not None
    assert instants.opened_ns <= instants.cutoff_ns <= instants.sealed_ns
    if instants.close_confirmed_ns is not None and instants.close_called_ns is not None:
        assert instants.cutoff_ns <= instants.close_called_ns <= instants.close_confirmed_ns
    if receipt.close is CloseState.UNCONFIRMED:
        # "emit unawaited" also swallows the CutOffError by which it is told to end.
        held = life.path == "thread" or {"ignore cancel", "emit unawaited"} & set(life.words)
        assert held, "a producer that listens is confirmed"


def check_cancellation(life: Life, lived: Lived) -> None:
    """Our cancellations are taken back; an outside one comes out (hygiene)."""
    (pending,) = lived.cancelling or [lived.cancels]
    # `read(within=)` may have been given a cancellation that its inner task took with it.
    assert pending <= lived.cancels
    outcome = lived.outcome
    # On Python 3.11, `wait_for` may lose a cancellation that comes in the turn of the result.
    loses = any(getattr(deed, "within", None) is not None for deed in life.deeds)
    if pending and not loses and not swallows(life):
        assert isinstance(outcome, asyncio.CancelledError), outcome
    elif outcome is not None and not lived.cancels:
        assert isinstance(outcome, UsageError | RuntimeError | TimeoutError | LedgerError), outcome
