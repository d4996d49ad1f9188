"""The stop endpoint beside a stream that can be resumed: at once, and never the wrong stream."""

from __future__ import annotations

from ..adapters.stopped import Stopped  # noqa: TID252 - the same for all adapters


class TestStopped(Stopped):
    """Below the mount of `Resume`."""
