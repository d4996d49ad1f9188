"""Puts framing and dialect together: the bytes of one response in, chunks out, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from streamguard_core import AnyChunk, TruncatedStream, Usage
from streamguard_providers.anthropic_messages import Anthropic
from streamguard_providers.detection import Detector, dialect_named
from streamguard_providers.dialects import Dialect, lenient
from streamguard_providers.errors import ProviderError, provider_error
from streamguard_providers.framing import BOM
from streamguard_providers.gemini import Gemini
from streamguard_providers.json_array import JSONArrayDecoder
from streamguard_providers.ndjson import NDJSONDecoder
from streamguard_providers.ollama_dialect import Ollama
from streamguard_providers.openai_chat import OpenAIChat
from streamguard_providers.openai_completions import OpenAICompletions
from streamguard_providers.openai_responses import OpenAIResponses
from streamguard_providers.sse import SSEDecoder

MAX_MALFORMED: Final = 16
#: What the content type of newline-delimited JSON is called.
LINES: Final = frozenset({"application/x-ndjson", "application/jsonl", "application/x-jsonlines"})
_MAX_BODY: Final = 4 * 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
#: What may stand before a document: blanks, and the bytes of a byte order mark, cut anywhere.
_BEFORE: Final = BOM + b" \t\r\n"
_log = logging.getLogger("streamguard.providers")


class StreamDecoder:
    r"""Decodes one response, by its framing and its dialect. Sans-I/O.

    `feed` the bytes of the body as they come; after each call look at `done`. When the body ends,
    `close`, hand out the chunks it returns, then `check`.

    Args:
        dialect: reads the payloads.
        framing: cuts the bytes into payloads; server-sent events, NDJSON or the items of an array.
        max_malformed: payloads that may be skipped because they cannot be read; one more is an
            error.

    Example:
        >>> StreamDecoder.auto().feed(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n')
        ['Hi']
    """

    def __init__(
        self,
        dialect: Dialect,
        framing: SSEDecoder | NDJSONDecoder | JSONArrayDecoder,
        *,
        max_malformed: int = MAX_MALFORMED,
    ) -> None:
        self.dialect = dialect
        self.framing = framing
        self._max_malformed = max_malformed
        self._detector: Detector | None = None
        """Finds out the dialect; None once it is known."""
        self._guess = False
        """The framing of a body that begins as JSON is to be found out, too."""
        self._held: bytearray | None = bytearray()
        """The first bytes while they do not tell yet what they are; None once that is decided."""
        self._whole: bytearray | None = None
        """The body, where it turned out to be one JSON document instead of a stream."""

    @classmethod
    def openai_chat(cls, provider: str = "openai") -> StreamDecoder:
        """For OpenAI chat completions as server-sent events."""
        return cls(OpenAIChat(provider), SSEDecoder())

    @classmethod
    def openai_completions(cls, provider: str = "openai") -> StreamDecoder:
        """For OpenAI text completions as server-sent events."""
        return cls(OpenAICompletions(provider), SSEDecoder())

    @classmethod
    def openai_responses(cls, provider: str = "openai") -> StreamDecoder:
        """For OpenAI responses as server-sent events."""
        return cls(OpenAIResponses(provider), SSEDecoder())

    @classmethod
    def anthropic(cls, provider: str = "anthropic") -> StreamDecoder:
        """For Anthropic's messages as server-sent events."""
        return cls(Anthropic(provider), SSEDecoder())

    @classmethod
    def gemini(cls, provider: str = "gemini") -> StreamDecoder:
        """For Gemini's `streamGenerateContent`: server-sent events, or the array without `alt=sse`."""
        return cls(Gemini(provider), SSEDecoder())

    @classmethod
    def ollama(cls, provider: str = "ollama") -> StreamDecoder:
        """For Ollama's `/api/chat` and `/api/generate` as NDJSON."""
        return cls(Ollama(provider), NDJSONDecoder())

    @classmethod
    def named(cls, dialect: str, provider: str | None = None) -> StreamDecoder:
        """For a dialect by its name, in its usual framing.

        Args:
            dialect: such as `openai-chat`.
            provider: who is speaking; by default the name of the dialect.

        Raises:
            UsageError: when there is no such dialect.
        """
        speaking = dialect_named(dialect, provider or dialect)
        return cls(speaking, NDJSONDecoder() if isinstance(speaking, Ollama) else SSEDecoder())

    @classmethod
    def auto(
        cls, provider: str = "provider", content_type: str | None = None, *, dialect: str = "auto"
    ) -> StreamDecoder:
        """For a response of which neither framing nor dialect need be known.

        The framing is found by the content type and the first bytes, the dialect by the keys of the
        first payload that tells. `dialect` is that of OpenAI's chat completions until then, and
        stays so where no payload tells.

        Args:
            provider: who is speaking, for errors and attempts.
            content_type: what the response says it is; None where that is not known.
            dialect: the dialect's name, where only the framing is to be found out.

        Raises:
            UsageError: when there is no such dialect.
        """
        lines = (content_type or "").partition(";")[0].strip().lower() in LINES
        speaking = OpenAIChat(provider) if dialect == "auto" else dialect_named(dialect, provider)
        decoder = cls(speaking, NDJSONDecoder() if lines else SSEDecoder())
        decoder._detector = Detector() if dialect == "auto" else None
        decoder._guess = not lines
        return decoder

    @property
    def dialect_name(self) -> str | None:
        """The name of the dialect; None while it is still to be found out."""
        return None if self._detector is not None else self.dialect.name

    @property
    def done(self) -> bool:
        """The terminal marker or an error was seen: nothing that counts can follow, do not wait."""
        return self.dialect.done or self.dialect.error is not None

    @property
    def finish(self) -> str | None:
        """The provider's finish reason."""
        return self.dialect.finish

    @property
    def usage(self) -> Usage | None:
        """The latest usage, normalised, with the reported object in it."""
        return self.dialect.usage

    @property
    def reported(self) -> Mapping[str, Any] | None:
        """The latest usage object; another one than before means that there is news."""
        return self.dialect.reported

    @property
    def model(self) -> str | None:
        """What the provider calls the model."""
        return self.dialect.model

    @property
    def error(self) -> ProviderError | None:
        """The error the provider reported inside the stream."""
        return self.dialect.error

    @property
    def comments(self) -> int:
        """Comments that were passed over: they say that the connection lives, and nothing else."""
        return self.framing.comments if isinstance(self.framing, SSEDecoder) else 0

    @property
    def unterminated(self) -> bool:
        """The last payload had not its line end and was read all the same."""
        return self.framing.unterminated

    @property
    def whole(self) -> bool:
        """All that the dialect announced has come, and nothing broke off: the body may end here."""
        return self.dialect.complete and (self.dialect.done or not self.framing.truncated)

    @property
    def malformed(self) -> int:
        """Payloads that were skipped because they cannot be read."""
        return self.dialect.malformed

    def feed(self, data: bytes) -> list[AnyChunk]:
        """Take bytes of the body in and return the chunks they complete.

        Raises:
            EventTooLarge: when an event passes the framing's limit.
            ProviderError: when more payloads than allowed cannot be read, or the body is compressed
                and says nothing of it.
        """
        if self._held is not None and data:
            data = self._look(data)
        if self._whole is None:
            return self._payloads(self.framing.feed(data)) if data else []
        if len(self._whole) + len(data) > _MAX_BODY:
            raise self._huge()
        self._whole += data
        return []

    def close(self) -> list[AnyChunk]:
        """The body has ended: return the chunks of what was complete but for its last line end."""
        if self._whole is not None:
            return self.dialect.decode(bytes(self._whole))
        chunks: list[AnyChunk] = []
        if self._held:
            held, self._held = bytes(self._held), None
            data = self._begin_json(held, len(held)) if held.startswith(b"{") else held
            chunks = self._payloads(self.framing.feed(data))
        chunks += self._payloads(self.framing.close())
        if self._detector is not None:
            chunks += self._decided(self._detector.give_up())
        return chunks

    def check(self) -> None:
        """Say how the response ended, once all chunks were handed out.

        Raises:
            ProviderError: when the provider reported an error inside the stream.
            TruncatedStream: when the terminal marker is missing.
        """
        if self.dialect.error is not None:
            raise self.dialect.error
        if self.whole:
            return
        if not self.dialect.done:
            raise self.truncated("ended")
        _log.warning("%s ended its stream without a finish reason", self.dialect.provider)

    def truncated(self, how: str) -> TruncatedStream:
        """The error for a response that came to an end without its terminal marker."""
        finish = f"finish reason {self.finish!r}" if self.finish else "no finish reason"
        return TruncatedStream(
            f"the stream of {self.dialect.provider} {how} after {self.framing.offset} bytes without"
            f" its terminal marker ({finish}); what was received is not the whole answer"
        )

    def _huge(self) -> ProviderError:
        return provider_error(self.dialect.provider, what="sent no stream but a huge document")

    # -- payloads ----------------------------------------------------------------------------------

    def _payloads(self, units: list[Any]) -> list[AnyChunk]:
        """Decode what the framing cut out, in order."""
        if self._detector is not None and units:
            units = self._detector.take(units)
            return self._decided(units) if units else []
        dialect = self.dialect
        chunks: list[AnyChunk] = []
        skipped = dialect.malformed
        events = isinstance(self.framing, SSEDecoder)
        for unit in units:
            if dialect.done:
                break
            if not events:
                said = dialect.decode(unit)
            elif unit.event == b"error":
                dialect.fail(lenient(unit.data) or unit.text)
                continue
            else:
                said = dialect.decode(unit.data)
            if said:
                chunks += said
            elif dialect.malformed > self._max_malformed:
                # Here, and not after the last one: how the bytes were cut makes no difference.
                dialect.fail({"type": "malformed_stream"})
        if dialect.malformed > skipped == 0:
            _log.warning(
                "%s sent a payload that cannot be read, before byte %d; it was skipped",
                dialect.provider,
                self.framing.offset,
            )
        return chunks

    def _decided(self, units: list[Any]) -> list[AnyChunk]:
        """The dialect is known: decode what was kept for it."""
        assert self._detector is not None
        self.dialect = dialect_named(self._detector.name, self.dialect.provider)
        self._detector = None
        return self._payloads(units)

    # -- the first bytes ---------------------------------------------------------------------------

    def _look(self, data: bytes) -> bytes:
        """Look at the first bytes: is this what the framing expects? Returns what to feed it."""
        held = self._held
        assert held is not None
        if held:
            held += data
            if len(held) > _MAX_BODY:
                raise self._huge()
            if len(held) - len(data) > 1 and b"\n" not in data:
                return b""  # still the first line of JSON
            data = bytes(held)
            held.clear()
        start = data.lstrip(_BEFORE)
        if not start:
            return data
        json = isinstance(self.framing, SSEDecoder) and start.startswith((b"{", b"["))
        if start == _GZIP[:1] or (json and self._guess and _may_go_on(start)):
            self.framing.offset += len(data) - len(start)
            held += start
            return b""
        self._held = None
        self._refuse(start)
        return self._begin_json(start, len(data)) if json else data

    def _refuse(self, start: bytes) -> None:
        """Fail with a reason where a body is none that we can read."""
        if start.startswith(_GZIP):
            raise provider_error(
                self.dialect.provider,
                what="sent gzip without saying so: something dropped its content-encoding header",
            )
        if start.startswith(b"<"):
            raise provider_error(self.dialect.provider, what="sent HTML instead of a stream")

    def _begin_json(self, start: bytes, length: int) -> bytes:
        """The body is JSON where server-sent events were to be. Returns what to feed the framing.

        Args:
            start: the first bytes, without what stands before a document.
            length: how many there are with it.
        """
        before = self.framing.offset + length - len(start)
        if self._guess and start.startswith(b"{") and _is_line(start):
            self.framing = NDJSONDecoder()
        elif self._guess or isinstance(self.dialect, Gemini):
            # Without `alt=sse` the stream is an array; an error may be an object alone.
            self.framing = JSONArrayDecoder()
        else:
            # An error body, or the whole answer of a server that ignores `stream`.
            self._whole = bytearray()
        self.framing.offset = before
        return start


def _may_go_on(start: bytes) -> bool:
    """Whether these bytes are the beginning of a line whose end tells more."""
    return start.startswith(b"{") and b"\n" not in start


def _is_line(start: bytes) -> bool:
    """Whether an object stands in one line, unlike one that is printed prettily."""
    line, end, _ = start.partition(b"\n")
    return not end or line.rstrip().endswith(b"}")
