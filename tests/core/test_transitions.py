"""The transition tables, cell by cell: a cell that is there moves its role, one that is missing does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import pytest

from streamguard_core import TRANSITIONS, ConsumerState, ProducerState, State, StreamProtocol
from streamguard_core.transitions import AnyState, Event

ROLES: Final[dict[str, type[State] | type[ProducerState] | type[ConsumerState]]] = {
    "stream": State,
    "producer": ProducerState,
    "consumer": ConsumerState,
}
Tables = Mapping[str, Mapping[Any, Mapping[Event, Any]]]
TABLES: Final = cast("Tables", TRANSITIONS)

# Written down a second time, so that no cell is added, lost or bent unnoticed.
CELLS: Final = """
stream    OPEN         CHUNK    STREAMING
stream    OPEN         CUT      CUTOFF
stream    OPEN         DRAIN    CUTOFF
stream    STREAMING    CUT      CUTOFF
stream    STREAMING    DRAIN    CUTOFF
stream    CUTOFF       GONE     DRAINED
stream    DRAINED      SEAL     SEALED
producer  RUNNING      FINISH   FINISHED
producer  RUNNING      FAIL     FAILED
producer  RUNNING      CUT      STOPPING
producer  RUNNING      DRAIN    DRAINING
producer  DRAINING     FINISH   GONE
producer  DRAINING     FAIL     GONE
producer  DRAINING     CUT      STOPPING
producer  STOPPING     FINISH   GONE
producer  STOPPING     FAIL     GONE
producer  STOPPING     GIVE_UP  UNCONFIRMED
consumer  ABSENT       READ     READING
consumer  ABSENT       LEAVE    AWAY
consumer  READING      LEAVE    AWAY
consumer  READING      EOS      ENDED
consumer  AWAY         READ     READING
consumer  AWAY         EOS      ENDED
"""

EXPECTED: Final = {
    (role, state, event): to
    for role, state, event, to in (line.split() for line in CELLS.strip().splitlines())
}


EVERY_CELL: Final = [
    pytest.param(role, state, event, id=f"{role}-{state.name}-{event.name}")
    for role, states in ROLES.items()
    for state in states
    for event in Event
]


def _role(protocol: StreamProtocol, role: str) -> AnyState:
    found: AnyState = getattr(protocol, "state" if role == "stream" else role)
    return found


def _in(role: str, state: AnyState) -> StreamProtocol:
    protocol = StreamProtocol()
    setattr(protocol, "state" if role == "stream" else role, state)
    return protocol


@pytest.mark.parametrize(("role", "state", "event"), EVERY_CELL)
def test_cell(role: str, state: AnyState, event: Event) -> None:
    """An event moves a role to where its cell says; without a cell it changes nothing in that role."""
    protocol = _in(role, state)
    protocol._move(event)
    assert _role(protocol, role).name == EXPECTED.get((role, state.name, event.name), state.name)


@pytest.mark.parametrize("event", Event)
def test_move_says_whether_any_role_has_a_cell(event: Event) -> None:
    """An event is allowed where it moves something."""
    for state in State:
        for producer in ProducerState:
            for consumer in ConsumerState:
                protocol = StreamProtocol()
                protocol.state, protocol.producer, protocol.consumer = state, producer, consumer
                allowed = protocol._move(event)
                after = (protocol.state, protocol.producer, protocol.consumer)
                assert allowed is (after != (state, producer, consumer))


def test_no_state_is_missing_from_the_tables() -> None:
    """Every state of every role has a row, and every row is a state's."""
    for role, states in ROLES.items():
        assert set(TABLES[role]) == set(states)


def test_every_event_moves_somebody() -> None:
    """There is no event that no role has a cell for."""
    used = {event for table in TABLES.values() for row in table.values() for event in row}
    assert used == set(Event)


def test_every_state_can_be_reached() -> None:
    """No state is without a way to it from the first one of its role."""
    for role, states in ROLES.items():
        assert _reachable(role, next(iter(states))) == set(states)


@pytest.mark.parametrize("state", [State.CUTOFF, State.DRAINED, State.SEALED])
def test_there_is_no_way_back_across_the_cutoff(state: State) -> None:
    """From the cutoff on, no event leads to a live state (G1), nor cuts a second time (G8)."""
    assert not _reachable("stream", state) & {State.OPEN, State.STREAMING}
    assert not {Event.CUT, Event.DRAIN} & set(TABLES["stream"][state])


def test_only_the_seal_leaves_drained_and_nothing_leaves_sealed() -> None:
    """A stream is sealed once, when it is drained (G11)."""
    assert set(TABLES["stream"][State.DRAINED]) == {Event.SEAL}
    assert not TABLES["stream"][State.SEALED]
    sealing = [state for state, row in TABLES["stream"].items() if Event.SEAL in row]
    assert sealing == [State.DRAINED]


def test_eos_is_handed_over_once() -> None:
    """Nothing leads on from the consumer's end, so there is one EOS at most (G6)."""
    assert not TABLES["consumer"][ConsumerState.ENDED]


def _reachable(role: str, start: Any) -> set[Any]:
    found, waiting = {start}, [start]
    while waiting:
        for to in TABLES[role][waiting.pop()].values():
            if to not in found:
                found.add(to)
                waiting.append(to)
    return found
