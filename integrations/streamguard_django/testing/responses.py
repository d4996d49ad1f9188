"""Responses that are read as they are streamed, each driven as a server drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.signals import request_finished, request_started
from django.db import close_old_connections

from streamguard_core.testing import ASGIServer


class AsyncStreamedResponse:
    """A response over ASGI. The application is never more than one part ahead of its reader.

    Args:
        server: who drives it.
    """

    def __init__(self, server: ASGIServer) -> None:
        self._server = server
        self._raised: BaseException | None = None

    async def begun(self) -> int:
        """Wait until the response begins: a view may take long before that. Returns its status.

        Raises:
            AssertionError: when the application returns without a response.
            TimeoutError: when it does not begin in time.
            BaseException: what the application raised.
        """
        await self._until(lambda: bool(self._server.sent))
        return self._server.status

    async def read(self) -> bytes:
        """The next part, as it was sent; empty when the response is complete.

        Raises:
            AssertionError: when the application returns before the response is complete: it is broken off.
            TimeoutError: when nothing comes in time.
            BaseException: what the application raised, which also breaks the response off.
        """
        with self._noting():
            return await self._server.read()

    async def read_until(self, wanted: bytes) -> bytes:
        """Read on until everything so far has `wanted` in it; returns everything so far.

        Raises:
            AssertionError: when the response is complete without; what `read()` raises.
        """
        while wanted not in self.content:
            if not await self.read():
                raise AssertionError(
                    f"{wanted!r} did not come; the end was {self.content[-200:]!r}"
                )
        return self.content

    async def read_to_end(self) -> bytes:
        """Read on until the response is complete; returns all of it. Raises what `read()` raises."""
        while await self.read():
            pass
        return self.content

    def leave(self) -> None:
        """The reader leaves: his connection is closed, and the server tells the application."""
        self._server.leave()

    @property
    def status_code(self) -> int:
        """The status; only when the response has begun."""
        return self._server.status

    @property
    def headers(self) -> dict[str, str]:
        """The headers; only when the response has begun."""
        return self._server.headers

    @property
    def content(self) -> bytes:
        """Everything that was sent so far."""
        return b"".join(self._server.bodies)

    @property
    def events(self) -> list[tuple[str, str]]:
        """Name and data of each server-sent event so far; `message` where it has no name."""
        return self._server.events

    async def finish(self) -> None:
        """Leave what is not complete, and wait for the application.

        Raises:
            AssertionError: when it does not return in time.
            BaseException: what it raised, unless that was raised before.
        """
        left = not self._server.complete
        if left:
            self.leave()
        try:
            await self._server.ended()
        except TimeoutError:
            when = "its reader left" if left else "its response was complete"
            raise AssertionError(f"the application does not return after {when}") from None
        except Exception as error:
            if error is not self._raised:
                raise

    async def _until(self, condition: Callable[[], bool]) -> None:
        with self._noting():
            await self._server.until(condition)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """What is raised here is not raised again at the end of the block."""
        try:
            yield
        except Exception as error:
            self._raised = error
            raise


class StreamedResponse:
    """A response over WSGI. Nothing is made before somebody asks for it.

    Args:
        app: the WSGI application; called at once, as servers do.
        environ: of the request.
    """

    def __init__(self, app: Callable[..., Any], environ: dict[str, Any]) -> None:
        self._status = ""
        self.headers: dict[str, str] = {}
        self.closed = False
        """The server has closed the response, as it does at every end."""
        self.content = b""
        """Everything that was sent so far."""
        self._body = app(environ, self._start)
        self._parts = iter(self._body)

    def _start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        self._status, self.headers = status, {name.lower(): value for name, value in headers}

    @property
    def status_code(self) -> int:
        """The status."""
        return int(self._status.split()[0])

    def read(self) -> bytes:
        """The next part, as the server asks for it after it has written the one before; empty at the end.

        Raises:
            BaseException: what the application raised, which breaks the response off.
        """
        part = b""
        try:
            part = next(filter(None, self._parts), b"")  # of nothing, servers write nothing
        finally:
            if not part:
                self.leave()
        self.content += part
        return part

    def read_until(self, wanted: bytes) -> bytes:
        """Read on until everything so far has `wanted` in it; returns everything so far.

        Raises:
            AssertionError: when the response is complete without; what `read()` raises.
        """
        while wanted not in self.content:
            if not self.read():
                raise AssertionError(
                    f"{wanted!r} did not come; the end was {self.content[-200:]!r}"
                )
        return self.content

    def read_to_end(self) -> bytes:
        """Read on until the response is complete; returns all of it. Raises what `read()` raises."""
        while self.read():
            pass
        return self.content

    def leave(self) -> None:
        """The reader is gone: his server finds that out by writing, and closes the response."""
        if not self.closed:
            self.closed = True
            self._body.close()


@contextmanager
def connections_kept() -> Iterator[None]:
    """Connections to databases stay open beyond a request, as under Django's own clients: they are the test's."""
    signals = [
        signal
        for signal in (request_started, request_finished)
        if signal.disconnect(close_old_connections)
    ]
    try:
        yield
    finally:
        for signal in signals:
            signal.connect(close_old_connections)
