"""Everything that may happen to a stream: which input, when, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from streamguard_core.accounting import NO_USAGE, Usage
from streamguard_core.causes import Cause
from streamguard_core.explore import checks, expected
from streamguard_core.explore.checks import Broken
from streamguard_core.explore.expected import COMPLETED, Expectation
from streamguard_core.explore.world import World
from streamguard_core.limits import Deadlines, Limits, to_ns
from streamguard_core.transitions import (
    ABSENT,
    AWAY,
    DRAINING,
    OPEN,
    READING,
    RUNNING,
    SEALED,
    STOPPING,
)


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
    """

    tokens: int
    signals: int = 2
    sizes: tuple[int, ...] = (0, 1)


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


def inputs(bound: Bound, limits: Limits) -> tuple[Input, ...]:
    """All inputs of a stream with these limits."""
    sizes = (*bound.sizes, limits.max_buffer_bytes + 1)
    return (
        *(one for size in sizes for one in _chunk(size, bound)),
        *_producer(),
        *_gate(bound),
        *_consumer(bound),
        *(_authority(name, cause, bound) for name, cause in _AUTHORITIES.items()),
        *_deadlines(),
        *_driver(),
    )


def _always(_world: World) -> bool:
    return True


# -- the producer -----------------------------------------------------------------------------------


def _chunk(size: int, bound: Bound) -> tuple[Input, Input]:
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


def _producer() -> tuple[Input, ...]:
    def ends(name: str, how: Cause, may: Callable[[World], bool] = _always) -> Input:
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


# -- between producer and consumer ------------------------------------------------------------------


def _gate(bound: Bound) -> tuple[Input, ...]:
    """A gate that holds says nothing to the protocol: it passes several chunks later, or none."""
    return (
        Input("gate passes one", _holds, _pass_one, phase=LIVE),
        Input("gate passes all", _holds, _pass_all, phase=LIVE),
        _authority("gate cuts", Cause.GUARDRAIL, bound, _holds),
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
    _wake_producer(world)
    return checks.commit_answer(moved, due)


def _wake_producer(world: World) -> None:
    """A driver wakes a producer that waits as soon as there is room for it (G5)."""
    if world.live and world.protocol.producer_since_ns is None and world.room_for(0):
        world.protocol.producer_since_ns = 0


# -- the consumer -----------------------------------------------------------------------------------


def _consumer(bound: Bound) -> tuple[Input, ...]:
    def may_leave(world: World) -> bool:
        return len(world.protocol.history) < bound.signals

    return (
        Input("consumer reads", _may_read, lambda world: world.protocol.reading()),
        Input("consumer is handed chunks", _may_be_handed, _hand, phase=LIVE),
        Input("consumer took one", lambda world: _took(world, 1), lambda world: _consume(world, 1)),
        Input("consumer took all", lambda world: _took(world, 2), _consume_all),
        Input("consumer took one, released", lambda world: _took(world, 1), _release),
        Input("consumer asks for EOS", _always, _take_eos),
        Input("consumer leaves", may_leave, _leave, expected.after_disconnect),
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
    _wake_producer(world)


def _consume_all(world: World) -> None:
    _consume(world, _inflight(world))


def _release(world: World) -> Broken | None:
    live, due = world.live, expected.commit_due(world)
    taken = world.protocol.release(world.sizes[0])
    if taken:
        world.sizes = world.sizes[1:]
        world.protocol.consumer_since_ns = None
        _wake_producer(world)
    return checks.fast_answer(world, taken=taken, live=live, was_due=due)


def _take_eos(world: World) -> Broken | None:
    due = expected.eos_due(world)
    handed = world.protocol.take_eos(0)
    world.eos += handed
    return checks.eos_answer(handed=handed, due=due)


def _leave(world: World) -> None:
    world.protocol.disconnected("it left", 0)


# -- authority, time and the driver -----------------------------------------------------------------

_AUTHORITIES: Final = {
    "cancel": Cause.USER_CANCEL,
    "shutdown": Cause.SHUTDOWN,
    "consumer fails": Cause.CONSUMER_ERROR,
}


def _authority(
    name: str, cause: Cause, bound: Bound, may: Callable[[World], bool] = _always
) -> Input:
    def enabled(world: World) -> bool:
        return (world.live or len(world.protocol.history) < bound.signals) and may(world)

    def apply(world: World) -> Broken | None:
        live = world.live
        decided = world.protocol.terminate(cause, name, 0)
        return checks.terminate_answer(decided=decided, live=live)

    # All of them are one call; later ones differ in nothing but their name in the history.
    phase = BOTH if name == "shutdown" else LIVE
    return Input(name, enabled, apply, expected.authority(cause), phase)


_SECONDS: Final = 1.0
"""The timeout that passes: shorter than every wait that a policy or an ending bounds."""


def _deadlines() -> tuple[Input, ...]:
    """Which deadline is the earliest is a matter of configuration: each is, in turn."""

    def passes(
        name: str, deadlines: Deadlines, cause: Cause, due: Callable[[World], bool] = _always
    ) -> Input:
        return Input(
            f"the {name} deadline passes",
            _always,
            lambda world: world.pass_time(deadlines, to_ns(_SECONDS)),
            expected.after_deadline(cause, due),
            LIVE,
        )

    return (
        passes("total", Deadlines(total=_SECONDS), Cause.TIMEOUT_TOTAL),
        passes(
            "connect",
            Deadlines(connect=_SECONDS),
            Cause.TIMEOUT_CONNECT,
            expected.connection_is_due,
        ),
        passes(
            "first token",
            Deadlines(first_token=_SECONDS),
            Cause.TIMEOUT_FIRST_TOKEN,
            expected.first_token_is_due,
        ),
        passes("idle", Deadlines(idle=_SECONDS), Cause.TIMEOUT_IDLE, expected.content_is_due),
        passes(
            "consumer stall",
            Deadlines(consumer_stall=_SECONDS),
            Cause.CONSUMER_STALLED,
            expected.reader_is_due,
        ),
    )


def _driver() -> tuple[Input, ...]:
    return (
        Input("time passes", _may_wait, _wait, expected.after_wait, takes_time=True),
        Input("the driver gives up", _stopping, lambda world: world.protocol.give_up(0)),
        Input(
            "the driver ends the drain", _draining, lambda world: world.protocol.stop_draining(0)
        ),
        Input("the driver seals", _may_seal, lambda world: world.protocol.seal(0), phase=CUT),
    )


def _may_wait(world: World) -> bool:
    return world.protocol.until_ns is not None and world.protocol.state is not SEALED


def _wait(world: World) -> None:
    """The wait that is running is over: grace, drain, close or finalisation."""
    until_ns = world.protocol.until_ns
    assert until_ns is not None, "time passes only while something is waited for"
    world.pass_time(world.protocol.deadlines, until_ns)


def _stopping(world: World) -> bool:
    return world.protocol.producer is STOPPING


def _draining(world: World) -> bool:
    return world.protocol.producer is DRAINING


def _may_seal(world: World) -> bool:
    return world.seal_asked and world.protocol.state is not SEALED
