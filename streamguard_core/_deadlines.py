"""Which deadline of a stream is next, and what its passing means; reads the protocol, keeps nothing."""

from __future__ import annotations

from collections.abc import Iterator

from streamguard_core.causes import Cause
from streamguard_core.limits import to_ns
from streamguard_core.policies import DrainEnd
from streamguard_core.protocol import StreamProtocol
from streamguard_core.transitions import ConsumerState, ProducerState, State

Due = tuple[int, Cause | None]
"""An instant, and the cause its passing is; None for the bounded waits of grace, drain and finalisation."""


def next_due(protocol: StreamProtocol) -> Due | None:
    """The earliest instant at which time alone changes something, or None."""
    return min(_dues(protocol), key=_instant, default=None)


def next_look(protocol: StreamProtocol, now_ns: int) -> int | None:
    """When to look at the deadlines again; None for never.

    A wait that begins per chunk (idle, stall) is not announced: while one may begin, look again after
    its timeout, so that timers move when they fire and not per chunk.
    """
    due = next_due(protocol)
    looks = [due[0]] if due is not None else []
    if protocol.live:
        waits = (protocol.deadlines.idle, protocol.deadlines.consumer_stall)
        looks += [now_ns + to_ns(wait) for wait in waits if wait is not None]
    return min(looks, default=None)


def tick(protocol: StreamProtocol, now_ns: int) -> None:
    """Apply every deadline that has passed by `now_ns`, the earliest first, at the instant it was due."""
    while (due := next_due(protocol)) is not None and due[0] <= now_ns:
        at_ns, cause = due
        if cause is not None:
            protocol.terminate(cause, "", at_ns)
        else:
            _wait_is_over(protocol, at_ns)


def _instant(due: Due) -> int:
    return due[0]


def _wait_is_over(protocol: StreamProtocol, at_ns: int) -> None:
    """The wait that `until_ns` bounds depends on the state: grace, drain, close or finalisation."""
    protocol.until_ns = None
    if protocol.live:
        protocol.grace_is_over(at_ns)
    elif protocol.producer is ProducerState.DRAINING:
        protocol.stop_draining(at_ns, DrainEnd.SECONDS)
    elif protocol.producer is ProducerState.STOPPING:
        protocol.give_up(at_ns)
    else:
        protocol.leave(at_ns)


def _dues(protocol: StreamProtocol) -> Iterator[Due]:
    if protocol.until_ns is not None and protocol.state is not State.SEALED:
        yield protocol.until_ns, None
    if not protocol.live:
        return
    deadlines, opened = protocol.deadlines, protocol.opened_ns
    if deadlines.total is not None:
        yield opened + to_ns(deadlines.total), Cause.TIMEOUT_TOTAL
    if protocol.producer is ProducerState.RUNNING:
        yield from _producer_dues(protocol, opened)
    since = protocol.consumer_since_ns
    if (
        deadlines.consumer_stall is not None
        and since is not None
        and protocol.consumer is ConsumerState.READING
    ):
        yield since + to_ns(deadlines.consumer_stall), Cause.CONSUMER_STALLED


def _producer_dues(protocol: StreamProtocol, opened: int) -> Iterator[Due]:
    deadlines, since = protocol.deadlines, protocol.producer_since_ns
    if not protocol.content_seen:
        unconnected = protocol.connected_ns is None and protocol.first_chunk_ns is None
        if deadlines.connect is not None and unconnected:
            yield opened + to_ns(deadlines.connect), Cause.TIMEOUT_CONNECT
        if deadlines.first_token is not None:
            yield opened + to_ns(deadlines.first_token), Cause.TIMEOUT_FIRST_TOKEN
    elif deadlines.idle is not None and since is not None:
        yield since + to_ns(deadlines.idle), Cause.TIMEOUT_IDLE
