"""Whose doing it is that the task of a host, which serves a stream, ended before the stream did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from streamguard_core.causes import Cause
from streamguard_core.errors import ProducerError
from streamguard_core.receipt import Attempt, AttemptOutcome
from streamguard_core.scope import Scope

_UVICORN: Final = "timeout graceful shutdown exceeded"
"""What uvicorn's message says. Messages of others may quote paths, in which shorter words occur."""

_SDKS: Final = (
    "anthropic",
    "cohere",
    "google.genai",
    "groq",
    "litellm",
    "mistralai",
    "ollama",
    "openai",
)
"""Packages that talk to models and to nothing else: what they raise is about a provider."""
_CLIENTS: Final = ("httpx", "httpx2")
"""Packages that talk to anybody: it takes a failed call to a provider to know about whom they complain."""
_FAILED: Final = (AttemptOutcome.FAILED, AttemptOutcome.TRUNCATED)


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


def cause_of_failure(error: Exception, attempts: Sequence[Attempt]) -> Cause:
    """Return the cause of a stream whose endpoint raised `error` before the stream had a producer (G14).

    It is the provider's where `error`, or what it was raised from or while handling, comes from a
    producer, from a provider's SDK, or from an HTTP client whose last call to a provider failed.
    Everything else is the application's own.

    Args:
        error: what the endpoint raised.
        attempts: the stream's calls to providers, as far as they are known.
    """
    failed = bool(attempts) and attempts[-1].outcome in _FAILED
    packages = _SDKS + _CLIENTS if failed else _SDKS
    for each in _behind(error):
        if isinstance(each, ProducerError) or _is_from(packages, each):
            return Cause.PRODUCER_ERROR
    return Cause.CONSUMER_ERROR


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from or while handling, and the members of groups."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(each.exceptions)
        waiting.extend(found for found in (each.__cause__, each.__context__) if found is not None)


def _is_from(packages: tuple[str, ...], error: BaseException) -> bool:
    """Whether one of these packages has defined the error's type, or one that it is derived from."""
    names = {f"{kind.__module__}." for kind in type(error).__mro__}
    return any(name.startswith(f"{package}.") for name in names for package in packages)


def _is_cancelled_by(server: str, host: asyncio.Task[object] | None) -> bool:
    """Whether the task in which a server runs a request is cancelled, and is one of that server's."""
    if host is None or not host.cancelling():
        return False
    frame = getattr(host.get_coro(), "cr_frame", None)
    name = "" if frame is None else str(frame.f_globals.get("__name__"))
    return name.partition(".")[0] == server
