"""Watches the sockets of WSGI requests: a reader who leaves is seen without writing to him."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from streamguard_core.shutdown import LAST_SEND
from streamguard_django.scope import RequestScope, in_thread

#: The names under which servers show a request's socket.
SOCKET_KEYS: Final = ("gunicorn.socket",)
_CLOSED: Final = "the connection was closed"


def socket_of(environ: Mapping[str, Any]) -> Any:
    """The socket of a request, where the server shows it and this system can watch it; else None.

    gevent takes `epoll` away: under it there is nothing that could wait beside a request.
    """
    if not hasattr(select, "epoll"):
        return None
    return next((environ[key] for key in SOCKET_KEYS if environ.get(key) is not None), None)


class SocketWatcher:
    """One thread for all requests of a process, begun when there is something to watch.

    The kernel says when the other side has closed (FIN) or reset its connection; data that arrives
    wakes nobody. A half-closed connection counts as a closed one, as with every ASGI server.

    Invariant: a scope is told at most once, and never after its `watch()` was undone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._poll: Any = None
        self._pid = 0
        self._watched: dict[int, RequestScope] = {}

    def watch(self, connection: Any, scope: RequestScope) -> Callable[[], None]:
        """Tell `scope` when the reader at the other end of `connection` has left. Returns the undo."""
        try:
            number = connection.fileno()
        except OSError:
            number = -1
        if number < 0:
            return _nothing
        with self._lock:
            self._begin()
            self._watched[number] = scope
            self._poll.register(number, select.EPOLLRDHUP | select.EPOLLONESHOT)
        scope.watched = True
        return lambda: self._forget(number, scope)

    def break_off(self, connection: Any, scope: RequestScope) -> None:
        """End a connection whose reader takes nothing: the server's blocked write fails. Never a later request's."""
        # `scope.finish()` takes the lock, too, before the server goes on with the connection.
        with self._lock:
            if not scope.over:
                _end(connection)

    def break_off_soon(self, connection: Any, scope: RequestScope) -> None:
        """The same when a reader has had his moment: a server that goes does not wait for him."""
        timer = threading.Timer(LAST_SEND, self.break_off, (connection, scope))
        timer.daemon = True
        timer.start()

    def _begin(self) -> None:
        """After a fork there is no thread, and what the parent watched is not ours."""
        if self._poll is not None and self._pid == os.getpid():
            return
        self._poll, self._pid = select.epoll(), os.getpid()
        self._watched.clear()
        threading.Thread(
            target=self._run, args=(self._poll,), name="streamguard-sockets", daemon=True
        ).start()

    def _forget(self, number: int, scope: RequestScope) -> None:
        with self._lock:
            if self._watched.get(number) is scope:
                del self._watched[number]
                self._unregister(number)

    def _unregister(self, number: int) -> None:
        try:
            self._poll.unregister(number)
        except OSError:
            pass  # The server has closed it already, and the kernel has forgotten it.

    def _run(self, poll: Any) -> None:
        while True:
            for number, _ in poll.poll():
                with self._lock:
                    scope = self._watched.pop(number, None)
                    if scope is not None:
                        self._unregister(number)
                if scope is not None:
                    in_thread(partial(scope.disconnected, _CLOSED))


def _nothing() -> None:
    """The undo of a watch that was not begun."""


def _end(connection: Any) -> None:
    """A TLS connection too, from below: its own shutdown would touch what another thread writes with."""
    with contextlib.suppress(OSError):  # the server has closed it already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
