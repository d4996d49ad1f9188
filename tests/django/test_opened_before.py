"""A provider's call that a view opens before its response: one stream, and one receipt, which is the call's."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from django.http import HttpResponse, StreamingHttpResponse

from streamguard_core import Cause, MemoryLedger, Receipt, StreamSession, drain
from streamguard_django import GuardedStreamingHttpResponse, get_guarded_asgi_application
from streamguard_django.testing import collect_receipts
from streamguard_providers import GuardedAsyncTransport, GuardedTransport
from streamguard_testing import Cut, Fault, LoopbackEngine, run_engine

from ..adapters.resuming import ids  # noqa: TID252 - one rig for all adapters
from ..asgi.driver import Server, eventually  # noqa: TID252 - one server for both adapters
from .project import BOUND, STACKS, WSGIServer, project
from .resuming import WSGIReader, end_of, post_wsgi, resuming

ASKED = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": "Why?"}],
}
PLAIN, GUARDED = StreamingHttpResponse, GuardedStreamingHttpResponse
kinds = pytest.mark.parametrize("kind", [PLAIN, GUARDED])
ENDLESS: dict[str, Any] = {"answer_tokens": 10_000, "lead": 3, "interval": 3600}
"""Three tokens, and then a provider that thinks."""


def async_view(url: str, kind: Any, **options: Any) -> Any:
    """A view that calls its provider and streams what comes, as an SDK's stream would be."""

    async def view(request: Any) -> Any:
        client = httpx.AsyncClient(transport=GuardedAsyncTransport(), timeout=None)
        asking = client.build_request("POST", f"{url}/chat/completions", json=ASKED)
        answer = await client.send(asking, stream=True)

        async def texts() -> AsyncIterator[str]:
            try:
                async for text in answer.aiter_text():
                    yield text
            finally:
                await answer.aclose()
                await client.aclose()

        return kind(texts(), **options)

    return view


def sync_view(url: str, kind: Any, **options: Any) -> Any:
    """The same, not async."""

    def view(request: Any) -> Any:
        client = httpx.Client(transport=GuardedTransport(), timeout=None)
        asking = client.build_request("POST", f"{url}/chat/completions", json=ASKED)
        answer = client.send(asking, stream=True)

        def texts() -> Iterator[str]:
            try:
                yield from answer.iter_text()
            finally:
                answer.close()
                client.close()

        return kind(texts(), **options)

    return view


views = pytest.mark.parametrize("make", [async_view, sync_view])


def only(ledger: MemoryLedger) -> Receipt:
    """The one receipt, of the one stream that was opened."""
    (receipt,) = ledger.receipts
    assert [record.stream_id for record in ledger.opened] == [receipt.stream_id]
    return receipt


@views
@kinds
@pytest.mark.parametrize("stack", ["alone", "between"])
async def test_one_receipt_of_a_whole_stream(make: Any, kind: Any, stack: str) -> None:
    """The ledger, the project and the request have one receipt of it, with what the provider said (G11)."""
    ledger, scopes = MemoryLedger(), list[Any]()
    async with LoopbackEngine(answer_tokens=30) as engine:
        view = make(engine.openai_url, kind)

        def noting(request: Any) -> Any:
            scopes.append(request.streamguard)
            return view(request)

        chosen = noting if make is sync_view else view
        with (
            project(chosen, STACKS[stack], LEDGER=ledger) as made,
            collect_receipts() as collected,
        ):
            server = await Server(made.asgi()).run()
            await eventually(lambda: ledger.receipts and made.receipts)
            assert (await collected.aonly()).stream_id == ledger.receipts[0].stream_id
        assert len(engine.requests) == 1
    receipt = only(ledger)
    assert made.receipts == [receipt]
    assert (receipt.cause, str(receipt.finish)) == (Cause.COMPLETED, "stop")
    assert receipt.output.value == 30
    assert [str(each.outcome) for each in receipt.attempts] == ["completed"]
    for scope in scopes:
        assert scope.receipts == (receipt,)
    if kind is GUARDED:
        assert server.headers["streamguard-stream-id"] == receipt.stream_id
        assert end_of(server.text)["stream_id"] == receipt.stream_id


@views
@kinds
@pytest.mark.parametrize("guarded", [False, True])
async def test_the_reader_leaves(make: Any, kind: Any, guarded: bool) -> None:
    """One receipt that says so, and the provider is let go at once."""
    ledger = MemoryLedger()
    async with LoopbackEngine(**ENDLESS) as engine:
        with project(make(engine.openai_url, kind), LEDGER=ledger) as made:
            app = made.asgi()
            async with Server(get_guarded_asgi_application(app) if guarded else app) as server:
                await server.until(lambda: server.text.count("content") >= 3)
                server.leave()
                await engine.wait_idle()
                await server.ended()
            await eventually(lambda: ledger.receipts and made.receipts)
        assert engine.requests[0].generated <= 4
    assert only(ledger).cause is Cause.CLIENT_DISCONNECT


@kinds
def test_under_wsgi(kind: Any) -> None:
    """A whole stream, and one whose reader leaves: one receipt each."""
    ledger = MemoryLedger()
    with (
        run_engine(answer_tokens=30) as engine,
        project(sync_view(engine.openai_url, kind), LEDGER=ledger) as made,
    ):
        WSGIServer(made.wsgi()).read_to_end()
        made.wait()
    assert (only(ledger).cause, only(ledger).output.value) == (Cause.COMPLETED, 30)
    ledger = MemoryLedger()
    with (
        run_engine(**ENDLESS) as engine,
        project(sync_view(engine.openai_url, kind), LEDGER=ledger) as made,
    ):
        server = WSGIServer(made.wsgi())
        server.read()
        server.leave()
        made.wait()
    assert only(ledger).cause is Cause.CLIENT_DISCONNECT


@views
async def test_the_response_s_own_deadline(make: Any) -> None:
    """What ends the response ends the call, and the receipt says what it was, not that somebody closed it."""
    ledger = MemoryLedger()
    async with LoopbackEngine(**ENDLESS) as engine:
        settings: dict[str, Any] = {
            "LEDGER": ledger,
            "DEADLINES": {"idle": 0.2, "first_token": None},
        }
        with project(make(engine.openai_url, GUARDED), **settings) as made:
            server = await Server(made.asgi()).run()
            await eventually(lambda: ledger.receipts and made.receipts)
        await engine.wait_idle()
    assert only(ledger).cause is Cause.TIMEOUT_IDLE
    assert end_of(server.text)["cause"] == "TIMEOUT_IDLE"


async def test_a_policy_that_reads_on() -> None:
    """The reader leaves and the policy drains: the call goes on to its end, and has its usage."""
    ledger = MemoryLedger()
    async with LoopbackEngine(answer_tokens=30, lead=3, interval=0.01) as engine:
        settings: dict[str, Any] = {"LEDGER": ledger, "ON_DISCONNECT": drain(30)}
        with project(async_view(engine.openai_url, GUARDED), **settings) as made:
            async with Server(get_guarded_asgi_application(made.asgi())) as server:
                await server.until(lambda: server.text.count("content") >= 3)
                server.leave()
                await eventually(lambda: ledger.receipts and made.receipts)
                await server.ended()
        assert engine.requests[0].generated == 30
    assert (only(ledger).output.value, only(ledger).cause) == (30, Cause.CLIENT_DISCONNECT)


@views
async def test_a_provider_that_breaks_off(make: Any) -> None:
    """The failure is the receipt's, with the call that failed, and the reader is not told of a clean end (G13)."""
    ledger = MemoryLedger()
    async with LoopbackEngine(answer_tokens=30, fault=Fault(cut_after=5, cut=Cut.ABRUPT)) as engine:
        with project(make(engine.openai_url, GUARDED), LEDGER=ledger) as made:
            server = await Server(made.asgi()).run()
            await eventually(lambda: ledger.receipts and made.receipts)
    assert only(ledger).cause is Cause.PRODUCER_ERROR
    assert [str(each.outcome) for each in only(ledger).attempts] == ["truncated"]
    assert end_of(server.text)["category"] == "producer"


@views
async def test_in_a_resumable_view(make: Any) -> None:
    """The call outlives its reader's connection, as the stream does; one receipt, one call."""
    ledger = MemoryLedger()
    async with LoopbackEngine(answer_tokens=30, lead=3, interval=0.01) as engine:
        with resuming(make(engine.openai_url, GUARDED), LEDGER=ledger) as made:
            app = get_guarded_asgi_application(made.asgi())
            async with Server(app) as server:
                await server.until(lambda: server.text.count("content") >= 3)
                server.leave()
                await server.ended()
            last = ids(server.text)[-1]
            again = await Server(app, headers=[(b"last-event-id", last.encode())]).run()
            await eventually(lambda: ledger.receipts and made.receipts)
        assert [request.generated for request in engine.requests] == [30]
    assert (only(ledger).cause, only(ledger).output.value) == (Cause.COMPLETED, 30)
    assert end_of(again.text)["stream_id"] == only(ledger).stream_id


def test_the_stop_button_of_a_resumable_view_under_wsgi() -> None:
    """It ends the call, as the reader's own wish."""
    ledger = MemoryLedger()
    with (
        run_engine(**ENDLESS) as engine,
        resuming(sync_view(engine.openai_url, GUARDED), LEDGER=ledger) as made,
    ):
        reader = WSGIReader(made.wsgi())
        reader.read()
        name = ids(reader.text)[0].rpartition(":")[0]
        waiting = threading.Thread(target=reader.read_to_end)
        waiting.start()
        assert post_wsgi(made.wsgi(), f"/streams/{name}/stop")[1]["stopped"]
        waiting.join(BOUND)
        assert not waiting.is_alive()
        made.wait()
    assert only(ledger).cause is Cause.USER_CANCEL


async def test_a_call_that_is_over_is_a_stream_of_its_own() -> None:
    """A view that has asked a model something before it answers has a receipt of that, and one of its response."""
    ledger = MemoryLedger()
    async with LoopbackEngine(answer_tokens=3) as engine:

        async def view(request: Any) -> Any:
            async with httpx.AsyncClient(transport=GuardedAsyncTransport()) as client:
                await client.post(f"{engine.openai_url}/chat/completions", json=ASKED)

            async def words() -> AsyncIterator[str]:
                yield "never again"

            return GUARDED(words())

        with project(view, LEDGER=ledger) as made:
            await Server(made.asgi()).run()
            await eventually(lambda: len(ledger.receipts) == 2)
    assert [len(receipt.attempts) for receipt in ledger.receipts] == [1, 0]


async def test_a_session_of_the_application_s_own() -> None:
    """It keeps the name that it was given; the call is then a stream of its own."""
    ledger = MemoryLedger()
    async with LoopbackEngine(answer_tokens=3) as engine:

        def named(texts: Any) -> GuardedStreamingHttpResponse:
            return GUARDED(StreamSession(texts, stream_id="mine", ledger=ledger))

        with project(async_view(engine.openai_url, named), LEDGER=ledger) as made:
            server = await Server(made.asgi()).run()
            await eventually(lambda: len(ledger.receipts) == 2)
    assert server.headers["streamguard-stream-id"] == "mine"
    assert "mine" in [receipt.stream_id for receipt in ledger.receipts]


async def test_a_plain_answer_is_as_before() -> None:
    """Without a streaming response the call is what it always was."""
    ledger = MemoryLedger()
    async with LoopbackEngine(answer_tokens=3) as engine:

        async def view(request: Any) -> Any:
            async with httpx.AsyncClient(transport=GuardedAsyncTransport()) as client:
                answer = await client.post(f"{engine.openai_url}/chat/completions", json=ASKED)
            return HttpResponse(answer.content)

        with project(view, LEDGER=ledger) as made:
            await Server(made.asgi()).run()
            await eventually(lambda: made.receipts)
    assert only(ledger).cause is Cause.COMPLETED
