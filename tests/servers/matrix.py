"""The matrix: phases, in which readers leave applications under servers, and what is owed in each.

In every case a reader leaves at an event that the engine (or the ledger, or the kernel) tells of, and
then three things are owed: the engine makes at most one chunk more, the receipt says why, and there is
exactly one. Where a server cannot know, `EXCEPTIONS` says so, and why.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from streamguard_core import Cause
from streamguard_ledger import read_receipts
from streamguard_testing import (
    EngineRequest,
    Fault,
    Leave,
    RawClient,
    RunningEngine,
    ServerProcess,
    State,
    Usage,
    run_engine,
)

LEAD: Final = 3
INTERVAL: Final = 3.0
"""Seconds between two chunks behind the lead: time enough for a machine that others share, and none
is lost where the reader's leaving is seen."""
BOUND: Final = 30.0
_FOREVER: Final = 600.0
_UNREAD: Final = b"x" * 2000
TOKENS: Final = 10
"""Of a whole answer. Its reader gets an event for each, then one for the end; from an application that
passes the provider's own events on, one for the finish reason, and one for the usage."""
UNTOUCHED: Final = frozenset(
    {
        "fastapi-sse",
        "fastapi-streaming",
        "fastapi-threaded",
        "sse-starlette",
        "django-async-untouched",
        "django-sync-untouched",
    }
)
"""Applications under the one line alone."""
PASSING: Final = UNTOUCHED | {"django-sync"}
"""Applications that pass the provider's own events on."""
BLOCKING: Final = frozenset({"fastapi-threaded", "django-sync", "django-sync-untouched"})
"""Applications whose provider call blocks a thread."""
_CONNECTING: Final = "02"  # SYN_SENT, in /proc/net/tcp


class Phase(StrEnum):
    """Where a stream is when its reader leaves."""

    BODY = "body"  #: the application has not read the request's body, the engine thinks
    LIMITER = "limiter"  #: the call waits for a place in the application's own pool
    CONNECTING = "connecting"  #: the engine's kernel does not answer
    QUEUED = "queued"  #: the engine has no slot free
    FIRST = "first"  #: the engine thinks
    MIDDLE = "middle"  #: chunks have come, and the next is on its way
    TAIL = "tail"  #: the finish reason has come, the usage has not
    SETTLING = "settling"  #: everything has come, the engine keeps the connection open


#: What an engine does in each phase.
FAULTS: Final = {
    Phase.BODY: Fault(first_token_delay=_FOREVER),
    Phase.LIMITER: Fault(first_token_delay=_FOREVER),
    Phase.CONNECTING: Fault(),
    Phase.QUEUED: Fault(first_token_delay=_FOREVER),
    Phase.FIRST: Fault(first_token_delay=_FOREVER),
    Phase.MIDDLE: Fault(),
    Phase.TAIL: Fault(usage=Usage.LATE, usage_delay=0.2),
    Phase.SETTLING: Fault(trickle_after_done=True),
}


@dataclass(frozen=True, slots=True)
class Owed:
    """What a case must show.

    Args:
        chunks: How many chunks the engine may make after the reader left.
        causes: What the receipt may say.
        reason: Why it is less than everywhere else.
        unseen: Nobody can know that the reader has left: nothing is owed.
    """

    chunks: int = 1
    causes: frozenset[Cause] = frozenset({Cause.CLIENT_DISCONNECT})
    reason: str = ""
    unseen: bool = False


_USUAL: Final = Owed()
_COMPLETED: Final = Owed(0, frozenset({Cause.COMPLETED}))


@dataclass(frozen=True, slots=True)
class Unless:
    """Cases in which a server or a framework cannot know; empty sets are all."""

    owed: Owed
    servers: frozenset[str] = field(default_factory=frozenset)
    apps: frozenset[str] = field(default_factory=frozenset)
    phases: frozenset[Phase] = field(default_factory=frozenset)
    ways: frozenset[Leave] = field(default_factory=frozenset)

    def covers(self, server: str, app: str, phase: Phase, how: Leave) -> bool:
        """Whether a case is one of these."""
        asked = ((server, self.servers), (app, self.apps), (phase, self.phases), (how, self.ways))
        return all(not named or each in named for each, named in asked)


EXCEPTIONS: Final = (
    Unless(
        Owed(
            reason="granian shows a WSGI application no socket: a reader's leaving is seen at a write, and"
            " there is none while the provider is silent.",
            unseen=True,
        ),
        servers=frozenset({"granian-wsgi"}),
        phases=frozenset(
            {Phase.BODY, Phase.LIMITER, Phase.CONNECTING, Phase.QUEUED, Phase.FIRST, Phase.TAIL}
        ),
    ),
    Unless(
        Owed(
            0,
            frozenset({Cause.CLIENT_DISCONNECT}),
            "An iterator of the application's own may call a provider again after any finish reason, so"
            " that only its end completes the stream; its calls say on the receipt how far they came.",
        ),
        apps=frozenset({"django-async-untouched", "django-sync", "django-sync-untouched"}),
        phases=frozenset({Phase.TAIL}),
    ),
)


def owed(server: str, app: str, phase: Phase, how: Leave) -> Owed:
    """What one case must show."""
    for each in EXCEPTIONS:
        if each.covers(server, app, phase, how):
            return each.owed
    return _COMPLETED if phase in (Phase.TAIL, Phase.SETTLING) else _USUAL


class Engines:
    """The engine in its conditions: slow, swift, with its only slot taken, with a silent kernel."""

    def __init__(
        self, slow: RunningEngine, swift: RunningEngine, taken: RunningEngine, silent: int
    ) -> None:
        self.slow = slow
        self.swift = swift
        self.taken = taken
        self.silent = silent

    def of(self, phase: Phase) -> RunningEngine:
        """The engine that a case asks."""
        if phase is Phase.QUEUED:
            return self.taken
        return self.swift if phase in (Phase.TAIL, Phase.SETTLING) else self.slow

    def url(self, phase: Phase) -> str:
        """Where a case finds it."""
        if phase is Phase.CONNECTING:
            return f"http://127.0.0.1:{self.silent}"
        return self.of(phase).url

    def find(self, phase: Phase, request_id: str) -> EngineRequest | None:
        """The engine's record of a case, if it has heard of it."""
        found = (each for each in self.of(phase).requests if each.id == request_id)
        return next(found, None)


@contextmanager
def engines() -> Iterator[Engines]:
    """Run the engines."""
    with (
        run_engine(interval=INTERVAL, lead=LEAD) as slow,
        run_engine() as swift,
        run_engine(slots=1) as taken,
        _silent_port() as silent,
        socket.create_connection(("127.0.0.1", taken.port)) as holder,
    ):
        holder.sendall(_holding(taken.port))
        taken.wait_until(lambda requests: any(each.started_at for each in requests))
        yield Engines(slow, swift, taken, silent)


def _holding(port: int) -> bytes:
    body = b'{"model": "m", "prompt": "p"}'
    fault = Fault(first_token_delay=_FOREVER).to_header()["x-streamguard-fault"]
    head = (
        "POST /api/generate HTTP/1.1",
        f"host: 127.0.0.1:{port}",
        f"x-streamguard-fault: {fault}",
        f"content-length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


@contextmanager
def _silent_port() -> Iterator[int]:
    """A port whose queue of connections is full: its kernel leaves whoever connects without an answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        filling: list[socket.socket] = []
        try:
            for _ in range(4):
                each = socket.socket()
                each.setblocking(False)
                filling.append(each)
                each.connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for each in filling:
                each.close()


def connections(port: int) -> list[tuple[int, str, int]]:
    """Connections of this machine to a port of 127.0.0.1: local port, state, unread bytes. Linux only."""
    found = []
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        if int(remote.rpartition(":")[2], 16) == port:
            found.append(
                (int(local.rpartition(":")[2], 16), state, int(queues.rpartition(":")[2], 16))
            )
    return found


def ledger_of(app: str) -> str:
    """Where an application's receipts are; a Django project has one ledger for all its views."""
    return "django" if app.startswith("django") else app


class Rig:
    """One server with its applications, the engines, and the ledgers that the applications write."""

    def __init__(self, server: ServerProcess, name: str, folder: Path, engines: Engines) -> None:
        self.server = server
        self.name = name
        self.engines = engines
        self._folder = folder
        self._cases: dict[str, int] = {}
        self._ignored = {port for port, _, _ in connections(engines.silent)}

    def receipts(self, app: str) -> list[dict[str, Any]]:
        """The receipts of one application."""
        return list(read_receipts(self._folder / ledger_of(app)))

    async def run(self, app: str, phase: Phase, how: Leave) -> tuple[dict[str, Any], int]:
        """Let a reader leave; return the stream's receipt, and how many chunks were made after that."""
        earlier = {each["stream_id"] for each in self.receipts(app)}
        name = ledger_of(app)
        number = self._cases[name] = self._cases.get(name, 0) + 1
        request_id = f"{self.name}.{app}.{number}"
        client = await self._ask(app, phase, request_id)
        try:
            await self._reached(app, phase, request_id, client, earlier)
            left = client.leave(how)
        finally:
            if not client.closed:
                client.leave(Leave.RESET)
        receipt = await self._sealed(app, earlier)
        after = await self._let_go(app, phase, request_id, left)
        assert len(self.receipts(app)) == number, "there is exactly one receipt per stream"
        return receipt, after

    async def _ask(self, app: str, phase: Phase, request_id: str) -> RawClient:
        fault = FAULTS[phase].to_header()["x-streamguard-fault"]
        asked = {"id": request_id, "url": self.engines.url(phase), "fault": fault}
        if phase is Phase.LIMITER:
            asked["pool"] = "full"
        body = _UNREAD if phase is Phase.BODY else None
        method = "GET" if body is None else "POST"
        path = f"/{app}?{urlencode(asked)}"
        return await RawClient.open(self.server.url, method, path, body, timeout=BOUND)

    async def _reached(
        self, app: str, phase: Phase, request_id: str, client: RawClient, earlier: set[str]
    ) -> None:
        """Wait until the stream is where its reader is to leave."""
        find = self.engines.find
        if phase is Phase.CONNECTING:
            await self._until(self._connecting, phase)
            return
        if phase is Phase.LIMITER:
            await self._until(lambda: self._new(app, earlier), phase)
            return
        # Who hangs up at the terminal marker may do so before anybody looks.
        states = {
            Phase.QUEUED: {State.QUEUED},
            Phase.MIDDLE: {State.GENERATING},
            Phase.TAIL: {State.FLUSHING},
            Phase.SETTLING: {State.TRICKLING, State.ENDED},
        }.get(phase, {State.THINKING})
        chunks = LEAD if phase is Phase.MIDDLE else 0

        def there() -> bool:
            found = find(phase, request_id)
            return found is not None and found.state in states and found.generated >= chunks

        await self._until(there, phase)
        if phase is Phase.MIDDLE:
            assert await client.read_some()
        elif phase is Phase.TAIL:
            events = TOKENS + (app in PASSING)
            assert len(await client.read_until(events)) == events
            await self._until(self._all_read, phase)
        elif phase is Phase.SETTLING:
            if app in UNTOUCHED:
                await client.read_to_end()
            else:
                while '"cause"' not in (await client.read_until(1))[0]:
                    pass  # eos alone says why

    def _connecting(self) -> bool:
        return any(
            state == _CONNECTING and port not in self._ignored
            for port, state, _ in connections(self.engines.silent)
        )

    def _all_read(self) -> bool:
        """The application has taken from its sockets what the engine has sent."""
        return not any(unread for _, _, unread in connections(self.engines.swift.port))

    def _new(self, app: str, earlier: set[str]) -> list[dict[str, Any]]:
        return [each for each in self.receipts(app) if each["stream_id"] not in earlier]

    async def _sealed(self, app: str, earlier: set[str]) -> dict[str, Any]:
        await self._until(
            lambda: any(each["sealed"] for each in self._new(app, earlier)), "the receipt"
        )
        (receipt,) = self._new(app, earlier)
        return receipt

    async def _let_go(self, app: str, phase: Phase, request_id: str, left: float) -> int:
        """Wait until the engine is rid of the request; how many chunks it made after that instant."""
        if phase is Phase.CONNECTING:
            if app in BLOCKING:
                # Nothing wakes a thread that connects; what it opens is closed as soon as it stands.
                self._ignored |= {port for port, _, _ in connections(self.engines.silent)}
            await self._until(lambda: not self._connecting(), "the connecting to end")
            return 0
        if phase is Phase.LIMITER:
            assert self.engines.find(phase, request_id) is None, "it was never called"
            return 0
        engine = self.engines.of(phase)
        await asyncio.to_thread(engine.request_ended, request_id, timeout=BOUND)
        return engine.generated_after(request_id, left)

    async def _until(self, holds: Callable[[], object], what: object) -> None:
        give_up = time.monotonic() + BOUND
        while not holds():
            if time.monotonic() > give_up:
                raise TimeoutError(f"waited in vain for {what}:\n{self.server.output()[-3000:]}")
            await asyncio.sleep(0.005)
