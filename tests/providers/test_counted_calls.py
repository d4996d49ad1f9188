"""Calls through a guarded transport: counted, and one receipt each where no session has them."""

from __future__ import annotations

import asyncio
import gc
import gzip
from typing import Any

from streamguard_core import AttemptOutcome, Cause, CutOffError
from streamguard_providers import GuardedAsyncTransport

from .counting import ASKED, EVENTS, WHOLE, Client, job, only, refusal
from .scripted_server import Answer, chunked, head, scripted
from .waiting import outcome, until
from .wire import event, token


class TestOneReceipt:
    """A call outside of any session is a stream of its own."""

    async def test_read_to_its_end(self, client: Client) -> None:
        """Everything that the bytes say is on the receipt and on its attempt."""
        async with (
            scripted(Answer(WHOLE, then="next")) as server,
            job(tags={"job": "x"}) as (scope, ledger),
        ):
            parts: list[bytes] = []
            assert await client.ask(server.url, parts) == 200
            assert b"".join(parts) == b"".join(EVENTS)
            assert scope.members == []
        receipt = only(ledger)
        assert receipt.cause is Cause.COMPLETED
        assert (receipt.finish, receipt.consumed, receipt.tags) == ("stop", 2, {"job": "x"})
        assert (receipt.model, receipt.max_tokens) == ("asked", 7)
        assert receipt.usage.output.value == 2
        (attempt,) = receipt.attempts
        assert attempt.outcome is AttemptOutcome.COMPLETED
        assert (attempt.chunks, attempt.finish, attempt.status) == (2, "stop", 200)
        assert attempt.usage == receipt.usage
        assert attempt.bytes_received == len(b"".join(EVENTS))
        instants = receipt.instants
        assert instants.connected_ns is not None
        assert instants.first_chunk_ns is not None
        assert instants.opened_ns <= instants.connected_ns <= instants.first_chunk_ns

    async def test_cut_off(self, client: Client) -> None:
        """The reader leaves in mid-stream: what had come is counted, also what was not read on."""
        answer = Answer(head() + chunked(token("never "), token("again")))
        async with scripted(answer) as server, job() as (scope, ledger):
            parts: list[bytes] = []
            task = asyncio.ensure_future(outcome(client.ask(server.url, parts)))
            await until(lambda: b"again" in b"".join(parts))
            scope.disconnected("gone")
            assert isinstance(await task, CutOffError)
            await server.left()
            receipt = only(ledger)
            again = await outcome(client.ask(server.url))
            assert isinstance(again, CutOffError)
            assert only(ledger) is receipt  # a call that is refused is no stream
        assert receipt.cause is Cause.CLIENT_DISCONNECT
        assert receipt.produced == 2
        (attempt,) = receipt.attempts
        assert (attempt.outcome, attempt.cut, attempt.chunks) == (AttemptOutcome.CUT, True, 2)
        assert receipt.instants.close_called_ns is not None

    async def test_the_reader_leaves_behind_the_finish(self, client: Client) -> None:
        """Everything was read but the usage: completed, and left early; not a disconnect."""
        answer = Answer(head() + chunked(token("never "), token("again", "stop")))
        async with scripted(answer) as server, job() as (scope, ledger):
            parts: list[bytes] = []
            task = asyncio.ensure_future(outcome(client.ask(server.url, parts)))
            await until(lambda: b"stop" in b"".join(parts))
            scope.disconnected("gone")
            assert isinstance(await task, CutOffError)
            await server.left()
        receipt = only(ledger)
        assert (receipt.cause, receipt.finish) == (Cause.COMPLETED, "stop")
        assert receipt.client_left_early

    async def test_truncated(self, client: Client) -> None:
        """The body ends without the terminal marker: not a completion (G13)."""
        answer = Answer(head() + chunked(token("never "), end=True))
        async with scripted(answer) as server, job() as (_, ledger):
            assert await client.ask(server.url) == 200
        receipt = only(ledger)
        assert receipt.cause is Cause.TRUNCATED
        assert receipt.attempts[0].outcome is AttemptOutcome.TRUNCATED
        assert receipt.attempts[0].error is None

    async def test_broken_off(self, client: Client) -> None:
        """The connection breaks in mid-stream: the library's error passes, and its name is kept."""
        answer = Answer(head() + chunked(token("never ")), then="close")
        async with scripted(answer) as server, job() as (_, ledger):
            got = await outcome(client.ask(server.url))
            assert type(got).__name__ == "RemoteProtocolError"
        receipt = only(ledger)
        assert receipt.cause is Cause.TRUNCATED
        assert receipt.attempts[0].error == "RemoteProtocolError"

    async def test_an_error_in_mid_stream(self, client: Client) -> None:
        """Inside a 200: a failure of the provider, told by a word."""
        said = event({"error": {"type": "server_error", "message": "secret"}})
        answer = Answer(head() + chunked(token("never "), said, end=True))
        async with scripted(answer) as server, job() as (_, ledger):
            assert await client.ask(server.url) == 200
        receipt = only(ledger)
        assert receipt.cause is Cause.PRODUCER_ERROR
        assert receipt.attempts[0].error == "server_error"
        assert "secret" not in repr(receipt)

    async def test_refused(self, client: Client) -> None:
        """An error status: sealed at once where the SDK does not count its tries."""
        async with scripted(refusal()) as server, job() as (_, ledger):
            assert await client.ask(server.url) == 429
            receipt = only(ledger)
        assert receipt.cause is Cause.PRODUCER_ERROR
        assert receipt.detail == "the call to 127.0.0.1 failed (status 429, error rate_limit_error)"
        assert receipt.attempts[0].outcome is AttemptOutcome.FAILED
        assert "secret" not in repr(receipt)

    async def test_an_error_without_a_word(self, client: Client) -> None:
        """Then the status is the word."""
        answer = Answer(b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno", then="next")
        async with scripted(answer) as server, job() as (_, ledger):
            assert await client.ask(server.url) == 503
        assert only(ledger).attempts[0].error == "status_503"

    async def test_not_reached(self, client: Client) -> None:
        """Nobody listens: a failed attempt, with the library's name for it."""
        async with scripted() as server:
            url = server.url
        async with job() as (_, ledger):
            assert type(await outcome(client.ask(url))).__name__ == "ConnectError"
        (attempt,) = only(ledger).attempts
        assert (attempt.outcome, attempt.error) == (AttemptOutcome.FAILED, "ConnectError")

    async def test_closed_by_the_application(self, client: Client) -> None:
        """It stops reading before the end: cut, and nobody else is named as the cause."""
        answer = Answer(head() + chunked(token("never ")))
        async with scripted(answer) as server, job() as (scope, ledger):
            assert await client.ask(server.url, most=1) == 200
            assert scope.members == []
        receipt = only(ledger)
        assert receipt.cause is Cause.CLIENT_DISCONNECT
        assert receipt.detail == "the application closed the response before its end"
        assert receipt.attempts[0].outcome is AttemptOutcome.CUT

    async def test_closed_behind_the_terminal_marker(self, client: Client) -> None:
        """SDKs close when they have read the marker, and do not wait for HTTP's own end."""
        answer = Answer(head() + chunked(b"".join(EVENTS)))
        async with scripted(answer) as server, job() as (_, ledger):
            assert await client.ask(server.url, most=1) == 200
        receipt = only(ledger)
        assert receipt.cause is Cause.COMPLETED
        assert receipt.attempts[0].cut is False

    async def test_dropped_by_the_application(self, library: Any) -> None:
        """A response that nobody closes has its receipt when it is collected (G11)."""
        client = library.AsyncClient(transport=GuardedAsyncTransport(), timeout=None)
        answer = Answer(head() + chunked(token("never ")))
        async with scripted(answer) as server, job() as (_, ledger):
            request = client.build_request("POST", f"{server.url}/v1/chat/completions", json=ASKED)
            response = await client.send(request, stream=True)
            assert response.status_code == 200
            assert ledger.receipts == []
            del response
            gc.collect()
            assert only(ledger).cause is Cause.CLIENT_DISCONNECT
        await client.aclose()

    async def test_compressed(self, client: Client) -> None:
        """The encoding is undone for counting; the application gets the bytes as they were sent."""
        body = gzip.compress(b"".join(EVENTS))
        answer = Answer(
            head("text/event-stream", "content-encoding: gzip") + chunked(body, end=True)
        )
        async with scripted(answer) as server, job() as (_, ledger):
            parts: list[bytes] = []
            await client.ask(server.url, parts)
            assert b"".join(parts) == body
        receipt = only(ledger)
        assert (receipt.cause, receipt.consumed) == (Cause.COMPLETED, 2)
        assert receipt.attempts[0].bytes_received == len(body)

    async def test_nobody_can_look_into_it(self, client: Client) -> None:
        """A stream of a kind that is not known ends with HTTP's own end, and the attempt says nothing."""
        answer = Answer(head("application/vnd.amazon.eventstream") + chunked(b"\0\1", end=True))
        async with scripted(answer) as server, job() as (_, ledger):
            await client.ask(server.url, path="/model/anthropic.claude/invoke-with-response-stream")
        receipt = only(ledger)
        assert receipt.cause is Cause.COMPLETED
        assert receipt.attempts[0].outcome is None

    async def test_calls_that_generate_nothing(self, client: Client) -> None:
        """They are governed, and have no receipt."""
        answer = Answer(head("application/json") + chunked(b"{}", end=True))
        async with scripted(answer) as server, job() as (_, ledger):
            assert await client.ask(server.url, path="/v1/embeddings") == 200
        assert (ledger.opened, ledger.receipts) == ([], [])

    async def test_many_at_once(self, client: Client) -> None:
        """Calls of one scope at the same time have a receipt each."""
        async with scripted(*[Answer(WHOLE, then="next")] * 5) as server, job() as (_, ledger):
            await asyncio.gather(*(client.ask(server.url) for _ in range(5)))
        assert len({receipt.stream_id for receipt in ledger.receipts}) == 5
        assert {receipt.cause for receipt in ledger.receipts} == {Cause.COMPLETED}


async def test_a_byte_is_never_late(library: Any) -> None:
    """What came is handed over before it is decoded: a stream whose next byte never comes is read."""
    client = Client(library, "async")
    answer = Answer(head() + chunked(token("never ")))
    async with scripted(answer) as server, job() as (scope, ledger):
        parts: list[bytes] = []
        task = asyncio.ensure_future(outcome(client.ask(server.url, parts)))
        await until(lambda: parts)
        assert parts == [token("never ")]
        scope.disconnected()
        await task
    assert only(ledger).produced == 1
    await client.close()
