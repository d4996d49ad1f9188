"""What every state must answer when it is asked: no steps, each state is put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from streamguard_core.accounting import Usage
from streamguard_core.causes import Cause
from streamguard_core.errors import UsageError
from streamguard_core.explore.checks import Broken
from streamguard_core.explore.expected import REFUSED
from streamguard_core.explore.world import Frozen, World
from streamguard_core.transitions import (
    AWAY,
    DRAINED,
    DRAINING,
    ENDED,
    SEALED,
    STOPPING,
    UNCONFIRMED,
)

LATER_USAGE: Final = Usage.reported_by_provider(output=2)

Probe = Callable[[World], Iterator[Broken]]


def probe(world: World, frozen: Frozen) -> list[Broken]:
    """Ask everything that applies to the state `frozen`; `world` is left in any state."""
    world.thaw(frozen)
    broken = [*_mistakes_are_refused(world), *_nothing_out_of_turn(world)]
    if world.live:
        return broken
    protocol = world.protocol
    asked: list[Probe] = [] if world.eos else [_eos_can_be_had]
    if protocol.producer is not DRAINING:
        asked.append(_late_chunks_are_refused)
    if protocol.producer is UNCONFIRMED and protocol.state is DRAINED:
        asked.append(_a_late_end_is_history)
    if protocol.state is SEALED:
        asked.append(_the_sealed_are_deaf)
    for ask in asked:
        world.thaw(frozen)
        broken += ask(world)
    return broken


def _mistakes_are_refused(world: World) -> Iterator[Broken]:
    """A driver's mistake is refused, never carried out."""
    protocol = world.protocol
    inflight = protocol.committed - protocol.consumed
    if not _refuses(lambda: protocol.consume(inflight + 1)):
        yield Broken("G3", "more was consumed than was committed")
    if not _refuses(lambda: protocol.consume(-1)):
        yield Broken("G3", "less than nothing was consumed")
    if not inflight and protocol.release(0):
        yield Broken("G3", "a chunk was released that was not committed")
    if not _refuses(lambda: protocol.clear(protocol.produced + 1)):
        yield Broken("G3", "more was cleared than was produced")
    if protocol.state is not DRAINED and not _refuses(lambda: protocol.seal(0)):
        yield Broken("G11", "a stream was sealed that is not drained, or sealed twice")


def _nothing_out_of_turn(world: World) -> Iterator[Broken]:
    """What a driver may do in another state does nothing in this one."""
    protocol = world.protocol
    was = world.key()
    if protocol.producer is not STOPPING:
        protocol.give_up(0)
    if protocol.producer is not DRAINING:
        protocol.stop_draining(0)
    if world.live or protocol.consumer is AWAY or protocol.consumer is ENDED:
        protocol.leave(0)
    if world.key() != was or protocol.pending:
        yield Broken("G10", "giving up, leaving, or ending a drain, out of turn changed the stream")


def _refuses(call: Callable[[], None]) -> bool:
    try:
        call()
    except UsageError:
        return True
    return False


def _eos_can_be_had(world: World) -> Iterator[Broken]:
    """A consumer that is willing to read gets to EOS, whatever the producer does (G6)."""
    protocol = world.protocol
    protocol.reading()
    protocol.consume(protocol.committed - protocol.consumed, sum(world.sizes))
    if not protocol.take_eos(0):
        yield Broken("G6", "EOS cannot be reached by a consumer that reads on")
    elif protocol.take_eos(0):
        yield Broken("G6", "EOS can be had twice")


def _late_chunks_are_refused(world: World) -> Iterator[Broken]:
    """What comes after the cutoff is refused and counted, and changes nothing else (G2)."""
    protocol = world.protocol
    late, was = protocol.late, world.key()
    relayed = protocol.relay(0) or protocol.go_past(1)
    answer = protocol.offer(1, 0)
    counted, protocol.late = protocol.late - late, late
    if relayed or answer is not REFUSED or counted != 1:
        yield Broken("G2", f"a late chunk was {answer.value}, and {counted} were counted")
    if world.key() != was:
        yield Broken("G2", "a late chunk changed more than the count of late chunks")


def _a_late_end_is_history(world: World) -> Iterator[Broken]:
    """A producer that was given up on ends after all: a failure is history, nothing else (G14)."""
    protocol = world.protocol
    was, history = world.key(), protocol.history
    protocol.producer_finished(0)
    protocol.producer_failed(Cause.PRODUCER_ERROR, "too late", 0)
    added, protocol.history = protocol.history[len(history) :], history
    if world.key() != was or protocol.pending:
        yield Broken("G14", "a producer that ended after it was given up on changed the stream")
    if tuple(signal.cause for signal in added) != (Cause.PRODUCER_ERROR,):
        yield Broken("G8", "the history does not have the late failure, once")


def _the_sealed_are_deaf(world: World) -> Iterator[Broken]:
    """The receipt is written: whatever is said now changes nothing that it says (G11)."""
    protocol = world.protocol
    was = world.key()
    protocol.provider_finished("length", LATER_USAGE)
    protocol.terminate(Cause.SHUTDOWN, "too late", 0)
    protocol.disconnected("too late", 0)
    protocol.producer_failed(Cause.PRODUCER_ERROR, "too late", 0)
    protocol.producer_finished(0)
    if world.key() != was or protocol.pending:
        yield Broken("G11", "a sealed stream was changed")
