"""The life of one stream: what is decided, by the table, and what the driver must do about it.

`StreamProtocol` (`protocol.py`) adds the chunks, the producer and the consumer. There is no clock, loop,
task, lock or log here: inputs carry their instant, and what must be done is collected in `pending`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from streamguard_core import transitions as table
from streamguard_core.accounting import NO_USAGE, Usage
from streamguard_core.causes import Cause, Party, Signal, shorten
from streamguard_core.errors import UsageError
from streamguard_core.limits import DEFAULT_DEADLINES, DEFAULT_LIMITS, Deadlines, Limits, to_ns
from streamguard_core.policies import DisconnectPolicy, DrainEnd, cancel
from streamguard_core.transitions import (
    ABSENT,
    DRAINED,
    DRAINING,
    ON_CUT,
    ON_GIVE_UP,
    ON_GONE,
    ON_SEAL,
    OPEN,
    OUTLIVING,
    READING,
    RUNNING,
    SEALED,
    STOPPING,
    STREAMING,
    Event,
)

MAX_HISTORY: Final = 32
"""Signals kept; a stream that is hammered with cancels must not grow without limit."""


class Action(Enum):
    """What the driver must do now."""

    CLOSE_PRODUCER = "close the producer's transport, then tell it to end"
    WAKE_CONSUMER = "wake a parked consumer"
    WAKE_PRODUCER = "wake a producer that waits for room"
    ARM = "look at the deadlines again"
    SEAL = "write the receipt"


# As plain names, for the reason given in `transitions.py`.
CLOSE_PRODUCER: Final = Action.CLOSE_PRODUCER
WAKE_CONSUMER: Final = Action.WAKE_CONSUMER
WAKE_PRODUCER: Final = Action.WAKE_PRODUCER
ARM: Final = Action.ARM
SEAL: Final = Action.SEAL
COMPLETED: Final = Cause.COMPLETED


class Lifecycle:
    """Which state the three roles are in, and why; only the table moves them.

    Args:
        limits: bounds of the buffers.
        deadlines: timeouts, in seconds.
        policy: what a disconnect turns into.
        opened_ns: the instant of opening, on the clock all later instants come from.
    """

    __slots__ = (
        "buffered_bytes",
        "cleared",
        "client_left_early",
        "close_called_ns",
        "close_confirmed_ns",
        "committed",
        "connected_ns",
        "consumed",
        "consumer",
        "consumer_since_ns",
        "content_seen",
        "deadlines",
        "drain_end",
        "drain_from",
        "drained",
        "finish",
        "first_chunk_ns",
        "history",
        "late",
        "limits",
        "max_away_produced",
        "max_buffered",
        "max_bytes",
        "max_inflight",
        "max_speculative",
        "opened_ns",
        "pending",
        "policy",
        "policy_applied",
        "produced",
        "producer",
        "producer_since_ns",
        "sealed_ns",
        "signal",
        "state",
        "timed",
        "until_ns",
        "usage",
    )

    def __init__(
        self,
        limits: Limits | None = None,
        deadlines: Deadlines | None = None,
        policy: DisconnectPolicy | None = None,
        opened_ns: int = 0,
    ) -> None:
        self.limits = limits or DEFAULT_LIMITS
        # Copies in slots: the per-chunk path reads them.
        self.max_speculative = self.limits.speculative_buffer_limit
        self.max_inflight = self.limits.max_inflight_commits
        self.max_bytes = self.limits.max_buffer_bytes
        self.max_buffered = self.max_speculative + self.max_inflight
        self.deadlines = deadlines or DEFAULT_DEADLINES
        self.timed = self.deadlines is not DEFAULT_DEADLINES and self.deadlines.timed
        self.policy = policy or cancel()
        self.state = OPEN
        self.producer = RUNNING
        self.consumer = ABSENT
        self.produced = self.cleared = self.committed = self.consumed = self.late = 0
        self.buffered_bytes = 0
        self.drained = (0, 0)
        """Bytes and chunks that were read on after the cutoff."""
        self.signal: Signal | None = None
        self.history: tuple[Signal, ...] = ()
        self.pending: tuple[Action, ...] = ()
        self.finish: str | None = None
        self.usage: Usage = NO_USAGE
        self.client_left_early = False
        self.policy_applied = "none"
        self.max_away_produced: int | None = None
        self.drain_from: int | None = None
        """The provider's own count of output when a drain began; None where it had said none."""
        self.drain_end: DrainEnd | None = None
        self.content_seen = False
        self.opened_ns = opened_ns
        self.producer_since_ns: int | None = opened_ns
        """Since when the producer owes a chunk; None while it waits for room."""
        self.consumer_since_ns: int | None = None
        """Since when the consumer holds what it was handed; None while it owes nothing."""
        self.until_ns: int | None = None
        """When the grace, the drain, the close or the finalisation that is running is over."""
        self.connected_ns: int | None = None
        self.first_chunk_ns: int | None = None
        self.close_called_ns: int | None = None
        self.close_confirmed_ns: int | None = None
        self.sealed_ns: int | None = None

    def __repr__(self) -> str:
        """The state, for error messages and the explorer."""
        return (
            f"<{type(self).__name__} {self.state.name} producer={self.producer.name} consumer={self.consumer.name}"
            f" produced={self.produced} cleared={self.cleared} committed={self.committed}"
            f" consumed={self.consumed} late={self.late} signal={self.signal and self.signal.cause.name}>"
        )

    @property
    def live(self) -> bool:
        """True before the cutoff."""
        return self.state is STREAMING or self.state is OPEN

    @property
    def eos_ready(self) -> bool:
        """True when the consumer has taken every committed chunk of a stream that is cut off (G6)."""
        return not self.live and self.consumed == self.committed

    def take_actions(self) -> tuple[Action, ...]:
        """What the driver must do now; each action is handed out once."""
        actions, self.pending = self.pending, ()
        return actions

    def terminate(
        self,
        cause: Cause,
        detail: str,
        at_ns: int,
        party: Party | None = None,
        event: Event = ON_CUT,
    ) -> bool:
        """End now, with authority: fix the cause and freeze the committed count in one step (G1).

        Returns:
            True when this was the terminal decision; False when one was taken before (then it is history, G8).
        """
        if self.state is SEALED:
            return False
        signal = self._record(cause, party, detail, at_ns)
        if not self.live:
            return False
        self.signal = signal
        if self.history[-1] is not signal:
            # Wishes (a reader that leaves and comes back) must not crowd the terminal signal out.
            self.history = (*self.history[:-1], signal)
        self._move(event)
        self.until_ns = self.max_away_produced = None
        if self.producer is STOPPING:
            # First: the provider costs money until its transport is closed (G10).
            self._act(CLOSE_PRODUCER)
            self.until_ns = at_ns + to_ns(self.deadlines.close)
        self._act(WAKE_CONSUMER, WAKE_PRODUCER, ARM)
        if self.producer not in OUTLIVING:
            self._move(ON_GONE)
            self._seal_when_settled(at_ns)
        return True

    def stop_draining(self, at_ns: int, why: DrainEnd = DrainEnd.STOPPED) -> None:
        """A bound of the drain is reached: close the producer after all."""
        if self.producer is DRAINING:
            self.drain_end = why
            self._move(ON_CUT)
            self.until_ns = at_ns + to_ns(self.deadlines.close)
            self._act(CLOSE_PRODUCER, ARM)

    def seal(self, at_ns: int) -> None:
        """The receipt is written; nothing can change any more.

        Raises:
            UsageError: when the stream is not drained, or was sealed before.
        """
        if not self._move(ON_SEAL):
            raise UsageError(
                f"seal() is not allowed in {self.state.name}; a stream is sealed once, when DRAINED"
            )
        self.sealed_ns = at_ns

    def give_up(self, at_ns: int) -> None:
        """The close deadline passed; the producer counts as `unconfirmed` (G10)."""
        if self._move(ON_GIVE_UP):
            self._move(ON_GONE)
            self.until_ns = None
            self._seal_when_settled(at_ns)

    def _move(self, event: Event) -> bool:
        """Move every role that has a cell for `event`; False when none has: then nothing was allowed to happen."""
        moved = False
        stream = table.STREAM_TABLE[self.state]
        if event in stream:
            self.state, moved = stream[event], True
        producer = table.PRODUCER_TABLE[self.producer]
        if event in producer:
            self.producer, moved = producer[event], True
        consumer = table.CONSUMER_TABLE[self.consumer]
        if event in consumer:
            self.consumer, moved = consumer[event], True
        return moved

    def _act(self, *actions: Action) -> None:
        for action in actions:
            if action not in self.pending:
                self.pending += (action,)

    def _record(
        self, cause: Cause, party: Party | None, detail: str, at_ns: int, intent: bool = False
    ) -> Signal:
        signal = Signal(cause, party or cause.party, shorten(detail), at_ns, intent)
        if len(self.history) < MAX_HISTORY:
            self.history += (signal,)
        return signal

    def _seal_when_settled(self, at_ns: int) -> None:
        """Seal as soon as the consumer can change nothing; else give it a bounded time to read the rest."""
        if self.state is not DRAINED:
            return
        if self._consumer_settled():
            self.until_ns = None
            self._act(SEAL)
        elif self.until_ns is None:
            self.until_ns = at_ns + to_ns(self.deadlines.finalisation)
            self._act(ARM)

    def _consumer_settled(self) -> bool:
        """True when the consumer can change nothing any more; one that never read has nothing to finish."""
        if self.consumer is ABSENT:
            return self.signal is not None and self.signal.cause is not COMPLETED
        return self.consumer is not READING
