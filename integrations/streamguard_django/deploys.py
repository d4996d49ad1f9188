"""What ends a process's streams in order when it is told to go: one `Shutdown`, as the settings say."""

from __future__ import annotations

import threading
from typing import Final

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from streamguard_core import Shutdown
from streamguard_django.conf import NAME, option


class Deploys:
    """One `Shutdown` for all requests of a process, made when it is first asked for.

    Servers set their signal handlers at different times, and in WSGI servers with threads nothing of a
    request runs in the main thread, which alone may set one. So it is installed when a server loads
    its handler, and again by each request until one was in the main thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = False
        self._shutdown: Shutdown | None = None
        self._in_front = False

    def __call__(self) -> Shutdown | None:
        """Return the process's; None where the settings want no signal handler.

        Raises:
            ImproperlyConfigured: when the settings cannot be used.
        """
        if not self._made:
            with self._lock:
                if not self._made:
                    self._shutdown = _new()
                    self._made = True
        return self._shutdown

    def loaded(self) -> bool:
        """A server has loaded its handler. Settings that cannot be used are said at the first request.

        Returns:
            Whether SIGTERM reaches the process's streams now.
        """
        try:
            shutdown = self()
        except ImproperlyConfigured:
            return False
        if shutdown is None:
            return False
        shutdown.overhear()
        return shutdown.install()

    def serving(self) -> Shutdown | None:
        """Return the process's for a request; servers have set their own handlers by then.

        Raises:
            ImproperlyConfigured: when the settings cannot be used.
        """
        shutdown = self()
        if not self._in_front and shutdown is not None:
            self._in_front = shutdown.install()
            if not self._in_front:
                shutdown.listen()
        return shutdown

    def forget(self, *, setting: str = NAME, **_: object) -> None:
        """Tests override settings; the handlers that were there before are put back."""
        if setting != NAME:
            return
        with self._lock:
            shutdown, self._shutdown = self._shutdown, None
            self._made = self._in_front = False
        if shutdown is not None:
            shutdown.uninstall()


def _new() -> Shutdown | None:
    grace = option.alone("SHUTDOWN_GRACE")
    return None if grace is None else Shutdown(grace=grace, flush=option.alone("SHUTDOWN_FLUSH"))


deploys: Final = Deploys()
setting_changed.connect(deploys.forget, dispatch_uid="streamguard_django.deploys")


def install_shutdown() -> bool:
    """Have SIGTERM end this process's streams in order, in the main thread of a process that serves.

    The middleware does so by itself wherever it can. It cannot where a server forks after it has loaded
    the project, and serves in threads: gunicorn's `gthread` with `--preload`. Call it in that server's hook
    for a worker that is ready to serve.

    Returns:
        Whether SIGTERM reaches the process's streams now: not in another thread than the main one, and not
        where the settings want no handler.

    Example:
        >>> def post_worker_init(worker):  # in gunicorn.conf.py
        ...     install_shutdown()
    """
    return deploys.loaded()
