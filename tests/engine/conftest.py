"""Fixtures that start the real engine once a session and an application where a test asks."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .llama_server import LlamaServer
    from .measure import App

NEEDED = ("xllamacpp", "gguf", "numpy", "psutil", "httpx", "fastapi", "uvicorn")
# A slow reader then holds up an application's send after some tens of kilobytes.
SEND_BUFFER = 4096


@pytest.fixture(scope="session")
def model() -> Iterator[Path]:
    """A small model with random weights, made now and deleted afterwards."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the real engine needs {', '.join(missing)}: run `tox -e engine`")
    from .make_model import write_model

    with TemporaryDirectory(prefix="streamguard-engine-") as folder:
        path = Path(folder) / "random.gguf"
        write_model(path)
        yield path


@pytest.fixture(scope="session")
def engine(model: Path) -> Iterator[LlamaServer]:
    """A running llama.cpp server with four slots, shared by all tests."""
    from .llama_server import LlamaServer

    with LlamaServer(model) as server:
        yield server


@pytest.fixture
def serve(engine: LlamaServer) -> Iterator[Callable[..., App]]:
    """Starts `patterns.py` in a process of its own: `serve("--guarded", "--no-gc")`."""
    # The demo's own application: what it shows is what is tested here.
    yield from _serving(
        engine, Path(__file__).parents[2] / "example_projects" / "demo" / "patterns.py"
    )


@pytest.fixture
def serve_one_line(engine: LlamaServer) -> Iterator[Callable[..., App]]:
    """Starts `one_line.py`: `serve_one_line("--transport", "--no-gc")`."""
    yield from _serving(engine, Path(__file__).parent / "one_line.py")


def _serving(engine: LlamaServer, script: Path) -> Iterator[Callable[..., App]]:
    from .measure import App
    from .processes import ServerProcess

    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> App:
            arguments = [engine.url, f"--send-buffer={SEND_BUFFER}", *flags]
            process = stack.enter_context(ServerProcess(script, arguments))
            return App(url=process.url, pid=process.pid)

        yield start
        # Whatever the application still holds must not reach into the next test.
    engine.wait_idle()
