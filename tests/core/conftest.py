"""Runs the asyncio tests of the core in virtual time, on every path a stream can take."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest

from streamguard_core import PASS, AnyChunk, Deadlines, StreamSession, Verdict, grace
from streamguard_core.testing import (
    JumpingLoop,
    Played,
    ScriptedProducer,
    ScriptedPull,
    Step,
    jumping_loop,
    scripted_blocking,
    scripted_iterator,
)

from .signals import HARMLESS


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], JumpingLoop]]:
    """Give every asyncio test in this folder a loop of its own whose clock jumps."""
    return {"jumping": jumping_loop}


class Open:
    """A gate that lets everything pass."""

    def decide(self, text_so_far: str, chunk: AnyChunk) -> Verdict:
        """Pass."""
        return PASS


class Built:
    """A session on one of the paths, and what its producer noted."""

    def __init__(self, session: StreamSession, played: Played) -> None:
        self.session = session
        self.played = played


Build = Callable[..., Built]
ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


def _iterator(*script: Step, **keywords: Any) -> Built:
    played = Played()
    return Built(StreamSession(scripted_iterator(*script, played=played), **keywords), played)


def _batches(*script: Step, **keywords: Any) -> Built:
    producer = ScriptedPull(*script)
    return Built(StreamSession(producer, **keywords), producer.played)


def _pushed(*script: Step, **keywords: Any) -> Built:
    producer = ScriptedProducer(*script)
    return Built(StreamSession(producer, **keywords), producer.played)


def _made(*script: Step, **keywords: Any) -> Built:
    producer = ScriptedProducer(*script)

    async def make() -> ScriptedProducer:
        return producer

    return Built(StreamSession(make, **keywords), producer.played)


def _thread(*script: Step, **keywords: Any) -> Built:
    played = Played()
    session = StreamSession(scripted_blocking(*script, played=played), **keywords)
    # What closing the provider's connection does to a blocked read.
    session.on_close(played.release)
    return Built(session, played)


def _timed(*script: Step, **keywords: Any) -> Built:
    return _iterator(*script, deadlines=Deadlines(total=50_000, idle=40_000), **keywords)


PULLED: Mapping[str, Build] = {"pull": _iterator, "batches": _batches, "timed": _timed}
PUSHED: Mapping[str, Build] = {
    "push": _pushed,
    "push timed": lambda *script, **keywords: _pushed(
        *script, deadlines=Deadlines(total=50_000, idle=40_000), **keywords
    ),
    "push batches": lambda *script, **keywords: _batches(*script, own_task=True, **keywords),
    "made": _made,
    "own task": lambda *script, **keywords: _iterator(*script, own_task=True, **keywords),
    "gated": lambda *script, **keywords: _iterator(*script, gates=[Open()], **keywords),
    "grace": lambda *script, **keywords: _iterator(*script, on_disconnect=grace(9), **keywords),
}
THREAD: Mapping[str, Build] = {"thread": _thread}


def _named(paths: Mapping[str, Build]) -> list[Any]:
    return [pytest.param(build, id=name) for name, build in paths.items()]


@pytest.fixture(params=_named({**PULLED, **PUSHED, **THREAD}))
def build(request: pytest.FixtureRequest) -> Build:
    """Build a session from a script, on each path in turn."""
    builder: Build = request.param
    return builder


@pytest.fixture(params=_named({**PULLED, **PUSHED}))
def build_async(request: pytest.FixtureRequest) -> Build:
    """Build a session from a script, on each path on which the producer can be interrupted."""
    builder: Build = request.param
    return builder


@pytest.fixture(params=_named(PULLED))
def build_pulled(request: pytest.FixtureRequest) -> Build:
    """Build a session from a script, on each path without a task."""
    builder: Build = request.param
    return builder


@pytest.fixture(params=_named({**PUSHED, **THREAD}))
def build_pushed(request: pytest.FixtureRequest) -> Build:
    """Build a session from a script, on each path with a pump."""
    builder: Build = request.param
    return builder


async def _chunks(session: StreamSession) -> list[AnyChunk]:
    return [chunk async for chunk in session]


def _batches_of(limit: int) -> ReadAll:
    async def read(session: StreamSession) -> list[AnyChunk]:
        chunks: list[AnyChunk] = []
        while batch := await session.read_ready(limit):
            assert len(batch) <= limit
            chunks += batch
        return chunks

    return read


async def _all_batches(session: StreamSession) -> list[AnyChunk]:
    chunks: list[AnyChunk] = []
    async for batch in session.batches():
        assert batch, "a batch is never empty"
        chunks += batch
    return chunks


async def _sent_beside(session: StreamSession) -> list[AnyChunk]:
    """As an adapter does: a send that takes a turn of the loop."""
    chunks: list[AnyChunk] = []
    async for batch in session.batches(beside=True):
        sending = asyncio.sleep(0)
        await (session.beside(sending) if session.reads_ahead else sending)
        chunks += batch
    return chunks


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Check that a command says `text` about its arguments, before it does anything, and exits with 2."""

    def check(main: Callable[[list[str]], int], arguments: list[str], text: str) -> None:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        captured = capsys.readouterr()
        assert (left.value.code, captured.out) == (2, "")
        assert text in captured.err

    return check


@pytest.fixture(
    params=[
        pytest.param(_chunks, id="async for"),
        pytest.param(_all_batches, id="batches"),
        pytest.param(_sent_beside, id="beside"),
        pytest.param(_batches_of(1), id="read_ready(1)"),
        pytest.param(_batches_of(16), id="read_ready(16)"),
    ]
)
def read_all(request: pytest.FixtureRequest) -> ReadAll:
    """Read a session to EOS, in each way in turn."""
    reader: ReadAll = request.param
    return reader


@pytest.fixture
def handlers() -> Iterator[None]:
    """Begin as a fresh process does, and put the handlers back, whatever a test leaves."""
    numbers = (signal.SIGTERM, signal.SIGINT, HARMLESS)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in (signal.SIGTERM, HARMLESS):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def called() -> list[int]:
    """The signals that the server's own handler got."""
    numbers: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    return numbers
