"""Puts framing and dialect together: the bytes of one response in, chunks out, and how it ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from streamguard_core import AnyChunk, TruncatedStream, Usage
from streamguard_providers.anthropic_messages import Anthropic
from streamguard_providers.detection import dialect_named, recognise
from streamguard_providers.dialects import Dialect, lenient
from streamguard_providers.errors import ProviderError, provider_error
from streamguard_providers.gemini import Gemini
from streamguard_providers.json_array import JSONArrayDecoder
from streamguard_providers.ndjson import NDJSONDecoder
from streamguard_providers.ollama_dialect import Ollama
from streamguard_providers.openai_chat import OpenAIChat
from streamguard_providers.openai_completions import OpenAICompletions
from streamguard_providers.openai_responses import OpenAIResponses
from streamguard_providers.sse import SSEDecoder

MAX_MALFORMED: Final = 16
_MAX_BODY: Final = 4 * 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
#: What may stand before a document: blanks, and the bytes of a byte order mark, cut anywhere.
_BEFORE: Final = b"\xef\xbb\xbf \t\r\n"
_LINES: Final = frozenset({"application/x-ndjson", "application/jsonl", "application/x-jsonlines"})
_BLANK: Final = b" \t\r"
_log = logging.getLogger("streamguard.providers")


class StreamDecoder:
    """Decodes one response whose framing and dialect are known. Sans-I/O.

    `feed` the bytes of the body as they come; after each call look at `done`. When the body ends,
    `close`, hand out the chunks it returns, then `check`.

    Args:
        dialect: reads the payloads.
        framing: cuts the bytes into payloads; server-sent events, NDJSON or the items of an array.
        max_malformed: payloads that may be skipped because they cannot be read; one more is an
            error.
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
        self._held: bytes | None = b""
        """The first bytes, as long as they do not tell what they are; None once that is decided."""
        self._auto = False
        """The framing is still to be found out."""
        self._unnamed = False
        """The dialect is still to be found out."""
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
    def auto(
        cls, provider: str = "provider", content_type: str | None = None, *, dialect: str = "auto"
    ) -> StreamDecoder:
        """For a response of which less is known: the framing is found in its first bytes.

        Args:
            provider: who is speaking, for errors and attempts.
            content_type: what the response says it is; None where that is not known.
            dialect: the dialect's name; with `auto` it is found in the first payload that tells.

        Raises:
            UsageError: when there is no such dialect.
        """
        decoder = cls(
            dialect_named("openai-chat" if dialect == "auto" else dialect, provider), SSEDecoder()
        )
        decoder._unnamed = dialect == "auto"
        decoder._auto = True
        if (content_type or "").partition(";")[0].strip().lower() in _LINES:
            decoder.framing = NDJSONDecoder()
            decoder._auto = False
        return decoder

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
            data = self._look(self._held + data)
        if self._whole is not None:
            if len(self._whole) + len(data) > _MAX_BODY:
                raise provider_error(
                    self.dialect.provider, what="sent no stream but a huge document"
                )
            self._whole += data
            return []
        return self._payloads(self.framing.feed(data))

    def close(self) -> list[AnyChunk]:
        """The body has ended: return the chunks of what was complete but for its last line end."""
        if self._whole is not None:
            return self.dialect.decode(bytes(self._whole))
        held, self._held = self._held, None
        units = list(self.framing.feed(held)) if held else []
        return self._payloads(units + list(self.framing.close()))

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

    def _payloads(self, units: list[Any]) -> list[AnyChunk]:
        """Decode what the framing cut out, in order."""
        chunks: list[AnyChunk] = []
        skipped = self.dialect.malformed
        events = isinstance(self.framing, SSEDecoder)
        if self._unnamed and units:
            self._name([unit.data for unit in units] if events else units)
        dialect = self.dialect
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

    def _name(self, payloads: list[bytes]) -> None:
        """Find the dialect out; until a payload tells it, the most common one reads for errors."""
        for payload in payloads:
            name = recognise(payload)
            if name is not None:
                before = self.dialect
                self._unnamed = False
                self.dialect = dialect_named(name, before.provider)
                self.dialect.malformed = before.malformed
                self.dialect.error = before.error
                return

    def _look(self, data: bytes) -> bytes:
        """Look at the first bytes: is this what the framing expects? Returns what to feed it."""
        start = data.lstrip(_BEFORE)
        if not start or data == _GZIP[:1]:
            # Nothing of this is content, nor can it be told apart by what follows.
            self._held = data if self._auto or start else b""
            return b"" if self._held else data
        self._held = None
        if data.startswith(_GZIP):
            raise provider_error(
                self.dialect.provider,
                what="sent gzip without saying so: something dropped its content-encoding header",
            )
        if start.startswith(b"<"):
            raise provider_error(self.dialect.provider, what="sent HTML instead of a stream")
        if not isinstance(self.framing, SSEDecoder) or not start.startswith((b"{", b"[")):
            return data
        if self._auto:
            return self._frame(data, start)
        if isinstance(self.dialect, Gemini):
            # Without `alt=sse` the stream is an array; an error may be an object alone.
            return self._reframe(JSONArrayDecoder(), data, start)
        # An error body, or the whole answer of a server that ignores `stream`.
        self._whole = bytearray()
        return start

    def _frame(self, data: bytes, start: bytes) -> bytes:
        """A body of JSON: an array or a document over several lines, or one document a line."""
        inside = start[1:].lstrip(_BLANK)
        if start.startswith(b"{") and not inside:
            self._held = data
            return b""
        if start.startswith(b"{") and not inside.startswith(b"\n"):
            return self._reframe(NDJSONDecoder(), data, start)
        return self._reframe(JSONArrayDecoder(), data, start)

    def _reframe(
        self, framing: NDJSONDecoder | JSONArrayDecoder, data: bytes, start: bytes
    ) -> bytes:
        framing.offset = self.framing.offset + len(data) - len(start)
        self.framing = framing
        return start
