"""What the applications of the matrix share: how a case is asked for, and the provider calls they make.

A case is a query string: `url` (where the engine is), `id` (of the request there), `fault`, `pool=full`
for a call that has to wait for a place in a pool whose only one is taken.

Environment: `LEDGER`, the folder in which each application has a folder of receipts.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import httpx

from streamguard_ledger import SQLiteLedger
from streamguard_providers import GuardedAsyncTransport, GuardedTransport, OpenAIProducer

# Nothing that the matrix shows is owed to the cyclic garbage collector.
gc.disable()

TOKENS: Final = 10
_ONE: Final = httpx.Limits(max_connections=1)
# Long, because deadlines are not what is shown here. Nothing wakes a thread in the queue of a pool:
# it goes at last, so that a worker with one thread can go on.
_PATIENCE: Final = httpx.Timeout(600, pool=4)


def ledger(name: str) -> SQLiteLedger:
    """The receipts of one application."""
    return SQLiteLedger(Path(os.environ["LEDGER"]) / name)


class Case:
    """One case, as its query string says it."""

    def __init__(self, query: bytes | str) -> None:
        text = query.decode() if isinstance(query, bytes) else query
        asked = dict(parse_qsl(text))
        self.url = asked["url"]
        self.full = asked.get("pool") == "full"
        self.headers = {"x-engine-request-id": asked["id"], "x-streamguard-fault": asked["fault"]}
        self.body = {
            "model": "m",
            "messages": [{"role": "user", "content": "Tell me about the river."}],
            "max_tokens": TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def producer(self) -> OpenAIProducer:
        """The producer that an application returns."""
        call: dict[str, Any] = {"client": await _plain.full(self)} if self.full else {}
        return OpenAIProducer(
            "m",
            prompt="Tell me about the river.",
            base_url=f"{self.url}/v1",
            max_tokens=TOKENS,
            headers=self.headers,
            **call,
        )

    async def lines(self) -> AsyncIterator[str]:
        """The data of the provider's events, as an application reads them that knows no StreamGuard."""
        client = await (_guarded.full(self) if self.full else _guarded.free())
        async with client.stream("POST", self.path, json=self.body, headers=self.headers) as answer:
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    return
                if line:
                    yield line.removeprefix("data: ")

    def blocking_lines(self) -> Iterator[str]:
        """The same with a client that blocks."""
        client = _blocking.full(self) if self.full else _blocking.free()
        with client.stream("POST", self.path, json=self.body, headers=self.headers) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    return
                if line:
                    yield line.removeprefix("data: ")

    @property
    def path(self) -> str:
        """Where the provider is called."""
        return f"{self.url}/v1/chat/completions"

    @property
    def holder(self) -> dict[str, Any]:
        """A call that gets no answer, and keeps its connection."""
        headers = {**self.headers, "x-engine-request-id": "holder"}
        return {"json": self.body, "headers": headers}


class Clients:
    """Async clients: one with room, one whose pool has a single place that is taken."""

    def __init__(self, transport: type[httpx.AsyncHTTPTransport | GuardedAsyncTransport]) -> None:
        self._transport = transport
        self._free: httpx.AsyncClient | None = None
        self._full: httpx.AsyncClient | None = None
        self._holder: asyncio.Task[Any] | None = None

    async def free(self) -> httpx.AsyncClient:
        """The one with room."""
        self._free = self._free or self._made()
        return self._free

    async def full(self, case: Case) -> httpx.AsyncClient:
        """The one without; its place is taken by a call that belongs to nobody's stream."""
        if self._full is None:
            self._full = self._made(limits=_ONE)
            taken = asyncio.Event()
            self._holder = asyncio.get_running_loop().create_task(
                self._hold(self._full, case, taken), context=contextvars.Context()
            )
            await taken.wait()
        return self._full

    async def _hold(self, client: httpx.AsyncClient, case: Case, taken: asyncio.Event) -> None:
        async with client.stream("POST", case.path, **case.holder):
            taken.set()
            await asyncio.Event().wait()

    def _made(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self._transport(**options), timeout=_PATIENCE)


class BlockingClients:
    """The same for clients that block; the place is taken by a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: httpx.Client | None = None
        self._full: httpx.Client | None = None

    def free(self) -> httpx.Client:
        """The one with room."""
        with self._lock:
            self._free = self._free or self._made()
            return self._free

    def full(self, case: Case) -> httpx.Client:
        """The one without."""
        with self._lock:
            if self._full is None:
                self._full = self._made(limits=_ONE)
                taken = threading.Event()
                threading.Thread(target=self._hold, args=(case, taken), daemon=True).start()
                taken.wait()
            return self._full

    def _hold(self, case: Case, taken: threading.Event) -> None:
        assert self._full is not None
        with self._full.stream("POST", case.path, **case.holder):
            taken.set()
            threading.Event().wait()

    def _made(self, **options: Any) -> httpx.Client:
        return httpx.Client(transport=GuardedTransport(**options), timeout=_PATIENCE)


_plain = Clients(httpx.AsyncHTTPTransport)
_guarded = Clients(GuardedAsyncTransport)
_blocking = BlockingClients()
