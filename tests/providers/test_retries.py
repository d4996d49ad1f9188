"""Retries: before anything of the answer was produced, bounded, never for a reader who has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from streamguard_core import (
    AttemptOutcome,
    AttemptRole,
    StreamSession,
    TruncatedStream,
    UsageError,
    drain,
    grace,
)
from streamguard_providers import OllamaProducer, ProviderError, Retries
from streamguard_providers.errors import provider_error
from streamguard_providers.retries import retry_after
from streamguard_testing import Fault, LoopbackEngine

from .makers import LIMIT_WORDS, Make, anthropic_producer, openai_producer
from .recorder import Recorder, produce
from .scripted_server import Answer, chunked, head, scripted
from .waiting import outcome, until
from .wire import DONE, event, message, token

GOOD = Answer(head() + chunked(token("a"), token("b", "stop"), DONE, end=True), then="next")


def refusal(status: int, *headers: str, said: bytes = b"{}") -> Answer:
    """A response that is no answer."""
    start = head("application/json", *headers, status=f"{status} X")
    return Answer(start + chunked(said, end=True), then="next")


class Waits:
    """A sleep that writes down how long it was asked for, and does something else meanwhile."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        self.asked: list[float] = []
        self._meanwhile = meanwhile

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        if self._meanwhile is not None:
            await self._meanwhile()


# -- the rule ----------------------------------------------------------------------------------


RETRYABLE = provider_error("p", status=503)


@pytest.mark.parametrize("number", range(8))
def test_waits_grow_and_are_jittered(number: int) -> None:
    """A wait is any part of a whole that doubles up to a longest one."""
    whole = min(4.0, 0.5 * 2**number)
    for part in (0.0, 0.3, 0.999):
        rule = Retries(most=9, longest=4.0, random=lambda part=part: part)  # type: ignore[misc]
        assert rule.wait(number, RETRYABLE, 0.0) == pytest.approx(whole * part)


def test_bounds() -> None:
    """There is a most of tries, of seconds in all, and of what a provider may ask for."""
    rule = Retries(most=2, within=10.0, max_retry_after=5.0, random=lambda: 0.0)
    assert rule.wait(1, RETRYABLE, 10.0) == 0.0
    assert rule.wait(2, RETRYABLE, 0.0) is None
    assert rule.wait(0, RETRYABLE, 10.1) is None
    asked = provider_error("p", status=429, retry_after=5.0)
    assert rule.wait(0, asked, 5.0) == 5.0
    assert rule.wait(0, asked, 5.1) is None
    assert rule.wait(0, provider_error("p", status=429, retry_after=5.1), 0.0) is None


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_succeed_later(status: int) -> None:
    """These statuses are worth another try."""
    assert Retries(random=lambda: 0.5).wait(0, provider_error("p", status=status), 0.0) is not None


@pytest.mark.parametrize(
    "error",
    [
        *(provider_error("p", status=status) for status in (400, 401, 403, 404, 413, 422)),
        provider_error("p", {"code": "insufficient_quota"}, status=429),
        TruncatedStream("ended"),
        ValueError(),
    ],
    ids=repr,
)
def test_what_will_not(error: Exception) -> None:
    """A retry of these would be refused again, or paid twice."""
    assert Retries().wait(0, error, 0.0) is None


@pytest.mark.parametrize("name", ["most", "base", "longest", "max_retry_after", "within"])
@pytest.mark.parametrize("value", [-1, float("nan"), True, "2"])
def test_a_rule_that_cannot_be(name: str, value: Any) -> None:
    """Numbers are not negative."""
    with pytest.raises(UsageError, match=name):
        Retries(**{name: value})


DATE = "Sat, 28 Nov 2026 12:00:00 GMT"
LATER = "Sat, 28 Nov 2026 12:00:09 GMT"
NOW = datetime(2026, 11, 28, 12, 0, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": LATER, "date": DATE}, 9.0),
        ({"retry-after": LATER}, 2.0),
        ({"retry-after": LATER.replace("GMT", "-0000")}, 2.0),
        ({"retry-after": DATE}, 0.0),
        *(({"retry-after": text}, None) for text in ("-1", "nan", "inf", "soon", "1e99", "")),
        ({"retry-after": LATER.replace("2026", "9" * 20)}, None),
        ({"retry-after": LATER, "date": DATE.replace("28", "9" * 20)}, 2.0),
    ],
)
def test_what_a_provider_asks_for(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, milliseconds and dates are understood; a date is read by the server's own clock."""
    assert retry_after(headers, now=NOW) == expected
    assert headers.get("retry-after") != LATER or retry_after(headers) is not None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"details": [{"@type": "x"}, {"retryDelay": "21.5s"}]}}, 21.5),
        ({"error": {"details": [{"retryDelay": 3}, "x"]}}, None),
        ({"error": {"details": {}}}, None),
        ({"error": "text"}, None),
    ],
)
def test_google_says_it_in_the_body(body: dict[str, Any], expected: float | None) -> None:
    """Where there is no header, the error's details may say it."""
    assert retry_after({}, body) == expected


# -- producers -------------------------------------------------------------------------------------


async def test_the_first_tries_fail(make: Make, contract: str) -> None:
    """An engine that refuses twice answers at the third try; each try is an attempt, filled in."""
    async with LoopbackEngine(tokens_per_second=2000, fault=Fault(status=529)) as engine:

        async def mend() -> None:
            if len(waits.asked) == 2:
                engine.fault = Fault()

        waits, report = Waits(mend), Recorder()
        producer = make(engine.url, max_tokens=4, retries=Retries(sleep=waits))
        assert len(await produce(producer, report, contract)) == 4
        assert len(engine.requests) == 3
    assert all(0 <= wait <= limit for wait, limit in zip(waits.asked, (0.5, 1.0), strict=True))
    first, second, last = report.attempts
    for failed in (first, second):
        assert (failed.outcome, failed.status, failed.cut) == (AttemptOutcome.FAILED, 529, False)
        assert failed.error
        assert (failed.chunks, failed.finish, failed.usage) == (0, None, None)
    assert [one.role for one in report.attempts] == [AttemptRole.FIRST, *[AttemptRole.RETRY] * 2]
    assert (last.outcome, last.status, last.error) == (AttemptOutcome.COMPLETED, 200, None)
    assert last.chunks == 4
    assert last.finish in LIMIT_WORDS
    assert last.usage is not None
    assert last.usage.output.value == 4
    assert report.closers == []


async def test_by_default_twice(make: Make) -> None:
    """Without a wish of the caller's a call is made three times, and the last failure is raised."""
    async with scripted(*[refusal(500, "retry-after-ms: 1")] * 3) as server:
        report = Recorder()
        producer = make(server.url, retries=Retries(base=0.0))
        with pytest.raises(ProviderError):
            await produce(producer, report)
        assert len(server.requests) == len(report.attempts) == 3
    assert Retries().most == 2
    assert OllamaProducer("m", "a")._retries == Retries()


async def test_a_server_that_was_not_there(make: Make, contract: str) -> None:
    """A connection that is refused is tried again, and the attempt says what failed."""
    async with scripted() as gone:
        port = gone.port
    engine = LoopbackEngine(tokens_per_second=2000, port=port)
    report = Recorder()
    producer = make(
        f"http://127.0.0.1:{port}", max_tokens=2, retries=Retries(sleep=Waits(engine.start))
    )
    try:
        assert len(await produce(producer, report, contract)) == 2
    finally:
        await engine.stop()
    assert [one.error for one in report.attempts] == ["ConnectError", None]
    assert report.attempts[0].status is None


async def test_an_error_inside_the_stream_before_the_first_token() -> None:
    """A 200 that fails before anything of the answer came is tried again as well."""
    overloaded = event({"error": {"type": "overloaded_error", "message": "busy"}})
    answer = Answer(head() + chunked(overloaded, end=True), then="next")
    async with scripted(answer, GOOD) as server:
        waits, report = Waits(), Recorder()
        producer = openai_producer(server.url, retries=Retries(sleep=waits))
        assert await produce(producer, report) == ["a", "b"]
    assert [one.error for one in report.attempts] == ["overloaded_error", None]
    assert [one.status for one in report.attempts] == [200, 200]
    assert len(waits.asked) == 1


async def test_never_after_the_first_token(make: Make, contract: str) -> None:
    """Once something was produced the failure stands: the reader would see it twice."""
    fault = Fault(error_after=1, error_message="busy")
    async with LoopbackEngine(tokens_per_second=2000, fault=fault) as engine:
        waits, report = Waits(), Recorder()
        with pytest.raises(ProviderError):
            await produce(make(engine.url, retries=Retries(sleep=waits)), report, contract)
        assert len(engine.requests) == 1
    assert waits.asked == []
    (attempt,) = report.attempts
    assert (attempt.outcome, attempt.chunks) == (AttemptOutcome.FAILED, 1)


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_what_will_not_succeed_is_not_tried_again(make: Make, status: int) -> None:
    """A request that is wrong stays wrong."""
    async with scripted(refusal(status)) as server:
        with pytest.raises(ProviderError):
            await produce(make(server.url, retries=Retries(sleep=Waits())), Recorder())
        assert len(server.requests) == 1


async def test_the_provider_says_when() -> None:
    """What it asks for is waited for; more than the cap is a failure at once."""
    async with scripted(
        refusal(429, "retry-after: 3"), GOOD, refusal(429, "retry-after: 31")
    ) as server:
        waits = Waits()
        producer = openai_producer(server.url, retries=Retries(sleep=waits))
        assert await produce(producer, Recorder()) == ["a", "b"]
        assert waits.asked == [3.0]
        with pytest.raises(ProviderError) as caught:
            await produce(producer, Recorder())
        assert caught.value.retry_after == 31.0
        assert waits.asked == [3.0]


@pytest.mark.parametrize("how", ["cut", "event", "cancel"])
async def test_left_while_it_waits(make: Make, contract: str, how: str) -> None:
    """The cutoff, the cancel event or a cancellation end the wait at once, and nothing is called."""
    resting = asyncio.Event()

    async def for_ever() -> None:
        resting.set()
        await asyncio.Event().wait()

    async with scripted(refusal(503), GOOD) as server:
        report, event_ = Recorder(), asyncio.Event()
        producer = make(server.url, retries=Retries(sleep=Waits(for_ever)))
        if how == "event":
            running = producer.run(out=report, cancel_event=event_)
        else:
            running = produce(producer, report, contract)
        task = asyncio.create_task(outcome(running))
        await resting.wait()
        leave: dict[str, Callable[[], object]] = {"cut": report.cut, "event": event_.set}
        leave.get(how, task.cancel)()
        async with asyncio.timeout(5):
            (got,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(got, asyncio.CancelledError) if how == "cancel" else not got
        assert len(server.requests) == 1
    (attempt,) = report.attempts
    assert (attempt.status, attempt.outcome) == (503, AttemptOutcome.FAILED)


async def test_never_for_a_reader_who_left(make: Make) -> None:
    """Who left while a try was failing is called for no more."""
    refused = head("application/json", status="503 X") + chunked(b"{}")
    async with scripted(Answer(refused), GOOD) as server:
        waits, report = Waits(), Recorder()
        producer = make(server.url, retries=Retries(sleep=waits))
        task = asyncio.create_task(outcome(produce(producer, report)))
        await server.received.wait()
        await until(lambda: report.connections)
        report.cut()
        assert await task == []
        assert len(server.requests) == 1
    assert waits.asked == []


@pytest.mark.parametrize("policy", [drain(60.0), grace(60.0)], ids=str)
@pytest.mark.parametrize("when", ["while it fails", "while it waits"])
async def test_never_for_a_reader_who_left_and_whose_stream_goes_on(
    make: Make, contract: str, policy: Any, when: str
) -> None:
    """A drain, or a grace, reads on what was asked for; it asks nobody anew, and the failure stands."""
    go = asyncio.Event()
    refused = head("application/json", status="503 X") + chunked(b"{}", end=True)
    async with scripted(Answer(refused, then="next", go=go), GOOD) as server:

        async def leave() -> None:
            session.disconnected("gone")

        waits = Waits(leave if when == "while it waits" else None)
        producer = make(server.url, retries=Retries(sleep=waits))
        session = StreamSession(
            producer if contract == "pull" else Pushing(producer), on_disconnect=policy
        )
        session.start()
        await server.received.wait()
        if when == "while it fails":
            await leave()
        go.set()
        receipt = await session.receipt()
        assert len(server.requests) == 1
    (attempt,) = receipt.attempts
    assert (attempt.status, attempt.outcome) == (503, AttemptOutcome.FAILED)
    assert len(waits.asked) == (when == "while it waits")


async def test_one_idempotency_key_for_all_tries() -> None:
    """Where a header for it is named, all tries of a stream carry one key, and each stream its own."""
    async with scripted(refusal(500), GOOD, GOOD) as server:
        producer = openai_producer(
            server.url, retries=Retries(sleep=Waits()), idempotency_header="idempotency-key"
        )
        await produce(producer, Recorder())
        await produce(producer, Recorder())
        keys = [
            request.lower().partition(b"idempotency-key: ")[2].split(b"\r\n")[0]
            for request in server.requests
        ]
    assert keys[0] == keys[1] != keys[2]
    assert len(keys[0]) == 36


async def test_the_receipt_has_every_try() -> None:
    """A session's receipt lists the tries in order, and what each came to."""
    async with scripted(refusal(503), GOOD) as server:
        producer = openai_producer(server.url, retries=Retries(sleep=Waits()))
        async with StreamSession(producer) as session:
            assert [chunk async for chunk in session] == ["a", "b"]
        receipt = await session.receipt()
    assert [(one.role, one.outcome, one.status) for one in receipt.attempts] == [
        (AttemptRole.FIRST, AttemptOutcome.FAILED, 503),
        (AttemptRole.RETRY, AttemptOutcome.COMPLETED, 200),
    ]


BEGUN = event({"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 300}}})
BUSY = event({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})


@pytest.mark.parametrize("begun", [BEGUN, b""], ids=["reported", "not reported"])
async def test_the_usage_is_that_of_every_try(contract: str, begun: bytes) -> None:
    """A try that failed inside its 200 may have been billed: the stream's usage is not the last try's alone (G12)."""
    failing = Answer(head() + chunked(begun + BUSY, end=True), then="next")
    async with scripted(failing, Answer(head() + chunked(message("a"), end=True))) as server:
        producer = anthropic_producer(server.url, retries=Retries(sleep=Waits()))
        session = StreamSession(producer if contract == "pull" else Pushing(producer))
        async with session:
            assert [chunk async for chunk in session] == ["a"]
        receipt = await session.receipt()
    _, last = receipt.attempts
    assert last.usage is not None
    assert (last.usage.input.value, last.usage.output.value) == (3, 2)
    assert (receipt.usage.output.value, receipt.usage.output.lower) == (None, 2)
    assert receipt.usage.input.value == (303 if begun else None)
    assert receipt.usage.input.lower == 3


async def test_a_refused_try_adds_no_usage() -> None:
    """What was refused has cost nothing: the usage stays exact, and is the provider's own object."""
    answers = refusal(529), Answer(head() + chunked(message("a"), end=True))
    async with scripted(*answers) as server:
        producer = anthropic_producer(server.url, retries=Retries(sleep=Waits()))
        async with StreamSession(producer) as session:
            assert [chunk async for chunk in session] == ["a"]
        receipt = await session.receipt()
    assert receipt.usage == receipt.attempts[1].usage


class Pushing:
    """A producer by its push contract alone."""

    def __init__(self, producer: Any) -> None:
        self.run = producer.run
