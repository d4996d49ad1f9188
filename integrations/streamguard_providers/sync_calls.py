"""Calls of sync clients: another thread cuts them off, and the blocked one wakes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from streamguard_core import CutOffError
from streamguard_providers._httpx import flush, reset_stream
from streamguard_providers.calls import Call

T = TypeVar("T")

_calling: Final[ContextVar[SyncCall | None]] = ContextVar("streamguard_sync_call", default=None)


class SyncCall(Call):
    """A call of a sync client.

    Args:
        cut_off: the error a reader gets at the cutoff.
        rest: as for `Call`.
    """

    def __init__(self, cut_off: type[CutOffError], **rest: Any) -> None:
        super().__init__(cut_off, **rest)
        self._request: Any = None
        self._wake: threading.Event | None = None
        self._twin: _Twin | None = None

    def send(self, handle: Callable[[T], Any], request: T) -> Any:
        """Have the request handled, up to the response's headers.

        Raises:
            CutOffError: when the cutoff came meanwhile.
        """
        token = _calling.set(self)
        try:
            return self.attend(lambda: handle(request))
        finally:
            _calling.reset(token)

    def attend(self, wait: Callable[[], T]) -> T:
        """Do something of this call's that may block.

        Raises:
            CutOffError: when the cutoff came meanwhile and nothing was received.
        """
        try:
            return wait()
        except Exception as error:
            if self.was_cut:
                raise self.cut_off() from error
            raise

    def tracer(self, other: Callable[..., None] | None = None) -> Callable[..., None]:
        """The `trace` extension for the request; hands everything on to the application's own."""

        def trace(event: str, info: dict[str, Any]) -> None:
            if event == "http2.send_request_headers.started":
                self._request = info["request"]
            try:
                self._trace(event, info)
            finally:  # also where the cutoff is raised here: the second handle is let go
                self._handshake(event)
            if other is not None:
                other(event, info)

        return trace

    def _handshake(self, event: str) -> None:
        """TLS takes the socket over while it negotiates: until then there is a second handle to it."""
        if event == "connection.start_tls.started":
            raw = None if self.dialled is None else self.dialled.get_extra_info("socket")
            if isinstance(raw, socket.socket):
                with self._lock:
                    self._network = self._twin = _Twin(raw.dup())
        elif event.startswith("connection.start_tls.") and self._twin is not None:
            with self._lock:
                twin, self._twin = self._twin, None
                if self._network is twin:
                    self._network = None
                twin.raw.close()

    def hang_up(self) -> None:
        """Close the connection, if it was not given back to the pool, nor closed, by httpcore."""
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(Exception):
                held.close()

    def dial(self, connect: Callable[[], Any]) -> Any:
        """Open a connection, in a thread of its own: nothing else wakes one that is connecting.

        Raises:
            CutOffError: when the cutoff came first. The connection is closed as soon as it stands.
        """
        dialling = _Dialling(connect)
        with self._lock:
            self._wake = dialling.woken
            cut = self.was_cut
        if not cut:
            threading.Thread(target=dialling.run, name="streamguard-dial", daemon=True).start()
            dialling.woken.wait()
        if self.was_cut:
            dialling.abandon()
            raise self.cut_off()
        return dialling.result()

    def _interrupt(self) -> None:
        if self._wake is not None:
            self._wake.set()

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        """Call something in so many seconds, in a thread of its own; returns what takes that back."""
        timer = threading.Timer(seconds, callback)
        timer.daemon = True
        timer.start()
        return timer.cancel

    def let_go(self) -> None:
        """Tell the peer of a shared HTTP/2 connection that this stream was cut off."""
        if self.was_cut and self._stream_id is not None:
            with contextlib.suppress(Exception):  # whatever it says, nothing depends on it any more
                if reset_stream(self._connection, self._stream_id):
                    flush(self._connection, self._request)


class _Twin:
    """A second handle to a connection's socket, as a network stream that can only be shut down."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw

    def get_extra_info(self, info: str) -> Any:
        return self.raw if info == "socket" else None


class _Dialling:
    """One connection being opened."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.woken = threading.Event()
        self._connect = connect
        self._lock = threading.Lock()
        self._abandoned = False
        self._stream: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            stream = self._connect()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        else:
            with self._lock:
                self._stream, abandoned = stream, self._abandoned
            if abandoned:
                stream.close()
        self.woken.set()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            stream = self._stream
        if stream is not None:
            stream.close()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._stream


class Dialler:
    """A network backend for httpcore: like the one it replaces, but a cutoff ends the wait.

    Args:
        inner: the pool's own backend.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def connect_tcp(self, *args: Any, **options: Any) -> Any:
        """Open a TCP connection."""
        return self._dial(lambda: self._inner.connect_tcp(*args, **options))

    def connect_unix_socket(self, *args: Any, **options: Any) -> Any:
        """Open a connection to a Unix socket."""
        return self._dial(lambda: self._inner.connect_unix_socket(*args, **options))

    def sleep(self, seconds: float) -> None:
        """Wait between two tries."""
        self._inner.sleep(seconds)

    def _dial(self, connect: Callable[[], Any]) -> Any:
        call = _calling.get()
        return connect() if call is None else call.dial(connect)


class SyncBody:
    """The body of a governed response. Combined with the library's own `SyncByteStream`."""

    def __init__(self, inner: Any, call: SyncCall) -> None:
        self._inner = inner
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        call = self._call
        parts = iter(self._inner)
        try:
            while True:
                if call.was_cut:
                    raise call.cut_off()
                part = call.attend(lambda: next(parts, None))
                if call.was_cut:
                    raise call.cut_off()
                if part is None:
                    break
                call.received(part)
                yield part
        except GeneratorExit:
            raise
        except BaseException as error:
            self._end(error)
            raise
        call.finish(whole=True)

    def __del__(self) -> None:
        """Dropped unread: nobody can read on, and the call's record must not wait for it."""
        self._call.finish()

    def close(self) -> None:
        """Close the response: the call is over."""
        self._end()

    def _end(self, error: BaseException | None = None) -> None:
        self._call.finish(error)
        self._call.let_go()
        self._inner.close()
