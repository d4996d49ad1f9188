"""Servers in processes are ready when started, gone when stopped, and say why when they fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from streamguard_testing import ServerProcess, free_port

SERVE = "import http.server, sys; http.server.test(port=int(sys.argv[1]), bind='127.0.0.1')"
# Ignores the request to go, and has a child that would outlive it.
STUBBORN = (
    "import os, signal, socket, subprocess, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "sock = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "while True: sock.accept()[0].close()\n"
)
APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


def _runs(pid: int) -> bool:
    """Tell whether a process runs; one that is dead but not yet collected does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_free_port_is_free() -> None:
    """The port can be listened on."""
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_uvicorn(tmp_path: Path) -> None:
    """An ASGI application is served by uvicorn, and gone afterwards."""
    (tmp_path / "hello.py").write_text(APP, encoding="utf-8")
    server = ServerProcess.uvicorn("hello:app", "--log-level", "warning", cwd=tmp_path)
    with server:
        assert httpx.get(server.url).text == "hello"
        pid = server.pid
    assert not _runs(pid)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((server.host, server.port))


def test_signals_and_output() -> None:
    """A process can be sent a signal and waited for; what it printed can be read."""
    code = SERVE.replace("import", "print('up', flush=True); import", 1)
    with ServerProcess([sys.executable, "-c", code, "{port}"]) as server:
        assert server.output().startswith("up")
        with pytest.raises(RuntimeError, match="not allowed twice"):
            server.start()
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0
    assert server.output() == ""


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_process_that_does_not_go_is_killed() -> None:
    """What ignores the request to go is killed, with what it has started."""
    server = ServerProcess([sys.executable, "-c", STUBBORN, "{port}"], stop_timeout=0.2)
    with server:
        pids = [server.pid, int(server.output().split()[0])]
        assert all(_runs(pid) for pid in pids)
    deadline = time.monotonic() + 5.0
    while any(_runs(pid) for pid in pids):  # a kill takes a moment
        assert time.monotonic() < deadline


def test_a_server_that_ends_says_why() -> None:
    """A process that ends before it listens is an error with its code and its last words."""
    server = ServerProcess([sys.executable, "-c", "print('no config'); raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match=r"ended with code 3:\nno config"):
        server.start()
    with pytest.raises(RuntimeError, match="there is no process"):
        _ = server.pid


def test_a_server_that_does_not_listen_is_stopped() -> None:
    """A process that does not listen in time is an error, and does not go on running."""
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    server = ServerProcess([sys.executable, "-c", code], ready_timeout=0.5)
    with pytest.raises(RuntimeError, match="did not listen on") as caught:
        server.start()
    pid = int(str(caught.value).split()[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_command_that_does_not_exist() -> None:
    """A command that cannot be run raises, and can be tried again."""
    server = ServerProcess(["./no-such-command"])
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            server.start()


def test_environment_is_added() -> None:
    """Variables are added to those of this process."""
    code = (
        "import os; print(os.environ['STREAMGUARD_TEST'], 'PATH' in os.environ); raise SystemExit"
    )
    server = ServerProcess([sys.executable, "-c", code], env={"STREAMGUARD_TEST": "here"})
    with pytest.raises(RuntimeError, match="here True"):
        server.start()


def test_waiting_is_bounded() -> None:
    """Waiting for a process that runs is bounded."""
    with (
        ServerProcess([sys.executable, "-c", SERVE, "{port}"]) as server,
        pytest.raises(subprocess.TimeoutExpired),
    ):
        server.wait(timeout=0.01)
