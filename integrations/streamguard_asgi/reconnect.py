"""Serves a stream over the connections of a reader that comes and goes: each takes it over from the one before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, Final

from streamguard_asgi._starlette import ASGIScope, Request, Send
from streamguard_asgi.attending import deliver
from streamguard_asgi.delivery import Delivery, Times
from streamguard_asgi.request import RequestGuard
from streamguard_asgi.resume import Resume
from streamguard_core.formats import Format
from streamguard_core.kept import KeptStream
from streamguard_core.replay import Refusal, ResumeError, ResumePoint

_FAREWELL: Final = 1.0
"""How long an older connection is given to take the news that it was superseded, in seconds."""


def last_event_id(scope: ASGIScope) -> str | None:
    """What a reader that comes back got last."""
    for name, value in scope["headers"]:
        if name == b"last-event-id" and value:
            said: str = value.decode("latin-1")
            return said
    return None


async def wanted(resume: Resume, request: Request) -> tuple[int, KeptStream | None]:
    """Where a reader wants to go on, in which stream; none when it has everything.

    Raises:
        ResumeError: when it cannot be told, or is not here, or not this reader's.
    """
    point = ResumePoint.parse(last_event_id(request.scope) or "")
    if point.offset is None:
        return 0, None
    return point.offset, await resume.find(point, request)


async def take_over(
    kept: KeptStream, offset: int, guard: RequestGuard, send: Send, times: Times
) -> Delivery:
    """End the connection that reads the stream, and read it on this one from `offset` on.

    Raises:
        ResumeError: when the stream cannot be read from there, which ends no other connection; or
            when the old one does not let go.
    """

    def delivery(form: Format, opening: bytes) -> Delivery:
        return Delivery(kept.session, form, send, opening=opening, begun=True, **times)

    return await kept.taken_over(offset, guard.close_timeout, delivery)


async def serve_kept(
    kept: KeptStream,
    delivery: Delivery,
    guard: RequestGuard,
    send: Send,
    running: Coroutine[Any, Any, None],
) -> None:
    """Run a delivery, which is one of several of a stream, until it has ended.

    Raises:
        ResumeError: when another connection took the stream before anything was sent to this one.
    """
    if kept.reader is None:
        kept.read_by(delivery)
    try:
        await deliver(delivery, running, guard, send)
    finally:
        kept.left(delivery)
        guard.responded = guard.responded or delivery.complete
    if delivery.superseded and delivery.unanswered:
        raise ResumeError(Refusal.BUSY, "a newer connection has this stream; try again if it ends")
    if delivery.superseded and delivery.begun:
        guard.responded = True
        await _farewell(kept, send)


async def _farewell(kept: KeptStream, send: Send) -> None:
    """Tell a reader that another connection has its stream."""
    said = kept.farewell()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_FAREWELL):
            await send({"type": "http.response.body", "body": said, "more_body": False})
