"""What a reader who asks is told of its stream: whether it goes on, and how it ended."""

from __future__ import annotations

import msgspec

from streamguard_core.formats import End
from streamguard_core.session import StreamSession


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The reader's part of a receipt: nothing of what the stream cost, of its tags, or of the provider.

    Args:
        stream_id: names the stream.
        live: it goes on.
        committed: chunks that were committed so far.
        consumed: chunks of those that the reader's transport has taken.
        end: what its `eos` said, or would have said; None while it goes on.
    """

    stream_id: str
    live: bool
    committed: int
    consumed: int
    end: End | None


def outcome_of(session: StreamSession) -> Outcome:
    """Say how it is with a stream at this moment.

    Example:
        >>> session = StreamSession(stream_id="018f")
        >>> session.cancel()
        >>> outcome = outcome_of(session)
        >>> outcome.live, outcome.end.cause
        (False, 'USER_CANCEL')
    """
    counted, cause = session.statistics(), session.cause
    end = None
    if cause is not None:
        end = End.of(cause, session.finish_reason, counted.committed, session.stream_id)
    return Outcome(
        stream_id=session.stream_id,
        live=cause is None,
        committed=counted.committed,
        consumed=counted.consumed,
        end=end,
    )
