"""One request under guard: its streams, their receipts, and the news that its reader has left."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from streamguard_asgi._starlette import ASGIScope, Message, Receive, Send
from streamguard_asgi.existing import Existing
from streamguard_asgi.generators import Generators
from streamguard_asgi.shielding import finish
from streamguard_asgi.socket_pump import SocketPump
from streamguard_core import (
    Governed,
    Ledger,
    Notice,
    Pricer,
    Receipt,
    RecordedStream,
    Scope,
    Sealed,
    Shutdown,
    StreamSession,
    SyncStreamSession,
    current_scope,
)
from streamguard_core.aborting import abort
from streamguard_core.cancellation import cause_of
from streamguard_core.late import Late
from streamguard_core.receive import DEFAULT_LIMIT, ReceivePump
from streamguard_core.shutdown import until_durable

logger = logging.getLogger("streamguard")

STATE_KEY = "streamguard"
Stream = StreamSession | SyncStreamSession | RecordedStream
"""What has a receipt: this guard closes the first kind, and is told by the others when they are sealed."""
OnReceipt = Callable[[Receipt], Awaitable[None] | None]
"""Called with each receipt, once; may be a coroutine function."""


class RequestGuard(Scope):
    """What `request.state.streamguard` and `current_scope()` are: the scope of one HTTP request.

    Args:
        ledger: where streams of this request are recorded that name no ledger of their own.
        prices: what the calls of streams cost that name no price source of their own.
        on_receipt: called with the receipt of each stream.
        close_timeout: how long the end of the request waits for its streams to be sealed, in
            seconds.
        late: where tasks are kept that outlive the request.
        consumer_stall: how long a `send` may stay blocked where a response does not say so itself.
        shutdown: who ends this request's streams when the process is told to go.

    Example:
        >>> async def endpoint(request):  # doctest: +SKIP
        ...     causes = [receipt.cause for receipt in request.state.streamguard.receipts]
    """

    def __init__(
        self,
        *,
        ledger: Ledger | None = None,
        prices: Pricer | None = None,
        on_receipt: OnReceipt | None = None,
        close_timeout: float = 5.0,
        late: Late | None = None,
        consumer_stall: float | None = None,
        shutdown: Shutdown | None = None,
    ) -> None:
        super().__init__(ledger=ledger, prices=prices, observers=(self._noticed,))
        self.shutdown = shutdown
        self.sessions: list[StreamSession] = []
        self._streams: list[Stream] = []
        self.responded = False
        """The response is complete: what happens to the connection now is no disconnect."""
        self.continues = False
        """It answers with a stream that another request has opened, and that has its receipt there."""
        self.over = False
        """The request has ended; a task that it left behind must not stream under it."""
        self._on_receipt = on_receipt
        self.close_timeout = close_timeout
        self.consumer_stall = consumer_stall
        self._unreported: list[StreamSession] = []
        self._late = Late() if late is None else late
        self._pump: ReceivePump | SocketPump | None = None
        self._server: Send | None = None
        self._send: Send | None = None
        self._chunk: Send | None = None
        """What the chunks of a response are sent with, once it is known to come in pieces."""
        self.existing: Existing | None = None
        """Sees to the application itself; only under the middleware."""
        self.touched = False
        """A session or a provider call was under this guard."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.host = asyncio.current_task()

    @property
    def generators(self) -> Generators | None:
        """The async generators that this request iterates."""
        return None if self.existing is None else self.existing.generators

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts of the streams that are sealed, in the order in which the streams were opened."""
        return tuple(each.sealed for each in self._streams if each.sealed is not None)

    # -- the connection ----------------------------------------------------------------------------

    def connect(
        self, receive: Receive, send: Send | None = None, limit: int = DEFAULT_LIMIT
    ) -> ReceivePump:
        """Become the one reader of the server's `receive`, and see what goes through its `send`.

        Args:
            receive: the server's.
            send: the server's; None where only the reader's leaving is looked for.
            limit: how many bytes of a body may wait to be asked for.

        Returns:
            What the application awaits in place of `receive`.
        """
        self._pump = ReceivePump(receive, self._left, limit)
        self._server = self._send = send
        return self._pump

    @property
    def connected(self) -> bool:
        """True when this guard sees the reader leave; without the middleware only responses can."""
        return self._pump is not None

    def disconnect(self) -> None:
        """The request is over, or the response that watched for it."""
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.stop()

    def send(self, message: Message) -> Awaitable[None]:
        """What the application awaits in place of the server's `send`. No coroutine of its own per chunk."""
        if (chunk := self._chunk) is not None and message.get("more_body"):
            return chunk(message)
        self._note(message)
        assert self._send is not None
        return self._send(message)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams of this request, in the order in which they were opened."""
        return tuple(self._streams)

    def _note(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self.existing and self.gone is None:
            assert self._send is not None
            self._send = self.existing.starts(message, self._send)
        if message["type"] == "http.response.body":
            if not message.get("more_body"):
                # Before the send: a server may tell of the disconnect in the middle of it.
                self.responded = True
            elif message.get("body") and self._pump is not None:
                self._pump.response_streams()
                self._chunk = self._streams_itself()

    def _streams_itself(self) -> Send | None:
        """The response comes in pieces: what they are sent with."""
        if self.existing is None or self.sessions:
            return self._send
        assert self._send is not None
        self.existing.streams()
        self._send, chunk = self.existing.sending(self._send)
        return chunk

    def _left(self) -> None:
        if self.responded:
            return
        told = isinstance(self._pump, ReceivePump) and self._pump.listened
        self.disconnected("the connection was closed")
        if self.existing is None or any(session.cause is None for session in self.sessions):
            return  # What lives on under its policy is read on; nothing of it is sent.
        self.send_no_more()
        self.existing.left(told=told or bool(self.sessions))

    def send_no_more(self) -> None:
        """What the application still sends goes nowhere."""
        if self._send is not None and self.existing is not None:
            self._send, self._chunk = self.existing.to_nobody(self._send), None

    def abort(self, send: Send | None = None) -> None:
        """Break the connection off, where the server lets us: its reader will not empty it any more.

        Args:
            send: the server's, where this guard does not have it.
        """
        abort(self._server or send)

    # -- what it governs ---------------------------------------------------------------------------

    def add(self, member: Governed) -> None:
        """Put a session or a provider call under this request; ended at once if the reader has left."""
        if isinstance(member, StreamSession):
            if member in self.sessions:
                return
            self.sessions.append(member)
            self._unreported.append(member)
        if isinstance(member, Stream):
            if self.shutdown is not None and not self._streams:
                self.shutdown.add(self)
            self._streams.append(member)
        self.touched = True
        super().add(member)
        self.watch()

    async def watched(self) -> None:
        """Let the pump look once: a reader that left before anything was called must cost nothing."""
        if self._pump is not None:
            await asyncio.sleep(0)

    def watch(self) -> None:
        """Only from now on does it matter whether the reader is there."""
        if self._pump is None or self._pump.started or self.responded:
            return
        if threading.get_ident() == self._thread:
            self._pump.start()
        else:
            self._loop.call_soon_threadsafe(self._pump.start)

    # -- the end -----------------------------------------------------------------------------------

    def interrupted(self, error: BaseException) -> None:
        """The application ended with `error`: whatever still runs was not ended by its reader."""
        if isinstance(error, Exception):
            # A call that failed and waits for its retry gets none: its failure was the provider's.
            self.settle()
        if self.existing is not None:
            self.existing.failed(error)
        if self.gone is None:
            for stream in self._streams:
                if stream.cause is None:
                    stream.terminate(
                        cause_of(error, self), f"the response ended with {type(error).__name__}"
                    )

    async def end(self, host: asyncio.Task[Any] | None) -> None:
        """The request's application has returned or raised: see that everything of it has ended."""
        try:
            await self.close()
        finally:
            if self.existing is not None:
                over = self.responded and self.gone is None
                await self.existing.end(host, interrupted=not over)

    async def close(self, *sessions: StreamSession) -> None:
        """See that `sessions` (all, if none is named) end now; nothing is left to the garbage collector.

        Bounded: what is not sealed in time, or lives on under `grace`, is reported when it is.
        """
        chosen = sessions or tuple(self.sessions)
        unsealed = [session for session in chosen if session.sealed is None]
        try:
            if unsealed:
                self.keep(await finish(_close_all(unsealed), self.close_timeout))
        finally:
            for session in chosen:
                self._report(session)

    async def over_and_durable(self) -> None:
        """The request is over. A process that goes does not leave before its receipts are kept."""
        shutdown = self.shutdown
        if shutdown is None or not self._streams:
            return
        shutdown.release(self, self._streams)
        if shutdown.begun:
            await finish(until_durable(self._streams), self.close_timeout)

    def release(self, session: StreamSession) -> None:
        """It lives on without this request; it is reported when it is sealed."""
        self.discard(session)
        if session in self.sessions:
            self.sessions.remove(session)
        self._report(session)

    def _report(self, session: StreamSession) -> None:
        if session not in self._unreported:
            return
        self._unreported.remove(session)
        self.discard(session)
        if session.sealed is None:
            self.keep(asyncio.ensure_future(self._report_late(session)))
        else:
            self._sealed(session, session.sealed)

    async def _report_late(self, session: StreamSession) -> None:
        await _until_sealed(session)
        if self.shutdown is not None:
            self.shutdown.discard(session)
        if session.sealed is not None:
            self._sealed(session, session.sealed)

    def _sealed(self, session: StreamSession, receipt: Receipt) -> None:
        """A stream is over: later calls of this request are not its, and are this request's alone."""
        if self.session is session:
            self.session = None
        self._tell(receipt)

    def _noticed(self, notice: Notice) -> None:
        """A stream that is no session of this loop's is over; in whatever thread it was made."""
        if not isinstance(notice, Sealed) or self._closes(notice.receipt):
            return
        if threading.get_ident() == self._thread:
            self._tell(notice.receipt)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its callbacks with it
                self._loop.call_soon_threadsafe(self._tell, notice.receipt)

    def _closes(self, receipt: Receipt) -> bool:
        """Whether it is that of a session, which is reported when it is closed."""
        return any(each.stream_id == receipt.stream_id for each in self.sessions)

    def _tell(self, receipt: Receipt) -> None:
        """Call `on_receipt`; its failure is logged, and is nobody's but its own."""
        if self._on_receipt is None:
            return
        try:
            told = self._on_receipt(receipt)
        except Exception as error:  # noqa: BLE001 - a callback cannot change how a stream ended
            logger.error(
                "on_receipt raised %s for stream %s", type(error).__name__, receipt.stream_id
            )
            return
        if inspect.isawaitable(told):
            self.keep(asyncio.ensure_future(told))

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Hold a task until it is done, and log what it raised."""
        self._late.keep(task)


def guard_in(scope: ASGIScope) -> RequestGuard | None:
    """The guard of a request, if there is one."""
    guard = scope.get("state", {}).get(STATE_KEY)
    if guard is None:
        guard = current_scope()
    return guard if isinstance(guard, RequestGuard) and not guard.over else None


def new_guard(scope: ASGIScope, guard: RequestGuard) -> RequestGuard:
    """Put `guard` where applications look for it; not every server brings a `state`."""
    scope.setdefault("state", {})[STATE_KEY] = guard
    return guard


async def _close_all(sessions: list[StreamSession]) -> None:
    await asyncio.gather(*map(_close, sessions))


async def _close(session: StreamSession) -> None:
    try:
        await session.aclose()
    except Exception as error:  # noqa: BLE001 - a ledger's failure is logged, the response is over
        logger.error("stream %s: closing it raised %s", session.stream_id, type(error).__name__)


async def _until_sealed(session: StreamSession) -> None:
    try:
        await session.receipt()
    except Exception as error:  # noqa: BLE001 - see above
        logger.error("stream %s: its receipt raised %s", session.stream_id, type(error).__name__)
