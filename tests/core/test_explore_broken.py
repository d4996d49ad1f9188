"""The explorer finds what is broken, and says it honestly when it could not look everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamguard_core import Action, Cause, ProducerState, Rule, State, StreamProtocol
from streamguard_core.explore import Bound, Driven, explore

from .broken import TIGHT, TINY, Generous, bent


class Raising(StreamProtocol):
    """Cannot be left."""

    __slots__ = ()

    def disconnected(
        self, detail: str, at_ns: int, unaccepted: int = 0, *, may_drain: bool = True
    ) -> None:
        raise KeyError(detail)


class RaisingWhenAsked(StreamProtocol):
    """Cannot be asked for EOS."""

    __slots__ = ()

    def give_up(self, at_ns: int) -> None:
        raise KeyError(at_ns)


def test_a_commit_after_the_cutoff_is_found() -> None:
    """A broken protocol is found, with the guarantees by name and a shortest path that shows it."""
    bound = Bound(tokens=2, signals=1, sizes=(0,))
    found = explore((Rule.CANCEL,), bound, TIGHT, Driven(Generous))
    shortest = {violation.guarantee: violation for violation in reversed(found.violations)}
    assert {"G2", "G4"} <= set(shortest)
    path = shortest["G2"].path
    assert path[0] == "offer(0)"
    assert path[-1] == "commit"
    assert len(path) == 4
    assert sorted(found.violations, key=lambda each: len(each.path)) == found.violations


def _waits_for_ever(protocol: StreamProtocol, right: Any, at_ns: int) -> None:
    protocol.until_ns = at_ns + 1


def _takes_everything(protocol: StreamProtocol, right: Any, size: int) -> bool:
    return bool(right(size)) or not protocol.live


def _forgets(protocol: StreamProtocol, right: Any, chunks: int, size: int = 0) -> None:
    right(chunks, size)
    protocol.late = -1


def _comes_back(protocol: StreamProtocol, right: Any, at_ns: int) -> None:
    right(at_ns)
    protocol.state = State.DRAINED


def _has_no_cause(protocol: StreamProtocol, right: Any, *arguments: Any, **keywords: Any) -> bool:
    right(*arguments, **keywords)
    protocol.signal = None
    return True


def _rewrites(protocol: StreamProtocol, right: Any, *arguments: Any, **keywords: Any) -> bool:
    decided = bool(right(*arguments, **keywords))
    protocol.history = protocol.history[-1:]
    return decided


def _ends_by_intent(protocol: StreamProtocol, right: Any, *arguments: Any, **keywords: Any) -> Any:
    return right(*arguments, intent=True)


def _ends_twice(protocol: StreamProtocol, right: Any, at_ns: int) -> bool:
    return bool(right(at_ns)) or protocol.eos_ready


def _confirms_at_once(protocol: StreamProtocol, right: Any, at_ns: int) -> None:
    right(at_ns)
    protocol.close_confirmed_ns = at_ns


def _counts_as_gone(protocol: StreamProtocol, right: Any, at_ns: int) -> None:
    right(at_ns)
    if protocol.producer is ProducerState.UNCONFIRMED:
        protocol.producer = ProducerState.GONE


def _hears_late_ends(
    protocol: StreamProtocol, right: Any, cause: Cause, detail: str, at_ns: int
) -> None:
    if protocol.producer is ProducerState.UNCONFIRMED:
        protocol.finish = "late"
    else:
        right(cause, detail, at_ns)


def _times_out_by_intent(
    protocol: StreamProtocol, right: Any, cause: Cause, *arguments: Any, **keywords: Any
) -> Any:
    intent = keywords.pop("intent", False) or cause is Cause.TIMEOUT_TOTAL
    return right(cause, *arguments, intent=intent)


def _relays_past_a_gate(protocol: StreamProtocol, right: Any, size: int) -> bool:
    return bool(right(size)) or (protocol.live and protocol.produced > protocol.cleared)


def _relays_what_is_over(protocol: StreamProtocol, right: Any, size: int) -> bool:
    return bool(right(size)) or protocol.producer is ProducerState.FINISHED


def _releases_only(protocol: StreamProtocol, right: Any, size: int) -> bool:
    if protocol.live and protocol.committed > protocol.consumed:
        protocol.consume(1, size)
        return True
    return bool(right(size))


def _stays_a_reader(protocol: StreamProtocol, right: Any, at_ns: int) -> bool:
    return protocol.eos_ready


def _asks_twice(protocol: StreamProtocol, right: Any) -> tuple[Action, ...]:
    actions: tuple[Action, ...] = right()
    return actions + actions


def _seals_quietly(protocol: StreamProtocol, right: Any, at_ns: int) -> None:
    if protocol.state is State.DRAINED:
        right(at_ns)


def _lets_sleep(who: Action) -> Callable[..., tuple[Action, ...]]:
    def act(protocol: StreamProtocol, right: Any) -> tuple[Action, ...]:
        return tuple(action for action in right() if action is not who)

    return act


BENT = [
    ("G10", "time alone never brings the seal", bent("give_up", _waits_for_ever)),
    ("G2", "a chunk was relayed or released after the cutoff", bent("relay", _takes_everything)),
    ("G3", "a counter shrank", bent("consume", _forgets)),
    ("G1", "there is a way from SEALED to DRAINED", bent("leave", _comes_back)),
    ("G1", "the stream was cut off without a cause", bent("terminate", _has_no_cause)),
    ("G8", "the history was rewritten", bent("terminate", _rewrites)),
    ("G9", "an intent ended the stream", bent("_record", _ends_by_intent)),
    ("G6", "EOS was handed over 2 times", bent("take_eos", _ends_twice)),
    ("G10", "a close is confirmed that did not happen", bent("close_called", _confirms_at_once)),
    ("G10", "the producer counts as GONE and still runs", bent("give_up", _counts_as_gone)),
    ("G14", "after it was given up on changed", bent("producer_failed", _hears_late_ends)),
    ("G8", "does not have the late failure", bent("producer_failed", _hears_late_ends)),
    ("G9", "an intent ended the stream", bent("_record", _times_out_by_intent)),
    ("gates", "relayed past one that a gate holds", bent("relay", _relays_past_a_gate)),
    ("G2", "relayed after its producer had ended", bent("relay", _relays_what_is_over)),
    ("G5", "freed capacity is not used at once", bent("release", _releases_only)),
    ("G6", "after 1 EOS", bent("take_eos", _stays_a_reader)),
    ("G11", "asked to do the same thing twice", bent("take_actions", _asks_twice)),
    ("G11", "sealed that is not drained, or sealed twice", bent("seal", _seals_quietly)),
    ("G7", "nobody wakes the consumer", bent("take_actions", _lets_sleep(Action.WAKE_CONSUMER))),
    ("G5", "nobody wakes the producer", bent("take_actions", _lets_sleep(Action.WAKE_PRODUCER))),
]


@pytest.mark.parametrize(("guarantee", "text", "protocol"), BENT, ids=[row[1] for row in BENT])
def test_what_is_bent_is_found(guarantee: str, text: str, protocol: type[StreamProtocol]) -> None:
    """Each check finds a protocol that breaks it, and names the guarantee."""
    bound = Bound(tokens=2, signals=2, states=10_000)
    found = explore((Rule.CANCEL,), bound, TIGHT, Driven(protocol))
    assert guarantee in {each.guarantee for each in found.violations if text in each.text}


@pytest.mark.parametrize("protocol", [Raising, RaisingWhenAsked])
def test_an_exception_is_found(protocol: type[StreamProtocol]) -> None:
    """A protocol that raises instead of deciding is a finding, not a crash of the explorer."""
    found = explore((Rule.CANCEL,), TINY, TIGHT, Driven(protocol), stop_at_first=True)
    assert [each.guarantee for each in found.violations] == ["G11"]
    assert "KeyError" in found.violations[0].text


def test_stopping_at_the_first_breach_stops() -> None:
    """With `stop_at_first` no further state, and no further policy, is visited."""
    broken = Driven(Generous)
    everything = explore(bound=TINY, limits=TIGHT, driven=broken)
    first = explore(bound=TINY, limits=TIGHT, driven=broken, stop_at_first=True)
    assert len(first.scenarios) == 1
    assert first.states < everything.scenarios[0].states
    assert first.violations[0].path == everything.violations[0].path


# -- what was not visited is not proved -------------------------------------------------------------------


def _least(states: int) -> Bound:
    return TINY._replace(states=states)


@pytest.mark.parametrize("states", [1, 2, 10, 100, 500, 1_000])
def test_a_search_that_is_cut_short_finds_nothing_and_proves_nothing(states: int) -> None:
    """At its bound on states a search ends: no breach is made up of what was not visited, and it is not ok."""
    found = explore((Rule.CANCEL,), _least(states), TIGHT)
    assert (found.states, found.violations) == (states, [])
    assert not found.complete
    assert not found.ok


def test_a_search_that_ends_by_itself_is_complete() -> None:
    """Only the state that is one too many cuts a search short."""
    everything = explore((Rule.CANCEL,), TINY, TIGHT)
    enough = explore((Rule.CANCEL,), _least(everything.states), TIGHT)
    short = explore((Rule.CANCEL,), _least(everything.states - 1), TIGHT)
    assert (everything.ok, enough.ok, short.ok) == (True, True, False)
    assert (enough.states, enough.transitions) == (everything.states, everything.transitions)
    assert short.states == everything.states - 1


def test_one_policy_that_is_cut_short_is_enough() -> None:
    """An exploration is complete when the search of every policy is."""
    one, other = (explore((rule,), TINY, TIGHT).states for rule in (Rule.CANCEL, Rule.GRACE))
    assert one < other
    found = explore((Rule.CANCEL, Rule.GRACE), _least(one), TIGHT)
    assert [each.complete for each in found.scenarios] == [True, False]
    assert not found.complete


class Endless(StreamProtocol):
    """Counts on for ever, and breaks nothing."""

    __slots__ = ("counted",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counted = 0

    def reading(self) -> None:
        super().reading()
        self.counted += 1

    def connected(self, at_ns: int) -> None:
        super().connected(at_ns)
        self.connected_ns = None
        self.counted += 1


def test_a_protocol_without_end_is_given_up_on() -> None:
    """A protocol that always has another state ends the search at its bound, without a breach."""
    found = explore((Rule.CANCEL,), _least(5_000), TIGHT, Driven(Endless))
    assert (found.states, found.violations, found.ok) == (5_000, [], False)
