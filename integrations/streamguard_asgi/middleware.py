"""`StreamGuardMiddleware`: one line in `add_middleware`, and every request of an application is under guard."""

from __future__ import annotations

import asyncio
from typing import Final, get_args

from streamguard_asgi._starlette import ASGIApp, ASGIScope, Receive, Send
from streamguard_asgi.existing import CancelRequests, Existing
from streamguard_asgi.options import check_seconds
from streamguard_asgi.request import STATE_KEY, OnReceipt, RequestGuard, new_guard
from streamguard_asgi.socket_guard import SocketGuard
from streamguard_core import Ledger, Pricer, Shutdown, UsageError, current_scope, use_scope
from streamguard_core.decoding import MakesDecoders
from streamguard_core.generators import watch_generators
from streamguard_core.late import Late
from streamguard_core.ledger import check_ledger
from streamguard_core.lifespan import live
from streamguard_core.price import check_pricer
from streamguard_core.receive import DEFAULT_LIMIT


class StreamGuardMiddleware:
    """Pure ASGI: sees the reader leave from the first instant on, whatever the framework listens to.

    Put it outermost. A request in which nothing is streamed and no body is read costs neither a
    task nor a `receive()`.

    Args:
        app: the application.
        ledger: where streams are recorded that name no ledger of their own.
        prices: what the calls of streams cost that name no price source of their own.
        on_receipt: called with the receipt of each stream once it is sealed; a function or a
            coroutine function. What it raises is logged and changes nothing.
        buffer_limit: how much of a request's body is read ahead of the application, in bytes, so
            that the reader's leaving is seen behind it.
        shutdown_grace: how long the end of a request, also one that the server cancels, waits for
            its streams to be sealed, in seconds. They are sealed later otherwise, and reported all
            the same. It bounds the end of every request; how long answers may go on when the process
            is told to go is `Shutdown(grace=...)`, see `shutdown`.
        consumer_stall: longest time a `send` may stay blocked, in seconds, where a response does not
            say so itself; then its stream is cut off as `CONSUMER_STALLED`. None for as long as the
            server lets it.
        cancel_requests: which requests are cancelled when their reader leaves before their response
            streams (FastAPI itself never does that). `governed`: those with a session or a guarded
            provider call, and those that wait in a model's SDK; whatever else runs, a payment say,
            runs to its end as before. `all`, or `none`. A streaming response is ended in any case.
        decoder: makes a decoder for a response that streams by itself, so that its chunks, finish and
            usage are those of the provider's format that passes through: `StreamDecoder.auto`.
            Without one the sends are counted as chunks.
        shutdown: ends the streams in order when the process is told to go: a `Shutdown` of your own,
            one with its defaults (True), or none (False: no signal handler is installed). Its
            `grace` is for a deploy, unlike `shutdown_grace`.

    Raises:
        UsageError: when a bound or a time is not positive, `ledger` or `prices` is none, or
            `cancel_requests` is something else.

    Example:
        >>> from starlette.applications import Starlette
        >>> app = Starlette()
        >>> app.add_middleware(StreamGuardMiddleware, on_receipt=print)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ledger: Ledger | None = None,
        prices: Pricer | None = None,
        on_receipt: OnReceipt | None = None,
        buffer_limit: int = DEFAULT_LIMIT,
        shutdown_grace: float = 5.0,
        consumer_stall: float | None = None,
        cancel_requests: CancelRequests = "governed",
        decoder: MakesDecoders | None = None,
        shutdown: Shutdown | bool = True,
    ) -> None:
        if buffer_limit < 1 or not shutdown_grace > 0:
            raise UsageError(
                f"StreamGuardMiddleware was given buffer_limit={buffer_limit!r} and"
                f" shutdown_grace={shutdown_grace!r}; both are positive"
            )
        if cancel_requests not in get_args(CancelRequests):
            raise UsageError(
                f"StreamGuardMiddleware was given cancel_requests={cancel_requests!r}; it is one of"
                f" {', '.join(get_args(CancelRequests))}"
            )
        check_seconds(consumer_stall=consumer_stall)
        self.app = app
        self._ledger = None if ledger is None else check_ledger(ledger)
        self._prices = None if prices is None else check_pricer(prices)
        self._on_receipt = on_receipt
        self._buffer_limit = buffer_limit
        self._shutdown_grace = shutdown_grace
        self._consumer_stall = consumer_stall
        self._cancel_requests = cancel_requests
        self._decoder = decoder
        self._shutdown = Shutdown() if shutdown is True else shutdown or None
        self._has_served = False
        self._late = Late()
        """What outlives its request: streams under `grace` or a drain, coroutines of `on_receipt`."""

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Run the application under a guard of its own; unknown scopes pass through untouched."""
        if scope["type"] == "lifespan" and self._shutdown is not None:
            await live(self.app, self._shutdown, scope, receive, send)
            return
        kind = _GUARDS.get(scope["type"])
        if kind is None or _is_guarded(scope):
            await self.app(scope, receive, send)
            return
        guard = self._guard(kind)
        pump = guard.connect(receive, send, self._buffer_limit)
        new_guard(scope, guard)
        host = asyncio.current_task()
        existing = None
        if scope["type"] == "http":
            guard.existing = existing = Existing(guard, scope, self._cancel_requests, self._decoder)
            watch_generators()
        with use_scope(guard):
            receiving: Receive = pump.receive
            if existing is not None:
                existing.begin(host)
                receiving = existing.receiving(receiving)
            try:
                await self.app(scope, receiving, guard.send)
            except BaseException as error:
                if existing is None or not existing.ended_by_us(error):
                    guard.interrupted(error)
                    raise
            finally:
                try:
                    await guard.end(host)
                    await guard.over_and_durable()
                finally:
                    guard.over = True
                    guard.disconnect()

    def _guard(self, kind: type[RequestGuard]) -> RequestGuard:
        """The guard of a new request; the first one also sees to the process's handlers of signals."""
        if not self._has_served:
            self._has_served = True
            if self._shutdown is not None:
                # For servers without a lifespan, and those that set their handlers after it.
                self._shutdown.install()
        return kind(
            ledger=self._ledger,
            prices=self._prices,
            on_receipt=self._on_receipt,
            close_timeout=self._shutdown_grace,
            late=self._late,
            consumer_stall=self._consumer_stall,
            shutdown=self._shutdown,
        )


_GUARDS: Final = {"http": RequestGuard, "websocket": SocketGuard}


def _is_guarded(scope: ASGIScope) -> bool:
    """True when this middleware stands twice in a row: the outer one has the request already."""
    guard = scope.get("state", {}).get(STATE_KEY)
    return guard is not None and guard is current_scope()
