"""The example `langchain_pipeline` as a process: started, read, signalled, and left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from streamguard_testing import NGramModel

from .sites import EXAMPLES

MAIN = EXAMPLES / "langchain_pipeline" / "main.py"
BOUND = 90.0
"""Seconds after which a process is killed, so that a test ends for certain."""
QUESTION = "Where does the zebra sleep?"
_TEE: Final = "aclose(): asynchronous generator is already running"


@dataclass(frozen=True, slots=True)
class Done:
    """A run of the program that is over."""

    code: int
    answer: str
    """What came on stdout."""
    said: str
    """What came on stderr."""

    @property
    def text(self) -> str:
        """The answer without its lines."""
        return " ".join(self.answer.split())

    @property
    def causes(self) -> list[str]:
        """The cause of each receipt, with what stands behind it."""
        return self.under("cause")

    @property
    def attempts(self) -> list[str]:
        """Each attempt, without its chunks."""
        return [each.rpartition(", ")[0] for each in self.under("attempt")]

    @property
    def crashed(self) -> bool:
        """A traceback came that is not LangChain's: it may read a branch of its tee while the event loop closes it."""
        # That has two, and names its error in both.
        return self.said.count("Traceback") > self.said.count(_TEE)

    def under(self, name: str) -> list[str]:
        """What stands on the receipts under this name."""
        lines = [line.split(maxsplit=1) for line in self.said.splitlines() if line[:2] == "  "]
        return [rest for first, *others in lines for rest in others if first == name]


def whole(tokens: int) -> str:
    """The loopback engine's answer, without its lines."""
    return " ".join("".join(NGramModel().generate(tokens)).split())


def run(*arguments: str) -> Done:
    """Run the program to its end."""
    with running(*arguments) as program:
        return program.rest()


class Program:
    """The program while it runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._answer = b""
        self._said = b""
        self._ear = threading.Thread(target=self._listen)
        self._ear.start()

    def read_until(self, enough: Callable[[str], bool]) -> None:
        """Read the answer until there is enough of it, or it is over."""
        assert self._process.stdout is not None
        while not enough(self._answer.decode()):
            came = os.read(self._process.stdout.fileno(), 4096)
            assert came, f"the program ended early: {self.rest()}"
            self._answer += came

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def leave(self) -> None:
        """Read nothing more."""
        assert self._process.stdout is not None
        self._process.stdout.close()

    def rest(self) -> Done:
        """Wait for its end."""
        assert self._process.stdout is not None
        if not self._process.stdout.closed:
            self._answer += self._process.stdout.read()
        code = self._process.wait()
        self._ear.join()
        return Done(code, self._answer.decode(), self._said.decode())

    def _listen(self) -> None:
        assert self._process.stderr is not None
        self._said = self._process.stderr.read()


@contextmanager
def running(*arguments: str) -> Iterator[Program]:
    """The program while it runs; nothing of it is left afterwards."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    with subprocess.Popen(
        [sys.executable, str(MAIN), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
        watchdog = threading.Timer(BOUND, process.kill)
        watchdog.start()
        try:
            yield Program(process)
        finally:
            process.kill()
            watchdog.cancel()
