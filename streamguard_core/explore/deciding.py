"""What ends a stream, or moves it on, from outside: authority, time and the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from streamguard_core.causes import Cause
from streamguard_core.explore import checks, expected
from streamguard_core.explore.checks import Broken
from streamguard_core.explore.inputs import BOTH, CUT, LIVE, Bound, Input, always
from streamguard_core.explore.world import World
from streamguard_core.limits import Deadlines, to_ns
from streamguard_core.policies import DrainEnd
from streamguard_core.transitions import DRAINING, SEALED, STOPPING

AUTHORITIES: Final = {
    "cancel": Cause.USER_CANCEL,
    "shutdown": Cause.SHUTDOWN,
    "consumer fails": Cause.CONSUMER_ERROR,
}
"""Who may end a stream at any time, and the cause that it is then."""


def authority(
    name: str, cause: Cause, bound: Bound, may: Callable[[World], bool] = always
) -> Input:
    """Somebody ends the stream, for a cause that needs nobody's leave."""

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


def deadlines() -> tuple[Input, ...]:
    """Which deadline is the earliest is a matter of configuration: each is, in turn."""

    def passes(
        name: str, limits: Deadlines, cause: Cause, due: Callable[[World], bool] = always
    ) -> Input:
        return Input(
            f"the {name} deadline passes",
            always,
            lambda world: world.pass_time(limits, to_ns(_SECONDS)),
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


def driver() -> tuple[Input, ...]:
    """What is waited for is over, or the driver does not wait for it any longer."""
    return (
        Input("time passes", _may_wait, _wait, expected.after_wait, takes_time=True),
        Input("the driver gives up", _stopping, lambda world: world.protocol.give_up(0)),
        Input("the driver ends the drain", _draining, _stop_draining),
        Input("the driver seals", _may_seal, lambda world: world.protocol.seal(0), phase=CUT),
    )


def _may_wait(world: World) -> bool:
    return world.protocol.until_ns is not None and world.protocol.state is not SEALED


def _wait(world: World) -> Broken | None:
    """The wait that is running is over: grace, drain, close or finalisation."""
    until_ns, drains = world.protocol.until_ns, _draining(world)
    assert until_ns is not None, "time passes only while something is waited for"
    world.pass_time(world.protocol.deadlines, until_ns)
    return checks.drain_ended(world, DrainEnd.SECONDS) if drains else None


def _stop_draining(world: World) -> Broken | None:
    world.protocol.stop_draining(0)
    return checks.drain_ended(world, DrainEnd.STOPPED)


def _stopping(world: World) -> bool:
    return world.protocol.producer is STOPPING


def _draining(world: World) -> bool:
    return world.protocol.producer is DRAINING


def _may_seal(world: World) -> bool:
    return world.seal_asked and world.protocol.state is not SEALED
