"""Endpoints of every kind, with annotations as strings, as applications write them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from streamguard_asgi import GuardedResponse, StreamGuardMiddleware, guard_stream
from streamguard_core import Cause, MemoryLedger, StreamSession

from .driver import Server

if TYPE_CHECKING:
    from streamguard_core import Producer


class Prompt(BaseModel):
    """A body."""

    text: str


def shout(loud: bool = False) -> str:
    """A dependency."""
    return "!" if loud else "."


Mark = Annotated[str, Depends(shout)]


class Pushing:
    """A producer that pushes."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    async def run(self, *, out: Any, cancel_event: Any) -> None:
        """Emit everything."""
        for text in self._texts:
            await out(text)


async def pieces(*texts: Any) -> AsyncIterator[Any]:
    """An async iterator."""
    for text in texts:
        yield text


async def coroutine(name: str, mark: Mark, n: Annotated[int, Query(ge=1)] = 1) -> Producer:
    """Return a producer from a coroutine function; its annotation only type checkers know."""
    await asyncio.sleep(0)
    return Pushing(name, mark * n)


async def coroutine_iterator(name: str, mark: Mark, n: int = 1) -> AsyncIterator[str]:
    """Return an async iterator."""
    return pieces(name, mark * n)


def function(name: str, mark: Mark, n: int = 1) -> Iterator[str]:
    """Return a sync iterator from a function, which runs in a thread."""
    return iter([name, mark * n])


async def async_generator(name: str, mark: Mark, n: int = 1) -> AsyncIterator[str]:
    """An async generator function."""
    yield name
    yield mark * n


def generator(name: str, mark: Mark, n: int = 1) -> Iterator[str]:
    """A generator function."""
    yield name
    yield mark * n


async def with_request(request: Request, name: str, mark: Mark, n: int = 1) -> Any:
    """Take the request itself."""
    assert request.method == "GET"
    return pieces(name, mark * n)


async def streaming_response(name: str, mark: Mark, n: int = 1) -> StreamingResponse:
    """Return Starlette's own response."""
    return StreamingResponse(pieces(name, mark * n), 201, {"x-mine": "1"}, "text/plain")


async def streaming_response_of_a_generator(name: str, mark: Mark, n: int = 1) -> StreamingResponse:
    """Return Starlette's own response, over a blocking iterator."""
    return StreamingResponse(iter([name, mark * n]), 201, {"x-mine": "1"}, "text/plain")


async def guarded_response(name: str, mark: Mark, n: int = 1) -> GuardedResponse:
    """Return our response."""
    return GuardedResponse(pieces(name, mark * n))


async def session(name: str, mark: Mark, n: int = 1) -> StreamSession:
    """Return a session of its own."""
    return StreamSession(pieces(name, mark * n), tags={"own": "1"})


class Instance:
    """An instance with `__call__`."""

    async def __call__(self, name: str, mark: Mark, n: int = 1) -> AsyncIterator[str]:
        """Stream."""
        yield name
        yield mark * n

    async def method(self, name: str, mark: Mark, n: int = 1) -> Any:
        """Stream from a bound method."""
        return pieces(name, mark * n)


async def configured(model: str, name: str, mark: Mark, n: int = 1) -> AsyncIterator[str]:
    """Stream from a partial."""
    assert model == "m"
    yield name
    yield mark * n


EVENTS: dict[str, Callable[..., Any]] = {
    "coroutine": coroutine,
    "coroutine_iterator": coroutine_iterator,
    "function": function,
    "async_generator": async_generator,
    "generator": generator,
    "with_request": with_request,
    "guarded_response": guarded_response,
    "session": session,
    "instance": Instance(),
    "method": Instance().method,
    "partial": functools.partial(configured, "m"),
}
"""Those that answer with events."""

TAKEN_OVER: dict[str, Callable[..., Any]] = {
    "streaming_response": streaming_response,
    "streaming_response_of_a_generator": streaming_response_of_a_generator,
}
"""Those whose own response is streamed under guard."""

KINDS = EVENTS | TAKEN_OVER


class Rig:
    """A FastAPI application with one endpoint under guard, and its receipts."""

    def __init__(self, endpoint: Callable[..., Any] | None = None, **options: Any) -> None:
        self.ledger = MemoryLedger()
        self.app = FastAPI()
        self.app.add_middleware(StreamGuardMiddleware, ledger=self.ledger)
        if endpoint is not None:
            guarded = guard_stream(**options)(endpoint)
            self.app.api_route("/{name}", methods=["GET", "HEAD"])(guarded)

    def server(self, path: str = "/x", **options: Any) -> Server:
        """One request to it."""
        return Server(self.app, path, **options)

    @property
    def causes(self) -> list[Cause]:
        """The causes of the receipts."""
        return [receipt.cause for receipt in self.ledger.receipts]


async def passing_on(request: Request, call_next: Any) -> Any:
    """What a `BaseHTTPMiddleware` does at least."""
    return await call_next(request)


def existing(endpoint: Any, layers: int = 0, **options: Any) -> Starlette:
    """A Starlette application with nothing but the line `add_middleware`, and layers below it."""
    app = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])])
    for _ in range(layers):
        app.add_middleware(BaseHTTPMiddleware, dispatch=passing_on)
    app.add_middleware(StreamGuardMiddleware, **options)
    return app
