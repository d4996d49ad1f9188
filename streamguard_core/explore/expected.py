"""What each input must bring about, and what it must be answered: the guarantees, written out.

Everything here is computed from the facts beside the protocol (`world.py`), its counters and its roles,
never by asking the protocol what it is about to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from streamguard_core.causes import Cause
from streamguard_core.explore.world import World
from streamguard_core.policies import DrainEnd, Rule
from streamguard_core.protocol import TAIL_BYTES, Offer
from streamguard_core.transitions import (
    ABSENT,
    AWAY,
    DRAINING,
    ENDED,
    OPEN,
    READING,
    SEALED,
    STREAMING,
)


class Expected(NamedTuple):
    """What an input must bring about.

    Args:
        cut: the cause with which it ends a live stream; None when it must not.
        signals: what it adds to the history.
    """

    cut: Cause | None = None
    signals: tuple[Cause, ...] = ()


# Plain names: reading a member from its class costs more than the comparison it is for.
ACCEPTED: Final = Offer.ACCEPTED
FULL: Final = Offer.FULL
REFUSED: Final = Offer.REFUSED
GRACE: Final = Rule.GRACE
DRAIN: Final = Rule.DRAIN
COMPLETED: Final = Cause.COMPLETED

NOTHING: Final = Expected()
COMPLETES: Final = Expected(COMPLETED, (COMPLETED,))
CUT_AWAY: Final = Expected(Cause.CLIENT_DISCONNECT, (Cause.CLIENT_DISCONNECT,))
NO_PLACE: Final = Expected(*CUT_AWAY)
"""The same, and not read on: this one is told from `CUT_AWAY` by its identity."""
ONLY_INTENT: Final = Expected(None, (Cause.CLIENT_DISCONNECT,))
TAIL: Final = Expected(COMPLETED, (Cause.CLIENT_DISCONNECT, COMPLETED))
OVERRUNS: Final = Expected(Cause.PRODUCER_OVERRUN, (Cause.PRODUCER_OVERRUN,))

Expectation = Callable[[World], Expected]
Drained = tuple[int, int, DrainEnd | None]
"""Bytes and chunks that were read on, and the bound they have come to."""


def nothing(_world: World) -> Expected:
    """Most inputs end nothing."""
    return NOTHING


def authority(cause: Cause) -> Expectation:
    """Ends what is live, is history afterwards, and nothing once the receipt is written."""
    cut, later = Expected(cause, (cause,)), Expected(None, (cause,))

    def expected(world: World) -> Expected:
        state = world.protocol.state
        if state is OPEN or state is STREAMING:
            return cut
        return NOTHING if state is SEALED else later

    return expected


def after_offer(world: World, size: int) -> Expected:
    """A chunk ends the stream when it can never fit, or when the grace has no chunks left."""
    if not world.live or world.ended is not None:
        return NOTHING
    if _grace_is_used_up(world):
        return CUT_AWAY
    return OVERRUNS if size > world.scenario.limits.max_buffer_bytes else NOTHING


def after_commit(world: World) -> Expected:
    """The last commit completes a stream whose producer has finished."""
    if world.ended is not COMPLETED or not world.live:
        return NOTHING
    protocol = world.protocol
    return COMPLETES if commit_due(world) == protocol.produced - protocol.committed else NOTHING


def after_end(how: Cause) -> Expectation:
    """A failure is the cause while the stream is live; an end completes it once all is committed."""
    failed = authority(how)

    def finished(world: World) -> Expected:
        protocol = world.protocol
        complete = world.live and protocol.committed == protocol.produced
        return COMPLETES if complete else NOTHING

    return finished if how is COMPLETED else failed


def after_disconnect(world: World) -> Expected:
    """Intent, unless the provider had said everything, or the policy says cut (G9)."""
    protocol = world.protocol
    consumer = protocol.consumer
    if protocol.state is SEALED or consumer is AWAY or consumer is ENDED:
        return NOTHING
    if not world.live:
        return ONLY_INTENT
    if protocol.finish is not None and protocol.produced == protocol.committed:
        return TAIL
    return ONLY_INTENT if world.scenario.policy.rule is GRACE else CUT_AWAY


def after_leaving_without_a_place(world: World) -> Expected:
    """A drain that has no place is a cut; nothing else asks for one."""
    due = after_disconnect(world)
    return NO_PLACE if due is CUT_AWAY and world.scenario.policy.rule is DRAIN else due


def after_wait(world: World) -> Expected:
    """The grace is over: the reader did not come back. After the cutoff nothing ends twice."""
    return CUT_AWAY if world.live else NOTHING


def after_deadline(cause: Cause, due: Callable[[World], bool]) -> Expectation:
    """A deadline ends a stream only while the party that it watches owes something (G14)."""
    cut = Expected(cause, (cause,))
    return lambda world: cut if due(world) else NOTHING


def connection_is_due(world: World) -> bool:
    """No connection was reported, and no chunk has come that would show it."""
    protocol = world.protocol
    return first_token_is_due(world) and protocol.connected_ns is None and not protocol.produced


def first_token_is_due(world: World) -> bool:
    """No content has come from a producer that runs."""
    return world.ended is None and not world.protocol.content_seen


def content_is_due(world: World) -> bool:
    """A producer that runs, that has begun, and that has room, owes content."""
    protocol = world.protocol
    return world.ended is None and protocol.content_seen and protocol.producer_since_ns is not None


def reader_is_due(world: World) -> bool:
    """A consumer that reads holds what it was handed."""
    protocol = world.protocol
    return protocol.consumer_since_ns is not None and protocol.consumer is READING


def offer_due(world: World, size: int) -> Offer:
    """What a producer that offers a chunk of `size` bytes must be answered."""
    if not world.live or world.ended is not None or _grace_is_used_up(world):
        return REFUSED
    if size > world.scenario.limits.max_buffer_bytes:
        return REFUSED
    return ACCEPTED if world.room_for(size) else FULL


def drain_due(world: World, size: int) -> Drained | None:
    """What is drained after a chunk that is read on, and the bound at which that ends; None without."""
    protocol = world.protocol
    if protocol.producer is not DRAINING:
        return None
    size, chunks = protocol.drained[0] + size, protocol.drained[1] + 1
    return size, chunks, bound_reached(world, size, chunks)


def bound_reached(world: World, size: int, chunks: int) -> DrainEnd | None:
    """The bound that a drain of so much has come to; a tail has bounds of its own."""
    policy = world.scenario.policy
    tail = world.cut_cause is COMPLETED
    most_bytes = TAIL_BYTES if tail else policy.max_bytes
    most_tokens = None if tail else policy.max_tokens
    if most_bytes is not None and size >= most_bytes:
        return DrainEnd.BYTES
    return DrainEnd.TOKENS if most_tokens is not None and chunks >= most_tokens else None


def commit_due(world: World) -> int:
    """How many chunks a commit must move: all that are cleared and fit, none after the cutoff."""
    if not world.live:
        return 0
    protocol = world.protocol
    fits = protocol.consumed + world.scenario.limits.max_inflight_commits
    return min(world.passed, fits) - protocol.committed


def eos_due(world: World) -> bool:
    """Whether a consumer that asks for EOS must be handed it now."""
    protocol = world.protocol
    taken = protocol.consumed == protocol.committed and protocol.consumer is not ABSENT
    return taken and not world.live and world.eos == 0


def _grace_is_used_up(world: World) -> bool:
    most = world.scenario.policy.max_tokens
    if world.away_from is None or most is None:
        return False
    return world.protocol.produced - world.away_from >= most
