"""A process that is told to go ends its streams in order: `Shutdown`, chained in front of the server's handler.

A server waits for its responses, and a stream of tokens is one that takes long: without this, a deploy
waits for every reader, and then kills what is left. With it the streams are ended at the signal, with
`SHUTDOWN` as the cause; readers are told, receipts become durable, and the server goes by its own rules.

Three things happen, in this order: `begin()` (the signal; from here on nothing new is begun), up to
`grace` seconds in which what runs may complete by itself, and `cut()`.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import signal
import threading
import time
import weakref
from collections.abc import Iterable
from concurrent.futures import wait
from typing import Any, Final, Protocol

from streamguard_core._overhearing import Ear, overhear
from streamguard_core._signal_chain import Link, put_in_front, take_back
from streamguard_core.causes import Cause
from streamguard_core.errors import UsageError

logger = logging.getLogger("streamguard")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
DETAIL: Final = "the server was told to shut down"
DEFAULT_GRACE: Final = 1.0
"""Answers that are about to complete do. Far below the shortest deadline that servers and platforms have."""
DEFAULT_FLUSH: Final = 5.0
LAST_SEND: Final = 1.0
"""How long after the cutoff a reader may take to take the rest when the server shuts down, in seconds."""

_POLL: Final = 0.01
_SAME_MOMENT: Final = 1.0
"""How long after the signal a server may still tell of disconnects that are its own doing, in seconds."""


class Ended(Protocol):
    """What can be ended: a scope, or a session by itself. Must be safe to call from any thread, and twice."""

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End now, with authority."""


class Shutdown:
    """Knows what lives in this process, and ends it when the process is told to go.

    Whoever serves streams adds each scope, and discards it when everything of it is durable; both cost one
    operation on a set, and nothing per chunk. What is dropped without that is forgotten.

    Args:
        grace: how long running streams may complete by themselves before they are cut, in seconds.
            A second signal ends this wait.
        flush: how long receipts are waited for after that, in seconds.

    Raises:
        UsageError: when one of them is negative.

    Example:
        >>> from streamguard_core import Scope
        >>> shutdown, scope = Shutdown(grace=0), Scope()
        >>> shutdown.add(scope)
        >>> shutdown.cut()
        >>> str(scope.ended[0])
        'SHUTDOWN'
    """

    def __init__(self, *, grace: float = DEFAULT_GRACE, flush: float = DEFAULT_FLUSH) -> None:
        for name, seconds in (("grace", grace), ("flush", flush)):
            if not seconds >= 0:
                raise UsageError(
                    f"Shutdown({name}={seconds!r}) was called; it is a number of seconds"
                )
        self.grace = grace
        self.flush = flush
        self._live: set[weakref.ref[Ended]] = set()
        self._held: set[Any] = set()
        self._links: list[tuple[int, Link]] = []
        self._ear: Ear | None = None
        # Taken by whoever is first: popping is atomic, also between a thread and a signal handler.
        self._ticket = [True]
        self._began: float | None = None
        self._hurried = False
        self._is_cut = False

    # -- what lives --------------------------------------------------------------------------------

    def add(self, one: Ended) -> None:
        """Know of `one` from now on. After the signal nothing is begun any more: it is ended at once."""
        self._live.add(weakref.ref(one, self._live.discard))
        if self.begun:
            one.terminate(Cause.SHUTDOWN, DETAIL)

    def discard(self, one: Ended) -> None:
        """Everything of `one` is durable, or it is given up."""
        self._live.discard(weakref.ref(one))

    def hold(self, stream: Any) -> None:
        """Know of a stream that outlives its scope, until its receipt is durable.

        Args:
            stream: a session or a recorded stream; one that is sealed is kept alive until then.
        """
        durable = stream.durable
        if stream.sealed is not None and (durable is None or durable.done()):
            self.discard(stream)
            return
        self.add(stream)
        if durable is not None and stream not in self._held:
            self._held.add(stream)
            durable.add_done_callback(lambda _: self._let_go(stream))

    def release(self, one: Ended, streams: Iterable[Any]) -> None:
        """The work of `one` is over; of its streams each is known by itself until it is durable. Idempotent.

        Args:
            one: what was added.
            streams: its sessions and recorded streams.
        """
        for stream in streams:
            self.hold(stream)
        self.discard(one)

    def _let_go(self, stream: Any) -> None:
        self._held.discard(stream)
        self.discard(stream)

    @property
    def live(self) -> int:
        """How many are known now."""
        return len(self._live)

    # -- the signal --------------------------------------------------------------------------------

    def install(self) -> bool:
        """Stand in front of the handlers of SIGTERM, and of SIGINT where a server has one; idempotent.

        Servers set their handlers at different times, so call it at import (or `ready()`), when the
        server has started (lifespan) and at the first request; once too often costs nothing. Only the
        main thread can.

        Returns:
            Whether SIGTERM reaches this object now.
        """
        for number in SIGNALS:
            link = put_in_front(number, self)
            if link is not None and (number, link) not in self._links:
                self._links.append((number, link))
            if number == signal.SIGTERM and link is None:
                return False
        return True

    def overhear(self) -> bool:
        """Hear of the signals from a thread where no handler can be in front of the server's; idempotent.

        For hosts that serve in threads, some of which set their handlers after all else. Call it in the
        main thread when the application is loaded, and `listen()` in a process that serves.

        Returns:
            Whether that is so: on Linux, in the main thread, where no event loop hears of signals that way.
        """
        if self._ear is None:
            self._ear = overhear(self, SIGNALS)
        return self._ear is not None

    def listen(self) -> None:
        """Begin to hear what `overhear()` is for; idempotent, from any thread, and nothing without it."""
        if self._ear is not None:
            self._ear.listen()

    def uninstall(self) -> None:
        """Put back the handlers that were there, where nobody has come in front since."""
        ear = self._ear
        if ear is not None and threading.current_thread() is threading.main_thread():
            self._ear = None
            ear.uninstall()
        links, self._links = self._links, []
        for number, link in reversed(links):
            take_back(number, link, self)

    # -- the end -----------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """The process was told to go."""
        return self._began is not None

    @property
    def claims_disconnects(self) -> bool:
        """Whether a disconnect that is told now is the server's doing: some close what they have at shutdown."""
        if self._began is None:
            return False
        return self._is_cut or time.monotonic() - self._began < _SAME_MOMENT

    @property
    def finished(self) -> bool:
        """Whether nothing is left that this process would have to stay for."""
        return self.begun and not self._live

    @property
    def patience(self) -> float:
        """How long it may take from the signal until everything is durable, in seconds."""
        return self.grace + self.flush

    def begin(self) -> None:
        """The process is told to go. Safe in a signal handler: takes no lock, waits for nothing.

        A second call ends the grace of the first.
        """
        try:
            self._ticket.pop()
        except IndexError:
            self._hurried = True
            return
        self._began = time.monotonic()
        if self._live:
            try:
                # A bare thread: `threading` takes locks, which the interrupted code may hold.
                _thread.start_new_thread(self._run, (self._began + self.grace,))
            except RuntimeError:  # there can be no more threads; the server's own deadline is left
                self._is_cut = True
        else:
            self._is_cut = True

    def _run(self, until: float) -> None:
        while self._live and not self._hurried and time.monotonic() < until:
            time.sleep(_POLL)
        self.cut()

    def cut(self) -> None:
        """End everything now, without grace. Safe from any thread, and twice; not in a signal handler."""
        if self._began is None:
            self._ticket.clear()
            self._began = time.monotonic()
        self._is_cut = True
        # Held while they are ended: what dies meanwhile would change the set.
        for one in [one for known in tuple(self._live) if (one := known()) is not None]:
            _end(one)

    def rearm(self) -> None:
        """Serve again, in a process that has ended one run of its server and begins another."""
        if self.finished:
            self._ticket = [True]
            self._began = None
            self._hurried = self._is_cut = False

    async def flushed(self) -> bool:
        """Wait until nothing is left, at most `flush` seconds; returns whether that is so."""
        until = time.monotonic() + self.flush
        while self._live and time.monotonic() < until:  # noqa: ASYNC110 - other threads end streams, too
            await asyncio.sleep(_POLL)
        return not self._live

    def flushed_sync(self) -> bool:
        """The same for hosts without an event loop: blocks this thread."""
        until = time.monotonic() + self.flush
        while self._live and time.monotonic() < until:
            time.sleep(_POLL)
        return not self._live


async def until_durable(streams: Iterable[Any]) -> None:
    """Wait until those receipts of sealed streams that are being written are kept, or could not be.

    What could not be written was logged when it failed. Whoever has little time bounds the wait.
    """
    writing = [stream.durable for stream in streams if stream.durable is not None]
    await asyncio.gather(*map(asyncio.wrap_future, writing), return_exceptions=True)


def until_durable_sync(streams: Iterable[Any], seconds: float) -> None:
    """The same for hosts without an event loop: blocks this thread, at most `seconds`."""
    wait([stream.durable for stream in streams if stream.durable is not None], seconds)


def _end(one: Ended) -> None:
    try:
        one.terminate(Cause.SHUTDOWN, DETAIL)
    except Exception as error:  # the others are to be ended as well
        logger.error("ending a stream at shutdown raised %s", type(error).__name__)
