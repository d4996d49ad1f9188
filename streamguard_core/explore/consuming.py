"""What the consumer of a stream does."""

from __future__ import annotations

from streamguard_core.explore import checks, expected
from streamguard_core.explore.checks import Broken
from streamguard_core.explore.inputs import CUT, LIVE, Bound, Input, always
from streamguard_core.explore.world import World
from streamguard_core.policies import Rule
from streamguard_core.transitions import ABSENT, AWAY, READING


def consumer(bound: Bound) -> tuple[Input, ...]:
    """It reads, takes, asks for EOS, leaves, or does nothing for ever."""

    def may_leave(world: World) -> bool:
        return len(world.protocol.history) < bound.signals

    return (
        Input("consumer reads", _may_read, lambda world: world.protocol.reading()),
        Input("consumer is handed chunks", _may_be_handed, _hand, phase=LIVE),
        Input("consumer took one", lambda world: _took(world, 1), lambda world: _consume(world, 1)),
        Input("consumer took all", lambda world: _took(world, 2), _consume_all),
        Input("consumer took one, released", lambda world: _took(world, 1), _release),
        Input("consumer asks for EOS", always, _take_eos),
        Input("consumer leaves", may_leave, _leave, expected.after_disconnect),
        Input(
            "consumer leaves, no place to drain",
            lambda world: may_leave(world) and world.scenario.policy.rule is Rule.DRAIN,
            _leave_without_a_place,
            expected.after_leaving_without_a_place,
            phase=LIVE,
        ),
        Input("nobody reads on", _may_read_on, lambda world: world.protocol.leave(0), phase=CUT),
    )


def _inflight(world: World) -> int:
    return world.protocol.committed - world.protocol.consumed


def _may_read(world: World) -> bool:
    consumer = world.protocol.consumer
    return consumer is ABSENT or consumer is AWAY


def _may_read_on(world: World) -> bool:
    consumer = world.protocol.consumer
    return consumer is ABSENT or consumer is READING


def _may_be_handed(world: World) -> bool:
    protocol = world.protocol
    idle = protocol.consumer is READING and protocol.consumer_since_ns is None
    return idle and _inflight(world) > 0


def _hand(world: World) -> None:
    world.protocol.consumer_since_ns = 0


def _took(world: World, at_least: int) -> bool:
    """Whether so many chunks were handed over: noted while live; afterwards it makes no difference."""
    handed = world.protocol.consumer_since_ns is not None or not world.live
    return handed and _inflight(world) >= at_least


def _consume(world: World, chunks: int) -> None:
    protocol = world.protocol
    taken, world.sizes = world.sizes[:chunks], world.sizes[chunks:]
    protocol.consumer_since_ns = None
    protocol.consume(chunks, sum(taken))
    world.wake_producer()


def _consume_all(world: World) -> None:
    _consume(world, _inflight(world))


def _release(world: World) -> Broken | None:
    live, due = world.live, expected.commit_due(world)
    taken = world.protocol.release(world.sizes[0])
    if taken:
        world.sizes = world.sizes[1:]
        world.protocol.consumer_since_ns = None
        world.wake_producer()
    return checks.fast_answer(world, taken=taken, live=live, was_due=due)


def _take_eos(world: World) -> Broken | None:
    due = expected.eos_due(world)
    handed = world.protocol.take_eos(0)
    world.eos += handed
    return checks.eos_answer(handed=handed, due=due)


def _leave(world: World) -> None:
    world.protocol.disconnected("it left", 0)


def _leave_without_a_place(world: World) -> None:
    world.protocol.disconnected("it left", 0, may_drain=False)
