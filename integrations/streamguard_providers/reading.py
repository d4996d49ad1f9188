"""Reads one response for a producer: batches, news for the report, and a clean way out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from streamguard_core import AnyChunk, CutOffError, Out, ProducerError, Report
from streamguard_providers._httpx import connection_behind, family_of, more_is_here, transport_for
from streamguard_providers.async_calls import undisturbed
from streamguard_providers.attempts import ProducerCall
from streamguard_providers.dialects import lenient
from streamguard_providers.errors import ProviderError, provider_error
from streamguard_providers.retries import retry_after
from streamguard_providers.stream_decoder import StreamDecoder

_MAX_ERROR_BODY: Final = 64 * 1024
_ERROR_BODY_SECONDS: Final = 1.0
#: How long the end of the HTTP body is waited for after the stream's own, so that its connection
#: can be reused.
_END_SECONDS: Final = 0.05
_OK: Final = 200
#: How many pieces may still lie in the buffers of a connection that was closed.
_MAX_LEFT: Final = 10_000


class Cancellable:
    """A report whose `on_close` callback is also called when the cancel event is set."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._close: Callable[[], None] | None = None
        self._was_cancelled = False
        self.connected = out.connected
        self.finish = out.finish
        self.identify = out.identify
        self.attempt = out.attempt
        self.wanted: Callable[[], bool] | None = getattr(out, "wanted", None)

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Pass the callback on, and keep it."""
        self._close = callback
        if self._was_cancelled:
            callback()
        return self._out.on_close(callback)

    def cancelled(self, watcher: asyncio.Future[Any]) -> None:
        """The cancel event was set (or the stream has ended, and nobody waits for it any more)."""
        if not watcher.cancelled():
            self._was_cancelled = True
            if self._close is not None:
                self._close()


class Reading:
    """One response while it is read.

    Args:
        call: the call it answers.
        decoder: a new one.
        report: who is told.
        client: sends the request; stays open, for its connections are worth keeping.
        request: what is sent.
        patience: seconds for which the end of the body is waited for once the answer is whole, where
            the wire has no other end; None where it has.
    """

    def __init__(
        self,
        call: ProducerCall,
        decoder: StreamDecoder,
        report: Report,
        client: Any,
        request: Any,
        patience: float | None = None,
    ) -> None:
        self._call = call
        self._decoder = decoder
        self._report = report
        self._client = client
        self._request = request
        self._response: Any = None
        self._parts: Any = None
        self._connection: Any = None
        self._errors: type[Exception] = family_of(request).module.HTTPError
        self._failure: ProducerError | None = None
        """What went wrong after the chunks of the latest batch."""
        self._ended = False
        """The body was read to its end."""
        self._patience = patience
        self._until: float | None = None
        """When the end of the body is not waited for any longer."""
        self._over = False
        """It was waited for long enough."""
        self._told: tuple[str | None, object] = (None, None)
        self._named = False

    @property
    def was_cut(self) -> bool:
        """Whether the call was cut off."""
        return self._call.was_cut

    @property
    def done(self) -> bool:
        """Whether the provider has ended."""
        return self._decoder.done

    @property
    def response_id(self) -> str | None:
        """The id in the response's body; None before it has come, or where there is none."""
        name: str | None = getattr(self._decoder.dialect, "response_id", None)
        return name

    def failed(self, error: ProducerError) -> None:
        """This is how the call failed."""
        self._call.failed(error)

    async def rest(self, wait: Coroutine[Any, Any, None]) -> None:
        """Wait before the request is sent.

        Raises:
            CutOffError: when the cutoff came meanwhile.
        """
        if self._call.was_cut:
            wait.close()
            raise self._call.cut_off()
        await self._call.attend(wait)

    async def _open(self) -> None:
        """Send the request and look at the status.

        Raises:
            ProviderError: when there is no response, or an error status.
            CutOffError: when the call was cut off.
        """
        call, request = self._call, self._request
        if call.was_cut:
            raise call.cut_off()
        request.extensions = {
            **request.extensions,
            "trace": call.tracer(request.extensions.get("trace")),
        }
        call.begin(transport_for(self._client, request))
        try:
            self._response = response = await call.attend(self._client.send(request, stream=True))
        except CutOffError:
            raise
        except self._errors as error:
            what = f"could not be reached: {type(error).__name__}"
            raise provider_error(
                self._decoder.dialect.provider, what=what, retryable=True
            ) from error
        call.answered(response)
        if call.was_cut:
            raise call.cut_off()
        call.reads(response)
        if response.status_code != _OK:
            raise await self._refused()
        if call.request_id is not None:
            self._report.identify(request_id=call.request_id)
        self._connection = connection_behind(response)
        self._parts = response.aiter_bytes()

    async def next(self) -> list[AnyChunk] | None:
        """What the next read brings, which may be nothing; None at the end.

        The first one sends the request.

        Raises:
            ProviderError: when the provider cannot be reached, refuses, or reported an error, after
                what came before it.
            TruncatedStream: when the end was no end.
            CutOffError: when the call was cut off.
        """
        if self._failure is not None:
            raise self._failure
        if self._ended or self._over or self._decoder.done:
            await self._finish()
            return None
        if self._parts is None:
            await self._open()
        chunks: list[AnyChunk] = []
        try:
            await self._take(chunks)
            # One read often brings several pieces (each event is an HTTP chunk): they go together.
            while self._more():
                await self._take(chunks)
        except ProducerError as error:
            if not chunks:
                raise
            self._failure = error
        self._call.chunks += len(chunks)
        self._identify()
        return chunks

    def tell(self) -> None:
        """Report what is news of finish reason and usage."""
        decoder = self._decoder
        news = (decoder.finish, decoder.reported)
        if news != self._told:
            self._told = news
            self._report.finish(decoder.finish, decoder.usage)

    def _identify(self) -> None:
        """Report what the provider calls the model and this call, as soon as it says it."""
        model, name = self._decoder.model, self.response_id
        if not self._named and model is not None:
            self._named = True
            self._call.model = model
            self._report.identify(model=model)
        if name is not None and name != self._call.request_id:
            # The provider answers for it by this id, and by no other.
            self._call.request_id = name
            self._report.identify(request_id=name)

    async def close(self, *, left: bool) -> None:
        """Let go of the response, at once if it is not at its end.

        Args:
            left: whether we leave before the provider had ended.
        """
        self._call.reads(None)
        if left:
            self._call.give_up()
        self._call.finish()
        await undisturbed(self._let_go())

    async def _let_go(self) -> None:
        """Close what is open; each of them, whatever the others say."""
        async with contextlib.AsyncExitStack() as last:
            last.push_async_callback(self._call.hang_up)
            last.push_async_callback(self._call.tidied)
            if self._response is not None:
                await self._response.aclose()
                await self._run_out()

    async def _run_out(self) -> None:
        """End httpx's generators, which are nested: dropped half-way they are the collector's."""
        if self._parts is None:
            return
        if self._connection is not None and not self._ended:
            with contextlib.suppress(Exception):  # the connection is closed, and they say so
                for _ in range(_MAX_LEFT):
                    await self._parts.__anext__()
        await self._parts.aclose()

    def _more(self) -> bool:
        return not (self._ended or self._over or self._decoder.done) and more_is_here(
            self._connection
        )

    async def _take(self, chunks: list[AnyChunk]) -> None:
        """Read and decode one piece of the body, or its end."""
        part = await self._read_patiently()
        if part:
            chunks += self._decoder.feed(part)
        elif self._ended:
            chunks += self._decoder.close()
        if chunks:
            self._until = None

    async def _read_patiently(self) -> bytes:
        """The next piece; none once the answer is whole and its end was waited for long enough."""
        if self._patience is None or not self._decoder.dialect.complete:
            return await self._read()
        loop = asyncio.get_running_loop()
        if self._until is None:
            self._until = loop.time() + self._patience
        try:
            async with asyncio.timeout_at(self._until):
                return await self._read()
        except TimeoutError:
            self._over = True
            return b""

    async def _read(self) -> bytes:
        """The next piece of the body; empty at its end."""
        call = self._call
        try:
            part: bytes = await call.attend(self._parts.__anext__())
        except StopAsyncIteration:
            self._ended = True
            return b""
        except CutOffError:
            raise
        except self._errors as error:
            raise self._decoder.truncated("broke off") from error
        if call.was_cut:
            raise call.cut_off()
        call.bytes_received += len(part)
        return part

    async def _finish(self) -> None:
        """The stream is at its end: say how; leave the connection fit for use if that is quick."""
        self.tell()
        self._decoder.check()
        if self._ended or self._over:
            return
        try:
            async with asyncio.timeout(_END_SECONDS):
                for _ in range(8):
                    if not await self._read():
                        break
        except (TimeoutError, ProducerError):
            pass  # a server that trickles on has not earned its connection

    async def _refused(self) -> ProviderError:
        """The error for a status that is not 200."""
        response, call = self._response, self._call
        parts = response.aiter_bytes()
        body = b""
        try:
            async with asyncio.timeout(_ERROR_BODY_SECONDS):
                while len(body) < _MAX_ERROR_BODY:
                    body += await call.attend(parts.__anext__())
        except (StopAsyncIteration, TimeoutError, self._errors):
            pass  # the status says enough
        # Google wraps an error in a list where the answer would have been one.
        said = lenient(body.strip().removeprefix(b"[").removesuffix(b"]"))
        return provider_error(
            self._decoder.dialect.provider,
            said,
            what="refused the call",
            status=response.status_code,
            request_id=call.request_id,
            retry_after=retry_after(response.headers, said),
        )
