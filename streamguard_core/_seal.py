"""Builds the receipt of a stream from what its protocol knows: waste and prevented are two numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from streamguard_core._lifecycle import COMPLETED
from streamguard_core.accounting import NO_USAGE, UNKNOWN, Count, CountSource, Usage, total_usage
from streamguard_core.policies import DrainEnd
from streamguard_core.protocol import StreamProtocol
from streamguard_core.receipt import Attempt, AttemptOutcome, CloseState, Instants, Receipt
from streamguard_core.termination import OnClose, Termination
from streamguard_core.transitions import ENDED, GONE, UNCONFIRMED, ProducerState


class Description(msgspec.Struct, kw_only=True, gc=False):
    """What the application and the provider said about a stream; not what was decided."""

    stream_id: str
    opened_us: int
    model: str | None = None
    provider: str | None = None
    request_id: str | None = None
    max_tokens: int | None = None
    tags: Mapping[str, str] = {}
    attempts: tuple[Attempt, ...] = ()
    attempts_beyond: int = 0
    acknowledged: int | None = None
    """How many chunks the reader is known to have by its own word; None for one that does not acknowledge."""
    termination: Termination | None = None
    """The row that was used: to decide on a disconnect, or to say what a cut has prevented."""


def take_over(about: Description, before: Description) -> None:
    """A stream goes on under the same name: what was said of it `before` holds where nothing else was said since."""
    about.stream_id, about.opened_us = before.stream_id, before.opened_us
    for name in ("model", "provider", "request_id", "max_tokens"):
        if getattr(about, name) is None:
            setattr(about, name, getattr(before, name))
    about.tags = {**before.tags, **about.tags}
    about.attempts = before.attempts + about.attempts
    about.attempts_beyond += before.attempts_beyond


def heed_attempts(protocol: StreamProtocol, about: Description) -> None:
    """What the producer did not say itself, the calls to the provider have: its usage, its finish, its names.

    Only now: a call may be over long before what it brought has been committed.
    """
    if not about.attempts:
        return
    last = about.attempts[-1]
    about.model = about.model or last.model
    about.provider = about.provider or last.provider
    about.request_id = about.request_id or last.request_id
    protocol.provider_finished(
        finish_of(protocol, about),
        _usage_of(about) if protocol.usage is NO_USAGE else None,
    )


def finish_of(protocol: StreamProtocol, about: Description) -> str | None:
    """What the provider said at its end, as far as it is known: to the producer, or else in the last call."""
    if protocol.finish is None and about.attempts and not about.attempts_beyond:
        return about.attempts[-1].finish
    return protocol.finish


def truncated_by(protocol: StreamProtocol, about: Description) -> str | None:
    """The provider whose stream was not whole although its SDK ended as if it were (G13); None where it was.

    Only of the last call: what came before it, the application has seen and gone on. A producer that tells
    its finish knows better.
    """
    if protocol.finish is not None or not about.attempts or about.attempts_beyond:
        return None
    last = about.attempts[-1]
    return (last.provider or "the provider") if last.outcome is AttemptOutcome.TRUNCATED else None


def _consumed(protocol: StreamProtocol, about: Description) -> int:
    return protocol.consumed if about.acknowledged is None else about.acknowledged


def _usage_of(about: Description) -> Usage | None:
    """Money is spent per attempt; what one that cost something did not report is not known."""
    spent: list[Usage | None] = [
        attempt.usage for attempt in about.attempts if not attempt.cost_nothing
    ]
    if about.attempts_beyond:
        # Of those nothing is known any more: what is known is at least so much.
        spent.append(None)
    return total_usage(spent) if any(usage is not None for usage in spent) else None


def build_receipt(protocol: StreamProtocol, about: Description, sealed_us: int) -> Receipt:
    """The record of this ending. The protocol is SEALED: nothing in it can change any more."""
    signal = protocol.signal
    assert signal is not None, "a sealed stream has a cause"
    output = _output(protocol, about)
    row = about.termination
    return Receipt(
        stream_id=about.stream_id,
        cause=signal.cause,
        party=signal.party,
        detail=signal.detail,
        finish=protocol.finish,
        client_left_early=protocol.client_left_early,
        history=protocol.history,
        policy=protocol.policy_applied,
        drain=protocol.drain_end,
        termination=None if row is None else str(row),
        produced=protocol.produced,
        committed=protocol.committed,
        consumed=_consumed(protocol, about),
        late=protocol.late,
        usage=protocol.usage,
        output=output,
        waste=_waste(protocol, about, output),
        prevented=_prevented(protocol, about, output),
        close=_CLOSE[protocol.producer],
        eos_delivered=protocol.consumer is ENDED,
        instants=_instants(protocol),
        opened_us=about.opened_us,
        sealed_us=sealed_us,
        model=about.model,
        provider=about.provider,
        request_id=about.request_id,
        max_tokens=about.max_tokens,
        attempts=about.attempts,
        attempts_beyond=about.attempts_beyond,
        tags=about.tags,
    )


def _instants(protocol: StreamProtocol) -> Instants:
    signal = protocol.signal
    cutoff_ns = signal.at_ns if signal is not None else None
    return Instants(
        opened_ns=protocol.opened_ns,
        connected_ns=protocol.connected_ns,
        first_chunk_ns=protocol.first_chunk_ns,
        # The first signal may be an intent (grace) that became authority later.
        cause_ns=protocol.history[0].at_ns if protocol.history else cutoff_ns,
        cutoff_ns=cutoff_ns,
        close_called_ns=protocol.close_called_ns,
        close_confirmed_ns=protocol.close_confirmed_ns,
        sealed_ns=protocol.sealed_ns,
    )


def was_told(protocol: StreamProtocol) -> bool:
    """Whether the producer was told to end, or read on after the reader: it had not ended by itself."""
    return protocol.producer is GONE or protocol.producer is UNCONFIRMED


def _cut_short(protocol: StreamProtocol) -> bool:
    """Whether the provider may have had more to generate: it said no finish, and was not read to its end."""
    ended = protocol.drain_end is DrainEnd.FINISHED or protocol.drain_end is DrainEnd.FAILED
    return was_told(protocol) and protocol.finish is None and not ended


def _goes_on(protocol: StreamProtocol, about: Description) -> bool:
    """Whether the provider bills what it generates after we have closed it (P33)."""
    row = about.termination
    return row is not None and row.on_close is OnClose.BILLS_FULL and _cut_short(protocol)


def _output(protocol: StreamProtocol, about: Description) -> Count:
    """Tokens generated: the provider's number where there is one, else what the chunks prove.

    A chunk may hold many tokens or half of one, so chunks give a value to look at and no bound: what some
    of several calls have reported is one from below. An application between the calls and us may join
    their chunks, or drop those of a call that it has made again: then the calls know of more.
    Where the provider goes on after the close nobody has counted: the requests' own caps are all that is known.
    """
    reported = protocol.usage.output
    if reported.upper is None and _goes_on(protocol, about):
        source = reported.source if reported.known else _CHUNKS
        return Count.at_least(reported.lower, source, _cap(about, reported.lower))
    if reported.known:
        return reported
    seen = max(protocol.produced + protocol.late, sum(map(_generated_by, about.attempts)))
    if not seen:
        return reported
    return Count(max(seen, reported.lower), reported.lower, None, _CHUNKS)


def _generated_by(attempt: Attempt) -> int:
    reported = None if attempt.usage is None else attempt.usage.output.value
    return attempt.chunks if reported is None else reported


def _cap(about: Description, at_least: int) -> int | None:
    """The most that can have been generated: each call that was sent has the request's cap."""
    if about.max_tokens is None:
        return None
    sent = sum(attempt.connected is not False for attempt in about.attempts) + about.attempts_beyond
    return max(about.max_tokens * (sent if about.attempts else 1), at_least)


def _waste(protocol: StreamProtocol, about: Description, output: Count) -> Count:
    """Generated and never delivered: chunks seen and not consumed, at most what the provider says it made."""
    if output.value is None and _goes_on(protocol, about):
        return Count.at_least(0, _CHUNKS, output.upper)
    undelivered = protocol.produced + protocol.late - _consumed(protocol, about)
    if undelivered == 0 and protocol.signal is not None and protocol.signal.cause is COMPLETED:
        return _NOTHING
    upper = None if output.upper is None else max(output.upper, undelivered)
    return Count(undelivered, 0, upper, _CHUNKS)


def _prevented(protocol: StreamProtocol, about: Description, output: Count) -> Count:
    """Never generated because we cut: zero where nothing was prevented, else at most what the cap left."""
    if not _cut_short(protocol) or _goes_on(protocol, about):
        return _NOTHING
    if about.max_tokens is None:
        return UNKNOWN
    # Each call has the cap, so what an earlier one has generated takes nothing from the last one's.
    generated = output.value or 0
    cap = max(_cap(about, generated) or 0, about.max_tokens)
    return Count(None, 0, max(cap - generated, 0), _CHUNKS)


_CHUNKS: Final = CountSource.CHUNKS
_NOTHING: Final = Count.exact(0, _CHUNKS)

_CLOSE: Final = {
    ProducerState.FINISHED: CloseState.ENDED,
    ProducerState.FAILED: CloseState.ENDED,
    ProducerState.GONE: CloseState.CONFIRMED,
    ProducerState.UNCONFIRMED: CloseState.UNCONFIRMED,
}
