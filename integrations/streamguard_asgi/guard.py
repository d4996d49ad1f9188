"""`guard_stream`: one line over an endpoint, and the stream it returns ends with its reader."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Unpack, overload

from streamguard_asgi._starlette import HTTPEndpoint, Request, run_in_threadpool
from streamguard_asgi.acknowledge import Acknowledge
from streamguard_asgi.endpoints import Kind, kind_of, publish, return_annotation, take_request
from streamguard_asgi.options import RESPONSE_KEYS, StreamOptions
from streamguard_asgi.producing import discard, discard_later, is_producer
from streamguard_asgi.reconnect import last_event_id
from streamguard_asgi.request import RequestGuard, guard_in, new_guard
from streamguard_asgi.response import GuardedResponse, is_streaming
from streamguard_asgi.resume import Resume
from streamguard_core import (
    Cause,
    CutOffError,
    StreamSession,
    UsageError,
    current_scope,
    use_scope,
)
from streamguard_core.cancellation import cause_of, cause_of_failure

Endpoint = Callable[..., Any]
Guarded = Callable[..., Awaitable[Any]]

_METHODS: Final = ("get", "post", "put", "patch", "delete", "options")


@overload
def guard_stream(endpoint: Endpoint, /, **options: Unpack[StreamOptions]) -> Guarded: ...
@overload
def guard_stream(**options: Unpack[StreamOptions]) -> Callable[[Endpoint], Guarded]: ...
def guard_stream(
    endpoint: Endpoint | None = None, /, **options: Unpack[StreamOptions]
) -> Guarded | Callable[[Endpoint], Guarded]:
    """Govern the stream that a FastAPI or Starlette endpoint returns.

    The endpoint may be a coroutine function, a function (which runs in the thread pool, as always),
    a generator function of either kind, a method, an instance with `__call__`, a
    `functools.partial` or an `HTTPEndpoint`. It returns a producer, an async or sync iterator, a
    `StreamingResponse`, a `GuardedResponse` or a `StreamSession` (say `-> StreamSession` then);
    anything else it returns is answered as always.

    The stream is opened before the endpoint's body runs: its OPEN record is durable before a
    provider can be called, provider calls made in the body belong to it, and a body that still
    waits for its provider when the reader leaves is cancelled. A `HEAD` request generates nothing.

    Args:
        endpoint: what is decorated.
        options: see `StreamOptions`; without `ledger` or `prices` the middleware's are used.

    Raises:
        UsageError: when `endpoint` is not callable.

    Example:
        >>> @guard_stream(max_tokens=100)
        ... async def chat(prompt: str):
        ...     yield "never "
        ...     yield "again"
    """
    if endpoint is None:
        return lambda chosen: guard_stream(chosen, **options)
    if inspect.isclass(endpoint) and issubclass(endpoint, HTTPEndpoint):
        return _guarded_class(endpoint, options)
    if not callable(endpoint):
        raise UsageError(
            f"guard_stream was put on a {type(endpoint).__name__}; it goes over the endpoint's function"
        )
    return _guarded(endpoint, options)


def _guarded(endpoint: Endpoint, options: StreamOptions) -> Guarded:
    call = _Call(endpoint, options)

    async def guarded(*arguments: Any, **keywords: Any) -> Any:
        request = take_request(arguments, keywords)
        if request is not None and request.method == "HEAD":
            return call.response(None)
        return await call.run(request, arguments, keywords)

    publish(guarded, endpoint, GuardedResponse)
    return guarded


def _guarded_class(endpoint: type[HTTPEndpoint], options: StreamOptions) -> Guarded:
    """A class of the same name whose handlers are guarded one by one."""
    handlers = {
        method: _guarded(handler, options)
        for method in _METHODS
        if (handler := getattr(endpoint, method, None)) is not None
    }
    kept = {"__doc__": endpoint.__doc__, "__module__": endpoint.__module__}
    guarded: Guarded = type(endpoint.__name__, (endpoint,), kept | handlers)
    return guarded


class _Call:
    """How one endpoint is called under guard; holds configuration only.

    Args:
        endpoint: what was decorated.
        options: what it was decorated with.
    """

    def __init__(self, endpoint: Endpoint, options: StreamOptions) -> None:
        plain: dict[str, Any] = dict(options)
        self._endpoint = endpoint
        self._kind = kind_of(endpoint)
        self._of_response = {key: plain[key] for key in plain.keys() & RESPONSE_KEYS}
        self._of_session = {key: plain[key] for key in plain.keys() - RESPONSE_KEYS}
        self._has_own_session = _returns_session(endpoint)
        self._resume: Resume | None = plain.get("resume")
        self._acknowledge: Acknowledge | None = plain.get("acknowledge")
        if self._resume is not None:
            self._resume.check(self._of_session)
        # What is out of range is said where it was written, not at the first request.
        StreamSession(None, **self._of_session)
        self.response(None)

    def response(self, content: Any) -> GuardedResponse:
        """Build the response."""
        return GuardedResponse(content, **self._of_response)

    async def run(
        self, request: Request | None, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        """Open the stream, call the endpoint, and return what is to be sent."""
        resume = self._resumes(request)
        if request is not None and resume is not None and last_event_id(request.scope):
            return self.response(
                None
            )  # It continues a stream, and the endpoint is not called again.
        guard = _guard_of(request)
        with contextlib.nullcontext() if current_scope() is guard else use_scope(guard):
            if self._has_own_session:
                return self._own(await self._called(arguments, keywords))
            session = self._open(guard, resume)
            try:
                await guard.watched()
                await session.opened()
                if session.cause is not None:
                    return self.response(session)
                result = await self._governed(guard, session, arguments, keywords)
                return await self._answer(guard, session, result)
            except BaseException as error:
                if session.cause is None:
                    _endpoint_failed(session, error)
                elif isinstance(error, Exception):
                    # It ended because the stream did: the reader (if there is one) is told why.
                    return self.response(session)
                await guard.close(session)
                raise

    def _resumes(self, request: Request | None) -> Resume | None:
        """What keeps this request's stream, if anything does."""
        if self._resume is None or request is None:
            return None
        return self.response(None).resumes(request.scope)

    def _open(self, guard: RequestGuard, resume: Resume | None) -> StreamSession:
        usual: dict[str, Any] = {"ledger": guard.ledger, "prices": guard.prices}
        if resume is not None:
            usual["on_disconnect"] = resume.policy
        session = StreamSession(None, **(usual | self._of_session))
        guard.add(session)
        guard.session = session
        return session

    async def _governed(
        self,
        guard: RequestGuard,
        session: StreamSession,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> Any:
        """The endpoint's result; a body that still runs at the cutoff is left or cancelled."""
        if self._kind is Kind.GENERATOR:
            return self._endpoint(*arguments, **keywords)
        if self._kind is Kind.COROUTINE:
            return await session.governed(self._endpoint(*arguments, **keywords))
        work = asyncio.ensure_future(run_in_threadpool(self._endpoint, *arguments, **keywords))
        try:
            return await session.governed(asyncio.shield(work))
        except (CutOffError, asyncio.CancelledError):
            # A thread cannot be interrupted; what it still opens is closed when it returns.
            guard.keep(asyncio.ensure_future(discard_later(work)))
            raise

    async def _called(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """The result of an endpoint that opens its own session."""
        if self._kind is Kind.FUNCTION:
            return await run_in_threadpool(self._endpoint, *arguments, **keywords)
        result = self._endpoint(*arguments, **keywords)
        return await result if self._kind is Kind.COROUTINE else result

    async def _answer(self, guard: RequestGuard, session: StreamSession, result: Any) -> Any:
        """The response for what the endpoint returned."""
        if session.cause is not None:
            # It did not heed the cutoff: what it opened is closed, and the reader is told why.
            await discard(result)
            return self.response(session)
        if isinstance(result, GuardedResponse) and not isinstance(result.content, StreamSession):
            return result.carry(session, self._resume, self._acknowledge)
        if is_streaming(result):
            if self._resume is not None or self._acknowledge is not None:
                await discard(result)
                option = "acknowledge" if self._resume is None else "resume"
                raise UsageError(
                    f"guard_stream({option}=...) is over an endpoint that returned a {type(result).__name__}, whose"
                    " bytes cannot be numbered; return the iterator itself"
                )
            return GuardedResponse.taking_over(result, **self._of_response).carry(session)
        if is_producer(result) and not isinstance(result, StreamSession):
            session.attach(result)
            return self.response(session)
        session.terminate(Cause.COMPLETED, "the endpoint answered without a stream of this session")
        await guard.close(session)
        return self._own(result)

    def _own(self, result: Any) -> Any:
        """What is answered without a session of ours: as it is, but for a session of the endpoint's."""
        return self.response(result) if isinstance(result, StreamSession) else result


def _guard_of(request: Request | None) -> RequestGuard:
    """The request's guard; one without the middleware's eyes where there is none."""
    scope = {} if request is None else request.scope
    return guard_in(scope) or new_guard(scope, RequestGuard())


def _endpoint_failed(session: StreamSession, error: BaseException) -> None:
    """The endpoint raised before there was a stream. The type alone is told: texts may quote prompts."""
    if isinstance(error, Exception):
        cause = cause_of_failure(error, session.attempts)
    else:
        cause = cause_of(error, current_scope())
    session.terminate(cause, f"the endpoint raised {type(error).__name__}")


def _returns_session(endpoint: Endpoint) -> bool:
    returned = return_annotation(endpoint)
    return inspect.isclass(returned) and issubclass(returned, StreamSession)
