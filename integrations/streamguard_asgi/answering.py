"""Answers one request with a stream: its own, or the rest of one that another connection has begun."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import nullcontext
from math import inf
from typing import TYPE_CHECKING, TypeVar

from streamguard_asgi._starlette import Request, Send
from streamguard_asgi.attending import deliver
from streamguard_asgi.delivery import Delivery, Times
from streamguard_asgi.producing import close_producer
from streamguard_asgi.reconnect import last_event_id, serve_kept, take_over, wanted
from streamguard_asgi.request import RequestGuard
from streamguard_asgi.resume import Resume
from streamguard_asgi.stream_routes import response_of
from streamguard_core import StreamSession, current_scope, use_scope
from streamguard_core.acknowledging import asked
from streamguard_core.answers import HAS_EVERYTHING, Answer, refused
from streamguard_core.cancellation import cause_of
from streamguard_core.formats import Events, Format, ToldEvents
from streamguard_core.replay import ResumeError

if TYPE_CHECKING:
    from streamguard_asgi.response import GuardedResponse

Asked = TypeVar("Asked")


class Answering:
    """One request that a `GuardedResponse` answers.

    Args:
        response: says what is streamed, and how.
        guard: of the request.
        request: the reader's.
        send: the server's, or what stands before it.
    """

    __slots__ = ("_guard", "_request", "_response", "_send")

    def __init__(
        self, response: GuardedResponse, guard: RequestGuard, request: Request, send: Send
    ) -> None:
        self._response = response
        self._guard = guard
        self._request = request
        self._send = send

    async def run(self, form: Format, resume: Resume | None) -> None:
        """Answer it; alone, without a middleware, see its reader leave as well.

        Args:
            form: how the stream looks on the wire.
            resume: keeps it for its reader, where it can be resumed.
        """
        guard = self._guard
        alone = not guard.connected
        if alone:
            guard.connect(self._request.receive).response_streams()
        try:
            with nullcontext() if current_scope() is guard else use_scope(guard):
                if resume is None:
                    await self._stream(form)
                elif last_event_id(self._request.scope) is None:
                    await self._begin(resume)
                else:
                    await self._continue(resume)
        except ResumeError as error:
            await self._say(refused(error))
        finally:
            if alone:
                guard.disconnect()

    async def _stream(self, form: Format) -> None:
        """A stream that ends with its request."""
        guard, response = self._guard, self._response
        session = self._governed(response.session_for(guard))
        asking = await self._expect(session, form)
        told = (
            ToldEvents(form, session.sending)
            if session.acknowledges and isinstance(form, Events)
            else form
        )
        delivery = Delivery(session, told, self._send, **self._times)
        try:
            # What is sent first is not named here: this frame stays for as long as the stream does.
            running = delivery.run(
                response.status_code, response.headers_for(form, session.stream_id, asking)
            )
            await deliver(delivery, running, guard, self._send)
        finally:
            guard.responded = guard.responded or delivery.complete
            await self._over(session)

    async def _begin(self, resume: Resume) -> None:
        """The same for a stream whose reader may come back: it may live on without this request.

        Raises:
            ResumeError: when another connection took it before anything was sent.
        """
        guard, response = self._guard, self._response
        session = self._governed(response.session_for(guard, on_disconnect=resume.policy))
        kept = await self._or_ended(resume.keep(session, self._request), session)
        kept.release = lambda: guard.release(session)
        try:
            asking = await self._expect(session, Events())
        except BaseException:
            kept.ended()  # It has never had a reader, whose leaving would say so.
            raise
        form = kept.events(0)[0]
        delivery = Delivery(session, form, self._send, opening=kept.opening(), **self._times)
        try:
            head = response.headers_for(Events(), session.stream_id, asking)
            running = delivery.run(response.status_code, head)
            await serve_kept(kept, delivery, guard, self._send, running)
        finally:
            if session.cause is None or delivery.superseded:
                guard.release(session)
            else:
                await self._over(session)

    async def _continue(self, resume: Resume) -> None:
        """Go on with a stream that was begun on another connection; nothing new is generated.

        Raises:
            ResumeError: when this reader cannot go on with it.
        """
        guard, response = self._guard, self._response
        if response.content is not None:
            await close_producer(response.content)
        offset, kept = await wanted(resume, self._request)
        if kept is None:
            await self._say(HAS_EVERYTHING)
            return
        delivery = await take_over(kept, offset, guard, self._send, self._times)
        guard.continues = True
        session = kept.session
        asking = asked(self._stall) if session.acknowledges else {}
        head = response.headers_for(Events(), session.stream_id, asking)
        await serve_kept(kept, delivery, guard, self._send, delivery.run(200, head))

    # -- parts of it -------------------------------------------------------------------------------

    def _governed(self, session: StreamSession) -> StreamSession:
        guard = self._guard
        guard.add(session)
        guard.session = guard.session or session
        return session

    async def _expect(self, session: StreamSession, form: Format) -> dict[str, str]:
        """Expect acknowledgements, where they are taken and the reader gives them; what it is told of that."""
        acknowledge = self._response.acknowledge
        if acknowledge is None:
            return {}
        numbered = isinstance(form, Events)
        expecting = acknowledge.expect(session, self._request, self._stall, numbered=numbered)
        return await self._or_ended(expecting, session)

    @property
    def _times(self) -> Times:
        # Not kept: this is there for as long as the stream is.
        return self._response.times(self._guard)

    @property
    def _stall(self) -> float | None:
        """How long the reader may stall, as sessions take it: without end is None."""
        seconds = self._times["consumer_stall"]
        return None if seconds == inf else seconds

    async def _or_ended(self, asking: Awaitable[Asked], session: StreamSession) -> Asked:
        """What the application says; where it raises, the stream has not begun and ends."""
        try:
            return await asking
        except BaseException as error:
            detail = f"the response ended with {type(error).__name__}"
            session.terminate(cause_of(error, self._guard), detail)
            await self._guard.close(session)
            raise

    async def _over(self, session: StreamSession) -> None:
        """See that it has ended; the last acknowledgement is not waited for here, but by the session."""
        if session.settling:
            self._guard.release(session)
        else:
            await self._guard.close(session)

    async def _say(self, answer: Answer) -> None:
        await response_of(answer)(self._request.scope, self._request.receive, self._send)
