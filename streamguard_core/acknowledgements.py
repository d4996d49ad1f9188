"""What a reader has said that it has, against what it was sent: the arithmetic of one stream."""

from __future__ import annotations

from typing import Final

from streamguard_core.limits import NANOSECONDS, to_ns
from streamguard_core.replay import Refusal, ResumeError

SETTLE_SECONDS: Final = 2.0
"""How long a stream that has ended waits for its reader's last acknowledgement before it is sealed, at most."""
_USUAL_DELAY: Final = 1.0
_PER_STALL: Final = 4


class Acknowledgements:
    """Counts in commit offsets; knows no clock, no connection and no session.

    Three offsets are compared: what its transport has *taken* (the session knows it), what was *sent* in a way
    that the reader can name (an empty chunk has no event), what was *acknowledged*.

    Invariant: acknowledged <= consumed(taken) <= max(sent, taken), and all of them only grow.

    Args:
        stall: longest time without progress while something is outstanding, in seconds; None for any.

    Example:
        >>> reader = Acknowledgements(stall=30)
        >>> reader.sending(2, taken=0, at_ns=0)
        >>> reader.acknowledge(1, taken=2, at_ns=5), reader.consumed(taken=2), reader.due_ns
        (True, 1, 30000000005)
    """

    __slots__ = ("acknowledged", "sent", "since_ns", "stall_ns")

    def __init__(self, stall: float | None = None) -> None:
        self.acknowledged = 0
        self.sent = 0
        self.since_ns: int | None = None
        """Since when the reader owes an acknowledgement and made no progress; None while it owes none."""
        self.stall_ns = None if stall is None else to_ns(stall)

    @property
    def outstanding(self) -> bool:
        """Something was sent that the reader has not acknowledged."""
        return self.acknowledged < self.sent

    @property
    def settle_seconds(self) -> float:
        """How long the last acknowledgement is waited for when the stream has ended, in seconds."""
        return (
            SETTLE_SECONDS
            if self.stall_ns is None
            else min(SETTLE_SECONDS, self.stall_ns / NANOSECONDS)
        )

    @property
    def due_ns(self) -> int | None:
        """When the reader counts as stalled if it acknowledges nothing until then; None for never."""
        if self.since_ns is None or self.stall_ns is None:
            return None
        return self.since_ns + self.stall_ns

    def sending(self, offset: int, taken: int, at_ns: int) -> None:
        """The chunks up to `offset`, which the reader can acknowledge, are sent now.

        Args:
            offset: commit offset after the last of them that has an event.
            taken: how many chunks the transport has taken before.
            at_ns: now.
        """
        if not self.outstanding:
            # What was taken beyond the last acknowledgement had no event that could have been acknowledged.
            self.acknowledged = max(self.acknowledged, taken)
        self.sent = max(self.sent, offset)
        if self.since_ns is None and self.outstanding:
            self.since_ns = at_ns

    def acknowledge(self, offset: int, taken: int, at_ns: int) -> bool:
        """The reader has everything up to `offset`; False when that was known (a duplicate, or an older one).

        Args:
            offset: commit offset.
            taken: how many chunks the transport has taken.
            at_ns: now.

        Raises:
            ResumeError: `BEYOND`, when so much was never sent; nothing is changed.
        """
        if offset > max(self.sent, taken):
            raise ResumeError(
                Refusal.BEYOND,
                f"{offset} chunks were acknowledged, and only {max(self.sent, taken)} were sent;"
                " acknowledge the id of the last event",
            )
        if offset <= self.acknowledged:
            return False
        self.acknowledged = offset
        self.since_ns = at_ns if self.outstanding else None
        return True

    def consumed(self, taken: int) -> int:
        """How many chunks the reader is known to have.

        Args:
            taken: how many chunks the transport has taken.
        """
        return self.acknowledged if self.outstanding else max(self.acknowledged, taken)

    def restart(self, at_ns: int | None) -> None:
        """The reader is back, and owes from now on; or (None) it is away, and owes nothing for as long."""
        self.since_ns = at_ns if self.outstanding else None


def longest_delay(stall: float | None) -> float:
    """How long a reader may collect before it acknowledges, in seconds: well within its stall deadline.

    Example:
        >>> longest_delay(None), longest_delay(2)
        (1.0, 0.5)
    """
    return _USUAL_DELAY if stall is None else min(_USUAL_DELAY, stall / _PER_STALL)
