"""The state machine of one stream: it decides, and does nothing.

Inputs are methods; those that may end something take their instant. What the driver must do now is
collected in `pending` and fetched with `take_actions()`. There is no clock, loop, task, lock or log here.

Endings go through the table (`transitions.py`). Chunks are arithmetic on three counters, `produced`,
`committed` and `consumed`, and one comparison of `state` with `STREAMING`. A driver that pulls chunks
straight through performs that same arithmetic in place (`session.py`); the tests hold the two equal.

Invariant: produced >= committed >= consumed, and all three only grow (G3).
Invariant: produced - committed <= speculative_buffer_limit, committed - consumed <= max_inflight_commits,
buffered_bytes <= max_buffer_bytes (G4).
Invariant: from the cutoff on, `committed` and `signal` never change (G1, G2, G8).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from streamguard_core._lifecycle import ARM, COMPLETED, Action, Lifecycle
from streamguard_core.accounting import Usage
from streamguard_core.causes import Cause, shorten
from streamguard_core.errors import UsageError
from streamguard_core.limits import to_ns
from streamguard_core.policies import DisconnectPolicy, DrainEnd, Rule
from streamguard_core.transitions import (
    AWAY,
    DRAINING,
    ENDED,
    FINISHED,
    ON_CHUNK,
    ON_DRAIN,
    ON_EOS,
    ON_FAIL,
    ON_FINISH,
    ON_GONE,
    ON_LEAVE,
    ON_READ,
    OPEN,
    OUTLIVING,
    RUNNING,
    SEALED,
    STREAMING,
    Event,
)

__all__ = ["TAIL_BYTES", "TAIL_SECONDS", "Action", "Offer", "StreamProtocol"]

TAIL_SECONDS: Final = 2.0
TAIL_BYTES: Final = 64 * 1024
"""How long and how much is read on for the usage when the reader left after the provider's finish."""
TAIL: Final = DisconnectPolicy(rule=Rule.DRAIN, seconds=TAIL_SECONDS, max_bytes=TAIL_BYTES)


class Offer(Enum):
    """The answer to a chunk that a producer offers."""

    ACCEPTED = "accepted"
    FULL = "full"
    """No room now: the producer must wait (G5)."""
    REFUSED = "refused"
    """The cutoff has passed, or this chunk caused it: counted as late (G2)."""


ACCEPTED: Final = Offer.ACCEPTED
FULL: Final = Offer.FULL
REFUSED: Final = Offer.REFUSED


class StreamProtocol(Lifecycle):
    """One stream's decisions. See the module's text for the rules.

    Args:
        limits: bounds of the buffers.
        deadlines: timeouts, in seconds.
        policy: what a disconnect turns into.
        opened_ns: the instant of opening, on the clock all later instants come from.
    """

    __slots__ = ()

    # -- chunks: arithmetic --------------------------------------------------------------------------

    def relay(self, size: int) -> bool:
        """Offer, clear and commit in one step: for streams without gates, while there is room.

        Returns:
            False when there is anything to decide; the chunk was not taken, `offer()` it.
        """
        produced = self.produced
        if (
            self.state is STREAMING
            and produced - self.consumed < self.max_buffered
            and self.cleared == produced
            and self.producer is RUNNING
            and self.buffered_bytes + size <= self.max_bytes
            and self.max_away_produced is None
        ):
            self.produced = self.cleared = produced + 1
            if self.committed - self.consumed < self.max_inflight:
                self.committed += 1
            self.buffered_bytes += size
            return True
        return False

    def release(self, size: int) -> bool:
        """Consume one chunk and commit the next cleared one in one step, while the producer runs.

        Returns:
            False when there is anything to decide; nothing was counted, `consume()` and `commit()`.
        """
        if self.state is STREAMING and self.producer is RUNNING and self.consumed < self.committed:
            self.consumed += 1
            self.buffered_bytes -= size
            if self.committed < self.cleared:
                self.committed += 1
            return True
        return False

    def go_past(self, chunks: int) -> bool:
        """Relay and release so many chunks in one step: for streams that somebody else carries.

        Returns:
            False when there is anything to decide, or to wait for; nothing was counted.
        """
        produced = self.produced
        # A producer that had ended with everything consumed would have completed the stream.
        if self.state is STREAMING and produced == self.consumed and self.max_away_produced is None:
            # In this order: no other thread may see more consumed than committed (G3).
            self.produced = self.cleared = self.committed = self.consumed = produced + chunks
            return True
        return False

    def offer(self, size: int, at_ns: int = 0) -> Offer:
        """A chunk of `size` bytes comes from the producer; says whether it is taken.

        Only ACCEPTED counts it as produced. A refused chunk is counted as late.
        """
        if not self.live or self.producer is not RUNNING:
            return self._refuse(size, at_ns)
        if self.max_away_produced is not None and self.produced >= self.max_away_produced:
            self._cut_away("grace is used up: max_tokens reached", at_ns)
            return self._refuse(size, at_ns)
        if self.buffered_bytes + size > self.max_bytes:
            return self._no_room(size, at_ns)
        if self.produced - self.committed >= self.max_speculative:
            return FULL
        self.produced += 1
        self.buffered_bytes += size
        if self.state is OPEN:
            self.first_chunk(at_ns)
        return ACCEPTED

    def first_chunk(self, at_ns: int) -> None:
        """The stream's first chunk was produced."""
        self.first_chunk_ns = at_ns
        self._move(ON_CHUNK)

    def content(self, at_ns: int) -> None:
        """A chunk with content came: the idle deadline starts anew, the first-token deadline is met."""
        self.content_seen = True
        self.producer_since_ns = at_ns

    def clear(self, produced: int) -> None:
        """The gates let pass everything up to the `produced`-th chunk.

        Raises:
            UsageError: when that many were not produced.
        """
        if produced > self.produced:
            raise UsageError(f"clear({produced}) was called with {self.produced} chunks produced")
        self.cleared = max(self.cleared, produced)

    def commit(self, at_ns: int = 0) -> int:
        """Commit what is cleared and fits; returns how many chunks move to the committed queue now."""
        if not self.live:
            return 0
        room = self.consumed + self.max_inflight
        moved = min(self.cleared, room) - self.committed
        if moved > 0:
            self.committed += moved
            if self.producer is FINISHED:
                self._complete(at_ns)
        return max(moved, 0)

    def consume(self, chunks: int, size: int = 0) -> None:
        """The consumer's transport took `chunks` committed chunks of `size` bytes over.

        Raises:
            UsageError: when more are reported than were committed.
        """
        if chunks < 0 or self.consumed + chunks > self.committed:
            raise UsageError(
                f"consume({chunks}) was called with {self.committed - self.consumed} chunks in flight;"
                " report each chunk once, after it was sent"
            )
        self.consumed += chunks
        self.buffered_bytes -= size

    def discard(self, size: int) -> None:
        """Speculative chunks of `size` bytes were thrown away at the cutoff."""
        self.buffered_bytes -= size

    # -- the producer ---------------------------------------------------------------------------------

    def connected(self, at_ns: int) -> None:
        """The provider's connection stands."""
        if self.connected_ns is None:
            self.connected_ns = at_ns

    def provider_finished(self, reason: str | None, usage: Usage | None) -> None:
        """The provider said its finish reason or its usage; what is None leaves what is known."""
        if self.state is SEALED:
            return
        if reason is not None:
            self.finish = shorten(reason)
        if usage is not None:
            self.usage = usage

    def producer_finished(self, at_ns: int) -> None:
        """The producer ended by itself, without an error."""
        self._producer_ended(ON_FINISH, at_ns)
        if self.producer is FINISHED:
            self._complete(at_ns)

    def producer_failed(self, cause: Cause, detail: str, at_ns: int) -> None:
        """The producer raised; before the cutoff that is the cause, after it only history."""
        self._producer_ended(ON_FAIL, at_ns)
        if self.live:
            self.terminate(cause, detail, at_ns)
        elif self.state is not SEALED:
            self._record(cause, None, detail, at_ns)

    def overrun(self, detail: str, at_ns: int) -> None:
        """The producer emitted without waiting for room: cut it off instead of buffering (G4)."""
        self.late += 1
        self.terminate(Cause.PRODUCER_OVERRUN, detail, at_ns)

    def close_called(self, at_ns: int) -> None:
        """The driver has closed the producer's transport."""
        if self.close_called_ns is None:
            self.close_called_ns = at_ns

    # -- the consumer ---------------------------------------------------------------------------------

    def reading(self) -> None:
        """The consumer asks for a chunk, for the first time or again after it left."""
        if self._move(ON_READ) and self.live:
            self.until_ns = self.max_away_produced = None

    def disconnected(
        self, detail: str, at_ns: int, unaccepted: int = 0, *, may_drain: bool = True
    ) -> None:
        """The consumer's transport is gone: intent, which the policy turns into authority (G9).

        `unaccepted` counts chunks that the producer has handed over and that were not offered yet: with any
        of them the stream is not whole, whatever the provider has said. `may_drain` is False where a drain
        that the policy asks for has no place among those that run: then the stream is cancelled.
        """
        if self.consumer is ENDED or self.state is SEALED:
            return
        away = self.consumer is AWAY
        if not self.live:
            if not away:
                self._record(Cause.CLIENT_DISCONNECT, None, detail, at_ns)
                self.leave(at_ns)
            return
        if away:
            return
        self._move(ON_LEAVE)
        if self.finish is not None and self.produced == self.committed and not unaccepted:
            self._harvest_tail(detail, at_ns)
        elif self.policy.rule is Rule.GRACE:
            self._begin_grace(detail, at_ns)
        elif self.policy.rule is Rule.DRAIN:
            self.policy_applied = str(self.policy)
            self._cut_and_drain(detail, at_ns, may_drain=may_drain)
        else:
            self._cut_away(detail, at_ns)

    def grace_is_over(self, at_ns: int) -> None:
        """The reader did not come back in time."""
        self._cut_away("grace is over: the reader did not come back", at_ns)

    def leave(self, at_ns: int) -> None:
        """After the cutoff: nobody reads on; the receipt need not wait for the consumer."""
        if not self.live and self._move(ON_LEAVE):
            self._seal_when_settled(at_ns)

    def take_eos(self, at_ns: int) -> bool:
        """Hand EOS over: True exactly once, after every committed chunk was consumed (G6)."""
        if not self.eos_ready or not self._move(ON_EOS):
            return False
        self._seal_when_settled(at_ns)
        return True

    # -- inside ---------------------------------------------------------------------------------------

    def _refuse(self, size: int, at_ns: int) -> Offer:
        self.late += 1
        if self.producer is DRAINING:
            self.drained = (self.drained[0] + size, self.drained[1] + 1)
            bounds = TAIL if self.client_left_early else self.policy
            reached = bounds.reached(self.drained[0], self._drained_tokens())
            if reached is not None:
                self.stop_draining(at_ns, reached)
        return REFUSED

    def _drained_tokens(self) -> int:
        """What was read on, in tokens: as chunks, or as the provider's running count where that says more."""
        chunks = self.drained[1]
        if self.drain_from is None:
            return chunks
        return max(chunks, self.usage.output.lower - self.drain_from)

    def _no_room(self, size: int, at_ns: int) -> Offer:
        if size <= self.max_bytes:
            return FULL
        self.overrun(f"one chunk of {size} bytes does not fit into max_buffer_bytes", at_ns)
        return REFUSED

    def _complete(self, at_ns: int) -> None:
        """Completion: the producer has finished and every chunk is committed."""
        if self.live and self.committed == self.produced:
            self.client_left_early = self.consumer is AWAY
            self.terminate(COMPLETED, "", at_ns)

    def _producer_ended(self, event: Event, at_ns: int) -> None:
        """A running producer ended; one that was told to has confirmed its end."""
        told = self.producer in OUTLIVING
        drained = self.producer is DRAINING
        if self._move(event) and told:
            if drained:
                self.drain_end = DrainEnd.FINISHED if event is ON_FINISH else DrainEnd.FAILED
            self.close_confirmed_ns = at_ns
            self.until_ns = None
            self._move(ON_GONE)
            self._seal_when_settled(at_ns)

    def _cut_away(self, detail: str, at_ns: int) -> None:
        self.policy_applied = str(self.policy)
        self.terminate(Cause.CLIENT_DISCONNECT, detail, at_ns)

    def _cut_and_drain(self, detail: str, at_ns: int, *, may_drain: bool) -> None:
        if not may_drain:
            self.drain_end = DrainEnd.NO_PLACE
            self.terminate(Cause.CLIENT_DISCONNECT, detail, at_ns)
            return
        self.terminate(Cause.CLIENT_DISCONNECT, detail, at_ns, event=ON_DRAIN)
        if self.producer is DRAINING:
            self.drain_from = self.usage.output.lower if self.usage.output.known else None
            self.until_ns = at_ns + to_ns(self.policy.seconds)

    def _harvest_tail(self, detail: str, at_ns: int) -> None:
        """The reader left between the finish and the usage: nothing is lost, read on for the usage."""
        self.client_left_early = True
        self.policy_applied = "tail"
        self._record(Cause.CLIENT_DISCONNECT, None, detail, at_ns, intent=True)
        # The producer still runs: one that has ended with everything committed is completed.
        self.terminate(Cause.COMPLETED, "", at_ns, event=ON_DRAIN)
        self.until_ns = at_ns + to_ns(TAIL_SECONDS)

    def _begin_grace(self, detail: str, at_ns: int) -> None:
        self.policy_applied = str(self.policy)
        self._record(Cause.CLIENT_DISCONNECT, None, detail, at_ns, intent=True)
        self.until_ns = at_ns + to_ns(self.policy.seconds)
        if self.policy.max_tokens is not None:
            self.max_away_produced = self.produced + self.policy.max_tokens
        self._act(ARM)
