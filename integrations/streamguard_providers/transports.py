"""Transports that put every call of an httpx or httpx2 client under the scope it is made in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import httpx

from streamguard_core import CutOffError, Scope
from streamguard_core.scope import scope_of_call
from streamguard_providers._httpx import Family, dial_with, family, family_of
from streamguard_providers.asked import asked
from streamguard_providers.async_calls import AsyncBody, AsyncCall, undisturbed
from streamguard_providers.calls import REPORTED
from streamguard_providers.counted import CountedAsyncCall, CountedSyncCall
from streamguard_providers.record import REDIRECTED, NextTries
from streamguard_providers.sync_calls import Dialler, SyncBody, SyncCall

if TYPE_CHECKING:
    import httpx2


class _Guarded:
    """What both guarded transports know of their inner ones."""

    def __init__(self, inner: Any = None, **options: Any) -> None:
        if inner is not None and options:
            raise TypeError(
                f"{', '.join(sorted(options))} would have no effect: they are for the plain"
                " transport, and `inner` is given in its place"
            )
        self._given = inner
        self._options = options
        self._inner: dict[str, Any] = {}
        self._tries = NextTries()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._given or 'plain'}>"

    @property
    def transports(self) -> tuple[Any, ...]:
        """The transports that do the work, as far as there are any yet."""
        return tuple(self._inner.values()) if self._given is None else (self._given,)

    def _transport(self, kind: Family) -> Any:
        """The inner transport for the requests of a library."""
        if self._given is not None:
            return self._given
        name = kind.module.__name__
        found = self._inner.get(name)
        if found is None:
            # Two threads may make one each; the first to be put in is the one both use.
            found = self._inner.setdefault(name, self._plain(kind.module))
        return found

    def _plain(self, module: Any) -> Any:
        """A plain transport of a library."""
        raise AssertionError("provided by the two kinds of transports")

    def _known_of(self, request: httpx.Request) -> dict[str, Any]:
        """What is known of a call before it is made."""
        return {
            "asked": asked(request),
            "tries": self._tries,
            "redirected": request.extensions.get(REDIRECTED),
            "provider": request.url.host,
        }


@contextmanager
def _traced(request: httpx.Request, call: AsyncCall | SyncCall) -> Iterator[None]:
    """Have httpcore tell `call` what it does; afterwards the request is as it was.

    A redirect or a retry starts from this request, and has a call of its own.
    """
    own = request.extensions
    request.extensions = {**own, "trace": call.tracer(own.get("trace"))}
    try:
        yield
    finally:
        request.extensions = own


class _GuardedAsync(_Guarded):
    """`GuardedAsyncTransport` without the base class of a library."""

    def __init__(self, inner: httpx.AsyncBaseTransport | None = None, **options: Any) -> None:
        super().__init__(inner, **options)
        self._tidying: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response, whose body is governed as well."""
        kind = family_of(request)
        inner = self._transport(kind)
        scope = _scope_of(request)
        if scope is None:
            response: httpx.Response = await inner.handle_async_request(request)
            return response
        return await self._govern(kind, inner, scope, request)

    async def aclose(self) -> None:
        """Close the pool."""
        for transport in self.transports:
            await transport.aclose()

    async def __aenter__(self) -> Self:
        if self._given is not None:
            await self._given.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._given is not None:
            await self._given.__aexit__(kind, error, traceback)
        for transport in self._inner.values():
            await transport.aclose()

    def _plain(self, module: Any) -> Any:
        return module.AsyncHTTPTransport(**self._options)

    async def _govern(
        self, kind: Family, inner: Any, scope: Scope, request: httpx.Request
    ) -> httpx.Response:
        call = CountedAsyncCall(kind.cut_off, **self._known_of(request), tidying=self._tidying)
        call.join(scope)
        await call.opened()
        if call.was_cut:
            raise call.cut_off()
        call.begin(inner)
        try:
            with _traced(request, call):
                response = await call.attend(inner.handle_async_request(request))
        except BaseException as error:
            call.finish(error)
            await call.hang_up()
            raise
        opened = await self._opened(kind, call, response)
        request.extensions = {**request.extensions, **call.handed_on}
        return opened

    async def _opened(
        self, kind: Family, call: AsyncCall, response: httpx.Response
    ) -> httpx.Response:
        call.answered(response)
        if call.was_cut:
            await undisturbed(response.aclose())
            await call.hang_up()
            raise call.cut_off()
        if response.is_closed:
            call.finish(whole=True)
            return response
        call.reads(response.stream)
        response.stream = _body(AsyncBody, kind, "AsyncByteStream")(response.stream, call)
        return response


class GuardedAsyncTransport(_GuardedAsync, httpx.AsyncBaseTransport):
    """Closes the connections of a scope's calls at its cutoff, whoever is still reading.

    In every phase: while the call waits for the pool, connects, waits for headers, is being read,
    or is not being read. Whoever waits in it, or goes on reading, gets a `CutOffReadError`. In a
    scope whose reader is gone, calls are refused. Outside of any scope it does what `inner` does.

    What passes is counted from the bytes, after the application has got them: a call in a session is
    an attempt of its stream, any other call of a generating endpoint has a receipt of its own, kept
    in the scope's ledger.

    A call that is cancelled leaves no connection behind, nor a place in the pool. With an `inner`
    that keeps no httpcore pool, what it opens before its headers is its own to close.

    Args:
        inner: the transport that does the work. By default a plain one of the library whose client
            uses this.
        options: keywords for the plain one (`http2`, `verify`, `limits`, ...); not together with
            `inner`.

    Example:
        >>> client = httpx.AsyncClient(transport=GuardedAsyncTransport())
    """

    @classmethod
    def httpx2(
        cls, inner: httpx2.AsyncBaseTransport | None = None, **options: Any
    ) -> httpx2.AsyncBaseTransport:
        """The same for clients of httpx2: an instance of its `AsyncBaseTransport`, not of httpx's."""
        made: httpx2.AsyncBaseTransport = _class_for_httpx2(cast(Any, cls), "AsyncBaseTransport")(
            inner, **options
        )
        return made


class _GuardedSync(_Guarded):
    """`GuardedTransport` without the base class of a library."""

    def __init__(self, inner: httpx.BaseTransport | None = None, **options: Any) -> None:
        super().__init__(inner, **options)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response, whose body is governed as well."""
        kind = family_of(request)
        inner = self._transport(kind)
        scope = _scope_of(request)
        if scope is None:
            response: httpx.Response = inner.handle_request(request)
            return response
        return self._govern(kind, inner, scope, request)

    def close(self) -> None:
        """Close the pool."""
        for transport in self.transports:
            transport.close()

    def __enter__(self) -> Self:
        if self._given is not None:
            self._given.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._given is not None:
            self._given.__exit__(kind, error, traceback)
        for transport in self._inner.values():
            transport.close()

    def _plain(self, module: Any) -> Any:
        made = module.HTTPTransport(**self._options)
        dial_with(made, Dialler)
        return made

    def _govern(
        self, kind: Family, inner: Any, scope: Scope, request: httpx.Request
    ) -> httpx.Response:
        call = CountedSyncCall(kind.cut_off, **self._known_of(request))
        call.join(scope)
        call.opened()
        if call.was_cut:
            raise call.cut_off()
        call.begin(inner)
        try:
            with _traced(request, call):
                response: httpx.Response = call.send(inner.handle_request, request)
        except CutOffError:
            call.hang_up()
            call.let_go()
            raise
        except BaseException as error:
            call.finish(error)
            raise
        opened = self._opened(kind, call, response)
        request.extensions = {**request.extensions, **call.handed_on}
        return opened

    def _opened(self, kind: Family, call: SyncCall, response: httpx.Response) -> httpx.Response:
        call.answered(response)
        if call.was_cut:
            call.let_go()
            response.close()
            raise call.cut_off()
        if response.is_closed:
            call.finish(whole=True)
            return response
        response.stream = _body(SyncBody, kind, "SyncByteStream")(response.stream, call)
        return response


class GuardedTransport(_GuardedSync, httpx.BaseTransport):
    """The same for sync clients: the cutoff comes from another thread, and the blocked one wakes.

    A thread that waits for a place in the pool is not woken, nor, with an `inner` of the caller's,
    one that is connecting: their calls are refused before anything was sent. On HTTP/2 the
    connection is shared, so that a blocked reader is let go at the next frame.

    Args:
        inner: the transport that does the work. By default a plain one of the library whose client
            uses this.
        options: keywords for the plain one (`http2`, `verify`, `limits`, ...); not together with
            `inner`.

    Example:
        >>> client = httpx.Client(transport=GuardedTransport())
    """

    @classmethod
    def httpx2(
        cls, inner: httpx2.BaseTransport | None = None, **options: Any
    ) -> httpx2.BaseTransport:
        """The same for clients of httpx2: an instance of its `BaseTransport`, not of httpx's."""
        made: httpx2.BaseTransport = _class_for_httpx2(cast(Any, cls), "BaseTransport")(
            inner, **options
        )
        return made


def _scope_of(request: httpx.Request) -> Scope | None:
    """The scope that governs a request; None where a producer reports its call itself."""
    return None if REPORTED in request.extensions else scope_of_call()


@cache
def _body(body: type, kind: Family, base: str) -> Any:
    """Our body as an instance of the library's own stream class, which its clients insist on."""
    return type(body.__name__, (body, getattr(kind.module, base)), {})


@cache
def _class_for_httpx2(guarded: Any, base: str) -> Any:
    """The class on httpx2's base; SDKs on httpx2 refuse what has one of httpx's, so ours has none."""
    bases = {GuardedAsyncTransport: _GuardedAsync, GuardedTransport: _GuardedSync}
    plain = bases.get(guarded, guarded)
    return type(guarded.__name__, (plain, getattr(family("httpx2").module, base)), {})
