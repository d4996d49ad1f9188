"""What a reader who asks something of its stream is answered over HTTP, for adapters to send as it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from streamguard_core.replay import ResumeError


class Answer(NamedTuple):
    """A response that is no stream.

    Attributes:
        status: of the response.
        headers: its headers.
        body: its body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


HAS_EVERYTHING: Final = Answer(204, MappingProxyType({}), b"")
"""The reader has had all of its stream: it is what keeps an `EventSource` from asking again."""


def in_json(said: object, status: int = 200) -> Answer:
    """Answer with JSON that nobody keeps.

    Args:
        said: plain data, or a struct.
        status: of the response.

    Example:
        >>> in_json({"live": True}).body
        b'{"live":true}'
    """
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return Answer(status, headers, msgspec.json.encode(said))


def refused(error: ResumeError) -> Answer:
    """Say why: `{"error": ..., "detail": ...}`; never anything of a stream."""
    return in_json(error.said, error.refusal.status)
