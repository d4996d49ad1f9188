"""A signal handler that stands in front of another one: it tells who asked for it, and passes the signal on.

The state of the chain is kept where the process keeps it, in its table of signal handlers: there is at
most one link at the front, and whoever wants to be told joins it. A server that replaces it (uvicorn
does, and puts it back when it has served) leaves it behind as the handler that comes after the
server's own; a new link is put in front of the server's then.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import threading
import time
import weakref
from types import FrameType
from typing import Any, Final, Protocol

_POLL: Final = 0.005


class Told(Protocol):
    """Who is told of a signal. All of it runs inside a signal handler."""

    @property
    def begun(self) -> bool:
        """Whether it was told before."""

    def begin(self) -> None:
        """The process is to go. Called once per signal."""

    @property
    def finished(self) -> bool:
        """Whether the process may go."""

    @property
    def patience(self) -> float:
        """How long it may be kept from going, in seconds."""


class Link:
    """One handler of one signal, in front of `previous`.

    Invariant: each delivery of the signal calls `previous` exactly once.

    Args:
        previous: what the table of handlers had before.
    """

    def __init__(self, previous: Any) -> None:
        self.previous = previous
        self._told: list[weakref.ref[Told]] = []
        self._called = False

    def join(self, told: Told) -> None:
        """Have `told` called at the signal, once, for as long as it exists."""
        present = [each for each in self._told if each() is not None]
        self._told = present if weakref.ref(told) in present else [*present, weakref.ref(told)]

    def part(self, told: Told) -> bool:
        """Forget `told`; returns whether nobody is left."""
        self._told = [each for each in self._told if each() not in (None, told)]
        return not self._told

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal: whatever is called here must neither wait nor take a lock."""
        told = [one for each in self._told if (one := each()) is not None]
        again, self._called = self._called, True
        # Raised anew by a server that has served: what is still being written is waited for.
        served = not again and all(one.begun for one in told)
        for one in told:
            one.begin()
        if callable(self.previous):
            self.previous(number, frame)
        elif again:
            _die(number)
        elif served:
            _wait(told)
            _die(number)
        elif all(one.finished for one in told):
            _die(number)
        else:
            _thread.start_new_thread(_die_later, (number, told))


def put_in_front(number: int, told: Told) -> Link | None:
    """See that `told` is told of a signal, before the handler that is there; idempotent.

    Returns:
        The link that does it; None where there is no handler to be in front of: the signal is ignored,
        handled outside of Python, or left to the interpreter (SIGINT), or this is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    current: Any = signal.getsignal(number)
    link = current if isinstance(current, Link) else _new_link(number, current)
    if link is not None:
        link.join(told)
    return link


def _new_link(number: int, current: Any) -> Link | None:
    if not has_a_say(number, current):
        return None
    link = Link(current)
    try:
        signal.signal(number, link)
    except ValueError:  # a subinterpreter has no say in signals
        return None
    if hasattr(signal, "siginterrupt"):
        # As both kinds of event loops do; a handler that is set anew interrupts system calls.
        signal.siginterrupt(number, False)
    return link


def take_back(number: int, link: Link, told: Told) -> None:
    """Forget `told`; put the handler back that was there, where nobody else is in front of us."""
    if not link.part(told) or threading.current_thread() is not threading.main_thread():
        return
    current: Any = signal.getsignal(number)
    if current is link:
        signal.signal(number, link.previous)


def has_a_say(number: int, handler: Any) -> bool:
    """Whether a process whose handler this is goes at the signal in a way of its own."""
    if handler in (None, signal.SIG_IGN):
        return False
    if number == signal.SIGINT:
        # The interpreter's own handler and asyncio's raise and cancel at any place, and asyncio puts
        # its own only in front of the interpreter's: there is no server yet that shuts down.
        owner = getattr(getattr(handler, "func", None), "__self__", None)
        plain = handler in (signal.SIG_DFL, signal.default_int_handler)
        return not plain and not isinstance(owner, asyncio.Runner)
    return True


def _wait(told: list[Told]) -> None:
    """Look until everybody is finished. No lock: the interrupted code may hold any."""
    until = time.monotonic() + max((one.patience for one in told), default=0.0)
    while not all(one.finished for one in told) and time.monotonic() < until:
        time.sleep(_POLL)


def _die_later(number: int, told: list[Told]) -> None:
    """In a thread: what the signal does by default, when everybody is finished."""
    _wait(told)
    if hasattr(signal, "pthread_kill"):
        # To the main thread, where handlers run: it may be waiting in a system call.
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def _die(number: int) -> None:
    """What the signal does by default: its exit code is the one that whoever sent it expects."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
