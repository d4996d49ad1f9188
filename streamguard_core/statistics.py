"""A frozen snapshot of a session's numbers."""

from __future__ import annotations

import msgspec

from streamguard_core.causes import Cause


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stream stands now. Counts are chunks; instants are on the session's clock.

    Invariant: produced >= committed >= consumed.
    """

    stream_id: str
    state: str
    producer: str
    consumer: str
    cause: Cause | None
    produced: int
    committed: int
    consumed: int
    late: int
    buffered_bytes: int

    @property
    def speculative(self) -> int:
        """Produced, not yet committed."""
        return self.produced - self.committed

    @property
    def inflight(self) -> int:
        """Committed, not yet consumed."""
        return self.committed - self.consumed
