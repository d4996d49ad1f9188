"""The application of one request as it is: how it is ended, what it leaves behind, what passes through it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Literal

from streamguard_asgi._starlette import ASGIScope, Message, Receive, Send
from streamguard_asgi.generators import Generators
from streamguard_asgi.passing import Passing, passing_of
from streamguard_asgi.shielding import finish
from streamguard_asgi.unwinding import Unwinding
from streamguard_core import CutOffError
from streamguard_core.decoding import MakesDecoders
from streamguard_core.errors import StreamStopped

if TYPE_CHECKING:
    from streamguard_asgi.request import RequestGuard

CancelRequests = Literal["governed", "all", "none"]
"""Which requests without a streaming response are cancelled when their reader leaves."""

LATER = 0.05
"""After how long the reader of a request that still runs is looked after, in seconds."""


class Existing:
    """Sees to an application that was written without StreamGuard, and is not touched.

    Args:
        guard: of the request.
        scope: the request's.
        cancel: which requests are cancelled.
        makes: makes the decoder of a response that streams.
    """

    __slots__ = (
        "_cancel",
        "_guard",
        "_later",
        "_makes",
        "_passing",
        "_scope",
        "_streaming",
        "generators",
        "unwinding",
    )

    def __init__(
        self,
        guard: RequestGuard,
        scope: ASGIScope,
        cancel: CancelRequests,
        makes: MakesDecoders | None = None,
    ) -> None:
        self._guard = guard
        self._cancel = cancel
        self._scope = scope
        self._makes = makes
        self._passing: Passing | None = None
        self._streaming = False
        self._later: asyncio.TimerHandle | None = None
        self.generators = Generators(guard.close_timeout)
        self.unwinding = Unwinding(self._blocked)

    def begin(self, host: asyncio.Task[Any] | None) -> None:
        """The application is about to run in the task `host`."""
        self.unwinding.runs_in(host)
        # Most requests are over by then, and cost neither a task nor a receive().
        self._later = asyncio.get_running_loop().call_later(LATER, self._look)

    def _look(self) -> None:
        self._later = None
        self._guard.watch()

    def receiving(self, receive: Receive) -> Receive:
        """What the application calls; the task that does it is a part of the application."""

        def told() -> Awaitable[Message]:
            self.unwinding.saw(asyncio.current_task())
            return receive()

        return told

    def starts(self, message: Message, send: Send) -> Send:
        """The response begins: what it is sent with from here on."""
        open_streams = any(stream.sealed is None for stream in self._guard.streams)
        if self._scope["method"] == "HEAD" or open_streams or self._guard.continues:
            return send
        self._passing = passing_of(
            message, self._guard, self.unwinding, send, self._makes, self.cut_off
        )
        if self._passing is None:
            return send
        self.streams()
        return self._passing.send

    def failed(self, error: BaseException) -> None:
        """The application ended with `error`."""
        if self._passing is not None:
            self._passing.failed(error)

    def sending(self, send: Send) -> tuple[Send, Send]:
        """What the application's stream is sent with: in general, and each chunk of it but the last.

        So it is known to be under way.
        """
        if self._passing is not None:
            return send, self._passing.chunks()
        sends = self.unwinding.sends

        async def told(message: Message) -> None:
            sends.begun += 1
            try:
                await send(message)
            finally:
                sends.others += 1

        return told, told

    def streams(self) -> None:
        """The response comes in pieces: it matters whether its reader is there."""
        self._streaming = True
        self._guard.watch()

    def to_nobody(self, send: Send) -> Send:
        """What is sent with once the reader has left."""

        def told(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.body" and message.get("more_body"):
                return self.unwinding.park()
            # The end of a stream: servers differ in what they do with it, and nobody gets it.
            return _nothing() if self._streaming else send(message)

        return told

    # -- the end -----------------------------------------------------------------------------------

    def left(self, *, told: bool) -> None:
        """The reader has left.

        Args:
            told: somebody listens for that, and is about to hear it.
        """
        self.generators.left()
        if self._concerns_us():
            self.unwinding.begin(gently=told)

    def cut_off(self) -> None:
        """The response's stream was ended by somebody else than its reader."""
        self._guard.send_no_more()
        self.unwinding.begin(gently=False)

    def ended_by_us(self, error: BaseException) -> bool:
        """True when `error` is our own cancellation, and nobody else's; or says that the reader has left.

        What was cut off for a reader who is gone is no error of the application's, and not for its server's log.
        """
        if self.unwinding.over() and isinstance(error, asyncio.CancelledError):
            return True
        return isinstance(error, CutOffError | StreamStopped) and self._guard.gone is not None

    async def end(self, host: asyncio.Task[Any] | None, *, interrupted: bool) -> None:
        """The application has returned or raised: nothing it has left behind goes on."""
        if self._later is not None:
            self._later.cancel()
        self.unwinding.over()
        confirmed = not interrupted
        try:
            if interrupted:
                closing = await finish(self.generators.close(host), self._guard.close_timeout)
                confirmed = closing.done()
                self._guard.keep(closing)
        finally:
            self.generators.forget()
            if self._passing is not None:
                self._passing.over(confirmed=confirmed)

    def _concerns_us(self) -> bool:
        if self._streaming or self._cancel == "all":
            return True
        if self._cancel == "none":
            return False
        return self._guard.touched or self.unwinding.awaits_a_model()

    def _blocked(self) -> bool:
        return self.generators.blocked


async def _nothing() -> None:
    """Nothing is sent."""
