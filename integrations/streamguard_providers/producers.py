"""What the producers on httpx share: one request, read in batches, cut off in the same step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, Final, Self, TypedDict, Unpack
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec

from streamguard_core import (
    AnyChunk,
    CancelEvent,
    CutOffError,
    Out,
    ProducerError,
    Report,
    Usage,
    UsageError,
)
from streamguard_providers.answering import Answering, Question
from streamguard_providers.calls import REPORTED
from streamguard_providers.continuation import with_prefix, with_value
from streamguard_providers.keys import Secret, checked_headers, checked_url
from streamguard_providers.known import route_of
from streamguard_providers.pools import ProviderPool, shared_pool
from streamguard_providers.reading import Cancellable
from streamguard_providers.retries import Retries, retries_of
from streamguard_providers.stream_decoder import StreamDecoder
from streamguard_providers.termination import TerminationRow, row_of_call

CONNECT_TIMEOUT: Final = 30.0
_NONE: Final[Mapping[str, str]] = {}


class CallOptions(TypedDict, total=False):
    """How a producer makes its calls; keywords of every one."""

    client: httpx.AsyncClient | None
    """A client of the caller's (or httpx2's), in place of the pool's; stays open. Its timeouts are
    not used: deadlines are the session's."""
    pool: ProviderPool
    """Where connections are kept; `shared_pool()` by default."""
    retries: Retries | int
    """How often a call is made again while nothing of its answer was produced; 2 by default."""
    headers: Mapping[str, str] | None
    """Further headers."""
    idempotency_header: str | None
    """The header in which the provider, or a gateway before it, takes a key that is the same for all
    tries of one stream; none by default: of the providers' own APIs none documents one."""


class HTTPProducer:
    """One call to a provider over HTTP, by either contract of the core; base of the producers.

    Every `stream` or `run` is a new request, and one that failed before anything of its answer was
    produced is made again (`Retries`).

    Args:
        provider: who is called, for errors and attempts.
        url: where the request goes.
        body: the request, as plain data.
        model: which model is asked for.
        decoder: makes the decoder for one response.
        key: what `key_header` made of the key.
        limit: where in the body the most tokens to generate are told.
        call: how the call is made; see `CallOptions`.
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
        key: Mapping[str, Secret] | None = None,
        limit: Sequence[str] = ("max_tokens",),
        **call: Unpack[CallOptions],
    ) -> None:
        self.provider = provider
        self.model = model
        self._url = checked_url(url)
        self._body = body
        self._decoder = decoder
        self._limit = limit
        if unknown := call.keys() - CallOptions.__annotations__.keys():
            raise UsageError(f"a producer takes no keyword {', '.join(sorted(unknown))}")
        self._client = _checked_client(call.get("client"))
        self._pool = call.get("pool") or shared_pool()
        self._retries = retries_of(call.get("retries", 2))
        self._headers = checked_headers(call.get("headers")) | dict(key or {})
        self._idempotency = call.get("idempotency_header")
        self._trim = False
        self._farewell: Callable[[str], Awaitable[Usage | None]] | None = None
        self._patience: float | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} model={self.model!r}>"

    @property
    def route(self) -> str | None:
        """The dialect that is spoken, as the table of terminations names it."""
        return route_of(urlsplit(self._url).path)

    @property
    def termination(self) -> TerminationRow:
        """What closing saves here, by the shipped table: sessions ask for it where none is given."""
        return row_of_call(self._url, self.provider, self.model, self.route)

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

    async def stream(self, *, report: Report) -> AsyncGenerator[list[AnyChunk], None]:
        """Make the call and iterate over its chunks, those together that were received together.

        Raises:
            ProviderError: when the provider cannot be reached, refuses, or reports an error in
                mid-stream, and no retry is left or allowed.
            TruncatedStream: when the response ends without its terminal marker.
        """
        answering = Answering(self._question(), report)
        left = True
        try:
            while (batch := await answering.next()) is not None:
                if batch:
                    yield batch
                # Only now, when what came before it has been taken: a finish is no reason to lose
                # chunks.
                answering.tell()
            left = False
        except CutOffError:
            # After the cutoff there is nobody to whom an error would say anything.
            if not answering.was_cut:
                raise
        except ProducerError:
            left = False
            raise
        finally:
            await answering.close(left=left)

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
            await batches.aclose()
            await asyncio.wait([watcher])

    def _question(self) -> Question:
        once = {} if self._idempotency is None else {self._idempotency: str(uuid4())}
        return Question(
            provider=self.provider,
            model=self.model,
            url=self._url,
            request=partial(self._request, more=once),
            decoder=lambda: self._decoder(self.provider),
            client=self._client,
            pool=self._pool,
            retries=self._retries,
            trim=self._trim,
            patience=self._patience,
            farewell=self._farewell,
        )

    def _request(self, client: Any, more: Mapping[str, str] = _NONE) -> Any:
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream, application/x-ndjson",
        }
        headers |= more
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


def check_input(prompt: str | None, messages: object, name: str = "messages") -> None:
    """Say what is wrong with the prompt or messages of a producer.

    Raises:
        UsageError: when there is not exactly one of the two.
    """
    if (prompt is None) == (messages is None):
        raise UsageError(
            f"a producer was made with both or neither of prompt and {name}; give one of them"
        )


def as_messages(
    prompt: str | None, messages: Sequence[Mapping[str, Any]] | None
) -> list[Mapping[str, Any]]:
    """The conversation: the messages, or the prompt as a user's message.

    Raises:
        UsageError: when there is not exactly one of the two.
    """
    check_input(prompt, messages)
    return [{"role": "user", "content": prompt}] if messages is None else list(messages)


def _checked_client(client: Any) -> Any:
    if client is not None and not hasattr(client, "build_request"):
        raise UsageError(
            f"client of type {type(client).__name__} was given; pass an httpx.AsyncClient, or None"
        )
    return client
