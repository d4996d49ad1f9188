"""Calls through a guarded transport in a session: attempts of it, and what they bring."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from streamguard_core import (
    AttemptOutcome,
    AttemptRole,
    Cause,
    MemoryLedger,
    Receipt,
    Scope,
    StreamSession,
    Usage,
    use_scope,
)
from streamguard_providers import GuardedAsyncTransport

from .counting import USAGE, WHOLE, Client, refusal
from .recorder import Recorder
from .scripted_server import Answer, chunked, head, scripted
from .wire import DONE, token


class TestInASession:
    """A call inside a session is an attempt of it, and brings what the producer does not report."""

    async def test_a_generator_around_an_sdk(self, client: Client) -> None:
        """Its session has the provider's finish, usage and model, at its seal and not before."""
        async with scripted(Answer(WHOLE, then="next")) as server:
            scope = Scope(ledger=MemoryLedger())

            async def words() -> AsyncIterator[str]:
                parts: list[bytes] = []
                await client.ask(server.url, parts)
                assert session.statistics().cause is None
                yield "never "
                yield "again"

            session = StreamSession(words())
            scope.session = session
            scope.add(session)
            with use_scope(scope):
                assert [chunk async for chunk in session] == ["never ", "again"]
                receipt = await session.receipt()
        assert (receipt.finish, receipt.model) == ("stop", "asked")
        assert receipt.usage.output.value == 2
        assert [attempt.chunks for attempt in receipt.attempts] == [2]
        assert isinstance(scope.ledger, MemoryLedger)
        assert scope.ledger.opened == []  # one receipt per stream: the session's own

    async def test_a_producer_that_reports_for_itself(self, client: Client) -> None:
        """Then nothing is counted twice."""
        told = Usage.reported_by_provider(input=3, output=2)

        class Own:
            async def stream(self, *, report: Any) -> AsyncIterator[list[str]]:
                await client.ask(server.url)
                yield ["never ", "again"]
                report.finish("mine", told)

        async with scripted(Answer(WHOLE, then="next")) as server:
            scope = Scope()
            session = StreamSession(Own())
            scope.session = session
            with use_scope(scope):
                assert len([chunk async for chunk in session]) == 2
                receipt = await session.receipt()
        assert (receipt.finish, receipt.usage) == ("mine", told)
        assert len(receipt.attempts) == 1

    async def test_two_calls(self, client: Client) -> None:
        """A round for a tool, then the answer: usage of both together, finish of the last."""
        tools = head() + chunked(token("", "tool_calls"), USAGE, DONE, end=True)
        async with scripted(Answer(tools, then="next"), Answer(WHOLE, then="next")) as server:

            async def words() -> AsyncIterator[str]:
                await client.ask(server.url)
                await client.ask(server.url)
                yield "again"

            scope = Scope()
            session = StreamSession(words())
            scope.session = session
            with use_scope(scope):
                assert [chunk async for chunk in session] == ["again"]
                receipt = await session.receipt()
        assert (receipt.finish, receipt.usage.output.value) == ("stop", 4)

    async def test_a_call_that_costs_nothing(self, library: Any) -> None:
        """A list of models is no attempt: it takes nothing away from what is known of the usage."""
        models = Answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", then="next")
        scope, session = Scope(), Recorder()
        scope.session = session
        async with (
            scripted(models) as server,
            library.AsyncClient(transport=GuardedAsyncTransport()) as client,
        ):
            with use_scope(scope):
                assert (await client.get(f"{server.url}/v1/models")).text == "{}"
        assert session.attempts == []
        assert session.closers == []

    async def test_what_is_told_of_each_call(self, client: Client) -> None:
        """An attempt of a session is as complete as one of a receipt of its own."""
        scope, session = Scope(), Recorder()
        scope.session = session
        async with scripted(Answer(WHOLE, then="next"), refusal()) as server:
            with use_scope(scope):
                await client.ask(server.url)
                await client.ask(server.url, tries=1)
        first, second = session.attempts
        assert (first.outcome, first.chunks, first.finish) == (AttemptOutcome.COMPLETED, 2, "stop")
        assert (second.outcome, second.role) == (AttemptOutcome.FAILED, AttemptRole.RETRY)
        assert session.closers == []

    async def test_a_call_that_was_not_whole(self, client: Client) -> None:
        """The provider ended without its terminal marker, and the SDK as if all were well: no completion (G13)."""
        cut = head() + chunked(token("never "), end=True)
        async with scripted(Answer(cut, then="next")) as server:

            async def words() -> AsyncIterator[str]:
                await client.ask(server.url)
                yield "never "

            receipt = await self._receipt_of(words())
        assert (receipt.cause, receipt.attempts[0].outcome) == (
            Cause.TRUNCATED,
            AttemptOutcome.TRUNCATED,
        )

    async def test_a_call_that_was_made_again(self, client: Client) -> None:
        """What was not whole before the last call, the application has seen and gone on."""
        cut = head() + chunked(token("never "), end=True)
        async with scripted(Answer(cut, then="next"), Answer(WHOLE, then="next")) as server:

            async def words() -> AsyncIterator[str]:
                await client.ask(server.url)
                await client.ask(server.url)
                yield "never again"

            receipt = await self._receipt_of(words())
        assert receipt.cause is Cause.COMPLETED
        assert len(receipt.attempts) == 2

    async def _receipt_of(self, words: AsyncIterator[str]) -> Receipt:
        scope = Scope()
        session = StreamSession(words)
        scope.session = session
        with use_scope(scope):
            assert [chunk async for chunk in session]
            return await session.receipt()
