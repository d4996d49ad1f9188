"""The streams of one process whose readers acknowledge what they have got: which they are, and whose."""

from __future__ import annotations

import secrets
import weakref
from typing import Final, NamedTuple

import msgspec

from streamguard_core.acknowledgements import longest_delay
from streamguard_core.errors import UsageError
from streamguard_core.keeping import DEFAULT_MAX_ENDED, Stopped, stop_session
from streamguard_core.receipt import Receipt
from streamguard_core.replay import Refusal, ResumeError
from streamguard_core.session import StreamSession

ACKNOWLEDGE_HEADER: Final = "streamguard-acknowledge"
"""In a request: this reader acknowledges. In its response: how long it may collect first, in milliseconds."""
_DIGITS: Final = 15


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an acknowledgement.

    Args:
        stream_id: names the stream.
        counted: it was news; False for a duplicate, an older one, and one after the receipt: nothing has changed.
        consumed: how many chunks the reader is known to have.
        sealed: the receipt is written.
    """

    stream_id: str
    counted: bool
    consumed: int
    sealed: bool


class AcknowledgedStreams:
    """Finds the stream that an acknowledgement, or a wish to stop, is about.

    An adapter's `Acknowledge` is one of these; it knows whose a request is. All of it lives in this process, and
    is used on the event loop on which the streams run.

    Args:
        required: every reader acknowledges; without it those do that say so when they ask for the stream.
        max_ended: of how many streams that have ended it is known what became of them; the oldest go first.

    Raises:
        UsageError: when `max_ended` is negative.
    """

    def __init__(self, *, required: bool = False, max_ended: int = DEFAULT_MAX_ENDED) -> None:
        if max_ended < 0:
            raise UsageError(f"max_ended={max_ended!r} was given; it is not negative")
        self.required = required
        self._max_ended = max_ended
        self._live: dict[str, _Live] = {}
        self._ended: dict[str, _Ended] = {}
        """The oldest first."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._live)} streams>"

    @property
    def live(self) -> int:
        """How many streams are known that are not sealed."""
        return len(self._live)

    def wants(self, announced: str | None) -> bool:
        """Whether a reader acknowledges.

        Args:
            announced: what it said in its header `ACKNOWLEDGE_HEADER`.
        """
        return self.required or announced not in (None, "", "0")

    def begin(
        self, session: StreamSession, owner: str, *, expected: bool, stall: float | None
    ) -> dict[str, str]:
        """From now on `session` is known; returns what is told to its reader, as headers.

        Args:
            session: the stream, before anything of it was sent.
            owner: whose it is; empty for nobody's in particular.
            expected: whether its reader acknowledges.
            stall: how long that may take, in seconds; None for any time.

        Raises:
            UsageError: when something of the stream was sent already.
        """
        if expected:
            session.expect_acknowledgements(stall)
        name = session.stream_id
        # Weakly: a session that is dropped must be finalised at once, and is known no longer.
        live = self._live[name] = _Live(owner.encode(), weakref.ref(session))
        session.on_sealed(lambda receipt: self._has_ended(name, live, receipt))
        return asked(stall) if expected else {}

    def acknowledge_of(self, name: str, owner: str, offset: str) -> Acknowledged:
        """The reader has every chunk up to `offset`.

        Args:
            name: the id of the stream, or what stands before the colon in the ids of its events.
            owner: whose the request is.
            offset: commit offset, as the address has it.

        Raises:
            ResumeError: when it is no offset, so much was never sent, or the stream is unknown, somebody else's, or
                one whose reader does not acknowledge: nothing is changed.
        """
        number = _offset(offset)
        found = self._find(name, owner)
        if isinstance(found, _Ended):
            return Acknowledged(
                stream_id=found.stream_id, counted=False, consumed=found.consumed, sealed=True
            )
        counted = found.acknowledge(number)
        return Acknowledged(
            stream_id=found.stream_id,
            counted=counted,
            consumed=found.statistics().consumed,
            sealed=found.sealed is not None,
        )

    def stop_of(self, name: str, owner: str) -> Stopped:
        """End a stream now, because its reader wants to (`USER_CANCEL`); one that has ended stays as it is.

        Args:
            name: see `acknowledge_of()`.
            owner: whose the request is.

        Raises:
            ResumeError: when the stream is unknown here, or not the reader's: nothing is stopped.
        """
        found = self._find(name, owner)
        if isinstance(found, _Ended):
            return Stopped(stream_id=found.stream_id, stopped=False, cause=found.cause)
        return stop_session(found)

    def _find(self, name: str, owner: str) -> StreamSession | _Ended:
        """The stream of that name, if it belongs to whom the request comes from.

        Raises:
            ResumeError: when it is not here, or not his.
        """
        for known in (name, name.rpartition(".")[0]):
            one = self._live.get(known) or self._ended.get(known)
            found = one.session() if isinstance(one, _Live) else one
            if one is not None and found is not None:
                if secrets.compare_digest(owner.encode(), one.owner):
                    return found
                raise ResumeError(Refusal.NOT_YOURS, "this stream belongs to somebody else")
        raise ResumeError(
            Refusal.UNKNOWN,
            "no such stream is known here: it ended long ago, or never was, or its process is another; there is"
            " nothing to acknowledge or to stop",
        )

    def _has_ended(self, name: str, live: _Live, receipt: Receipt) -> None:
        if (
            self._live.get(name) is live
        ):  # and no later stream, to which an application gave the same id
            del self._live[name]
        self._ended[name] = _Ended(live.owner, name, receipt.consumed, str(receipt.cause))
        while len(self._ended) > self._max_ended:
            del self._ended[next(iter(self._ended))]


class _Live(NamedTuple):
    owner: bytes
    session: weakref.ref[StreamSession]


class _Ended(NamedTuple):
    owner: bytes
    stream_id: str
    consumed: int
    cause: str


def asked(stall: float | None) -> dict[str, str]:
    """The header that asks a reader for acknowledgements, and says how long it may collect before each."""
    return {ACKNOWLEDGE_HEADER: str(round(longest_delay(stall) * 1000))}


def _offset(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise ResumeError(
            Refusal.MALFORMED,
            "what was acknowledged is no commit offset; send the number in the id of the last event",
        )
    return int(text)
