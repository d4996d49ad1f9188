"""The example chats as processes: how each is started, and what it can do."""

from __future__ import annotations

import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from streamguard_testing import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "example_projects"


@dataclass(frozen=True, slots=True)
class Site:
    """One way to serve the chat.

    Args:
        name: for test ids.
        main: the script, below the examples.
        options: of its command line.
        modules: what must be installed for it.
    """

    name: str
    main: str
    options: tuple[str, ...] = ()
    modules: tuple[str, ...] = ("uvicorn",)

    def __str__(self) -> str:
        return self.name

    def command(self, *arguments: str) -> list[str]:
        """Its command line."""
        return [sys.executable, str(EXAMPLES / self.main), *self.options, *arguments]

    def serve(
        self, folder: Path, *arguments: str, window: float = 0.1, port: int = 0
    ) -> ServerProcess:
        """A process that will serve it; skips the test where something is missing for it.

        Args:
            folder: for its ledger, `receipts_in(folder)`, and whatever else it keeps.
            arguments: further ones.
            window: how long an answer waits for its reader, in seconds.
            port: to listen on; a free one when 0.
        """
        for module in self.modules:
            pytest.importorskip(module)
        kept = ["--ledger", str(receipts_in(folder))]
        if "django" in self.modules:
            kept += ["--database", str(folder / "chat.sqlite3")]
        command = self.command("--port", "{port}", "--window", str(window), *kept, *arguments)
        return ServerProcess(command, port=port)


FASTAPI = Site("fastapi", "fastapi_chat/main.py")
DJANGO_ASGI = Site("django-asgi", "django_chat/main.py", modules=("django", "uvicorn"))
DJANGO_WSGI = Site(
    "django-wsgi", "django_chat/main.py", options=("--wsgi",), modules=("django", "gunicorn")
)
SITES = [FASTAPI, DJANGO_ASGI, DJANGO_WSGI]


def receipts_in(folder: Path) -> Path:
    """Where a chat that keeps everything in `folder` has its ledger."""
    return folder / "receipts"


def kill(server: ServerProcess) -> None:
    """SIGKILL to a server and to the workers that it has."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def demo_login(server: ServerProcess) -> tuple[str, str]:
    """User and password of the admin, as the chat has printed them."""
    found = re.search(r"user (\w+), password (\S+)\)", server.output())
    assert found is not None, server.output()
    return found[1], found[2]
