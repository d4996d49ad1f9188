"""Whose doing it is that the task of a host, which serves a stream, ended before the stream did."""

from __future__ import annotations

import asyncio
from typing import Final

from streamguard_core.causes import Cause
from streamguard_core.scope import Scope

_UVICORN: Final = "timeout graceful shutdown exceeded"
"""What uvicorn's message says. Messages of others may quote paths, in which shorter words occur."""


def cause_of(error: BaseException, scope: Scope | None) -> Cause:
    """Return the cause of what an application's task left open when it ended with `error` (G14).

    Nobody says who cancels a task. It is the server, shutting down, after the signal; when the message
    is uvicorn's at the end of its graceful shutdown; and when hypercorn cancels a request, which it
    does for no other reason (its workers get no signal).

    Args:
        error: what the task ended with.
        scope: of the request that it served.
    """
    if not isinstance(error, asyncio.CancelledError):
        return Cause.CONSUMER_ERROR
    told = scope is not None and scope.shutdown is not None and scope.shutdown.begun
    said = any(_UVICORN in str(argument) for argument in error.args)
    host = None if scope is None else scope.host
    if told or said or _is_cancelled_by("hypercorn", host):
        return Cause.SHUTDOWN
    return Cause.OPERATOR_CANCEL


def _is_cancelled_by(server: str, host: asyncio.Task[object] | None) -> bool:
    """Whether the task in which a server runs a request is cancelled, and is one of that server's."""
    if host is None or not host.cancelling():
        return False
    frame = getattr(host.get_coro(), "cr_frame", None)
    name = "" if frame is None else str(frame.f_globals.get("__name__"))
    return name.partition(".")[0] == server
