"""What the producer of a stream does, and what the gates behind it do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamguard_core.accounting import NO_USAGE, Usage
from streamguard_core.causes import Cause
from streamguard_core.explore import checks, expected
from streamguard_core.explore.checks import Broken
from streamguard_core.explore.deciding import authority
from streamguard_core.explore.expected import COMPLETED
from streamguard_core.explore.inputs import CUT, LIVE, Bound, Input, always
from streamguard_core.explore.world import World
from streamguard_core.transitions import DRAINING, OPEN, RUNNING, STOPPING


def chunk(size: int, bound: Bound) -> tuple[Input, Input]:
    """The producer emits a chunk of `size` bytes, on the short path and on the long one."""

    def may_emit(world: World) -> bool:
        """While it has not been told to wait, and while it is read on after the cutoff."""
        protocol = world.protocol
        live = world.live
        heard = protocol.producer_since_ns is not None if live else protocol.producer is DRAINING
        # One refused chunk before the cutoff shows what there is to see; probes show the rest.
        few = protocol.late == 0 or not live
        return heard and few and protocol.produced + protocol.late < bound.tokens

    return (
        Input(f"relay({size})", may_emit, lambda world: _relay(world, size)),
        Input(
            f"offer({size})",
            may_emit,
            lambda world: _offer(world, size),
            lambda world: expected.after_offer(world, size),
        ),
    )


def _relay(world: World, size: int) -> Broken | None:
    live, due, held = world.live, expected.commit_due(world), _holds(world)
    taken = world.protocol.relay(size)
    if taken:
        world.passed += 1
        _accepted(world, size)
    if taken and held:
        return Broken("gates", "a chunk was relayed past one that a gate holds")
    if taken and world.ended is not None:
        return Broken("G2", "a chunk was relayed after its producer had ended")
    return checks.fast_answer(world, taken=taken, live=live, was_due=due)


def _offer(world: World, size: int) -> Broken | None:
    due, drains = expected.offer_due(world, size), expected.drain_due(world, size)
    answer = world.protocol.offer(size, 0)
    if answer is expected.ACCEPTED:
        _accepted(world, size)
    elif answer is expected.FULL:
        # It waits for room: it owes nothing until there is some.
        world.protocol.producer_since_ns = None
    return checks.offer_answer(answer, due) or checks.drain_answer(world, drains)


def _accepted(world: World, size: int) -> None:
    world.sizes += (size,)
    if size:
        world.protocol.content(0)


def producer() -> tuple[Input, ...]:
    """How a producer ends, and what it says besides its chunks."""

    def ends(name: str, how: Cause, may: Callable[[World], bool] = always) -> Input:
        return Input(
            name,
            lambda world: _is_heard(world) and may(world),
            lambda world: _end(world, how),
            expected.after_end(how),
        )

    return (
        ends("producer finishes", COMPLETED),
        ends("producer fails", Cause.PRODUCER_ERROR),
        ends("producer raises TruncatedStream", Cause.TRUNCATED, _may_be_truncated),
        Input(
            "producer emits without waiting",
            lambda world: world.protocol.producer_since_ns is None,
            lambda world: world.protocol.overrun("it did not wait", 0),
            expected.authority(Cause.PRODUCER_OVERRUN),
            LIVE,
        ),
        Input("connected", _may_connect, lambda world: world.protocol.connected(0), phase=LIVE),
        Input("provider says finish", _may_say_finish, _say_finish),
        Input("provider says usage", _may_say_usage, _say_usage, phase=CUT),
    )


_HEARD: Final = frozenset({RUNNING, DRAINING, STOPPING})


def _is_heard(world: World) -> bool:
    """Producers end and say things later, too: that this changes nothing is probed."""
    return world.ended is None and world.protocol.producer in _HEARD


def _may_be_truncated(world: World) -> bool:
    """After the cutoff it is a failure like others, unless the stream counts as completed (G13)."""
    return world.live or world.cut_cause is COMPLETED


def _end(world: World, how: Cause) -> None:
    world.ended = how
    if how is COMPLETED:
        world.protocol.producer_finished(0)
    else:
        world.protocol.producer_failed(how, "it raised", 0)


def _may_connect(world: World) -> bool:
    return world.protocol.state is OPEN and world.protocol.connected_ns is None


def _may_say_finish(world: World) -> bool:
    return world.protocol.finish is None and _is_heard(world)


def _say_finish(world: World) -> Broken | None:
    usage = world.protocol.usage
    world.protocol.provider_finished("stop", None)
    return checks.said(world, "stop", usage)


def _may_say_usage(world: World) -> bool:
    """The usage comes last: after the finish, and often after the reader has left."""
    protocol = world.protocol
    return protocol.finish is not None and protocol.usage is NO_USAGE and _is_heard(world)


_USAGE: Final = Usage.reported_by_provider(input=1, output=1)


def _say_usage(world: World) -> Broken | None:
    finish = world.protocol.finish
    world.protocol.provider_finished(None, _USAGE)
    return checks.said(world, finish, _USAGE)


# -- the gates --------------------------------------------------------------------------------------


def gate(bound: Bound) -> tuple[Input, ...]:
    """A gate that holds says nothing to the protocol: it passes several chunks later, or none."""
    return (
        Input("gate passes one", _holds, _pass_one, phase=LIVE),
        Input("gate passes all", _holds, _pass_all, phase=LIVE),
        authority("gate cuts", Cause.GUARDRAIL, bound, _holds),
        Input("commit", _may_commit, _commit, expected.after_commit),
    )


def _holds(world: World) -> bool:
    return world.protocol.produced > world.passed


def _pass_one(world: World) -> None:
    world.passed += 1
    world.protocol.clear(world.passed)


def _pass_all(world: World) -> None:
    world.passed = world.protocol.produced
    world.protocol.clear(world.passed)
    # What was passed before stays passed.
    world.protocol.clear(0)


def _may_commit(world: World) -> bool:
    return world.protocol.produced > world.protocol.committed


def _commit(world: World) -> Broken | None:
    due = expected.commit_due(world)
    moved = world.protocol.commit(0)
    world.wake_producer()
    return checks.commit_answer(moved, due)
