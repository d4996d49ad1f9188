"""Property tests over whole lives of streams without a loop: the same promises, the same protocol."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from streamguard_core import Cause, CloseState, cancel, drain

from .lives import LATE
from .sync_lives import GATES, SyncLife, SyncLived, live, sync_lives

LIVES = int(os.environ.get("HYPOTHESIS_LIVES", "1000"))


@settings(
    max_examples=LIVES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(life=sync_lives)
def test_every_life_without_a_loop_keeps_every_guarantee(life: SyncLife) -> None:
    """Whatever producer, consumer and other threads do, the stream ends once, in order, bounded, and true."""
    check_all(life, live(life))


PRODUCERS: dict[str, tuple[str, ...]] = {
    "keeps its contract": ("emit three", "emit three"),
    "ignores its close": ("emit", "ignore close", "emit three", "emit three"),
    "emits from a thread": ("emit from thread", "emit from thread", "emit"),
    "emits after return": ("emit", "emit late", "emit three"),
    "raises in finally": ("emit", "raise in finally", "emit three"),
    "yields nothing": ("emit nothing",),
    "yields 10 MB": ("emit", "big chunk", "emit"),
}
READS = ("read 1", "read 2", "read_ready 1", "read_ready 2")
CONSUMERS: dict[str, list[tuple[str, ...]]] = {
    "reads to EOS": [("read",), ("read_ready",)],
    "reads after EOS": [("read", "read", "read_ready"), ("read_ready", "read_ready", "read")],
    "is ended while it parks": [
        (read, signal, "read") for read in READS for signal in ("cancel", "disconnected", "close")
    ],
    "leaves": [(), *[(read, "break") for read in READS]],
    "raises": [("raise",), *[(read, "raise") for read in READS]],
    "two readers": [
        (read, second, "read") for read in READS for second in ("second reader", "second thread")
    ],
}


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("producer", PRODUCERS)
def test_a_hostile_producer_meets_a_hostile_consumer(producer: str, consumer: str) -> None:
    """Each of them by name, under every policy, with and without gates and `with`."""
    for path, policy, closes, deeds in itertools.product(
        GATES, (cancel(), drain(3600)), (False, True), CONSUMERS[consumer]
    ):
        life = SyncLife(
            path=path,
            policy=policy,
            speculative=2,
            inflight=2,
            words=PRODUCERS[producer],
            deeds=deeds,
            closes=closes,
        )
        check_all(life, live(life))


def check_all(life: SyncLife, lived: SyncLived) -> None:
    """Everything below."""
    check_one_receipt(lived)
    check_cause(life, lived)
    check_order(life, lived)
    check_counts(life, lived)


def check_one_receipt(lived: SyncLived) -> None:
    """Exactly one receipt, in the ledger, and it is what everybody sees (G11)."""
    assert lived.ledger.receipts == [lived.receipt]
    assert len(lived.ledger.opened) == 1
    assert lived.session.receipt() is lived.receipt
    assert lived.session._timer is None, "a timer outlives the stream"


def check_cause(life: SyncLife, lived: SyncLived) -> None:
    """The cause is one that somebody in this life is behind, and the first with authority (G8, G13, G14)."""
    receipt = lived.receipt
    assert receipt.cause in allowed_causes(life), receipt
    assert receipt.party is receipt.cause.party
    authoritative = [signal for signal in receipt.history if not signal.intent]
    assert authoritative[0].cause is receipt.cause
    if receipt.completed:
        assert receipt.produced == receipt.committed, "completion: everything is committed"
        assert receipt.close is CloseState.ENDED
        assert not {"fail", "truncate", "raise in finally"} & set(life.words), "G13"


def allowed_causes(life: SyncLife) -> set[Cause]:
    """The causes that somebody in this life can be behind."""
    said = {*life.words, *life.deeds}
    # Every consumer leaves in the end, if it has not read all.
    causes = {Cause.COMPLETED, Cause.CLIENT_DISCONNECT}
    behind = {
        "fail": Cause.PRODUCER_ERROR,
        "raise in finally": Cause.PRODUCER_ERROR,
        "truncate": Cause.TRUNCATED,
        "big chunk": Cause.PRODUCER_OVERRUN,
        "cut itself off": Cause.USER_CANCEL,
        "cancel": Cause.USER_CANCEL,
        "terminate": Cause.OPERATOR_CANCEL,
    }
    causes |= {cause for name, cause in behind.items() if name in said}
    causes |= {Cause.CONSUMER_ERROR} if life.closes and "raise" in said else set()
    return causes | ({Cause.GUARDRAIL} if life.path == "holding" else set())


def check_order(life: SyncLife, lived: SyncLived) -> None:
    """Committed chunks in order without gap or repeat, then EOS; nothing that was not committed (G2, G6)."""
    received = [str(chunk) for chunk in lived.received]
    assert LATE not in received, "G2: a producer that had ended was asked again"
    # A batch that was not reported as sent is given again to who reads in another way.
    once = list(dict.fromkeys(received))
    assert once == lived.labels[: len(once)]
    assert len(once) <= lived.receipt.committed
    if lived.receipt.eos_delivered:
        assert lived.eos
        assert len(once) == lived.receipt.consumed == lived.receipt.committed, "G6"


def check_counts(life: SyncLife, lived: SyncLived) -> None:
    """What was emitted is accounted for, each chunk once, and the producer is closed (G3, G10, G12)."""
    receipt, played = lived.receipt, lived.played
    assert receipt.produced >= receipt.committed >= receipt.consumed
    assert receipt.produced + receipt.late == played.emitted, (
        "G2: produced or late, each chunk once"
    )
    assert played.begun <= 1, "the provider is called once"
    if "ignore close" not in life.words:
        assert played.begun == played.ended, "the producer is always closed"
    assert receipt.close is not CloseState.UNCONFIRMED
