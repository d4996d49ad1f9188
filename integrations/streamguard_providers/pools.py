"""Connections to providers that are kept for the next call, one set for each event loop."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Self

import httpx

from streamguard_core import UsageError

IDLE_SECONDS: Final = 60.0
MAX_IDLE: Final = 20


class ProviderPool:
    """Keeps the connections of producers, so that consecutive calls use the same.

    Producers use one pool of the whole process (`shared_pool`) unless they are given another one.
    It is safe to share: each event loop has connections of its own, a call has its connection alone
    (on HTTP/2: its stream), the cutoff closes it in every phase, and no cookie is kept, so that one
    caller's call tells nothing of another's.

    Nothing has to be closed by hand. Connections are closed when nothing was called for
    `idle_seconds`, and when the event loop shuts down its asynchronous generators, as `asyncio.run`
    and every server do. Only a loop that is closed without that needs `aclose` before.

    Args:
        http2: whether to speak HTTP/2 with servers that can; needs the package h2. Then the logger
            `hpack`, at DEBUG, writes down headers, and keys with them: leave it at INFO.
        max_idle: most connections that are kept while they are not in use. Those in use are not
            limited: how many streams there are is the application's to say.
        idle_seconds: how long a connection is kept without use.

    Raises:
        UsageError: when HTTP/2 is wanted and h2 is not installed.

    Example:
        >>> pool = ProviderPool(max_idle=5)
        >>> pool
        <ProviderPool http2=False>
    """

    def __init__(
        self, *, http2: bool = False, max_idle: int = MAX_IDLE, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        if http2 and importlib.util.find_spec("h2") is None:
            raise UsageError(
                "ProviderPool(http2=True) needs the package h2; pip install 'httpx[http2]'"
            )
        self._http2 = http2
        self._max_idle = max_idle
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        # Weak in both: what is kept for a loop refers to the loop, and its timer keeps it alive.
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Kept]] = (
            weakref.WeakKeyDictionary()
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} http2={self._http2}>"

    async def lease(self, url: str) -> Lease:
        """A client of the running loop for a call to `url`; to be released after the call."""
        kept = self._kept()
        if kept is None:
            kept = _Kept(asyncio.get_running_loop(), self._idle_seconds)
            with self._lock:
                self._loops[kept.loop] = weakref.ref(kept)
            await kept.open()
        return Lease(kept, kept.client(self._limits(), secure=url.startswith("https:")))

    async def aclose(self) -> None:
        """Close the connections of the running loop; the next call opens new ones."""
        kept = self._kept()
        if kept is not None:
            await kept.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _kept(self) -> _Kept | None:
        with self._lock:
            found = self._loops.get(asyncio.get_running_loop())
        kept = None if found is None else found()
        return None if kept is None or kept.closed else kept

    def _limits(self) -> dict[str, Any]:
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=self._max_idle,
            keepalive_expiry=self._idle_seconds,
        )
        return {"http2": self._http2, "limits": limits}


class Lease:
    """One call's use of a pool's client.

    Args:
        kept: what it belongs to.
        client: the client.
    """

    __slots__ = ("_kept", "client")

    def __init__(self, kept: _Kept, client: httpx.AsyncClient) -> None:
        self._kept: _Kept | None = kept
        self.client = client
        kept.used()

    def release(self) -> None:
        """The call is over."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.unused()


class _Kept:
    """What a pool keeps for one event loop. Lives as long as the timer that ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle_seconds: float) -> None:
        self.loop = loop
        self.closed = False
        self._idle_seconds = idle_seconds
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._calls = 0
        self._since = loop.time()
        self._timer = loop.call_later(idle_seconds, self._look)
        self._keeper = _until_shutdown(self)
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Have the loop's shutdown end us."""
        await anext(self._keeper)

    def client(self, options: dict[str, Any], *, secure: bool) -> httpx.AsyncClient:
        """The client for one kind of URLs."""
        found = self._clients.get(secure)
        if found is None:
            found = self._clients[secure] = httpx.AsyncClient(
                verify=tls(secure=secure, http2=options["http2"]),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                **options,
            )
        return found

    def used(self) -> None:
        """A call begins."""
        self._calls += 1

    def unused(self) -> None:
        """A call is over."""
        self._calls -= 1
        self._since = self.loop.time()

    async def aclose(self) -> None:
        """Close all connections, and be of no use from now on."""
        self._forget()
        await self._keeper.aclose()
        await self.close_clients()

    async def close_clients(self) -> None:
        """Close all connections."""
        self._forget()
        clients, self._clients = self._clients, {}
        for client in clients.values():
            with suppress(Exception):  # a connection that cannot be closed is closed
                await client.aclose()

    def _forget(self) -> None:
        self.closed = True
        self._timer.cancel()

    def _look(self) -> None:
        """Close what nobody has used for long; look again later where somebody has."""
        rest = self._since + self._idle_seconds - self.loop.time()
        if self._calls or rest > 0:
            self._timer = self.loop.call_later(
                self._idle_seconds if self._calls else rest, self._look
            )
            return
        self._forget()
        self._closing = self.loop.create_task(self.aclose())


async def _until_shutdown(kept: _Kept) -> AsyncGenerator[None]:
    """Wait, as an open generator, for the loop to shut its generators down."""
    try:
        yield
    finally:
        await kept.close_clients()


@cache
def shared_pool() -> ProviderPool:
    """The pool that producers use when they are given none."""
    return ProviderPool()


@cache
def tls(*, secure: bool, http2: bool = False) -> ssl.SSLContext:
    """One TLS context for all: reading the certificates costs more than a whole stream.

    Plain HTTP needs none, and gets one that trusts nobody. HTTP/2 has its own, because the protocols
    that are offered are set in the context.
    """
    return httpx.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
