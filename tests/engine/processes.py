"""Starts a server in a process of its own and hands back the address it prints."""

from __future__ import annotations

import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 60.0
STOP_SECONDS = 10.0


class ServerProcess:
    """A Python script that prints one line, its URL, and serves until its input is closed.

    Its other output goes to an unnamed file, so a full pipe cannot stall it; `log()` reads it.
    A parent that dies closes the input too, so no server outlives its tests.
    """

    def __init__(self, script: Path, arguments: Sequence[str]) -> None:
        self._name = script.name
        # Closed by stop(): it lives as long as the process that writes to it.
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            self.url = self._first_line()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def log(self) -> str:
        """What the server has written to its standard error so far."""
        self._log.seek(0)
        return self._log.read()

    def stop(self) -> None:
        """Close the server's input and wait for it to leave; kill it where it does not."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._log.close()

    def _first_line(self) -> str:
        output = self._process.stdout
        assert output is not None
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            line = output.readline().strip() if selector.select(START_SECONDS) else ""
        if not line:
            raise RuntimeError(
                f"starting {self._name}: no address within {START_SECONDS:.0f} s; it wrote:\n"
                + self.log()[-2000:]
            )
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def wait_until(
    holds: Callable[[], bool], what: str, *, seconds: float, every: float = 0.01
) -> None:
    """Poll a real condition until it holds.

    Args:
        holds: The condition.
        what: What is waited for, in words, for the error.
        seconds: The longest wait.
        every: The time between two looks.

    Raises:
        TimeoutError: When the condition does not hold in time.
    """
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(every)
