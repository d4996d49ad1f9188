"""Calls through a guarded transport: counted, and one receipt each where no session has them."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import pytest

from streamguard_core import (
    AttemptOutcome,
    AttemptRole,
    Cause,
    CutOffError,
    LedgerError,
    MemoryLedger,
    OpenRecord,
    Receipt,
    Scope,
    StreamSession,
    Usage,
    use_scope,
)
from streamguard_providers import GuardedAsyncTransport, GuardedTransport

from .recorder import Recorder
from .scripted_server import Answer, chunked, head, scripted
from .waiting import outcome, until
from .wire import DONE, event, token

ASKED = {"model": "asked", "max_tokens": 7, "stream": True}
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
EVENTS = (token("never "), token("again"), token("", "stop"), USAGE, DONE)
WHOLE = head() + chunked(*EVENTS, end=True)
REFUSED = (
    b"HTTP/1.1 429 Too Many\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s"
)

Ask = Callable[..., Awaitable[object]]


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


@pytest.fixture(params=["async", "sync"])
async def client(request: pytest.FixtureRequest, library: Any) -> AsyncIterator[Client]:
    """A client whose transport is guarded."""
    made = Client(library, request.param)
    yield made
    await made.close()


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

    async def test_opened_before_the_request_is_sent(self, client: Client) -> None:
        """No request goes out before the OPEN record is durable."""
        durable: Future[None] = Future()

        class Slow(MemoryLedger):
            def append_open(self, record: OpenRecord) -> Future[None]:
                super().append_open(record)
                return durable

        ledger = Slow()
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


REDIRECT = b"HTTP/1.1 307 T\r\nlocation: /x/v1/chat/completions\r\ncontent-length: 0\r\n\r\n"


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
