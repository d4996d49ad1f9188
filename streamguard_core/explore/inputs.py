"""What an input is: one thing that may happen to a stream, and how far an exploration lets it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from streamguard_core.explore import expected
from streamguard_core.explore.checks import Broken
from streamguard_core.explore.expected import Expectation
from streamguard_core.explore.world import World


class Phase(Enum):
    """Where in a stream's life an input belongs."""

    LIVE = "before the cutoff"
    CUT = "after the cutoff"
    BOTH = "at any time"


LIVE: Final = Phase.LIVE
CUT: Final = Phase.CUT
BOTH: Final = Phase.BOTH


class Bound(NamedTuple):
    """How far an exploration goes.

    Args:
        tokens: chunks a producer emits at most, taken or refused.
        signals: once that many are in the history, nobody but the producer and time adds to it.
        sizes: bytes of the chunks a producer emits, besides one that does not fit.
        states: how many of a scenario are visited at most. A protocol that is broken may have no end of
            them; a search that comes to this bound is cut short, and has proved nothing.
    """

    tokens: int
    signals: int = 2
    sizes: tuple[int, ...] = (0, 1)
    states: int = 2_000_000


class Input(NamedTuple):
    """One thing that may happen.

    Args:
        name: as paths show it.
        enabled: whether it may happen in a state.
        apply: make it happen; returns what the answer broke, if anything.
        expected: what it must bring about in a state, asked before it happens.
        phase: where in a stream's life it belongs.
        takes_time: True for the one way in which time alone moves a stream that is cut off.
    """

    name: str
    enabled: Callable[[World], bool]
    apply: Callable[[World], Broken | None]
    expected: Expectation = expected.nothing
    phase: Phase = BOTH
    takes_time: bool = False


def always(_world: World) -> bool:
    """Most inputs may happen in any state of their phase."""
    return True
