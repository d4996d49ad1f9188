"""The transition table of a stream: role, state, event -> state; a missing cell is an illegal transition.

Two rules govern every ending:

1.  Three roles move side by side: the STREAM (what has been decided), the PRODUCER (whether it still runs)
    and the CONSUMER (whether it still reads). An event moves the roles that have a cell for it.
2.  There is no way back across the cutoff. `CUT` exists only in the live states of the stream, so the first
    terminal cause wins by construction (G8), and nothing but `SEAL` leaves `DRAINED`.

Chunks are not in the table. Endings are transitions, chunks are arithmetic: the per-chunk path is three
counters and one comparison with `STREAMING` (`protocol.py`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Identity(Enum):
    """An enum hashed by identity: the table is looked up at every ending, and Enum's own hash is Python code."""

    __hash__ = object.__hash__


class State(Identity):
    """What has been decided about the stream."""

    OPEN = "open"
    STREAMING = "streaming"
    CUTOFF = "cutoff"
    """The cause is fixed and the committed count frozen; the producer may still be alive."""
    DRAINED = "drained"
    """The producer is gone, or given up on: nothing can change any more but what the consumer takes."""
    SEALED = "sealed"
    """The receipt exists."""


class ProducerState(Identity):
    """Whether the producer still runs."""

    RUNNING = "running"
    FINISHED = "finished"
    """It ended by itself; what it made may still wait to be committed."""
    FAILED = "failed"
    DRAINING = "draining"
    """Read on after the cutoff, discarding, to learn the exact usage."""
    STOPPING = "stopping"
    """Its transport was closed and it was told to end."""
    GONE = "gone"
    UNCONFIRMED = "unconfirmed"
    """It had not ended by the close deadline."""


class ConsumerState(Identity):
    """Whether the consumer still reads."""

    ABSENT = "absent"
    """Nobody has read yet."""
    READING = "reading"
    AWAY = "away"
    """It left; under `grace` it may come back before the cutoff."""
    ENDED = "ended"
    """It was handed EOS."""


class Event(Identity):
    """What moves a role."""

    CHUNK = "the first chunk"
    FINISH = "the producer ended"
    FAIL = "the producer raised"
    CUT = "a terminal decision"
    DRAIN = "a terminal decision that reads the producer on"
    GIVE_UP = "the close deadline passed"
    GONE = "the producer is out of the way"
    READ = "the consumer asked for a chunk"
    LEAVE = "the consumer left"
    EOS = "EOS was handed over"
    SEAL = "the receipt was written"


# The members as plain names: on Python 3.11 reading one from its class costs 150 ns, a name 8 (3.12 mended it).
OPEN: Final = State.OPEN
STREAMING: Final = State.STREAMING
CUTOFF: Final = State.CUTOFF
DRAINED: Final = State.DRAINED
SEALED: Final = State.SEALED
RUNNING: Final = ProducerState.RUNNING
FINISHED: Final = ProducerState.FINISHED
FAILED: Final = ProducerState.FAILED
DRAINING: Final = ProducerState.DRAINING
STOPPING: Final = ProducerState.STOPPING
GONE: Final = ProducerState.GONE
UNCONFIRMED: Final = ProducerState.UNCONFIRMED
ABSENT: Final = ConsumerState.ABSENT
READING: Final = ConsumerState.READING
AWAY: Final = ConsumerState.AWAY
ENDED: Final = ConsumerState.ENDED
ON_CHUNK: Final = Event.CHUNK
ON_FINISH: Final = Event.FINISH
ON_FAIL: Final = Event.FAIL
ON_CUT: Final = Event.CUT
ON_DRAIN: Final = Event.DRAIN
ON_GIVE_UP: Final = Event.GIVE_UP
ON_GONE: Final = Event.GONE
ON_READ: Final = Event.READ
ON_LEAVE: Final = Event.LEAVE
ON_EOS: Final = Event.EOS
ON_SEAL: Final = Event.SEAL

OUTLIVING: Final = frozenset({DRAINING, STOPPING})
"""The producer still runs after the cutoff: it was told to end, or is read on."""

AnyState = State | ProducerState | ConsumerState

STREAM_TABLE: Final[dict[State, dict[Event, State]]] = {
    State.OPEN: {Event.CHUNK: State.STREAMING, Event.CUT: State.CUTOFF, Event.DRAIN: State.CUTOFF},
    State.STREAMING: {Event.CUT: State.CUTOFF, Event.DRAIN: State.CUTOFF},
    State.CUTOFF: {Event.GONE: State.DRAINED},
    State.DRAINED: {Event.SEAL: State.SEALED},
    State.SEALED: {},
}

PRODUCER_TABLE: Final[dict[ProducerState, dict[Event, ProducerState]]] = {
    ProducerState.RUNNING: {
        Event.FINISH: ProducerState.FINISHED,
        Event.FAIL: ProducerState.FAILED,
        Event.CUT: ProducerState.STOPPING,
        Event.DRAIN: ProducerState.DRAINING,
    },
    ProducerState.DRAINING: {
        Event.FINISH: ProducerState.GONE,
        Event.FAIL: ProducerState.GONE,
        Event.CUT: ProducerState.STOPPING,
    },
    ProducerState.STOPPING: {
        Event.FINISH: ProducerState.GONE,
        Event.FAIL: ProducerState.GONE,
        Event.GIVE_UP: ProducerState.UNCONFIRMED,
    },
    ProducerState.FINISHED: {},
    ProducerState.FAILED: {},
    ProducerState.GONE: {},
    ProducerState.UNCONFIRMED: {},
}

CONSUMER_TABLE: Final[dict[ConsumerState, dict[Event, ConsumerState]]] = {
    ConsumerState.ABSENT: {Event.READ: ConsumerState.READING, Event.LEAVE: ConsumerState.AWAY},
    ConsumerState.READING: {Event.LEAVE: ConsumerState.AWAY, Event.EOS: ConsumerState.ENDED},
    ConsumerState.AWAY: {Event.READ: ConsumerState.READING, Event.EOS: ConsumerState.ENDED},
    ConsumerState.ENDED: {},
}

TRANSITIONS: Final = {
    "stream": STREAM_TABLE,
    "producer": PRODUCER_TABLE,
    "consumer": CONSUMER_TABLE,
}
"""All three tables by role, for the documentation and the tests."""
