"""A stream that an application sends by itself: counted as it goes past, with a receipt of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from streamguard_asgi._starlette import Message, Send
from streamguard_asgi.tally import BEHIND_COLON, Tally
from streamguard_core import Cause
from streamguard_core.decoding import MakesDecoders
from streamguard_core.shutdown import DETAIL

if TYPE_CHECKING:
    from streamguard_asgi.request import RequestGuard
    from streamguard_asgi.unwinding import Unwinding

EVENTS: Final = "text/event-stream"
_STREAMS: Final = frozenset(
    (EVENTS, "application/x-ndjson", "application/jsonl", "application/x-jsonlines")
)
"""Whatever is sent as one of these is a stream."""
_PERHAPS: Final = frozenset(("", "text/plain", "application/octet-stream"))
"""What is sent as one of these is one if a decoder recognises it."""


class Passing:
    """One response of an application that goes past. What is sent counts once `send` has returned.

    The stream is the session of its request: provider calls that begin while it is sent, through a
    guarded transport, are its attempts, so that there is one receipt.

    Args:
        guard: of the request.
        unwinding: of its application.
        send: the server's.
        tally: counts.
        cut_off: called when the stream was ended by somebody else than its reader.
    """

    __slots__ = (
        "_begun",
        "_cut_off",
        "_deadline",
        "_guard",
        "_loop",
        "_seen",
        "_send",
        "_since",
        "_stream",
        "_tally",
        "_thread",
        "_timer",
        "_unwinding",
    )

    def __init__(
        self,
        guard: RequestGuard,
        unwinding: Unwinding,
        send: Send,
        tally: Tally,
        cut_off: Callable[[], None],
    ) -> None:
        self._guard, self._unwinding, self._send, self._tally = guard, unwinding, send, tally
        self._cut_off = cut_off
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._stream = guard.new_stream()
        self._begun = False
        self._seen = 0
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        """After the cutoff: an application that has not returned by then is not waited for."""

    def begin(self) -> None:
        """What is sent is a stream: it has a receipt from here on."""
        guard, stream = self._guard, self._stream
        if self._begun or guard.closed:
            return
        self._begun = True
        stream.held = True
        stream.catch_up = self._tell
        stream.carried = self._carried
        stream.start()
        stream.on_close(self._closed)
        guard.add(stream)
        guard.session = stream
        if guard.consumer_stall is not None:
            self._arm()

    def chunks(self) -> Send:
        """What the application sends its chunks with, all but the first and the last: it is what they cost."""
        sends, send, tally = self._unwinding.sends, self._send, self._tally
        flows = False

        async def passes(message: Message) -> None:
            nonlocal flows
            sends.begun += 1
            try:
                await send(message)
            except BaseException:
                sends.others += 1
                raise
            body = message.get("body")
            if flows and type(body) is bytes and body >= BEHIND_COLON:
                sends.passed += 1
                return
            sends.others += 1
            if body:
                flows = self._pass(tally.take(body)) and tally.plain

        return passes

    async def send(self, message: Message) -> None:
        """What the application sends everything else with."""
        sends = self._unwinding.sends
        sends.begun += 1
        try:
            await self._send(message)
        finally:
            sends.others += 1
        if message["type"] != "http.response.body":
            return
        if body := message.get("body"):
            self._pass(self._tally.take(body))
        if not message.get("more_body"):
            self._complete()

    def failed(self, error: BaseException) -> None:
        """The application ended with `error`: it is what makes this stream."""
        if self._begun and self._stream.cause is None and isinstance(error, Exception):
            self._tell()
            self._stream.ended(
                Cause.PRODUCER_ERROR, f"the application raised {type(error).__name__}"
            )

    def over(self, *, confirmed: bool) -> None:
        """The application has returned or raised.

        Args:
            confirmed: everything that it left behind has ended as well.
        """
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        if not self._begun:
            return
        if self._stream.cause is None:
            self._tell()
            self._stream.ended(*self._unfinished())
        elif confirmed:
            self._stream.ended()
        else:
            self._stream.unconfirmed()
        self._leave()

    # -- inside ------------------------------------------------------------------------------------

    def _unfinished(self) -> tuple[Cause, str]:
        """Why the application has returned without an end of its response."""
        shutdown = self._guard.shutdown
        if shutdown is not None and shutdown.begun:
            return (
                Cause.SHUTDOWN,
                DETAIL,
            )  # It has heard of the signal by itself, as sse-starlette does.
        return Cause.TRUNCATED, "the application left its response unfinished"

    def _carried(self) -> int:
        return self._unwinding.sends.passed

    def _pass(self, chunks: int) -> bool:
        """So many have gone past. True once there is a stream that has begun to flow."""
        if self._tally.recognised:
            self.begin()
        if self._begun:
            self._stream.passed(chunks)
        return self._begun and chunks > 0

    def _complete(self) -> None:
        chunks = self._tally.close()
        if self._tally.recognised:
            self.begin()
        if not self._begun:
            return
        self._stream.passed(chunks)
        self._tell()
        said = self._tally.said
        if said is None or (said.error is None and said.whole):
            self._stream.ended()
        elif said.error is not None:
            self._stream.ended(Cause.PRODUCER_ERROR, "the provider reported an error in its stream")
        else:
            self._stream.ended(Cause.TRUNCATED, "the stream has no terminal marker")
        self._leave()

    def _tell(self) -> None:
        """What is known, before anybody ends the stream."""
        self._stream.passed(self._tally.rest())
        said = self._tally.said
        if said is not None:
            self._stream.finish(said.finish, said.usage)
            self._stream.identify(model=said.model)

    def _leave(self) -> None:
        self._guard.discard(self._stream)
        if self._guard.session is self._stream:
            self._guard.session = None

    def _closed(self) -> None:
        """The cutoff has come; in whatever thread."""
        if threading.get_ident() == self._thread:
            self._end_application()
        else:
            self._loop.call_soon_threadsafe(self._end_application)

    def _end_application(self) -> None:
        # Nothing wakes a thread that waits for what is not ours: the receipt does not wait for it.
        self._deadline = self._loop.call_later(self._guard.close_timeout, self._stream.unconfirmed)
        if self._guard.gone is None:
            self._cut_off()

    def _arm(self) -> None:
        if self._guard.consumer_stall is not None:
            self._timer = self._loop.call_later(self._guard.consumer_stall / 4, self._look)

    def _look(self) -> None:
        """The timer: a `send` that has been under way since it looked last."""
        now, stall = self._loop.time(), self._guard.consumer_stall
        sends = self._unwinding.sends
        if sends.ended != self._seen or not sends.under_way:
            self._seen, self._since = sends.ended, now
        elif stall is not None and now - self._since >= stall:
            self._stream.terminate(Cause.CONSUMER_STALLED, "send() did not return in time")
            self._guard.abort()
            return
        self._arm()


def passing_of(
    message: Message,
    guard: RequestGuard,
    unwinding: Unwinding,
    send: Send,
    makes: MakesDecoders | None,
    cut_off: Callable[[], None],
) -> Passing | None:
    """What sees to the response that begins with `message`; None for one that is no stream.

    Args:
        message: its start.
        guard: as for `Passing`.
        unwinding: as for `Passing`.
        send: as for `Passing`.
        cut_off: as for `Passing`.
        makes: makes the decoder, if there is any.
    """
    if not 200 <= message["status"] < 300:
        return None
    headers = {bytes(name).lower(): bytes(value) for name, value in message.get("headers", ())}
    full = headers.get(b"content-type", b"").decode("latin-1")
    kind = full.partition(";")[0].strip().lower()
    perhaps = kind in _PERHAPS and makes is not None and b"content-length" not in headers
    if kind not in _STREAMS and not perhaps:
        return None
    readable = makes is not None and b"content-encoding" not in headers
    decoder = makes(content_type=full) if makes is not None and readable else None
    passing = Passing(guard, unwinding, send, Tally(decoder, events=kind == EVENTS), cut_off)
    if not perhaps:
        passing.begin()
    return passing
