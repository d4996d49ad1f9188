"""What the producers on httpx share: one request, read in batches, cut off in the same step."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from copy import copy
from functools import cache
from typing import Any, Final, Self

import httpx
import msgspec

from streamguard_core import (
    AnyChunk,
    CancelEvent,
    CutOffError,
    Out,
    ProducerError,
    Report,
    UsageError,
)
from streamguard_providers._httpx import family_of
from streamguard_providers.async_calls import AsyncCall
from streamguard_providers.calls import REPORTED
from streamguard_providers.continuation import with_prefix, with_value
from streamguard_providers.keys import Secret, checked_headers, checked_url
from streamguard_providers.reading import Cancellable, Reading
from streamguard_providers.stream_decoder import StreamDecoder

CONNECT_TIMEOUT: Final = 30.0


class HTTPProducer:
    """One call to a provider over HTTP, by either contract of the core; base of the producers.

    Every `stream` or `run` is a new request. Without a client of the caller's, each has one of its
    own, closed at its end.

    Args:
        provider: who is called, for errors and attempts.
        url: where the request goes.
        body: the request, as plain data.
        model: which model is asked for.
        decoder: makes the decoder for one response.
        client: a shared `httpx.AsyncClient` (or httpx2's); stays open. Its timeouts are not used:
            deadlines are the session's.
        headers: further headers.
        key: what `key_header` made of the key.
        limit: where in the body the most tokens to generate are told.
    """

    continues: bool = False
    """Whether the provider can go on after a given text; see `resumed`."""

    def __init__(
        self,
        *,
        provider: str,
        url: str,
        body: Mapping[str, Any],
        model: str,
        decoder: Callable[[str], StreamDecoder],
        client: httpx.AsyncClient | None = None,
        headers: Mapping[str, str] | None = None,
        key: Mapping[str, Secret] | None = None,
        limit: Sequence[str] = ("max_tokens",),
    ) -> None:
        if client is not None and not hasattr(client, "build_request"):
            raise UsageError(
                f"client of type {type(client).__name__} was given; pass an httpx.AsyncClient,"
                " or None"
            )
        self.provider = provider
        self.model = model
        self._url = checked_url(url)
        self._body = body
        self._limit = limit
        self._decoder = decoder
        self._client = client
        self._headers = checked_headers(headers) | dict(key or {})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} model={self.model!r}>"

    def resumed(self, prefix: str, *, max_tokens: int | None = None) -> Self:
        """A producer of the rest of an answer that begins with `prefix`, for which this one asks.

        Its chunks are what comes after the prefix; they do not repeat it.

        Args:
            prefix: the text of the answer so far; not empty.
            max_tokens: most tokens still to generate; as in this one when None.

        Raises:
            UsageError: when `continues` is False, or the prefix is empty.
        """
        if not self.continues:
            raise UsageError(
                f"resumed() is not allowed on {self!r}: this provider cannot go on after a text;"
                " pass `continues` when the producer is made, if you know that it can"
            )
        if not prefix:
            raise UsageError("resumed('') was called: there is nothing to go on after")
        rest = copy(self)
        rest._go_on(prefix)  # noqa: SLF001 - it is another one of ourselves
        if max_tokens is not None:
            rest._body = with_value(rest._body, self._limit, max_tokens)  # noqa: SLF001
        return rest

    def _go_on(self, prefix: str) -> None:
        """Change the request so that its answer goes on after `prefix`; called on a new copy."""
        self._body = {**self._body, "messages": with_prefix(self._body["messages"], prefix)}

    async def stream(self, *, report: Report) -> AsyncIterator[list[AnyChunk]]:
        """Make the call and iterate over its chunks, those together that were received together.

        Raises:
            ProviderError: when the provider cannot be reached, refuses, or reports an error in
                mid-stream.
            TruncatedStream: when the response ends without its terminal marker.
        """
        client: Any = self._client or _own_client(self._url)
        request = self._request(client)
        call = AsyncCall(family_of(request).cut_off, provider=self.provider, model=self.model)
        call.report_to(report)
        reading = Reading(
            call, self._decoder(self.provider), report, shared=self._client is not None
        )
        left = True
        try:
            await reading.open(client, request)
            while (batch := await reading.next()) is not None:
                if batch:
                    yield batch
                # Only now, when what came before it has been taken: a finish is no reason to lose
                # chunks.
                reading.tell()
            left = False
        except CutOffError:
            # After the cutoff there is nobody to whom an error would say anything.
            if not call.was_cut:
                raise
        except ProducerError:
            left = False
            raise
        finally:
            await reading.close(left=left, client=None if self._client else client)

    async def run(self, *, out: Out, cancel_event: CancelEvent) -> None:
        """Make the call and emit its chunks through `out`.

        Raises:
            ProviderError: when the provider cannot be reached, refuses, or reports an error in
                mid-stream.
            TruncatedStream: when the response ends without its terminal marker.
        """
        report = Cancellable(out)
        watcher = asyncio.ensure_future(cancel_event.wait())
        watcher.add_done_callback(report.cancelled)
        batches = self.stream(report=report)
        try:
            async for batch in batches:
                for chunk in batch:
                    if cancel_event.is_set():
                        return
                    await out(chunk)
        finally:
            watcher.cancel()
            await batches.aclose()  # type: ignore[attr-defined]  # it is an async generator
            await asyncio.wait([watcher])

    def _request(self, client: Any) -> Any:
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream, application/x-ndjson",
        }
        headers |= {name: secret.reveal() for name, secret in self._headers.items()}
        return client.build_request(
            "POST",
            self._url,
            content=msgspec.json.encode(self._body),
            headers=headers,
            # Long silences are normal while a model thinks; the session's deadlines know better.
            extensions={
                REPORTED: True,
                "timeout": {"connect": CONNECT_TIMEOUT, "read": None, "write": None, "pool": None},
            },
        )


def check_input(prompt: str | None, messages: object) -> None:
    """Say what is wrong with the prompt or messages of a producer.

    Raises:
        UsageError: when there is not exactly one of the two.
    """
    if (prompt is None) == (messages is None):
        raise UsageError(
            "a producer was made with both or neither of prompt and messages; give one of them"
        )


def _own_client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=_tls(secure=url.startswith("https:")))


@cache
def _tls(*, secure: bool) -> ssl.SSLContext:
    """One TLS context for all: reading the certificates costs more than a whole stream.

    Plain HTTP needs none, and gets one that trusts nobody.
    """
    return httpx.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
