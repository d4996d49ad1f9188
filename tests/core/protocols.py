"""What the tests of the protocol share: a stream that is read, and everything a protocol knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamguard_core import (
    Deadlines,
    DisconnectPolicy,
    Limits,
    Offer,
    StreamProtocol,
)

SECOND = 1_000_000_000


def slots(protocol: StreamProtocol) -> dict[str, Any]:
    """Everything that a protocol knows."""
    names = {name for base in type(protocol).__mro__ for name in getattr(base, "__slots__", ())}
    return {name: getattr(protocol, name) for name in names}


def streaming(
    limits: Limits | None = None,
    policy: DisconnectPolicy | None = None,
    deadlines: Deadlines | None = None,
    chunks: int = 0,
) -> StreamProtocol:
    """A stream that is read, with so many chunks of one byte committed and consumed."""
    protocol = StreamProtocol(limits, deadlines, policy)
    protocol.reading()
    for _ in range(chunks):
        assert protocol.offer(1) is Offer.ACCEPTED
        protocol.clear(protocol.produced)
        assert protocol.commit() == 1
        protocol.consume(1, 1)
    return protocol


Step = Callable[[StreamProtocol], object]
