"""Takes each guard of the protocol away in turn; the explorer, or a property, must name what broke.

A guard is every condition of `_lifecycle.py` and `protocol.py`: the test of an `if`, each operand of an
`and` or `or`, each argument of a `min` or `max`, each condition that is returned. Each is replaced, one at
a time, in a copy of the class that is compiled from the source, and that copy is explored.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamguard_core import (
    Action,
    Cause,
    Deadlines,
    DrainEnd,
    Limits,
    Offer,
    Party,
    Rule,
    StreamProtocol,
    Usage,
    cancel,
    drain,
    grace,
    transitions,
)
from streamguard_core import _lifecycle as lifecycle_module
from streamguard_core import protocol as protocol_module
from streamguard_core._lifecycle import MAX_HISTORY
from streamguard_core.explore import explore
from streamguard_core.limits import DEFAULT_DEADLINES, DEFAULT_LIMITS
from streamguard_core.transitions import Event

from .mutating import class_of, compiled, driven, impatient, sites

Property = Callable[[type[StreamProtocol]], None]


# -- what catches each -----------------------------------------------------------------------------------


def defaults(protocol: type[StreamProtocol]) -> None:
    """What is not given is the default, what is given is kept."""
    plain = protocol()
    assert (plain.limits, plain.deadlines, plain.policy) == (
        DEFAULT_LIMITS,
        DEFAULT_DEADLINES,
        cancel(),
    )
    assert not plain.timed
    given = (Limits(max_inflight_commits=2), Deadlines(total=1), drain(1))
    other = protocol(*given)
    assert (other.limits, other.deadlines, other.policy, other.timed) == (*given, True)
    assert not protocol(None, Deadlines(close=1)).timed


def shown(protocol: type[StreamProtocol]) -> None:
    """The repr shows the cause, once there is one."""
    stream = protocol()
    assert "signal=None" in repr(stream)
    stream.terminate(Cause.BUDGET, "", 0)
    assert "signal=BUDGET" in repr(stream)


def first_instants(protocol: type[StreamProtocol]) -> None:
    """Instants on the receipt are those of the first time."""
    stream = protocol()
    for instant in (1, 2):
        stream.connected(instant)
        stream.close_called(instant)
        stream.offer(0, instant)
    assert (stream.connected_ns, stream.close_called_ns, stream.first_chunk_ns) == (1, 1, 1)


def bounded_history(protocol: type[StreamProtocol]) -> None:
    """The history is bounded, and has the terminal signal."""
    stream = protocol(None, None, grace(1))
    for instant in range(2 * MAX_HISTORY):
        stream.disconnected("", instant)
        stream.reading()
    stream.terminate(Cause.BUDGET, "", 0)
    assert len(stream.history) <= MAX_HISTORY
    assert stream.signal in stream.history


def named_party(protocol: type[StreamProtocol]) -> None:
    """Whoever is named is behind a cause (G14)."""
    stream = protocol()
    stream.terminate(Cause.INTERNAL_ERROR, "", 0, Party.APPLICATION)
    assert stream.signal is not None
    assert stream.signal.party is Party.APPLICATION


def fast(protocol: type[StreamProtocol]) -> None:
    """The fast path is taken where nothing is to be decided."""
    stream = protocol()
    stream.offer(1)
    stream.clear(1)
    stream.commit()
    assert stream.relay(1)
    assert stream.release(1)


def carried(protocol: type[StreamProtocol]) -> None:
    """Chunks go past where nothing is to be decided, and nothing else is in hand (G2, G3, G9)."""
    stream = protocol(None, None, grace(1, max_tokens=1))
    assert not stream.go_past(1)
    stream.offer(1)
    stream.clear(1)
    stream.commit()
    assert not stream.go_past(1)
    stream.consume(1, 1)
    assert stream.go_past(2)
    assert (stream.produced, stream.cleared, stream.committed, stream.consumed) == (3, 3, 3, 3)
    stream.disconnected("", 0)
    assert not stream.go_past(1)


def without_bounds(protocol: type[StreamProtocol]) -> None:
    """A grace without tokens and a drain without bytes are bounded by time alone (G9)."""
    stream = protocol(None, None, grace(1))
    stream.disconnected("", 0)
    assert stream.offer(1) is Offer.ACCEPTED
    stream = protocol(None, None, drain(1))
    stream.disconnected("", 0)
    assert stream.offer(1 << 30) is Offer.REFUSED
    assert Action.CLOSE_PRODUCER not in stream.pending


def tokens_read_on(protocol: type[StreamProtocol]) -> None:
    """A drain counts chunks as tokens, or what the provider's own count has grown by where that is more."""

    def drained(at_cut: int | None, later: int, chunks: int) -> DrainEnd | None:
        stream = protocol(None, None, drain(1, max_tokens=3))
        counted = Usage.reported_by_provider
        stream.provider_finished(None, counted(output=at_cut, final=False))
        stream.disconnected("", 0)
        stream.provider_finished(None, counted(output=later, final=False))
        for _ in range(chunks):
            stream.offer(1)
        return stream.drain_end

    assert (drained(10, 12, 2), drained(10, 12, 3)) == (None, DrainEnd.TOKENS)
    assert (drained(10, 13, 1), drained(None, 13, 1)) == (DrainEnd.TOKENS, None)


def whole(protocol: type[StreamProtocol]) -> None:
    """A stream of which something is still in hand is not complete, whatever the provider said (G13)."""
    stream = protocol()
    stream.provider_finished("stop", None)
    stream.disconnected("", 0, unaccepted=1)
    assert stream.signal is not None
    assert stream.signal.cause is Cause.CLIENT_DISCONNECT


PROPERTIES: dict[str, Property] = {
    holds.__name__: holds
    for holds in (
        defaults,
        shown,
        first_instants,
        bounded_history,
        named_party,
        fast,
        carried,
        without_bounds,
        tokens_read_on,
        whole,
    )
}

GUARDS = tomllib.loads(Path(__file__).with_name("guards.toml").read_text(encoding="utf-8"))
EXPLORED: dict[str, str] = GUARDS["explored"]
LOST: dict[str, str] = GUARDS["properties"]
EQUIVALENT: dict[str, str] = GUARDS["equivalent"]

SITES = {
    site.name: site
    for site in (*sites(lifecycle_module, "Lifecycle"), *sites(protocol_module, "StreamProtocol"))
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_holds(name: str) -> None:
    """The protocol as it is has every property that a mutant below must lack."""
    PROPERTIES[name](StreamProtocol)


def test_every_guard_is_named() -> None:
    """Whoever adds a condition to the protocol says what catches its loss, or why nothing can."""
    named = [*EXPLORED, *LOST, *EQUIVALENT]
    gone = [name for name in named if name not in SITES]
    assert not gone, "guards.toml names what is no guard any more"
    found = [_line(name) for name in SITES if name not in named]
    assert not found, "guards.toml lacks:\n" + "\n".join(found)
    assert len(set(named)) == len(named), "guards.toml names a guard twice"


@pytest.mark.parametrize("name", EXPLORED)
def test_explorer_notices(name: str) -> None:
    """Without the guard the explorer finds a violation of the guarantee that it holds up."""
    guarantee, rule = EXPLORED[name].split()
    assert guarantee in _broken(name, Rule(rule)), f"guards.toml should say {_line(name)}"


@pytest.mark.parametrize("name", LOST)
def test_property_notices(name: str) -> None:
    """Without the guard a property is lost that no state shows."""
    with pytest.raises((AssertionError, AttributeError, TypeError)):
        PROPERTIES[LOST[name]](driven(SITES[name]).protocol)


@pytest.mark.parametrize("name", EQUIVALENT)
def test_equivalent_has_a_reason(name: str) -> None:
    """A condition whose loss nothing shows says why, in a sentence."""
    assert len(EQUIVALENT[name].split()) >= 3


def _broken(name: str, rule: Rule) -> list[str]:
    """The guarantees that are broken first without a guard."""
    found = explore((rule,), driven=driven(SITES[name]), stop_at_first=True)
    return [violation.guarantee for violation in found.violations]


def _line(name: str) -> str:
    """The line that guards.toml needs; one without a guarantee needs a property, or a reason."""
    for rule in Rule:
        if broken := _broken(name, rule):
            return f'"{name}" = "{broken[0]} {rule}"'
    return f'"{name}" = ""'


# -- the cells of the tables are guards, too -------------------------------------------------------------

CELLS = [
    pytest.param(name, state, event, id=f"{name} {state.name} {event.name}")
    for name in ("STREAM_TABLE", "PRODUCER_TABLE", "CONSUMER_TABLE")
    for state, row in getattr(transitions, name).items()
    for event in row
]


@pytest.mark.parametrize(("name", "state", "event"), CELLS)
def test_explorer_notices_a_cell_that_is_gone(name: str, state: Any, event: Event) -> None:
    """A transition that is missing from a table is noticed under one of the policies."""
    tables = {**vars(transitions)}
    tables[name] = {key: {**row} for key, row in tables[name].items()}
    del tables[name][state][event]
    table = SimpleNamespace(**tables)
    tree = class_of(lifecycle_module, "Lifecycle")
    lifecycle = compiled(lifecycle_module, tree, table=table)
    own = class_of(protocol_module, "StreamProtocol")
    protocol = compiled(protocol_module, own, Lifecycle=lifecycle, table=table)
    found = explore(driven=impatient(protocol), stop_at_first=True).violations
    assert found or _does_not_come_back(protocol)


def _does_not_come_back(protocol: type[StreamProtocol]) -> bool:
    """The one cell no guarantee shows: a reader that returns within its grace must be a reader again."""
    stream = protocol(None, None, grace(1))
    stream.reading()
    stream.disconnected("", 0)
    stream.reading()
    return stream.consumer is not StreamProtocol().consumer.__class__.READING
