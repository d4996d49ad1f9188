"""One request under guard: its streams, their receipts, and who is told of them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import close_old_connections

from streamguard_core import (
    Cause,
    CutOff,
    Governed,
    Notice,
    Receipt,
    RecordedStream,
    Scope,
    Sealed,
    SessionOptions,
    StreamSession,
    SyncStreamSession,
)
from streamguard_core.cancellation import cause_of, cause_of_failure
from streamguard_core.late import Late
from streamguard_core.shielding import finish
from streamguard_core.shutdown import until_durable, until_durable_sync
from streamguard_django.conf import option
from streamguard_django.deploys import deploys
from streamguard_django.resume import Resuming
from streamguard_django.signals import stream_sealed

logger = logging.getLogger("streamguard")

Session = StreamSession | SyncStreamSession


class RequestScope(Scope):
    """What `request.streamguard` and `current_scope()` are: the scope of one HTTP request.

    Args:
        request: Django's; given later where an ASGI wrapper sees the request before Django does.
        asgi: whether the request is served by an event loop.

    Example:
        >>> def view(request):  # doctest: +SKIP
        ...     causes = [receipt.cause for receipt in request.streamguard.receipts]
    """

    def __init__(self, request: Any = None, *, asgi: bool) -> None:
        super().__init__(
            ledger=option("LEDGER"), prices=option("PRICES"), observers=(self.noticed,)
        )
        self.shutdown = deploys.serving()
        self.request = request
        self.asgi = asgi
        self.sessions: list[Session] = []
        self._streams: list[Session | RecordedStream] = []
        self.watch: Callable[[], Callable[[], None]] | None = None
        """Called once, when there is something that its reader's leaving should end; returns its undo."""
        self.watched = False
        """The reader's leaving is seen without writing to him."""
        self.told: Mapping[Cause, Callable[[], None]] = {}
        """Called when a stream is cut off, by its cause: for adapters that break connections off."""
        self.over = False
        """The request has ended: Django has closed the response."""
        self._handed_over = False
        self.abandoned = False
        """The server has given the request up: nobody is left to be sent anything."""
        self.resuming: Resuming | None = None
        """What is streamed may be resumed: set while such a view runs."""
        self._carried: Governed | None = None
        """Reads a stream that another request has opened, and that has its receipt there."""
        self._unwatch: Callable[[], None] | None = None
        self._late = Late()

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts of the streams that are sealed, in the order in which the streams were opened."""
        return tuple(each.sealed for each in self._streams if each.sealed is not None)

    def tags(self) -> Mapping[str, str]:
        """What `TAGS` says of this request; what it raises is logged, and leaves the stream without."""
        tags = option("TAGS")
        if not callable(tags):
            return tags  # type: ignore[no-any-return]
        try:
            return dict(tags(self.request))
        except Exception as error:  # noqa: BLE001 - a label must not cost anybody their answer
            logger.error("TAGS raised %s", type(error).__name__)
            return {}

    @property
    def options(self) -> SessionOptions:
        """What streams have in this request that bring nothing of their own: its tags, too."""
        return {**super().options, "tags": self.tags()}

    def add(self, member: Governed) -> None:
        """Put a session or a provider call under this request; ended at once if the reader has left."""
        if isinstance(member, StreamSession | SyncStreamSession):
            self.sessions.append(member)
        if isinstance(member, StreamSession | SyncStreamSession | RecordedStream):
            self._streams.append(member)
            if self.shutdown is not None:
                self.shutdown.add(self)
        super().add(member)
        watch, self.watch = self.watch, None
        if watch is not None:
            self._unwatch = watch()

    def open_call(self) -> RecordedStream | None:
        """The call to a provider that the view has opened last, and that is still under way; None without."""
        for stream in reversed(self._streams):
            if isinstance(stream, RecordedStream) and stream.cause is None:
                return stream
        return None

    def go_on(self, call: RecordedStream, session: Session) -> None:
        """`session` goes on with the stream that `call` was, if it can: the one receipt is the session's."""
        if call.hand_over(session):
            self._streams.remove(call)

    def carry(self, reader: Governed) -> None:
        """This request reads a stream that another one has opened."""
        self._carried = reader
        self.add(reader)

    def release(self, session: StreamSession) -> None:
        """Another request carries it on: nothing that happens to this one concerns it any more."""
        self.discard(session)
        if session in self.sessions:
            self.sessions.remove(session)

    @property
    def streaming(self) -> bool:
        """A response is still to be streamed."""
        return bool(self.sessions or self._carried) and not self.over

    def finish(self) -> None:
        """The request has ended: what happens to its connection now is no disconnect."""
        self.over = True
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()
        self.hand_over()

    def hand_over(self) -> None:
        """Nothing is begun any more here. A process that goes stays for what is not durable yet."""
        self._handed_over = True
        if self.shutdown is not None:
            self.shutdown.release(self, self._streams)

    def stay(self) -> None:
        """In the thread that ends the request: when the process goes, it ends when its receipts are durable.

        On a loop nothing may block; there it is `close()` that waits.
        """
        if self.shutdown is None or not self.shutdown.begun:
            return
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            until_durable_sync(self._streams, option("CLOSE_TIMEOUT"))

    @property
    def server_goes(self) -> bool:
        """A connection that is closed now is closed by the server."""
        return self.shutdown is not None and self.shutdown.claims_disconnects

    def interrupted(self, error: BaseException) -> None:
        """The request ended with `error`: whatever still runs was not ended by its reader (G14)."""
        cause = cause_of(error, self)
        # A server that goes waits a moment for what it cancels: the reader can be told why.
        self.abandoned = cause is not Cause.SHUTDOWN
        if self.gone is not None:
            return
        detail = f"the request ended with {type(error).__name__}"
        for stream in self._alive():
            stream.terminate(cause, detail)
        if self._carried is not None:
            self._carried.terminate(cause, detail)

    def failed(self, error: Exception) -> None:
        """The view raised `error`, and nobody has made a response of it: its streams end with it (G14).

        In the view's thread, or in the one that works for its loop.
        """
        # A call that failed and waits for its retry gets none: its failure was the provider's.
        self.settle()
        if self.gone is not None:
            return
        ended = self._alive()
        for stream in ended:
            # The type alone is told: texts may quote prompts.
            stream.terminate(
                cause_of_failure(error, stream.attempts), f"the view raised {type(error).__name__}"
            )
            if isinstance(stream, SyncStreamSession):
                stream.close()
        if sessions := [each for each in ended if isinstance(each, StreamSession)]:
            async_to_sync(self._close_bounded)(sessions)

    def _alive(self) -> list[Session | RecordedStream]:
        """This request's streams that nothing has ended, and that no other request carries on."""
        return [each for each in self._streams if each.cause is None and each in self.members]

    # -- who is told -------------------------------------------------------------------------------

    def noticed(self, notice: Notice) -> None:
        """An observer of every stream of this request, in whatever thread it is sealed."""
        if isinstance(notice, CutOff):
            told = self.told.get(notice.signal.cause)
            if told is not None:
                told()
            return
        if not isinstance(notice, Sealed):
            return
        if self._handed_over:
            self.hand_over()
        if not stream_sealed.has_listeners(Receipt) and option("ON_RECEIPT") is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._tell_and_wait(notice.receipt)
            return
        self.keep(loop.create_task(self._tell_beside(notice.receipt)))

    async def _tell_beside(self, receipt: Receipt) -> None:
        """On a loop: receivers and `ON_RECEIPT` may use the ORM, which wants a thread."""
        if not self.asgi:
            answer = await asyncio.to_thread(self._tell_alone, receipt)
        elif self.over and SyncToAsync.thread_sensitive_context.get(None) is not None:
            # The request's own thread has ended with it.
            async with ThreadSensitiveContext():
                answer = await sync_to_async(self._tell_alone)(receipt)
        else:
            answer = await sync_to_async(self._tell)(receipt)
        if answer is not None:
            await answer

    def _tell_and_wait(self, receipt: Receipt) -> None:
        answer = self._tell(receipt)
        if answer is not None:
            try:
                asyncio.run(_awaited(answer))
            except Exception as error:  # noqa: BLE001 - a callback cannot change how a stream ended
                _log(error, receipt)

    def _tell_alone(self, receipt: Receipt) -> Any:
        """In a thread that no request closes the connections of."""
        close_old_connections()
        try:
            return self._tell(receipt)
        finally:
            close_old_connections()

    def _tell(self, receipt: Receipt) -> Any:
        """Send the signal and call `ON_RECEIPT`; returns what is to be awaited, if anything."""
        stream_sealed.send_robust(Receipt, request=self.request, receipt=receipt)
        on_receipt = option("ON_RECEIPT")
        if on_receipt is None:
            return None
        try:
            answer = on_receipt(receipt)
        except Exception as error:  # noqa: BLE001 - see above
            _log(error, receipt)
            return None
        return answer if inspect.isawaitable(answer) else None

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Hold a task until it is done, and log what it raised."""
        self._late.keep(task)

    async def close(self) -> None:
        """See that every stream ends now, and that everybody is told. The caller bounds it."""
        await _close_all(
            each
            for each in tuple(self.sessions)
            if isinstance(each, StreamSession) and each.sealed is None
        )
        if self.shutdown is not None and self.shutdown.begun:
            await until_durable(self._streams)
        await self._late.all_done()

    async def _close_bounded(self, sessions: list[StreamSession]) -> None:
        self.keep(await finish(_close_all(sessions), option("CLOSE_TIMEOUT")))


async def _close_all(sessions: Iterable[StreamSession]) -> None:
    for session in sessions:
        with suppress(Exception):  # a ledger's failure is logged by the session
            await session.aclose()


async def _awaited(answer: Any) -> None:
    await answer


def _log(error: Exception, receipt: Receipt) -> None:
    logger.error("ON_RECEIPT raised %s for stream %s", type(error).__name__, receipt.stream_id)


def in_thread(call: Callable[[], object]) -> None:
    """Run `call` in a thread of its own: what it ends may run an application's code, and block."""
    threading.Thread(target=call, name="streamguard-left", daemon=True).start()
