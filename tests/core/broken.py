"""Protocols that are broken, and a bound in which that shows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from streamguard_core import Cause, Limits, ProducerState, StreamProtocol
from streamguard_core.explore import Bound

TINY = Bound(tokens=1, signals=1, sizes=(1,))
TIGHT = Limits(speculative_buffer_limit=1, max_inflight_commits=1, max_buffer_bytes=1)


class Generous(StreamProtocol):
    """Commits without asking whether the stream is cut off, or whether there is room."""

    __slots__ = ()

    def commit(self, at_ns: int = 0) -> int:
        moved = self.cleared - self.committed
        self.committed = self.cleared
        if moved and self.producer is ProducerState.FINISHED:
            self.terminate(Cause.COMPLETED, "", at_ns)
        return moved


def bent(method: str, act: Callable[..., Any]) -> type[StreamProtocol]:
    """A protocol in which `act(protocol, right, *arguments)` stands for a method; `right` is the real one."""
    right = getattr(StreamProtocol, method)

    def wrong(self: StreamProtocol, *arguments: Any, **keywords: Any) -> Any:
        return act(self, functools.partial(right, self), *arguments, **keywords)

    return type("Bent", (StreamProtocol,), {"__slots__": (), method: wrong})
