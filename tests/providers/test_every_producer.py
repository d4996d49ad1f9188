"""Every producer against the loopback engine: cut anywhere, failing in every way, gone on with."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import AttemptOutcome, AttemptRole, StreamSession, TruncatedStream, text_of
from streamguard_providers import ProviderError, Retries
from streamguard_testing import Fault, LoopbackEngine
from streamguard_testing.faults import ErrorShape

from .makers import (
    EVERY,
    Make,
    array_producer,
    chat_producer,
    completions_producer,
    gemini_producer,
    generate_producer,
    openai_producer,
    responses_producer,
)
from .recorder import Recorder, produce
from .waiting import outcome

QUICK: dict[str, Any] = {"tokens_per_second": 5000}
LONG = 6
NO_EVENTS = (chat_producer, generate_producer, array_producer)
EVENTS_ONLY = (ErrorShape.EVENT, ErrorShape.FAILED, ErrorShape.BESIDE, ErrorShape.FIELD)
SHAPES = [
    pytest.param(make, shape, id=f"{name}-{shape}")
    for make, name in EVERY.items()
    for shape in ErrorShape
    # There are no events in the other framings.
    if make not in NO_EVENTS or shape not in EVENTS_ONLY
]


class Leaving(Recorder):
    """A reader who leaves after so many chunks."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    async def __call__(self, token: Any) -> None:
        self.chunks.append(token)
        if len(self.chunks) >= self._after:
            self.cut()


@pytest.mark.parametrize("after", range(1, LONG + 1))
async def test_cut_off_after_any_chunk(make: Make, contract: str, after: int) -> None:
    """Wherever a stream is cut off, the engine is let go of, and nothing is said to be whole that was not."""
    async with LoopbackEngine(**QUICK, fault=Fault(stall_after=after)) as engine:
        report, producer = Leaving(after), make(engine.url, max_tokens=50)

        async def pull() -> None:
            async for batch in producer.stream(report=report):
                for chunk in batch:
                    await report(chunk)

        if contract == "push":
            assert await outcome(produce(producer, report, "push")) == report.chunks
        else:
            assert await outcome(pull()) is None
        await engine.wait_idle()
        assert not engine.requests[0].ran_to_end
    (attempt,) = report.attempts
    assert (attempt.outcome, attempt.cut, attempt.chunks) == (AttemptOutcome.CUT, True, after)


def is_foreign(make: Make, shape: ErrorShape) -> bool:
    """Whether nobody says an error in that shape in the middle of this dialect's streams."""
    if shape is ErrorShape.FLAT:
        return make in {chat_producer, generate_producer, gemini_producer, array_producer}
    if shape is ErrorShape.FAILED:
        return make is not responses_producer
    return shape is ErrorShape.BODY and make not in NO_EVENTS


@pytest.mark.parametrize(("make", "shape"), SHAPES)
async def test_an_error_of_every_shape(make: Make, contract: str, shape: ErrorShape) -> None:
    """However an error is put into a 200, it comes after the chunks before it and quotes nobody.

    In a shape that is another dialect's it is not understood, but never taken for a success (G13).
    """
    fault = Fault(error_after=3, error_shape=shape, error_message="near SECRET", error_status=529)
    foreign = is_foreign(make, shape)
    async with LoopbackEngine(**QUICK, fault=fault) as engine:
        report = Recorder()
        with pytest.raises(
            (ProviderError, TruncatedStream) if foreign else ProviderError
        ) as caught:
            await produce(make(engine.url, max_tokens=9), report, contract)
        assert len(report.chunks) == 3
        assert "SECRET" not in str(caught.value)
    (attempt,) = report.attempts
    assert attempt.outcome is not AttemptOutcome.COMPLETED
    assert attempt.chunks == 3
    if not foreign:
        assert attempt.outcome is AttemptOutcome.FAILED


async def test_the_first_requests_fail(make: Make, contract: str) -> None:
    """An engine that refuses its first two requests answers the third; the reader sees one answer."""
    fault = Fault(status=503, times=2)
    async with LoopbackEngine(**QUICK, fault=fault) as engine:
        report = Recorder()
        producer = make(engine.url, max_tokens=4, retries=Retries(base=0.0))
        assert len(await produce(producer, report, contract)) == 4
        assert len(engine.requests) == 3
        assert engine.open_connections == 1
    assert [one.role for one in report.attempts] == [AttemptRole.FIRST, *[AttemptRole.RETRY] * 2]


async def test_goes_on_after_any_prefix(make: Make) -> None:
    """A prefix and what the rest's producer brings are the whole answer, wherever it broke off."""
    if make is responses_producer:
        assert not make("http://server").continues  # a response cannot go on
        return
    by_default = make in {chat_producer, generate_producer, completions_producer}
    options: dict[str, Any] = {} if by_default else {"continues": True}
    async with LoopbackEngine(**QUICK, answer_tokens=LONG) as engine:
        producer = make(engine.url, **options)
        tokens = [text_of(chunk) for chunk in await produce(producer, Recorder())]
        assert len(tokens) == LONG
        for at in range(1, LONG):
            prefix = "".join(tokens[:at])
            rest = await produce(producer.resumed(prefix), Recorder())
            assert prefix + "".join(map(text_of, rest)) == "".join(tokens)


async def test_a_session_completes(make: Make) -> None:
    """Through a session: one answer, one receipt, the engine's own numbers on it."""
    async with LoopbackEngine(**QUICK) as engine:
        async with StreamSession(make(engine.url, max_tokens=5)) as session:
            assert len([chunk async for chunk in session]) == 5
        receipt = await session.receipt()
        (request,) = engine.requests
        assert receipt.completed
        assert receipt.output.value == request.generated == 5
        assert receipt.usage.input.value == request.prompt_tokens


async def test_a_reader_who_leaves_stops_the_engine(make: Make) -> None:
    """A reader who leaves half-way stops the engine: it generates no more than was under way (G10)."""
    async with LoopbackEngine(tokens_per_second=200) as engine:
        async with StreamSession(make(engine.url, max_tokens=5000)) as session:
            async for _ in session:
                break
        receipt = await session.receipt()
        await engine.wait_idle()
        (request,) = engine.requests
        assert not request.ran_to_end
        assert request.generated < 200
        assert receipt.attempts[0].outcome is AttemptOutcome.CUT


def test_gemini_and_openai_do_not_promise_to_go_on() -> None:
    """Only those are resumed by default that are known to go on."""
    for make in (openai_producer, responses_producer, gemini_producer, array_producer):
        assert not make("http://server").continues
