"""The real openai, anthropic, google-genai and ollama packages on guarded transports, against a real server."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest

from streamguard_core import (
    AttemptOutcome,
    AttemptRole,
    Cause,
    Count,
    CountSource,
    DrainEnd,
    MemoryLedger,
    Receipt,
    Scope,
    StreamSession,
    by_provider,
    use_scope,
)
from streamguard_providers import TerminationTable
from streamguard_testing import Billing, Fault, LoopbackEngine

from .sdks import SDKS, Anthropic, Gemini, OpenAIChat, OpenAIResponses, Sdk, caused_by_cutoff
from .waiting import outcome, until

FACES = ["async", "sync"]
each_sdk = pytest.mark.parametrize("kind", SDKS, ids=lambda kind: kind.__name__)
each_face = pytest.mark.parametrize("face", FACES)


SdkOf = Callable[..., Sdk]


@pytest.fixture
async def sdk_of() -> AsyncIterator[SdkOf]:
    """Makes SDKs whose connections are closed at the end."""
    async with AsyncExitStack() as stack:
        made: list[Sdk] = []

        def make(kind: type[Sdk], url: str, retries: int = 0) -> Sdk:
            made.append(kind(url, retries))
            stack.push_async_exit(made[-1])
            return made[-1]

        yield make


@contextmanager
def job() -> Iterator[tuple[Scope, MemoryLedger]]:
    """A scope without a session, and where its streams are recorded."""
    ledger = MemoryLedger()
    with use_scope(Scope(ledger=ledger)) as scope:
        yield scope, ledger


def only(ledger: MemoryLedger) -> Receipt:
    """The one receipt."""
    (receipt,) = ledger.receipts
    assert len(ledger.opened) == 1
    return receipt


async def read(sdk: Sdk, face: str, most: int, got: list[Any], *, streamed: bool = True) -> None:
    """Read an answer with either client; what comes is put into `got`. The sync one has a thread."""
    if face == "async":
        client = sdk.client()
        if streamed:
            async for item in sdk.stream(client, most):
                got.append(item)  # noqa: PERF401 - seen from outside while they come
        else:
            got.append(await sdk.whole(client, most))
        return
    await in_thread(lambda: read_sync(sdk, most, got, streamed=streamed))


def read_sync(sdk: Sdk, most: int, got: list[Any], *, streamed: bool) -> None:
    """The same in the thread it is called in."""
    client = sdk.sync_client()
    if streamed:
        for item in sdk.sync_stream(client, most):
            got.append(item)  # noqa: PERF402 - seen from outside while they come
    else:
        got.append(sdk.sync_whole(client, most))


async def in_thread(work: Callable[[], None]) -> None:
    """Run blocking work in a thread that no test waits for when it hangs."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again below
            failure.append(error)
        loop.call_soon_threadsafe(done.set)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), daemon=True).start()
    await done.wait()
    if failure:
        raise failure[0]


@each_sdk
@each_face
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
async def test_a_complete_receipt(
    engine: LoopbackEngine, sdk_of: SdkOf, kind: type[Sdk], face: str, streamed: bool
) -> None:
    """Chunks, usage, finish, model and outcome, as the engine counted them; nothing is left behind."""
    sdk = sdk_of(kind, engine.url)
    with job() as (scope, ledger):
        got: list[Any] = []
        await read(sdk, face, 20, got, streamed=streamed)
        receipt = only(ledger)
        assert scope.members == []
    (request,) = engine.requests
    (attempt,) = receipt.attempts
    assert got
    assert receipt.cause is Cause.COMPLETED
    assert (receipt.model, receipt.max_tokens, attempt.status) == ("m", 20, 200)
    assert attempt.bytes_received > 0
    assert attempt.outcome is AttemptOutcome.COMPLETED
    assert receipt.finish in {
        "length",
        "max_tokens",
        "MAX_TOKENS",
        "incomplete",
        "max_output_tokens",
    }
    assert receipt.usage.output.value == request.generated == 20
    assert receipt.usage.input.value == request.prompt_tokens
    assert receipt.consumed == attempt.chunks == (20 if streamed else 1)
    assert attempt.usage == receipt.usage


@each_sdk
@each_face
@pytest.mark.parametrize("phase", ["thinking", "streaming"])
async def test_cut_off(sdk_of: SdkOf, kind: type[Sdk], face: str, phase: str) -> None:
    """The reader leaves: the engine stops, the SDK's error is recognised, and no retry goes out."""
    delay = 60.0 if phase == "thinking" else 0.0
    async with LoopbackEngine(tokens_per_second=300, first_token_delay=delay) as engine:
        sdk = sdk_of(kind, engine.url, retries=0 if kind is Gemini else 2)
        with job() as (scope, ledger):
            got: list[Any] = []
            task = asyncio.create_task(outcome(read(sdk, face, 50_000, got)))
            if phase == "thinking":
                await engine.wait_until(lambda: bool(engine.requests))
            else:
                await until(lambda: len(got) > 8)
            scope.disconnected("gone")
            error = await task
            assert isinstance(error, Exception)
            assert caused_by_cutoff(error), error
            await engine.wait_idle()
        (request,) = engine.requests
        assert not request.ran_to_end
        receipt = only(ledger)
        assert receipt.cause is Cause.CLIENT_DISCONNECT
        (attempt,) = receipt.attempts
        assert (attempt.outcome, attempt.cut) == (AttemptOutcome.CUT, True)
        assert receipt.late == 0
        if phase == "streaming":
            assert 1 < receipt.produced <= request.generated


@pytest.mark.parametrize("kind", [OpenAIChat, OpenAIResponses, Anthropic])
@each_face
async def test_the_retries_of_an_sdk_that_counts_them(
    engine: LoopbackEngine, sdk_of: SdkOf, kind: type[Sdk], face: str
) -> None:
    """They are attempts of one stream, and the one that was answered is the one that is paid for."""
    sdk = sdk_of(kind, engine.url, retries=2)
    engine.fault = Fault(status=503, retry_after=1)
    with job() as (_, ledger):
        task = asyncio.create_task(read(sdk, face, 10, []))
        await engine.wait_until(lambda: bool(engine.requests))
        assert ledger.receipts == []
        engine.fault = Fault()
        await task
        receipt = only(ledger)
    assert receipt.cause is Cause.COMPLETED
    roles = [attempt.role for attempt in receipt.attempts]
    assert roles == [AttemptRole.FIRST] + [AttemptRole.RETRY] * (len(roles) - 1)
    assert [attempt.status for attempt in receipt.attempts] == [503] * (len(roles) - 1) + [200]
    assert len(roles) == len(engine.requests) >= 2
    assert receipt.attempts[0].outcome is AttemptOutcome.FAILED


@pytest.mark.parametrize("kind", [OpenAIChat, Anthropic])
@each_face
async def test_all_retries_fail(
    engine: LoopbackEngine, sdk_of: SdkOf, kind: type[Sdk], face: str
) -> None:
    """The SDK gives up: one receipt with every try on it, sealed with the work under the scope."""
    sdk = sdk_of(kind, engine.url, retries=1)
    engine.fault = Fault(status=503, retry_after=1)
    with job() as (_, ledger):
        assert isinstance(await outcome(read(sdk, face, 10, [])), Exception)
    receipt = only(ledger)
    assert receipt.cause is Cause.PRODUCER_ERROR
    assert len(receipt.attempts) == len(engine.requests) == 2


@each_face
async def test_the_retries_of_one_that_does_not(
    engine: LoopbackEngine, sdk_of: SdkOf, face: str
) -> None:
    """google-genai says of no request which try it is: each has a receipt of its own."""
    sdk = sdk_of(Gemini, engine.url, retries=1)
    engine.fault = Fault(status=503)
    with job() as (_, ledger):
        assert isinstance(await outcome(read(sdk, face, 10, [])), Exception)
    assert [receipt.cause for receipt in ledger.receipts] == [Cause.PRODUCER_ERROR] * 2


@each_sdk
@each_face
async def test_truncated(engine: LoopbackEngine, sdk_of: SdkOf, kind: type[Sdk], face: str) -> None:
    """The stream ends without its terminal marker, which the SDKs take for a success: we do not (G13)."""
    sdk = sdk_of(kind, engine.url)
    engine.fault = Fault(cut_after=5)
    with job() as (_, ledger):
        await outcome(read(sdk, face, 20, []))
    receipt = only(ledger)
    assert receipt.cause is Cause.TRUNCATED
    assert receipt.attempts[0].outcome is AttemptOutcome.TRUNCATED


@each_sdk
async def test_a_generator_around_an_sdk(
    engine: LoopbackEngine, sdk_of: SdkOf, kind: type[Sdk]
) -> None:
    """In a session the call is an attempt of it, and brings finish and usage; nothing is counted twice."""
    sdk = sdk_of(kind, engine.url)
    scope = Scope(ledger=MemoryLedger())

    async def words() -> Any:
        async for item in sdk.stream(sdk.client(), 20):
            yield str(type(item).__name__)

    session = StreamSession(words())
    scope.session = session
    with use_scope(scope):
        chunks = [chunk async for chunk in session]
        receipt = await session.receipt()
    assert receipt.cause is Cause.COMPLETED
    assert receipt.consumed == len(chunks)
    assert len(receipt.attempts) == 1
    assert isinstance(scope.ledger, MemoryLedger)
    assert scope.ledger.receipts == []
    assert receipt.usage.output.value == engine.requests[0].generated == 20
    assert receipt.finish is not None


@each_sdk
@pytest.mark.parametrize("provider", ["aws-bedrock", "openai"])
async def test_a_generator_around_an_sdk_is_read_on_where_that_pays(
    engine: LoopbackEngine, sdk_of: SdkOf, kind: type[Sdk], provider: str
) -> None:
    """The reader leaves: what bills all is drained and booked exactly, what stops is closed at once (P33)."""
    bills = provider == "aws-bedrock"
    engine.fault = Fault(billing=Billing.FULL if bills else Billing.STOPS)
    most = 30 if bills else 5000
    sdk = sdk_of(kind, engine.url)
    scope = Scope()

    async def words() -> Any:
        async for item in sdk.stream(sdk.client(), most):
            yield str(type(item).__name__)

    session = StreamSession(
        words(),
        provider=provider,
        on_disconnect=by_provider(),
        termination=TerminationTable.shipped(),
        max_tokens=most,
    )
    scope.session = session
    with use_scope(scope):
        reading = aiter(session)
        await anext(reading)
        await reading.aclose()
        receipt = await session.receipt()
    await engine.wait_idle()
    (counted,) = engine.requests
    assert receipt.cause is Cause.CLIENT_DISCONNECT
    if not bills:
        assert (receipt.drain, receipt.policy) == (None, "cancel")
        assert not counted.ran_to_end
        return
    assert (receipt.drain, receipt.prevented.value) == (DrainEnd.FINISHED, 0)
    assert receipt.output == Count.exact(counted.billed, CountSource.PROVIDER_FINAL)
