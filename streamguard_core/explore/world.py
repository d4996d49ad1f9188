"""One state of the explored world: the real protocol object, and what is true around it.

The protocol is the object that sessions use, not a model of it. Beside it stand the facts that the checks
need and the protocol does not keep (`SHADOW`): what lies in the buffers, whether the producer really ended,
how many EOS were handed out. A state is all of that together, with instants made relative: nothing but a
deadline makes time pass, and when one does, the clock starts again at zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from streamguard_core._deadlines import tick
from streamguard_core.accounting import NO_USAGE, Usage
from streamguard_core.causes import Cause, Signal
from streamguard_core.limits import Deadlines, Limits
from streamguard_core.policies import DisconnectPolicy
from streamguard_core.protocol import Action, StreamProtocol
from streamguard_core.transitions import AWAY, OPEN, STREAMING

FIXED: Final = frozenset(
    {
        "deadlines",
        "limits",
        "max_buffered",
        "max_bytes",
        "max_inflight",
        "max_speculative",
        "opened_ns",
    }
    | {"policy", "timed"}
)
"""What the protocol is given and never changes: the same in every state of a scenario."""
POOLED: Final = ("signal", "history", "usage")
"""Values that take long to compare; equal ones are given the same number first, as are `CAUSES`."""
SHADOW: Final = ("sizes", "passed", "eos", "cut_committed", "told", "seal_asked", "away_from")

CLOSE_PRODUCER: Final = Action.CLOSE_PRODUCER
SEAL: Final = Action.SEAL

Tick = Callable[[StreamProtocol, int], None]
Key = tuple[Any, ...]
Pooled = tuple[Signal | None, tuple[Signal, ...], Usage, Cause | None, Cause | None]


class Scenario(msgspec.Struct, frozen=True):
    """What one exploration holds fixed.

    Args:
        policy: what a disconnect turns into.
        limits: bounds of the buffers.
    """

    policy: DisconnectPolicy
    limits: Limits

    def __str__(self) -> str:
        """As reports name it."""
        return str(self.policy)


class Driven(NamedTuple):
    """What is explored; a test puts a protocol in that lacks a guard."""

    protocol: type[StreamProtocol] = StreamProtocol
    tick: Tick = tick


class Frozen(NamedTuple):
    """A state, put aside."""

    plain: tuple[Any, ...]
    ident: int
    pooled: Pooled
    shadow: tuple[Any, ...]


class World:
    """The protocol, driven as a session drives it, and its shadow.

    Args:
        scenario: what is held fixed.
        driven: the protocol's class and the function that applies its deadlines.
    """

    __slots__ = (
        "_ident",
        "_plain",
        "_pool",
        "_pooled",
        "actions",
        "away_from",
        "cut_cause",
        "cut_committed",
        "ended",
        "eos",
        "names",
        "passed",
        "protocol",
        "scenario",
        "seal_asked",
        "sizes",
        "tick",
        "told",
    )

    def __init__(self, scenario: Scenario, driven: Driven) -> None:
        self.scenario = scenario
        self.tick = driven.tick
        self.protocol = driven.protocol(scenario.limits, Deadlines(), scenario.policy)
        self.names = _changing(type(self.protocol))
        self._plain = attrgetter(*self.names)
        self._pool: dict[Pooled, tuple[int, Pooled]] = {}
        self._pooled: Pooled = (None, (), NO_USAGE, None, None)
        self._ident = -1
        self.actions: tuple[Action, ...] = ()
        """What the protocol asked for in the last step."""
        self.sizes: tuple[int, ...] = ()
        """Bytes of each chunk in the buffers, oldest first: committed ones, then speculative ones."""
        self.passed = 0
        """Up to which chunk the gates have let everything pass."""
        self.ended: Cause | None = None
        """How the producer really ended (COMPLETED: without an error); None while it runs."""
        self.eos = 0
        """How many EOS the consumer was handed."""
        self.cut_committed: int | None = None
        self.cut_cause: Cause | None = None
        self.told = False
        """Whether the driver was asked to close the producer."""
        self.seal_asked = False
        self.away_from: int | None = None
        """How many chunks were produced when the consumer left a stream that went on."""

    @property
    def live(self) -> bool:
        """True before the cutoff; asks the state, not the protocol's own word for it."""
        state = self.protocol.state
        return state is STREAMING or state is OPEN

    def room_for(self, size: int) -> bool:
        """True when the limits leave room for a chunk of `size` bytes (G4, G5)."""
        protocol, limits = self.protocol, self.scenario.limits
        return (
            protocol.produced - protocol.committed < limits.speculative_buffer_limit
            and sum(self.sizes) + size <= limits.max_buffer_bytes
        )

    def wake_producer(self) -> None:
        """A driver wakes a producer that waits as soon as there is room for it (G5)."""
        if self.live and self.protocol.producer_since_ns is None and self.room_for(0):
            self.protocol.producer_since_ns = 0

    def settle(self) -> None:
        """Do what the protocol asks for, as a driver does: at once, before anything else can happen."""
        protocol = self.protocol
        self.actions = actions = protocol.take_actions()
        if CLOSE_PRODUCER in actions:
            self.told = True
            protocol.close_called(0)
        if SEAL in actions:
            self.seal_asked = True
        if self.live:
            away = protocol.consumer is AWAY
            if away and self.away_from is None:
                self.away_from = protocol.produced
            elif not away:
                self.away_from = None
        elif self.cut_committed is None:
            self._cut_off()

    def pass_time(self, deadlines: Deadlines, by_ns: int) -> None:
        """Let `by_ns` pass under `deadlines`, apply what is due, and start the clock again at zero."""
        protocol = self.protocol
        usual, protocol.deadlines = protocol.deadlines, deadlines
        live = self.live
        self.tick(protocol, by_ns)
        protocol.deadlines = usual
        if not live or not self.live:
            # Nothing was due: then that time has not passed.
            self._rebase(by_ns)

    def key(self) -> Key:
        """What makes this state different from others."""
        self._pool_values()
        return self._plain(self.protocol), self._ident, _shadow(self)

    def freeze(self) -> Frozen:
        """Put this state aside, to `thaw()` it later."""
        self._pool_values()
        return Frozen(self._plain(self.protocol), self._ident, self._pooled, _shadow(self))

    def thaw(self, frozen: Frozen) -> None:
        """Go back to a state that was put aside."""
        protocol = self.protocol
        # The loop that is run most: without Python's own bytecode it takes half as long.
        deque(map(setattr, repeat(protocol), self.names, frozen.plain), maxlen=0)
        self._ident = frozen.ident
        self._pooled = signal, history, usage, ended, cut_cause = frozen.pooled
        protocol.signal, protocol.history, protocol.usage = signal, history, usage
        self.ended, self.cut_cause = ended, cut_cause
        (
            self.sizes,
            self.passed,
            self.eos,
            self.cut_committed,
            self.told,
            self.seal_asked,
            self.away_from,
        ) = frozen.shadow

    def _cut_off(self) -> None:
        """Note what was decided, and throw the speculative chunks away."""
        protocol = self.protocol
        self.cut_committed = protocol.committed
        self.cut_cause = protocol.signal.cause if protocol.signal is not None else None
        self.away_from = None
        kept = protocol.committed - protocol.consumed
        protocol.discard(sum(self.sizes[kept:]))
        self.sizes = self.sizes[:kept]
        # These are read while the stream is live; after it, what they were makes no difference.
        protocol.producer_since_ns = protocol.consumer_since_ns = None
        protocol.connected_ns = protocol.first_chunk_ns = 0
        protocol.content_seen = True

    def _rebase(self, by_ns: int) -> None:
        """Only the order of instants matters: what is past is past, what is to come is so far away."""
        protocol = self.protocol
        for name in self.names:
            value = getattr(protocol, name)
            if name.endswith("_ns") and value is not None:
                setattr(protocol, name, max(0, value - by_ns))
        protocol.history = tuple(_at_zero(signal) for signal in protocol.history)
        protocol.signal = protocol.signal and _at_zero(protocol.signal)

    def _pool_values(self) -> None:
        """Give what is expensive to compare a number: the same one for equal values."""
        protocol = self.protocol
        signal, history, usage, ended, cut_cause = self._pooled
        if (
            self._ident >= 0
            and protocol.history is history
            and protocol.signal is signal
            and protocol.usage is usage
            and self.ended is ended
            and self.cut_cause is cut_cause
        ):
            return
        now = (protocol.signal, protocol.history, protocol.usage, self.ended, self.cut_cause)
        self._ident, self._pooled = self._pool.setdefault(now, (len(self._pool), now))


_shadow: Final = attrgetter(*SHADOW)


def _changing(protocol: type[StreamProtocol]) -> tuple[str, ...]:
    """Every attribute of the protocol that may differ between states: a new one is explored unasked."""
    slots = {name for base in protocol.__mro__ for name in getattr(base, "__slots__", ())}
    return tuple(sorted(slots - FIXED - set(POOLED)))


def _at_zero(signal: Signal) -> Signal:
    return Signal(signal.cause, signal.party, signal.detail, 0, signal.intent)
