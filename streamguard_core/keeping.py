"""The streams of one process whose readers may come back: which are kept, until when, and for whom."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypedDict
from weakref import WeakValueDictionary

import msgspec

from streamguard_core.causes import Cause
from streamguard_core.errors import UsageError
from streamguard_core.kept import KeptStream
from streamguard_core.outcome import Outcome, outcome_of
from streamguard_core.policies import DisconnectPolicy, Rule, grace
from streamguard_core.replay import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_CHUNKS,
    Refusal,
    Replay,
    ResumeError,
    ResumePoint,
)
from streamguard_core.session import StreamSession

DEFAULT_WINDOW: Final = 30.0
DEFAULT_MAX_ENDED: Final = 1000
DEFAULT_RETRY: Final = 1.0


class KeepingOptions(TypedDict, total=False):
    """What `KeptStreams` are built with: adapters pass it on."""

    window: float
    max_bytes: int
    max_chunks: int
    max_ended: int
    retry: float


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a wish to stop a stream.

    Args:
        stream_id: names the stream.
        stopped: this wish ended it; False where it had ended before: then nothing has changed.
        cause: why it ended.
    """

    stream_id: str
    stopped: bool
    cause: str


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Expected:
    """A stream that is not kept yet, but whose reader may know its id.

    Attributes:
        session: the stream.
        owner: whose it is.
    """

    session: StreamSession
    owner: str


def stop_session(session: StreamSession) -> Stopped:
    """End a stream now, because its reader wants to (`USER_CANCEL`); one that has ended stays as it is."""
    live = session.cause is None
    session.cancel("the reader stopped it")
    cause = session.cause
    return Stopped(
        stream_id=session.stream_id,
        stopped=live and cause is Cause.USER_CANCEL,
        cause=str(cause),
    )


class KeptStreams:
    """Keeps streams for readers who lose their connection and come back within a window.

    An adapter's `Resume` is one of these; it knows whose a request is. All of it lives in this process,
    and is used on the event loop on which the streams run.

    Args:
        window: how long a stream waits for its reader, and is kept after its end, in seconds.
        max_bytes: how much of each stream can be sent again, in bytes of chunks; what a reader
            missed beyond that is refused.
        max_chunks: the same, in chunks.
        max_ended: how many streams that have ended are kept, at most; the oldest go first.
        retry: the hint to readers how long to wait before they reconnect, in seconds.

    Raises:
        UsageError: for a bound that is out of range.
    """

    def __init__(
        self,
        *,
        window: float = DEFAULT_WINDOW,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_chunks: int = DEFAULT_MAX_CHUNKS,
        max_ended: int = DEFAULT_MAX_ENDED,
        retry: float = DEFAULT_RETRY,
    ) -> None:
        if not retry >= 0 or max_ended < 0:
            raise UsageError(
                f"Resume was given retry={retry!r} and max_ended={max_ended!r}; neither is negative"
            )
        Replay(max_bytes, max_chunks)
        self.policy: DisconnectPolicy = grace(window)
        """What the streams' sessions are built with."""
        self.window = window
        self._bounds = (max_bytes, max_chunks)
        self._max_ended = max_ended
        self._retry = retry
        self._begin_here()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} window={self.window:g}s, {len(self._streams)} streams>"

    @property
    def place(self) -> str:
        """Names this process in the ids of events; a forked one has another name, and none of the streams."""
        self._notice_fork()
        return self._place

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._begin_here()

    def _begin_here(self) -> None:
        self._pid, self._place = os.getpid(), secrets.token_hex(4)
        self._streams: dict[str, KeptStream] = {}
        self._ended: dict[str, KeptStream] = {}
        """Those of them that have ended, the oldest first.

        Invariant: each of them stands in `_streams` as well."""
        self._expected: WeakValueDictionary[str, Expected] = WeakValueDictionary()

    def check(self, options: Mapping[str, Any]) -> None:
        """See that a session's own policy waits for its reader.

        Args:
            options: what the session is built with.

        Raises:
            UsageError: when it does not.
        """
        policy = options.get("on_disconnect", self.policy)
        if not isinstance(policy, DisconnectPolicy) or policy.rule is not Rule.GRACE:
            raise UsageError(
                "resume was given together with an on_disconnect that does not wait for the reader;"
                " leave it out, or use grace(seconds, max_tokens)"
            )

    def check_name(self, stream_id: str) -> None:
        """See that a stream's id can stand in an event.

        Raises:
            UsageError: when it cannot.
        """
        if not (stream_id.isascii() and stream_id.isprintable()):
            raise UsageError(
                f"stream_id={stream_id!r} cannot stand in an event; use printable ASCII"
            )

    def expect(self, session: StreamSession, owner: str) -> Expected:
        """A response that will open `session` is about to begin, and says its id: it may be stopped from now on.

        Args:
            session: the stream.
            owner: whose it is.

        Returns:
            What is to be held as long as that is so.

        Raises:
            UsageError: when its id cannot stand in an event.
        """
        self.check_name(session.stream_id)
        self._notice_fork()
        expected = Expected(session, owner)
        self._expected[session.stream_id] = expected
        return expected

    def keep_for(self, session: StreamSession, owner: str, path: str) -> KeptStream:
        """From now on the reader of `session` may come back.

        Args:
            session: the stream.
            owner: whose it is; empty for nobody's in particular.
            path: the address at which it was opened.

        Raises:
            UsageError: when its id cannot stand in an event.
        """
        name = session.stream_id
        self.check_name(name)
        point = ResumePoint(name, self.place, 0)
        kept = KeptStream(session, point, owner, path, Replay(*self._bounds), self._retry)
        before = self._streams.get(name)
        if before is not None:
            # An application has given its name again: nobody can find it any more.
            self._forget(before)
        self._streams[name] = kept
        kept.forget = lambda: self._forget(kept)
        kept.ended = lambda: self._has_ended(kept)
        return kept

    def find_at(self, point: ResumePoint, owner: str, path: str) -> KeptStream:
        """The stream that a reader wants to continue.

        Args:
            point: where.
            owner: whose the request is.
            path: its address.

        Raises:
            ResumeError: when it is not here, or not this reader's.
        """
        kept = self.find_of(point.stream_id, point.place, owner)
        if kept.path != path:
            raise ResumeError(
                Refusal.NOT_YOURS, "this stream was opened at another address; resume it there"
            )
        return kept

    def find_of(self, stream_id: str, place: str, owner: str) -> KeptStream:
        """The stream of that id, if it belongs to whom the request comes from.

        Args:
            stream_id: names the stream.
            place: names the process; empty for any.
            owner: whose the request is.

        Raises:
            ResumeError: when it is not here, or not his.
        """
        found = self._found(stream_id, place, owner)
        if isinstance(found, Expected):
            raise self._unknown()
        return found

    def _found(self, stream_id: str, place: str, owner: str) -> KeptStream | Expected:
        here = self.place
        if place and place != here:
            raise ResumeError(
                Refusal.ELSEWHERE,
                "this stream was opened in another process than the one that was reached; send a reader's requests"
                " to one process (sticky sessions). If that process has ended, ask for the answer anew",
            )
        found = self._streams.get(stream_id) or self._expected.get(stream_id)
        if found is None or (isinstance(found, Expected) and found.session.cause is not None):
            raise self._unknown()
        if not secrets.compare_digest(owner.encode(), found.owner.encode()):
            raise ResumeError(Refusal.NOT_YOURS, "this stream belongs to somebody else")
        return found

    def _named(self, name: str, owner: str) -> KeptStream | Expected:
        """The stream of that id, which may have dots of its own, or of that id in that process."""
        self._notice_fork()
        if name in self._streams or name in self._expected:
            return self._found(name, "", owner)
        stream_id, dot, place = name.rpartition(".")
        return self._found(stream_id, place, owner) if dot else self._found(name, "", owner)

    def _unknown(self) -> ResumeError:
        return ResumeError(
            Refusal.UNKNOWN,
            f"no such stream is kept here: it ended more than {self.window:g} s ago, or never was, or its"
            " process is another; ask for the answer anew",
        )

    def stop_of(self, name: str, owner: str) -> Stopped:
        """End a stream now, because its reader wants to (`USER_CANCEL`); one that has ended stays as it is.

        Args:
            name: the stream's id, or what stands before the colon in its events' ids, which names the process, too.
            owner: whose the request is.

        Raises:
            ResumeError: when the stream is unknown here, or not the reader's: nothing is stopped.
        """
        return stop_session(self._named(name, owner).session)

    def outcome_of(self, name: str, owner: str) -> Outcome:
        """How a stream ended, or that it goes on, for its reader; as long as it is kept.

        Args:
            name: as for `stop_of()`.
            owner: whose the request is.

        Raises:
            ResumeError: when the stream is unknown here, or not the reader's.
        """
        return outcome_of(self._named(name, owner).session)

    def _has_ended(self, kept: KeptStream) -> None:
        name = kept.point.stream_id
        if self._streams.get(name) is not kept or name in self._ended:
            return  # forgotten, or known to have ended
        self._ended[name] = kept
        kept.retire(self.window)
        while len(self._ended) > self._max_ended:
            self._forget(next(iter(self._ended.values())))

    def _forget(self, kept: KeptStream) -> None:
        kept.stop_timer()
        name = kept.point.stream_id
        if self._streams.get(name) is kept:
            del self._streams[name]
            self._ended.pop(name, None)


def owner_text(said: object) -> str:
    """What an application's `owner` said.

    Raises:
        UsageError: when it is no text.
    """
    if not isinstance(said, str):
        raise UsageError(
            f"owner returned a {type(said).__name__}; it returns a text that names the user"
        )
    return said
