"""Calls through a guarded transport: no request goes out before its stream is on record."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from streamguard_core import (
    Cause,
    CutOffError,
    LedgerError,
    MemoryLedger,
    OpenRecord,
    Scope,
    use_scope,
)
from streamguard_providers import GuardedTransport

from .counting import WHOLE, Client, Slow, only
from .scripted_server import Answer, scripted
from .waiting import outcome, until


class TestOpening:
    """The OPEN record is durable before the request is sent."""

    async def test_opened_before_the_request_is_sent(self, client: Client) -> None:
        """No request goes out before the OPEN record is durable."""
        durable: Future[None] = Future()
        ledger = Slow(durable)
        async with scripted(Answer(WHOLE, then="next")) as server:
            with use_scope(Scope(ledger=ledger)):
                task = asyncio.ensure_future(client.ask(server.url))
                await until(lambda: ledger.opened)
                assert server.requests == []
                durable.set_result(None)
                assert await task == 200
        assert only(ledger).cause is Cause.COMPLETED

    async def test_a_ledger_that_cannot_open(self, client: Client) -> None:
        """Then no request is sent at all, and the application is told."""

        class Broken(MemoryLedger):
            def append_open(self, record: OpenRecord) -> Future[None]:
                super().append_open(record)
                failed: Future[None] = Future()
                failed.set_exception(OSError("disk full"))
                return failed

        ledger = Broken()
        async with scripted(Answer(WHOLE, then="next")) as server:
            with use_scope(Scope(ledger=ledger)) as scope:
                got = await outcome(client.ask(server.url))
            assert isinstance(got, LedgerError)
            assert server.connections == 0
            assert scope.members == []
        receipt = only(ledger)
        assert receipt.cause is Cause.INTERNAL_ERROR
        assert receipt.attempts == ()

    @pytest.mark.parametrize("error", [LedgerError("full"), ValueError("odd")])
    async def test_the_error_of_a_ledger_keeps_the_receipt(
        self, client: Client, error: Exception
    ) -> None:
        """It is a LedgerError, whatever the store raised."""

        class Broken(MemoryLedger):
            def append_open(self, record: OpenRecord) -> Future[None]:
                raise error

        ledger = Broken()
        async with scripted(Answer(WHOLE, then="next")) as server:
            with use_scope(Scope(ledger=ledger)):
                got = await outcome(client.ask(server.url))
        assert isinstance(got, LedgerError)
        assert got.receipt is ledger.receipts[0]

    async def test_cut_off_while_the_record_is_written(self, library: Any) -> None:
        """The reader leaves before the OPEN record is durable: no request, one receipt."""
        ledger, client = Slow(), Client(library, "async")
        async with scripted(Answer(WHOLE, then="next")) as server:
            with use_scope(Scope(ledger=ledger)) as scope:
                task = asyncio.ensure_future(outcome(client.ask(server.url)))
                await until(lambda: ledger.opened)
                scope.disconnected("gone")
                assert isinstance(await task, CutOffError)
            assert server.connections == 0
        receipt = only(ledger)
        assert (receipt.cause, receipt.attempts) == (Cause.CLIENT_DISCONNECT, ())
        await client.close()

    async def test_cancelled_while_the_record_is_written(self, library: Any) -> None:
        """The application gives the call up before it was made: no request, one receipt."""
        ledger, client = Slow(), Client(library, "async")
        async with scripted(Answer(WHOLE, then="next")) as server:
            with use_scope(Scope(ledger=ledger)) as scope:
                task = asyncio.ensure_future(client.ask(server.url))
                await until(lambda: ledger.opened)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
            assert (server.connections, scope.members) == (0, [])
        assert only(ledger).cause is Cause.CLIENT_DISCONNECT
        await client.close()

    def test_interrupted_while_the_record_is_written(self, library: Any) -> None:
        """Ctrl-C in a thread that waits for the OPEN record: no request, one receipt, nothing left in the scope."""
        interrupted: Future[None] = Future()
        interrupted.set_exception(KeyboardInterrupt())
        ledger = Slow(interrupted)
        with (
            library.Client(transport=GuardedTransport()) as client,
            use_scope(Scope(ledger=ledger)) as scope,
        ):
            with pytest.raises(KeyboardInterrupt):
                client.post("http://127.0.0.1:9/v1/chat/completions", json={"model": "m"})
            assert scope.members == []
            assert len(ledger.receipts) == 1
