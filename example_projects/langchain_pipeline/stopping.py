"""Signals: Ctrl-C is the reader's word, SIGTERM the machine's; both end the stream, and the receipt says which."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from streamguard_core import Cause, Scope

_WORDS = {
    signal.SIGINT: (Cause.USER_CANCEL, "Ctrl-C"),
    signal.SIGTERM: (Cause.SHUTDOWN, "SIGTERM"),
}


class Stop:
    """What was asked for by a signal: the program's exit code, once there is one."""

    code: int | None = None

    @contextmanager
    def ends(self, scope: Scope) -> Iterator[None]:
        """Let signals end this scope; a second one of the same kind ends the program as it always does."""
        loop = asyncio.get_running_loop()

        def heard(number: int, _: FrameType | None) -> None:
            self.code = 128 + number
            heard_one = signal.Signals(number)
            signal.signal(heard_one, before[heard_one])
            loop.call_soon_threadsafe(scope.terminate, *_WORDS[heard_one])

        before = {number: signal.signal(number, heard) for number in _WORDS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
