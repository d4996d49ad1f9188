"""What must hold in every state, whichever way it was reached; each breach names its guarantee."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from streamguard_core.explore.checks import Broken, may_read_on
from streamguard_core.explore.expected import COMPLETED, GRACE, bound_reached
from streamguard_core.explore.world import World
from streamguard_core.policies import DrainEnd
from streamguard_core.transitions import (
    AWAY,
    CUTOFF,
    DRAINED,
    DRAINING,
    ENDED,
    FAILED,
    FINISHED,
    OPEN,
    RUNNING,
    SEALED,
    STOPPING,
    UNCONFIRMED,
    ProducerState,
)

OUT_OF_THE_WAY: Final = frozenset(
    {FINISHED, FAILED, ProducerState.GONE, UNCONFIRMED},
)


def state(world: World) -> list[Broken]:
    """Everything that is broken in this state."""
    broken = [*_numbers(world), *_consumer(world)]
    broken += _live(world) if world.live else _cut_off(world)
    return broken


def _numbers(world: World) -> Iterator[Broken]:
    protocol, limits = world.protocol, world.scenario.limits
    produced, committed, consumed = protocol.produced, protocol.committed, protocol.consumed
    if not produced >= protocol.cleared >= committed >= consumed >= 0:
        text = f"{produced} produced, {protocol.cleared} cleared"
        yield Broken("G3", f"{text}, {committed} committed, {consumed} consumed")
    if protocol.cleared != world.passed:
        yield Broken("gates", f"{protocol.cleared} chunks count as passed, and {world.passed} are")
    if world.live and produced - committed > limits.speculative_buffer_limit:
        yield Broken("G4", f"{produced - committed} chunks are speculative")
    if committed - consumed > limits.max_inflight_commits:
        yield Broken("G4", f"{committed - consumed} chunks are in flight")
    if protocol.state is OPEN and produced:
        yield Broken("G3", f"{produced} chunks were produced and the stream is OPEN")
    held = sum(world.sizes)
    if held > limits.max_buffer_bytes or protocol.buffered_bytes != held:
        yield Broken("G4", f"{held} bytes are buffered, {protocol.buffered_bytes} are counted")


def _consumer(world: World) -> Iterator[Broken]:
    protocol = world.protocol
    if world.eos > 1:
        yield Broken("G6", f"EOS was handed over {world.eos} times")
    if world.eos and (world.live or protocol.consumed != protocol.committed):
        yield Broken("G6", "EOS came before the end")
    if (protocol.consumer is ENDED) is not bool(world.eos):
        yield Broken("G6", f"the consumer is {protocol.consumer.name} after {world.eos} EOS")


def _live(world: World) -> Iterator[Broken]:
    protocol, policy = world.protocol, world.scenario.policy
    if world.ended is not None and world.ended is not COMPLETED:
        yield Broken("G1", "the producer failed and the stream goes on")
    if world.ended is COMPLETED and protocol.produced == protocol.committed:
        yield Broken("G6", "the producer finished, all is committed, and the stream goes on")
    away = protocol.consumer is AWAY
    if away and (policy.rule is not GRACE or protocol.until_ns is None):
        yield Broken("G9", "the consumer left and nothing bounds the stream")
    if not away and protocol.until_ns is not None:
        yield Broken("G9", "a grace runs and the consumer reads")
    if away and policy.max_tokens is not None and world.away_from is not None:
        extra = protocol.produced - world.away_from
        if extra > policy.max_tokens:
            yield Broken("G9", f"{extra} chunks were produced under {policy}")


def _cut_off(world: World) -> Iterator[Broken]:
    protocol = world.protocol
    if protocol.committed != world.cut_committed:
        yield Broken("G2", "the committed count changed after the cutoff")
    if protocol.signal is None or protocol.signal.cause is not world.cut_cause:
        yield Broken("G8", "the cause changed after the cutoff")
    if world.cut_cause is COMPLETED:
        yield from _completed(world)
    yield from _producer(world)
    if protocol.state is not SEALED and not world.seal_asked:
        if protocol.until_ns is None:
            yield Broken("G10", "nothing is waited for and nobody seals")
        elif protocol.state is DRAINED and not may_read_on(world):
            yield Broken("G10", "nobody can change anything any more and nobody seals")
    elif protocol.state is DRAINED and protocol.until_ns is not None:
        yield Broken("G10", "the seal was asked for and something is waited for")


def _completed(world: World) -> Iterator[Broken]:
    protocol = world.protocol
    left_early = protocol.finish is not None and protocol.client_left_early
    if world.ended is not COMPLETED and not left_early:
        yield Broken("G13", "a stream is COMPLETED whose producer had not finished")
    if protocol.produced != protocol.committed:
        yield Broken("G13", "a stream is COMPLETED and not all of it was committed")


def _producer(world: World) -> Iterator[Broken]:
    """The producer is told to end, and counts as gone when it is, or when it was given up on."""
    protocol = world.protocol
    producer = protocol.producer
    out_of_the_way = producer in OUT_OF_THE_WAY
    if (protocol.state is CUTOFF) is out_of_the_way or producer is RUNNING:
        yield Broken("G10", f"{protocol.state.name} while the producer is {producer.name}")
    if producer is STOPPING and not world.told:
        yield Broken("G10", "the producer is to stop and nobody closes it")
    if world.ended is None:
        if protocol.close_confirmed_ns is not None:
            yield Broken("G10", "a close is confirmed that did not happen")
        if out_of_the_way and producer is not UNCONFIRMED:
            yield Broken("G10", f"the producer counts as {producer.name} and still runs")
    elif not out_of_the_way:
        yield Broken("G10", f"the producer has ended and counts as {producer.name}")
    yield from _drain(world)


def _drain(world: World) -> Iterator[Broken]:
    """A drain goes on within its bounds, and says how it ended when it has."""
    protocol, end = world.protocol, world.protocol.drain_end
    size, chunks = protocol.drained
    if protocol.producer is DRAINING:
        if end is not None:
            yield Broken("G9", f"a drain goes on and its end is said to be {end}")
        elif bound_reached(world, size, chunks) is not None:
            yield Broken("G9", f"{size} bytes and {chunks} chunks were drained")
    elif end is DrainEnd.FINISHED and world.ended is not COMPLETED:
        yield Broken("G9", "a drain is said to have finished, and the producer had not")
    elif end is DrainEnd.FAILED and world.ended in (None, COMPLETED):
        yield Broken("G9", "a drain is said to have failed, and the producer did not")
