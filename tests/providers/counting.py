"""Calls through a guarded transport and where they are recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from streamguard_core import MemoryLedger, OpenRecord, Receipt, Scope, use_scope
from streamguard_providers import GuardedAsyncTransport, GuardedTransport

from .scripted_server import Answer, chunked, head
from .wire import DONE, event, token

ASKED = {"model": "asked", "max_tokens": 7, "stream": True}


USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


EVENTS = (token("never "), token("again"), token("", "stop"), USAGE, DONE)


WHOLE = head() + chunked(*EVENTS, end=True)


REFUSED = (
    b"HTTP/1.1 429 Too Many\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s"
)


REDIRECT = b"HTTP/1.1 307 T\r\nlocation: /x/v1/chat/completions\r\ncontent-length: 0\r\n\r\n"


def refusal(*headers: bytes) -> Answer:
    """An answer with status 429."""
    body = json.dumps({"error": {"type": "rate_limit_error", "message": "secret"}}).encode()
    return Answer(REFUSED % (len(body), b"".join(h + b"\r\n" for h in headers), body), then="next")


class Slow(MemoryLedger):
    """A ledger whose OPEN records are never durable, unless `opening` says how that ended."""

    def __init__(self, opening: Future[None] | None = None) -> None:
        super().__init__()
        self._opening = opening or Future()

    def append_open(self, record: OpenRecord) -> Future[None]:
        super().append_open(record)
        return self._opening


class Client:
    """A client of either kind, of either library, as tests of both kinds use it."""

    def __init__(self, library: Any, kind: str) -> None:
        self._kind = kind
        if kind == "async":
            self._client = library.AsyncClient(transport=GuardedAsyncTransport(), timeout=None)
        else:
            self._client = library.Client(transport=GuardedTransport(), timeout=None)
        self._client.follow_redirects = True

    async def ask(
        self,
        url: str,
        parts: list[bytes] | None = None,
        tries: int | None = None,
        path: str = "/v1/chat/completions",
        most: int | None = None,
    ) -> object:
        """Make a call and read its answer; in a thread of its own where the client is a sync one.

        Args:
            url: of the server.
            parts: where the parts go that were read.
            tries: what an SDK would say in its header.
            path: where the model is asked.
            most: close after so many parts.
        """
        headers = {} if tries is None else {"x-stainless-retry-count": str(tries)}
        keywords: dict[str, Any] = {"json": ASKED, "headers": headers}
        got = [] if parts is None else parts
        if self._kind == "async":
            async with self._client.stream("POST", url + path, **keywords) as response:
                async for part in response.aiter_raw():
                    got.append(part)
                    if len(got) == most:
                        break
            return response.status_code
        return await asyncio.to_thread(self._ask, url + path, keywords, got, most)

    def _ask(self, url: str, keywords: Any, got: list[bytes], most: int | None) -> object:
        with self._client.stream("POST", url, **keywords) as response:
            for part in response.iter_raw():
                got.append(part)
                if len(got) == most:
                    break
        return response.status_code

    async def close(self) -> None:
        """Close the pool."""
        await (
            self._client.aclose()
            if self._kind == "async"
            else asyncio.to_thread(self._client.close)
        )


@asynccontextmanager
async def job(**options: Any) -> AsyncIterator[tuple[Scope, MemoryLedger]]:
    """A scope without a session, and where its streams are recorded."""
    ledger = MemoryLedger()
    with use_scope(Scope(ledger=ledger, **options)) as scope:
        yield scope, ledger


def only(ledger: MemoryLedger) -> Receipt:
    """The one receipt of a ledger: there is exactly one for each stream that was opened."""
    (receipt,) = ledger.receipts
    assert [record.stream_id for record in ledger.opened] == [receipt.stream_id]
    return receipt
