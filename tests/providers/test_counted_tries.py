"""Calls through a guarded transport: tries and redirects are attempts of one stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from streamguard_core import AttemptRole, Cause, CutOffError

from .counting import REDIRECT, WHOLE, Client, job, only, refusal
from .scripted_server import Answer, scripted
from .waiting import outcome, until


class TestTries:
    """Requests that an SDK counts as tries of one call are attempts of one stream."""

    async def test_are_attempts_of_one_stream(self, client: Client) -> None:
        """Refused twice, then answered: one receipt, three attempts, one of them paid for."""
        answers = [refusal(), refusal(), Answer(WHOLE, then="next")]
        async with scripted(*answers) as server, job() as (_, ledger):
            assert await client.ask(server.url, tries=0) == 429
            assert ledger.receipts == []
            assert await client.ask(server.url, tries=1) == 429
            assert await client.ask(server.url, tries=2) == 200
            receipt = only(ledger)
        assert receipt.cause is Cause.COMPLETED
        assert [attempt.role for attempt in receipt.attempts] == [
            AttemptRole.FIRST,
            AttemptRole.RETRY,
            AttemptRole.RETRY,
        ]
        assert [attempt.status for attempt in receipt.attempts] == [429, 429, 200]
        assert receipt.usage.output.value == 2
        assert threading.active_count() < 20

    async def test_that_end_with_their_scope(self, client: Client) -> None:
        """The SDK gives up: sealed when the work under the scope is over, with what it failed with."""
        async with scripted(refusal()) as server, job() as (scope, ledger):
            await client.ask(server.url, tries=0)
            assert ledger.receipts == []
        receipt = only(ledger)
        assert receipt.cause is Cause.PRODUCER_ERROR
        assert "status 429" in receipt.detail
        assert scope.members == []

    async def test_that_do_not_come(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sealed when the SDK would have tried again long ago."""
        monkeypatch.setattr("streamguard_providers.record._MARGIN_SECONDS", 0.0)
        async with scripted(refusal(b"retry-after-ms: 20")) as server, job() as (_, ledger):
            await client.ask(server.url, tries=0)
            await until(lambda: ledger.receipts)
            assert only(ledger).cause is Cause.PRODUCER_ERROR

    async def test_that_the_reader_does_not_wait_for(self, client: Client) -> None:
        """He leaves while the SDK waits: sealed at once, and the retry is refused."""
        async with (
            scripted(refusal(), Answer(WHOLE, then="next")) as server,
            job() as (scope, ledger),
        ):
            await client.ask(server.url, tries=0)
            scope.disconnected("gone")
            receipt = only(ledger)
            got = await outcome(client.ask(server.url, tries=1))
            assert isinstance(got, CutOffError)
            assert len(server.requests) == 1
        assert only(ledger) is receipt
        assert receipt.cause is Cause.CLIENT_DISCONNECT
        assert len(receipt.attempts) == 1

    @pytest.mark.parametrize("header", [b"x-should-retry: false", None])
    async def test_that_are_not_made(self, client: Client, header: bytes | None) -> None:
        """What the provider, or the status, says is final is sealed at once."""
        final = Answer(b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno", then="next")
        answer = final if header is None else refusal(header)
        async with scripted(answer) as server, job() as (_, ledger):
            await client.ask(server.url, tries=0)
            assert only(ledger).cause is Cause.PRODUCER_ERROR

    async def test_of_other_calls(self, client: Client) -> None:
        """Another URL, another scope, or a count that does not follow: a stream of its own."""
        answers = [
            refusal(),
            Answer(WHOLE, then="next"),
            Answer(WHOLE, then="next"),
            Answer(WHOLE, then="next"),
        ]
        async with scripted(*answers) as server, job() as (_, ledger):
            await client.ask(server.url, tries=0)
            await client.ask(server.url, tries=1, path="/v1/completions")
            await client.ask(server.url, tries=2)
            async with job() as (_, other):
                await client.ask(server.url, tries=1)
            assert ledger.receipts[0].attempts[0].role is AttemptRole.RETRY
        assert len(ledger.receipts) == 3
        assert only(other).cause is Cause.COMPLETED

    async def test_are_settled_once(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """The time that is up, the scope that ends and the retry that comes: one of them has the stream."""
        settled: list[Callable[[], None]] = []

        def later(self: Any, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
            settled.append(callback)
            return lambda: None

        for kind in ("CountedAsyncCall", "CountedSyncCall"):
            monkeypatch.setattr(f"streamguard_providers.counted.{kind}.later", later)
        answers = [refusal(), Answer(WHOLE, then="next")]
        async with scripted(*answers) as server, job() as (_, ledger):
            await client.ask(server.url, tries=0)
            await client.ask(server.url, tries=1)
            (late,) = settled
            late()
        assert only(ledger).cause is Cause.COMPLETED

    async def test_after_a_connection_that_failed(self, client: Client) -> None:
        """What was not reached is tried again, too."""
        answers = [Answer(then="reset"), Answer(WHOLE, then="next")]
        async with scripted(*answers) as server, job() as (_, ledger):
            assert isinstance(await outcome(client.ask(server.url, tries=0)), Exception)
            assert ledger.receipts == []
            await client.ask(server.url, tries=1)
        statuses = [attempt.status for attempt in only(ledger).attempts]
        assert statuses == [None, 200]


class TestRedirects:
    """A request that follows a redirect is an attempt of the same stream."""

    async def test_is_one_stream(self, client: Client) -> None:
        """Two requests, one receipt."""
        answers = [Answer(REDIRECT, then="next"), Answer(WHOLE, then="next")]
        async with scripted(*answers) as server, job() as (scope, ledger):
            assert await client.ask(server.url) == 200
            receipt = only(ledger)
            assert scope.awaited == []
        assert receipt.cause is Cause.COMPLETED
        assert [attempt.status for attempt in receipt.attempts] == [307, 200]

    async def test_that_nobody_follows(self, client: Client) -> None:
        """Then that is the end, and no completion."""
        client._client.follow_redirects = False
        async with scripted(Answer(REDIRECT, then="next")) as server, job() as (_, ledger):
            assert await client.ask(server.url) == 307
            assert ledger.receipts == []
        assert only(ledger).cause is Cause.PRODUCER_ERROR
