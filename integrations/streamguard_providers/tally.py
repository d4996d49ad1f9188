"""Counts what a provider answers from the bytes that pass to an application, and never gets in their way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from streamguard_core import AttemptOutcome, Usage
from streamguard_providers.asked import Asked
from streamguard_providers.dialects import Dialect, lenient
from streamguard_providers.encodings import Inflate, inflate_for
from streamguard_providers.errors import provider_error
from streamguard_providers.known import decoder_for, dialect_for
from streamguard_providers.stream_decoder import StreamDecoder

_log = logging.getLogger("streamguard.providers")

#: An answer that is no stream is kept until its end; one that is larger is not looked into.
_MAX_DOCUMENT: Final = 4 * 1024 * 1024
_MAX_REFUSAL: Final = 64 * 1024
#: What a body may grow to when its encoding is undone.
_MAX_INFLATED: Final = 256 * 1024 * 1024
_MALFORMED: Final = "malformed_stream"
_NO_ENCODING: Final = ("", "identity")


class _Body(Protocol):
    """One way to read a body."""

    def feed(self, data: bytes) -> int:
        """Take bytes in; returns how many chunks they complete."""

    def close(self) -> int:
        """The body is at its end; returns how many chunks that completes."""

    @property
    def said(self) -> Dialect | None:
        """What it said of finish, usage and model."""

    @property
    def error(self) -> str | None:
        """The error's type or code."""

    def outcome(self, *, whole: bool) -> AttemptOutcome | None:
        """How it ended; None while that is open."""


class _Streamed:
    """A stream of a known dialect."""

    def __init__(self, decoder: StreamDecoder) -> None:
        self._decoder = decoder
        self.said: Dialect = decoder.dialect

    def feed(self, data: bytes) -> int:
        return 0 if self._decoder.done else len(self._decoder.feed(data))

    def close(self) -> int:
        return 0 if self._decoder.done else len(self._decoder.close())

    @property
    def error(self) -> str | None:
        error = self._decoder.error
        return None if error is None else error.type or error.code

    def outcome(self, *, whole: bool) -> AttemptOutcome | None:
        if self.error == _MALFORMED:
            return None  # the application may read it where we could not
        if self._decoder.error is not None:
            return AttemptOutcome.FAILED
        if self.said.done or (whole and self.said.complete):
            return AttemptOutcome.COMPLETED
        return AttemptOutcome.TRUNCATED if whole else None


class _Whole:
    """An answer that is one document: HTTP itself says whether it is whole."""

    def __init__(self, dialect: Dialect) -> None:
        self.said: Dialect = dialect
        self._kept = bytearray()

    def feed(self, data: bytes) -> int:
        _keep(self._kept, data, _MAX_DOCUMENT)
        return 0

    def close(self) -> int:
        return len(self.said.decode(bytes(self._kept)))

    @property
    def error(self) -> str | None:
        error = self.said.error
        return None if error is None else error.type or error.code

    def outcome(self, *, whole: bool) -> AttemptOutcome | None:
        if self.said.error is not None:
            return AttemptOutcome.FAILED
        return AttemptOutcome.COMPLETED if whole else None


class _Refusal:
    """The body of an error status."""

    said = None

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._kept = bytearray()
        self.error: str | None = None

    def feed(self, data: bytes) -> int:
        _keep(self._kept, data, _MAX_REFUSAL)
        return 0

    def close(self) -> int:
        error = provider_error(self._provider, lenient(bytes(self._kept)))
        self.error = error.type or error.code
        return 0

    def outcome(self, *, whole: bool) -> AttemptOutcome | None:
        return AttemptOutcome.FAILED


class TooLarge(Exception):
    """A body is larger than what is looked into."""


def _keep(kept: bytearray, data: bytes, most: int) -> None:
    if len(kept) + len(data) > most:
        raise TooLarge
    kept += data


class Tally:
    """What one response says: its chunks, finish, usage, model, and how it ended.

    A part of the body is decoded after the application has got it: when it asks for the next one, or
    when the call is over. Nothing here raises. What cannot be decoded is logged once, without content,
    and the rest of that response is not looked into.

    Safe from any thread: a reader in one may be cut off by another.

    Args:
        asked: what was asked for.
        provider: who answers.
    """

    def __init__(self, asked: Asked, provider: str) -> None:
        self._asked = asked
        self._provider = provider
        self._lock = threading.Lock()
        self._pending = b""
        self._inflate: Inflate | None = None
        self._size = 0
        """Bytes since the encoding was undone."""
        self._body: _Body | None = None
        self._blind = False
        """Something could not be decoded: what comes is not looked into, and how it ends is not known."""
        self._whole = False
        self.chunks = 0

    def begin(self, response: Any) -> None:
        """The response's headers are here."""
        headers = response.headers
        if response.status_code >= 400:
            self._body = _Refusal(self._provider)
        elif self._asked.generates and response.status_code == 200:
            self._body = self._body_for(headers.get("content-type", ""))
        encoding = headers.get("content-encoding", "").strip().lower()
        if self._body is not None and encoding not in _NO_ENCODING:
            self._inflate = inflate_for(encoding)
            if self._inflate is None:
                self._give_up("its content-encoding cannot be undone here")

    def take(self, part: bytes) -> int:
        """The application gets `part` next: decode what it got before.

        Returns:
            How many chunks that completed.
        """
        with self._lock:
            pending, self._pending = self._pending, part
            return self._feed(pending)

    def end(self, *, whole: bool) -> int:
        """Nothing more will come.

        Args:
            whole: whether the body was read to its end.

        Returns:
            How many chunks that completed.
        """
        with self._lock:
            pending, self._pending = self._pending, b""
            found = self._feed(pending)
            if whole and not self._whole:
                self._whole = True
                found += self._close()
            return found

    @property
    def said(self) -> Dialect | None:
        """What the response said of finish, usage and model; None where nobody could tell."""
        return None if self._body is None else self._body.said

    @property
    def usage(self) -> Usage | None:
        """The latest usage, normalised."""
        return None if self.said is None else self.said.usage

    @property
    def error(self) -> str | None:
        """The provider's error type or code."""
        return None if self._body is None else self._body.error

    @property
    def outcome(self) -> AttemptOutcome | None:
        """How the response ended, as far as its bytes tell; None while that is open, or nobody can tell."""
        if self._body is None or (self._blind and self._body.said is not None):
            return None
        return self._body.outcome(whole=self._whole)

    # -- inside ------------------------------------------------------------------------------------

    def _body_for(self, kind: str) -> _Body | None:
        decoder = decoder_for(self._asked.path, kind, self._provider)
        if decoder is not None:
            return _Streamed(decoder)
        dialect = dialect_for(self._asked.path, self._provider) if "json" in kind else None
        return None if dialect is None else _Whole(dialect)

    def _safely(self, look: Callable[..., int], *data: bytes) -> int:
        """Look at something; what that raises is nobody's but the tally's."""
        try:
            found = look(*data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the application's
            self._give_up(type(error).__name__)
            return 0
        self.chunks += found
        return found

    def _feed(self, data: bytes) -> int:
        if self._blind or self._body is None or not data:
            return 0
        return self._safely(self._body.feed if self._inflate is None else self._inflated, data)

    def _inflated(self, data: bytes) -> int:
        assert self._inflate is not None, "the encoding is to be undone"
        assert self._body is not None, "there is something to be looked into"
        found = 0
        for piece in self._inflate(data):
            self._size += len(piece)
            if self._size > _MAX_INFLATED:
                raise TooLarge
            found += self._body.feed(piece)
        return found

    def _close(self) -> int:
        return 0 if self._blind or self._body is None else self._safely(self._body.close)

    def _give_up(self, why: str) -> None:
        """Say once that this response is not counted any further. Nothing of its content is told."""
        self._blind = True
        _log.warning("an answer of %s is not counted any further: %s", self._provider, why)
