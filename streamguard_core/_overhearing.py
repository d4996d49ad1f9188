"""Hears of signals whose handler is a server's alone, through the descriptor to which the interpreter writes each."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import weakref
from collections.abc import Iterable
from typing import Any, Final

from streamguard_core._signal_chain import Link, Told, has_a_say

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid; see unix(7)


class Ear:
    """A thread that is told of each signal of this process. It changes nothing of what the server does.

    For servers that set their handler after everything else, and run nothing of an application's in the
    main thread (granian under WSGI), so that no link can be put in front of it. Where a link is in front,
    it is the one that tells, and nothing is done here.

    Args:
        told: who is told, for as long as it exists.
        numbers: of which signals.
    """

    def __init__(self, told: Told, numbers: Iterable[int]) -> None:
        self._told = weakref.ref(told)
        self._numbers = frozenset(numbers)
        self._pid = os.getpid()
        # Taken by whoever is first: popping is atomic, and requests come in several threads.
        self._ticket = [True]
        # Detached: closed while the interpreter writes to it, its number would soon be another file's.
        heard, written = socket.socketpair()
        # So that a forked child, which writes to the same descriptor, is not taken for this process.
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        written.setblocking(False)
        self._heard, self._written = heard.detach(), written.detach()

    def install(self) -> bool:
        """Take the descriptor, in the main thread; False where somebody has it already, as event loops do."""
        before = signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            self._close()
        return before == -1

    def listen(self) -> None:
        """Begin to hear, in a thread; idempotent. Not in a process that was forked since: it is not its own ear."""
        if self._pid != os.getpid():
            return
        try:
            self._ticket.pop()
        except IndexError:
            return
        threading.Thread(target=self._run, name="streamguard-signals", daemon=True).start()

    def uninstall(self) -> None:
        """Give the descriptor back, in the main thread, where it is still ours."""
        before = signal.set_wakeup_fd(-1)
        if before != self._written:
            signal.set_wakeup_fd(before)
        if self._ticket:
            self._close()
        else:
            os.close(self._written)  # the thread hears the end, and closes its own

    def _close(self) -> None:
        os.close(self._heard)
        os.close(self._written)

    def _run(self) -> None:
        with socket.socket(fileno=self._heard) as heard:
            while True:
                numbers, ancillary, _, _ = heard.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
                if not numbers:
                    return
                if _sender(ancillary) == self._pid and numbers[0] in self._numbers:
                    self._tell(numbers[0])

    def _tell(self, number: int) -> None:
        told, handler = self._told(), signal.getsignal(number)
        if told is not None and not isinstance(handler, Link) and has_a_say(number, handler):
            told.begin()


def overhear(told: Told, numbers: Iterable[int]) -> Ear | None:
    """Have `told` hear of signals from a thread; None where that cannot be.

    That is elsewhere than on Linux or in the main thread, and where somebody has the descriptor already.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not hasattr(socket, "SO_PASSCRED"):
        return None
    ear = Ear(told, numbers)
    return ear if ear.install() else None


def _sender(ancillary: list[Any]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
    return 0
