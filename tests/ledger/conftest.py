"""What the tests of the ledger share: records, a ledger that is whole, and ways to damage it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import Cause, CloseState, Instants, OpenRecord, Receipt
from streamguard_ledger import SQLiteLedger

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]
Edit = Callable[..., Any]


def _opening(stream_id: str = "s0", **fields: Any) -> OpenRecord:
    return OpenRecord(stream_id=stream_id, **{"opened_us": 1_700_000_000_000_000, **fields})


def _closing(stream_id: str = "s0", **fields: Any) -> Receipt:
    usual: dict[str, Any] = {
        "cause": Cause.CLIENT_DISCONNECT,
        "party": Cause.CLIENT_DISCONNECT.party,
        "produced": 9,
        "committed": 7,
        "consumed": 6,
        "late": 1,
        "close": CloseState.CONFIRMED,
        "instants": Instants(opened_ns=2**60, first_chunk_ns=2**60 + 7, sealed_ns=2**60 + 11),
        "opened_us": 1_700_000_000_000_000,
        "sealed_us": 1_700_000_001_000_000,
    }
    return Receipt(stream_id=stream_id, **{**usual, **fields})


@pytest.fixture
def opening() -> Opening:
    """Return a function that makes an OPEN record."""
    return _opening


@pytest.fixture
def closing_of() -> Closing:
    """Return a function that makes a receipt."""
    return _closing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a ledger may be made."""
    return tmp_path / "ledger"


@pytest.fixture(scope="session")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "ledger"
    with SQLiteLedger(path) as ledger:
        for stream_id in ("s0", "s1"):
            ledger.append_open(_opening(stream_id, max_tokens=50, tags={"tenant": "a"})).result()
            ledger.append_close(_closing(stream_id)).result()
    return path


@pytest.fixture(scope="session")
def _recovered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recovered") / "ledger"
    with SQLiteLedger(path) as ledger:
        for stream_id in ("s0", "s1", "s2"):
            ledger.append_open(_opening(stream_id)).result()
        for stream_id in ("s0", "s1"):
            ledger.append_close(_closing(stream_id)).result()
    SQLiteLedger(path).close()
    return path


@pytest.fixture
def whole(_whole: Path, path: Path) -> Path:
    """Return a ledger of one writer that was closed in order: two streams and their receipts."""
    return Path(shutil.copytree(_whole, path))


@pytest.fixture
def recovered(_recovered: Path, path: Path) -> Path:
    """Return a ledger of two writers, of which the second one closed a stream of the first."""
    return Path(shutil.copytree(_recovered, path))


@pytest.fixture
def edit() -> Edit:
    """Return a function that opens a writer's file for changes, as somebody with root may."""

    @contextmanager
    def opened(path: Path, number: int = 0) -> Iterator[sqlite3.Connection]:
        file = sorted((path / "writers").glob("*.db"))[number]
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            yield connection

    return opened


@pytest.fixture
def run() -> Callable[..., str]:
    """Return a function that runs Python code in a process of its own and returns what it said."""

    def ran(code: str, *arguments: object, returncode: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT + code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == returncode, done.stderr
        return done.stdout

    return ran


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts Python code in a process of its own; it is killed after."""
    started: list[subprocess.Popen[str]] = []

    def spawned(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT + code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield spawned
    for process in started:
        with process:
            process.kill()


# What every process that runs in a test begins with.
SCRIPT = """
import os, signal, sys
from streamguard_core import *
from streamguard_ledger import *
def opening(name, **fields):
    return OpenRecord(stream_id=name, opened_us=1, **fields)
def closing(name, **fields):
    usual = dict(cause=Cause.COMPLETED, party=None, produced=1, committed=1, consumed=1, late=0,
                 close=CloseState.ENDED, instants=Instants(opened_ns=5), opened_us=1, sealed_us=2)
    return Receipt(stream_id=name, **{**usual, **fields})
"""
