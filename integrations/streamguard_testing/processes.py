"""Servers in processes of their own: started, waited for within bounds, and stopped for certain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

_POLL: Final = 0.02
_TAIL: Final = 2000


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago. Where a server takes port 0, prefer that."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
    return port


class ServerProcess:
    """Runs a server as a process; ready once its port takes connections.

    Args:
        command: What to run; `{port}` in it is replaced by the port.
        port: The port it will listen on; a free one when 0.
        host: The address it will listen on.
        cwd: Its working directory.
        env: Variables added to this process's environment.
        ready_timeout: Longest time until it takes connections.
        stop_timeout: Longest time it may take to go after it was asked to; then it is killed.

    Example:
        >>> with ServerProcess([sys.executable, "-m", "http.server", "{port}"]) as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        ready_timeout: float = 20.0,
        stop_timeout: float = 10.0,
    ) -> None:
        self.host = host
        self.port = port or free_port(host)
        self._command = [part.replace("{port}", str(self.port)) for part in command]
        self._cwd = cwd
        self._env = dict(env or {})
        self._ready_timeout = ready_timeout
        self._stop_timeout = stop_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @classmethod
    def uvicorn(
        cls,
        app: str,
        *arguments: str,
        port: int = 0,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Self:
        """Return a process that will run `uvicorn module:app` with further arguments."""
        command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", "{port}"]
        return cls([*command, *arguments], port=port, cwd=cwd, env=env)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            RuntimeError: When it has not been started.
        """
        return self._started().pid

    def start(self) -> None:
        """Start it and wait until it takes connections.

        Raises:
            RuntimeError: When it ended or did not take connections in time; the text has the end
                of what it printed. It is stopped then.
        """
        if self._process is not None:
            raise RuntimeError("start() is not allowed twice; stop() it first")
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the caller's own command
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                env={**os.environ, **self._env},
                # A group of its own: the workers of a server go with it, and Ctrl-C stays ours.
                start_new_session=True,
            )
            self._wait_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._started().send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait until it has ended by itself, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: When it still runs.
        """
        return self._started().wait(timeout)

    def output(self) -> str:
        """Return what it has printed so far."""
        if self._output is None:
            return ""
        return os.pread(self._output.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def stop(self) -> None:
        """Stop it: asked first, then killed with everything it has started."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(self._stop_timeout)
            except subprocess.TimeoutExpired:
                process.kill()
            _kill_group(process.pid)
            process.wait(self._stop_timeout)
        if self._output is not None:
            self._output.close()
            self._output = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("there is no process; start() it first")
        return self._process

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_timeout
        while time.monotonic() < deadline:
            code = process.poll()
            if code is not None:
                raise RuntimeError(f"the server ended with code {code}:\n{self.output()[-_TAIL:]}")
            try:
                socket.create_connection((self.host, self.port), timeout=1.0).close()
            except OSError:
                time.sleep(_POLL)
            else:
                return
        raise RuntimeError(
            f"the server did not listen on {self.host}:{self.port} within"
            f" {self._ready_timeout:g} s:\n{self.output()[-_TAIL:]}"
        )


def _kill_group(pid: int) -> None:
    """Kill what is left of a process group; nothing is left most of the time."""
    if sys.platform == "win32":
        return
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
