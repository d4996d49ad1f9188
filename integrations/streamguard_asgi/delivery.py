"""Sends one stream to one reader: everything that is ready in one `send`, and never past the end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from math import inf
from typing import Any, Final, TypedDict

from streamguard_asgi._starlette import Message, Send
from streamguard_core import (
    AnyChunk,
    Cause,
    CloseState,
    LedgerError,
    StreamSession,
    current_scope,
)
from streamguard_core.cancellation import cause_of
from streamguard_core.formats import End, Format
from streamguard_core.shutdown import LAST_SEND

_EARLY: Final = 0.001
"""How early a timer may come and still count as on time, in seconds."""

RawHeaders = list[tuple[bytes, bytes]]


class Times(TypedDict):
    """The times that a `Delivery` keeps."""

    ping: float | None
    consumer_stall: float | None


class Delivery:
    """The reader's side of one session. Per batch it costs one encoding, one dict and one `send`.

    Runs in a task of its own: a host that cancels (AnyIO does so in every turn of the loop) cannot
    get at the producer's cleanup, and it is clear whose cancellation is whose.

    A member of the request's scope: it is told when the reader has left, after the session was, and
    then sends nothing more. One timer, re-armed when it fires and never per chunk, looks after
    silence (a ping) and after a `send` that does not return (`CONSUMER_STALLED`).

    Invariant: no two `send` calls run at the same time.

    Args:
        session: what is sent.
        form: how it looks on the wire.
        send: the server's, or what stands before it.
        ping: longest silence in seconds before a keep-alive; None for none.
        consumer_stall: longest time a `send` may stay blocked, in seconds; None for as long as the
            server lets it.
        opening: sent before the first chunk.
        begun: the stream was answered before, on another connection: its status has been said.
    """

    __slots__ = (
        "_begun",
        "_form",
        "_interrupted",
        "_last",
        "_loop",
        "_opening",
        "_phase",
        "_ping",
        "_ping_began",
        "_ping_every",
        "_seen",
        "_send",
        "_session",
        "_since",
        "_stall_after",
        "_task",
        "_thread",
        "_timer",
        "_watch",
        "away",
        "complete",
        "given_up",
        "stalled",
        "superseded",
    )

    def __init__(
        self,
        session: StreamSession,
        form: Format,
        send: Send,
        *,
        ping: float | None,
        consumer_stall: float | None,
        opening: bytes = b"",
        begun: bool = False,
    ) -> None:
        self._session = session
        self._opening = opening
        self._begun = begun
        self._form = form
        self._send = send
        self._ping_every = ping if form.ping else None
        self._stall_after = consumer_stall if consumer_stall != inf else None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._task: asyncio.Task[Any] | None = None
        self._phase = 0
        """Odd while a `send` is under way; grows with each."""
        self._seen = -1
        """The phase in which the timer fired last, and since when it has known it."""
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None
        self._ping_began = 0.0
        self._interrupted = False
        self.away = False
        """The reader has left, or is given up on: nothing more is sent."""
        self.complete = False
        """The last message is on its way."""
        self.stalled = False
        """A `send` was given up on: what the server still holds will not be read."""
        self._last: asyncio.TimerHandle | None = None
        """Gives a reader up that does not take the end when the server shuts down."""
        self.superseded = False
        """Another connection reads the stream now."""
        self._watch: asyncio.Task[None] | None = None
        self.given_up: asyncio.Future[None] = self._loop.create_future()
        """Done when the reading is stuck in an iterator that ignored its cancellation until the seal."""

    # -- what it is told ---------------------------------------------------------------------------

    def disconnected(self, detail: str = "") -> None:
        """The reader has left. Safe from any thread."""
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.disconnected, detail)
            return
        if self.away:
            return
        self.away = True
        self._session.disconnected(detail)
        if self._phase % 2 or self._session.cause is None:
            # Parked in a send, or in reading a stream that lives on under its policy: neither
            # returns by itself.
            self._interrupt()

    def host_cancelled(self, error: asyncio.CancelledError) -> None:
        """The task that waits for this response was cancelled, by its server or by a layer in between."""
        self._end_with(error)
        if self._session.cause is Cause.SHUTDOWN and not self._phase % 2:
            return  # The server waits a moment for what it cancels: the reader is told why.
        self.away = True
        if self._phase % 2 or self._session.cause is None:
            self._interrupt()

    def supersede(self) -> None:
        """Another connection reads the stream from now on; the session goes on."""
        if not self.away:
            self.away = self.superseded = True
        self._interrupt()

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """The session is told by itself, and ends the reading."""

    @property
    def begun(self) -> bool:
        """The head of this response was sent."""
        return self._phase > 1

    @property
    def unanswered(self) -> bool:
        """Nothing of this response was sent, nor is on its way."""
        return not self._phase

    # -- the life of a response --------------------------------------------------------------------

    async def run(self, status: int, headers: RawHeaders) -> None:
        """Send the whole response. Returns also when the reader has left; a failure of the stream is no error."""
        session = self._session
        self._task = asyncio.current_task()
        batches = session.batches(beside=True)
        undo = session.on_close(lambda: self._cut_off(batches))
        try:
            await self._open()
            if not self.away:
                await self._send_head(status, headers)
                del headers  # kept for as long as the reader stays otherwise
                await self._send_chunks(batches)
                await self._send_end()
        except OSError:
            # ASGI 2.4: a send to a reader that has left may raise.
            self.away = True
            session.disconnected("send() raised OSError")
        except asyncio.CancelledError as error:
            if self._absorb():
                self._end_with(error)
                raise
        except BaseException as error:
            self._end_with(error)
            raise
        finally:
            undo()
            if self._watch is not None:
                self._watch.cancel()
            if self._last is not None:
                self._last.cancel()
            self._task = None
            self._stop_timer()
            # Only now, when it is said why: a reader that closes its iterator has left.
            await batches.aclose()

    async def _open(self) -> None:
        """Wait for the OPEN record: nothing is promised to the reader before."""
        try:
            await self._session.opened()
        except LedgerError:
            return  # The session is cut off, and its end says so.

    async def _send_head(self, status: int, headers: RawHeaders) -> None:
        cause = self._session.cause
        if cause is not None and status == 200 and not self._begun:
            status = _STATUS.get(str(cause.category), status)
        await self._sent({"type": "http.response.start", "status": status, "headers": headers})
        self._arm()
        if opening := self._opening:
            self._opening = b""
            await self._sent({"type": "http.response.body", "body": opening, "more_body": True})

    async def _send_chunks(self, batches: AsyncIterator[list[AnyChunk]]) -> None:
        send, encode, phase = self._send, self._form.encode, self._phase
        session = self._session
        async for batch in batches:
            if self.away:
                return
            if body := encode(batch):
                self._phase = phase + 1
                if self._ping is not None:
                    await self._ping_sent()
                sending = send({"type": "http.response.body", "body": body, "more_body": True})
                await (session.beside(sending) if session.reads_ahead else sending)
                self._phase = phase = phase + 2

    async def _send_end(self) -> None:
        """The explicit end, once; where the format has no word for a failure, the connection is broken off."""
        session = self._session
        cause = session.cause
        if self.away or cause is None:
            return
        committed = session.statistics().committed
        await self._send_last(End.of(cause, session.finish_reason, committed, session.stream_id))

    async def _send_last(self, end: End) -> None:
        body = self._form.end(end)
        if body is not None:
            self.complete = True
            await self._sent({"type": "http.response.body", "body": body, "more_body": False})

    async def _sent(self, message: Message) -> None:
        self._phase += 1
        if self._ping is not None:
            await self._ping_sent()
        await self._send(message)
        self._phase += 1

    def _end_with(self, error: BaseException) -> None:
        """The response ended before its stream did, and not because of the reader (G14)."""
        if not self.away and self._session.cause is None:
            self._session.terminate(
                cause_of(error, current_scope()), f"the response ended with {type(error).__name__}"
            )

    # -- interrupting its own task -----------------------------------------------------------------

    def _interrupt(self) -> None:
        """Cancel the task this delivery runs in; it takes exactly this cancellation back."""
        task = self._task
        if task is not None and not task.cancelling():
            self._interrupted = task.cancel("streamguard: the reader has left")

    def _absorb(self) -> bool:
        """Take the cancellation back; True when there was none of ours, or somebody else's besides."""
        if not self._interrupted or self._task is None:
            return True
        self._interrupted = False
        return self._task.uncancel() > 0

    def _cut_off(self, batches: AsyncGenerator[list[AnyChunk], None]) -> None:
        """A send that stalls will not return; and reading may not, which is watched."""
        if self._session.cause is Cause.CONSUMER_STALLED:
            # One that acknowledges nothing may still be told; its connection is broken off in either case.
            self.stalled = True
            if self._phase % 2:
                self.away = True
                self._interrupt()
        elif self._session.cause is Cause.SHUTDOWN:
            self._last = self._loop.call_later(LAST_SEND, self._give_up_send)
        self._watch = self._loop.create_task(self._watch_seal(batches))

    def _give_up_send(self) -> None:
        """A server that shuts down does not wait for a reader that takes nothing."""
        if self._phase % 2:
            self.away = self.stalled = True
            self._interrupt()

    async def _watch_seal(self, batches: AsyncGenerator[list[AnyChunk], None]) -> None:
        """Give the reading up when the session has given the iterator up that it is in."""
        with contextlib.suppress(LedgerError):
            await self._session.receipt()
        sealed = self._session.sealed
        if sealed is not None and sealed.close is CloseState.UNCONFIRMED and _inside(batches):
            self.given_up.set_result(None)

    async def end_alone(self) -> None:
        """Send the end in place of the reading, which was given up and will send nothing more."""
        self._stop_timer()
        try:
            await self._send_end()
        except OSError:
            pass  # A send to a reader that has left may raise; that is known already.
        finally:
            self.away = True

    # -- silence and stalls ------------------------------------------------------------------------

    def _arm(self) -> None:
        waits = [
            self._ping_every and self._ping_every / 2,
            self._stall_after and self._stall_after / 4,
        ]
        if wait := min(filter(None, waits), default=None):
            self._timer = self._loop.call_later(wait, self._look)

    def _look(self) -> None:
        """The timer: nothing but a change of phase says that something was sent."""
        now, phase = self._loop.time(), self._phase
        if phase != self._seen:
            self._seen, self._since = phase, now
        unchanged = now - self._since + _EARLY
        if phase % 2 or self._ping is not None:
            blocked = unchanged if phase % 2 else now - self._ping_began + _EARLY
            if self._stall_after and blocked >= self._stall_after:
                self._stall()
                return
        elif self._ping_every and unchanged >= self._ping_every / 2:
            # Half an interval of silence seen is at most a whole one gone by.
            self._since = now + self._ping_every / 2
            self._start_ping()
        self._arm()

    def _stall(self) -> None:
        self.away = self.stalled = True
        self._session.terminate(Cause.CONSUMER_STALLED, "send() did not return in time")
        self._interrupt()

    def _start_ping(self) -> None:
        if self._ping is None and not self.away:
            self._ping_began = self._loop.time()
            self._ping = self._loop.create_task(self._send_ping())
            self._ping.add_done_callback(self._pinged)

    async def _send_ping(self) -> None:
        await self._send({"type": "http.response.body", "body": self._form.ping, "more_body": True})

    async def _ping_sent(self) -> None:
        """Never interleave: a ping that is under way is waited for, as part of the send."""
        if self._ping is not None:
            await asyncio.wait([self._ping])

    def _pinged(self, task: asyncio.Task[None]) -> None:
        self._ping = None
        if not task.cancelled() and task.exception() is not None:
            self.disconnected("send() raised")

    def _stop_timer(self) -> None:
        if self._ping is not None:
            self._ping.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_STATUS: Final = {"timeout": 504, "producer": 502, "shutdown": 503, "system": 503, "policy": 403}
"""What a stream that ended before its response began is answered with, by category."""


def _inside(batches: AsyncGenerator[list[AnyChunk], None]) -> bool:
    """True while somebody waits inside the generator."""
    return bool(getattr(batches, "ag_running", False))
