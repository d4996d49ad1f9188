"""What must hold in every step, and of every answer; each breach names its guarantee."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from streamguard_core.accounting import Usage
from streamguard_core.causes import Category, Cause, Party, Signal
from streamguard_core.explore.expected import (
    ACCEPTED,
    COMPLETED,
    CUT_AWAY,
    NO_PLACE,
    REFUSED,
    TAIL,
    Drained,
    Expected,
    commit_due,
)
from streamguard_core.explore.world import CLOSE_PRODUCER, SEAL, World
from streamguard_core.policies import DrainEnd, Rule
from streamguard_core.protocol import Action, Offer
from streamguard_core.transitions import (
    ABSENT,
    AWAY,
    DRAINED,
    DRAINING,
    READING,
    SEALED,
    STOPPING,
    State,
)

GUARANTEES: Final = {
    "G1": "cutoff: cause fixed and committed frozen in one step, at once",
    "G2": "no commit after the cutoff; late chunks are refused and counted",
    "G3": "produced >= committed >= consumed; all three only grow",
    "G4": "bounded: chunks, commits and bytes",
    "G5": "backpressure: a full buffer makes the producer wait, freed capacity is used",
    "G6": "EOS exactly once, after every committed chunk, for every ending",
    "G7": "a parked reader wakes at the cutoff",
    "G8": "the first terminal cause wins; later signals are history, in order",
    "G9": "the policy turns a disconnect into what it says, within its bounds",
    "G10": "the producer is told to end, and time alone brings every ending to its seal",
    "G11": "one receipt: sealed when drained, once, and nothing changes afterwards",
    "G12": "what the provider said is known, and what it did not say is not",
    "G13": "truncation is not success",
    "G14": "nothing is attributed to the wrong party",
    "gates": "nothing is committed that a gate holds",
}
"""What is checked, by name."""

ACTOR: Final[dict[Cause, tuple[Category, Party | None]]] = {
    Cause.COMPLETED: (Category.COMPLETED, None),
    Cause.CLIENT_DISCONNECT: (Category.USER, Party.CONSUMER),
    Cause.USER_CANCEL: (Category.USER, Party.CONSUMER),
    Cause.CONSUMER_STALLED: (Category.CONSUMER, Party.CONSUMER),
    Cause.CONSUMER_ERROR: (Category.CONSUMER, Party.CONSUMER),
    Cause.SHUTDOWN: (Category.SHUTDOWN, Party.SERVER),
    Cause.TIMEOUT_CONNECT: (Category.TIMEOUT, Party.CLOCK),
    Cause.TIMEOUT_FIRST_TOKEN: (Category.TIMEOUT, Party.CLOCK),
    Cause.TIMEOUT_IDLE: (Category.TIMEOUT, Party.CLOCK),
    Cause.TIMEOUT_TOTAL: (Category.TIMEOUT, Party.CLOCK),
    Cause.GUARDRAIL: (Category.POLICY, Party.POLICY),
    Cause.PRODUCER_ERROR: (Category.PRODUCER, Party.PRODUCER),
    Cause.PRODUCER_OVERRUN: (Category.PRODUCER, Party.PRODUCER),
    Cause.TRUNCATED: (Category.PRODUCER, Party.PRODUCER),
}
"""Who acts when one of the inputs ends a stream (G14); written down a second time on purpose."""

SLEPT: Final = {
    Cause.COMPLETED: "G6",
    Cause.CLIENT_DISCONNECT: "G9",
    Cause.PRODUCER_OVERRUN: "G4",
    Cause.SHUTDOWN: "G8",
    Cause.TRUNCATED: "G13",
}
"""What is broken when a stream goes on that must end; where it is not named here, G1."""

TRUNCATED: Final = Cause.TRUNCATED
CLIENT_DISCONNECT: Final = Cause.CLIENT_DISCONNECT
DRAIN: Final = Rule.DRAIN
WAKE_CONSUMER: Final = Action.WAKE_CONSUMER
WAKE_PRODUCER: Final = Action.WAKE_PRODUCER


class Broken(NamedTuple):
    """A breach."""

    guarantee: str
    text: str


class Before(NamedTuple):
    """What a step is compared with."""

    live: bool
    state: State
    drains: bool
    drain_end: DrainEnd | None
    counters: tuple[int, int, int, int]
    committed: int
    signal: Signal | None
    history: tuple[Signal, ...]


def before(world: World) -> Before:
    """What must not change in a step, or only in one direction."""
    protocol = world.protocol
    return Before(
        world.live,
        protocol.state,
        protocol.producer is DRAINING,
        protocol.drain_end,
        (protocol.produced, protocol.committed, protocol.consumed, protocol.late),
        protocol.committed,
        protocol.signal,
        protocol.history,
    )


# -- answers ----------------------------------------------------------------------------------------


def offer_answer(answer: Offer, due: Offer) -> Broken | None:
    """Compare: what may not be taken is not taken, and what may be taken does not wait."""
    if answer is due:
        return None
    text = f"a chunk was {answer.value} and should have been {due.value}"
    if due is REFUSED:
        return Broken("G2", text)
    return Broken("G4" if answer is ACCEPTED else "G5", text)


def drain_answer(world: World, due: Drained | None) -> Broken | None:
    """Compare: what is read on is counted, and a drain ends at its bound, not before."""
    protocol = world.protocol
    drained = (*protocol.drained, protocol.drain_end)
    if due is None or (drained == due and (protocol.producer is DRAINING) is (due[2] is None)):
        return None
    return Broken("G9", f"bytes, chunks and end of the drain are {drained} and should be {due}")


def drain_ended(world: World, why: DrainEnd) -> Broken | None:
    """Compare: what ended the drain is what is said to have."""
    end = world.protocol.drain_end
    return None if end is why else Broken("G9", f"{why} ended the drain, and {end} is said to have")


def said(world: World, finish: str | None, usage: Usage) -> Broken | None:
    """What the provider said is kept; what it did not say is not made up."""
    if (world.protocol.finish, world.protocol.usage) == (finish, usage):
        return None
    return Broken("G12", "the provider's finish or usage was lost, or invented")


def fast_answer(world: World, *, taken: bool, live: bool, was_due: int) -> Broken | None:
    """`relay()` and `release()` are their parts: where nothing was left to commit, nothing is."""
    if not taken:
        return None
    if not live:
        return Broken("G2", "a chunk was relayed or released after the cutoff")
    if was_due == 0 and commit_due(world) != 0:
        return Broken("G5", "freed capacity is not used at once")
    return None


def commit_answer(moved: int, due: int) -> Broken | None:
    """Compare: freed capacity is used at once, and no more than is free."""
    if moved == due:
        return None
    text = f"commit() moved {moved} chunks and should have moved {due}"
    return Broken("G5" if moved < due else "G4", text)


def eos_answer(*, handed: bool, due: bool) -> Broken | None:
    """Compare: EOS comes once, after every committed chunk, and waits for nothing else."""
    if handed is due:
        return None
    return Broken("G6", "EOS was handed over too early, or twice" if handed else "EOS was withheld")


def terminate_answer(*, decided: bool, live: bool) -> Broken | None:
    """Whoever ends a stream is told whether it was the one."""
    if decided is live:
        return None
    return Broken("G8", f"terminate() answered {decided} when live was {live}")


# -- every step -------------------------------------------------------------------------------------


def step(was: Before, world: World, expected: Expected) -> list[Broken]:
    """Everything that the step from `was` to now broke."""
    broken: list[Broken] = []
    protocol = world.protocol
    counters = (protocol.produced, protocol.committed, protocol.consumed, protocol.late)
    if counters != was.counters:
        broken += _counted(was, counters)
    if not was.live:
        broken += _after_the_cutoff(was, world)
    elif world.live:
        broken += _still_live(world, expected)
    else:
        broken += _cut_off(world, expected)
    if protocol.history is not was.history or expected.signals:
        broken += _history(was, world, expected)
    if world.actions:
        broken += _actions(world)
    return broken


def _actions(world: World) -> Iterator[Broken]:
    """What the driver is asked to do is due, and asked for once."""
    actions, protocol = world.actions, world.protocol
    if len(set(actions)) < len(actions):
        yield Broken("G11", "a driver is asked to do the same thing twice")
    if CLOSE_PRODUCER in actions and protocol.producer is not STOPPING:
        yield Broken("G10", f"the producer is {protocol.producer.name} and is closed")
    if SEAL in actions:
        if protocol.state is not DRAINED:
            yield Broken("G11", f"the seal was asked for in {protocol.state.name}")
        if may_read_on(world):
            yield Broken("G6", "the stream is sealed before its consumer had time to read")


def may_read_on(world: World) -> bool:
    """Whether a consumer is waited for: it reads, or it has not come yet to what is complete."""
    consumer = world.protocol.consumer
    return consumer is READING or (consumer is ABSENT and world.cut_cause is COMPLETED)


def _counted(was: Before, counters: tuple[int, int, int, int]) -> Iterator[Broken]:
    if any(now < then for now, then in zip(counters, was.counters, strict=True)):
        yield Broken("G3", f"a counter shrank: {was.counters} became {counters}")


def _after_the_cutoff(was: Before, world: World) -> Iterator[Broken]:
    protocol = world.protocol
    if world.live or (was.state is SEALED and protocol.state is not SEALED):
        yield Broken("G1", f"there is a way from {was.state.name} to {protocol.state.name}")
    if protocol.committed != was.committed:
        yield Broken("G2", "chunks were committed after the cutoff")
    if protocol.signal is not was.signal and protocol.signal != was.signal:
        yield Broken("G8", f"the terminal cause was replaced: {was.signal} by {protocol.signal}")
    if was.drains and protocol.producer is not DRAINING and protocol.drain_end is None:
        yield Broken("G9", "a drain has ended and nobody says how")
    if not was.drains and protocol.drain_end is not was.drain_end:
        yield Broken("G9", f"how a drain ended, {was.drain_end}, became {protocol.drain_end}")


def _still_live(world: World, expected: Expected) -> Iterator[Broken]:
    if world.protocol.signal is not None:
        yield Broken("G1", "a cause is fixed and the stream goes on")
    cause = expected.cut
    if cause is not None:
        yield Broken(SLEPT.get(cause, "G1"), f"{cause} was due and the stream goes on")


def _cut_off(world: World, expected: Expected) -> Iterator[Broken]:
    signal, consumer = world.protocol.signal, world.protocol.consumer
    if signal is None:
        yield Broken("G1", "the stream was cut off without a cause")
        return
    if signal.cause is not expected.cut:
        wrong = "G13" if expected.cut is TRUNCATED else "G14"
        yield Broken(wrong, f"the cause is {signal.cause} and should be {expected.cut}")
    if WAKE_CONSUMER not in world.actions:
        yield Broken("G7", "nobody wakes the consumer at the cutoff")
    if WAKE_PRODUCER not in world.actions:
        yield Broken("G5", "nobody wakes the producer at the cutoff")
    if signal.cause is COMPLETED and world.protocol.client_left_early is not (consumer is AWAY):
        yield Broken("G14", "whether the reader had left before the end is told wrongly")
    yield from _policy(world, expected)


def _policy(world: World, expected: Expected) -> Iterator[Broken]:
    """The policy was applied, and the receipt will say which (G9)."""
    protocol, policy = world.protocol, world.scenario.policy
    drains = expected is TAIL or (expected is CUT_AWAY and policy.rule is DRAIN)
    if world.ended is None and (protocol.producer is DRAINING) is not drains:
        yield Broken("G9", f"the producer is {protocol.producer.name} under {policy}")
    ended = DrainEnd.NO_PLACE if expected is NO_PLACE else None
    if protocol.drain_end is not ended:
        yield Broken("G9", f"the end of the drain is {protocol.drain_end} and should be {ended}")
    left = any(signal.cause is CLIENT_DISCONNECT for signal in protocol.history)
    applied = "tail" if expected is TAIL else str(policy) if left else "none"
    if protocol.policy_applied != applied:
        yield Broken("G9", f"the receipt says {protocol.policy_applied} instead of {applied}")


def _history(was: Before, world: World, expected: Expected) -> Iterator[Broken]:
    history = world.protocol.history
    added = history[len(was.history) :]
    if history[: len(was.history)] != was.history:
        yield Broken("G8", "the history was rewritten")
    causes = tuple(signal.cause for signal in added)
    if causes != expected.signals:
        got, due = (", ".join(names) or "nothing" for names in (causes, expected.signals))
        yield Broken("G8", f"the history got {got} and should have got {due}")
    for signal in added:
        if (signal.category, signal.party) != ACTOR[signal.cause]:
            yield Broken("G14", f"{signal.cause} is attributed to {signal.party}")
        if signal.intent and signal == world.protocol.signal:
            yield Broken("G9", "an intent ended the stream")
