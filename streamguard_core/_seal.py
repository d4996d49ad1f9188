"""Builds the receipt of a stream from what its protocol knows: waste and prevented are two numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from streamguard_core._lifecycle import COMPLETED
from streamguard_core.accounting import UNKNOWN, Count, CountSource
from streamguard_core.protocol import StreamProtocol
from streamguard_core.receipt import Attempt, CloseState, Instants, Receipt
from streamguard_core.transitions import ENDED, FAILED, FINISHED, ProducerState


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


def build_receipt(protocol: StreamProtocol, about: Description, sealed_us: int) -> Receipt:
    """The record of this ending. The protocol is SEALED: nothing in it can change any more."""
    signal = protocol.signal
    assert signal is not None, "a sealed stream has a cause"
    output = _output(protocol)
    return Receipt(
        stream_id=about.stream_id,
        cause=signal.cause,
        party=signal.party,
        detail=signal.detail,
        finish=protocol.finish,
        client_left_early=protocol.client_left_early,
        history=protocol.history,
        policy=protocol.policy_applied,
        produced=protocol.produced,
        committed=protocol.committed,
        consumed=protocol.consumed,
        late=protocol.late,
        usage=protocol.usage,
        output=output,
        waste=_waste(protocol, output),
        prevented=_prevented(protocol, about.max_tokens, output),
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


def _output(protocol: StreamProtocol) -> Count:
    """Tokens generated: the provider's number where there is one, else what the chunks prove.

    A chunk may hold many tokens or half of one, so chunks give a value to look at and no bound but zero.
    """
    reported = protocol.usage.output
    if reported.known:
        return reported
    seen = protocol.produced + protocol.late
    return Count(seen, 0, None, _CHUNKS) if seen else UNKNOWN


def _waste(protocol: StreamProtocol, output: Count) -> Count:
    """Generated and never delivered: chunks seen and not consumed, at most what the provider says it made."""
    undelivered = protocol.produced + protocol.late - protocol.consumed
    if undelivered == 0 and protocol.signal is not None and protocol.signal.cause is COMPLETED:
        return _NOTHING
    upper = None if output.upper is None else max(output.upper, undelivered)
    return Count(undelivered, 0, upper, _CHUNKS)


def _prevented(protocol: StreamProtocol, max_tokens: int | None, output: Count) -> Count:
    """Never generated because we cut: zero where nothing was prevented, else at most what the cap left."""
    if protocol.producer is FINISHED or protocol.producer is FAILED or protocol.finish is not None:
        return _NOTHING
    if protocol.policy_applied.startswith(("drain", "tail")):
        return _NOTHING
    if max_tokens is None:
        return UNKNOWN
    generated = output.value or 0
    return Count(None, 0, max(max_tokens - generated, 0), _CHUNKS)


_CHUNKS: Final = CountSource.CHUNKS
_NOTHING: Final = Count.exact(0, _CHUNKS)

_CLOSE: Final = {
    ProducerState.FINISHED: CloseState.ENDED,
    ProducerState.FAILED: CloseState.ENDED,
    ProducerState.GONE: CloseState.CONFIRMED,
    ProducerState.UNCONFIRMED: CloseState.UNCONFIRMED,
}
