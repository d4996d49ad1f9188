"""What an attempt of a producer's says: how its call ended, and what its provider reported."""

from __future__ import annotations

import pytest

from streamguard_core import Attempt, AttemptOutcome, TruncatedStream
from streamguard_providers.attempts import error_word
from streamguard_providers.errors import provider_error
from streamguard_testing import Fault, LoopbackEngine
from streamguard_testing import Usage as When

from .makers import LIMIT_WORDS, Make, chat_producer, no_truth
from .recorder import Recorder, produce
from .waiting import outcome


async def attempt_of(make: Make, fault: Fault, *, leave_after: int | None = None) -> Attempt:
    """The attempt of a call to an engine with a fault, which the reader may leave."""
    async with LoopbackEngine(tokens_per_second=2000, fault=fault) as engine:
        report = Recorder()
        stream = make(engine.url, max_tokens=6).stream(report=report)

        async def read() -> None:
            async for batch in stream:
                report.chunks += batch
                if leave_after is not None and len(report.chunks) >= leave_after:
                    report.cut()

        await outcome(read())
    (attempt,) = report.attempts
    return attempt


async def test_completed(make: Make) -> None:
    """A whole answer is completed, with its chunks, its finish reason and its usage."""
    attempt = await attempt_of(make, Fault())
    assert (attempt.outcome, attempt.chunks) == (AttemptOutcome.COMPLETED, 6)
    assert attempt.finish in LIMIT_WORDS
    assert attempt.error is None
    assert attempt.usage is not None
    assert attempt.usage.output.value == 6


async def test_cut(make: Make) -> None:
    """A call that was cut off is cut, with the chunks that had come."""
    attempt = await attempt_of(make, Fault(stall_after=3), leave_after=3)
    assert (attempt.outcome, attempt.cut, attempt.chunks) == (AttemptOutcome.CUT, True, 3)
    assert (attempt.finish, attempt.error) == (None, None)
    assert no_truth(attempt.usage)


async def test_truncated(make: Make) -> None:
    """A response without its terminal marker is truncated (G13)."""
    attempt = await attempt_of(make, Fault(cut_after=2))
    assert (attempt.outcome, attempt.cut, attempt.chunks) == (AttemptOutcome.TRUNCATED, False, 2)


async def test_failed(make: Make) -> None:
    """An error in mid-stream has failed the call, with what came before it."""
    attempt = await attempt_of(make, Fault(error_after=2))
    assert (attempt.outcome, attempt.status, attempt.chunks) == (AttemptOutcome.FAILED, 200, 2)


async def test_usage_that_did_not_come_is_unknown(make: Make) -> None:
    """Without a report of the provider's the attempt has no usage (G12)."""
    assert no_truth((await attempt_of(make, Fault(usage=When.NEVER))).usage)


async def test_a_later_attempt_says_its_own() -> None:
    """Each run of a producer reports its own call."""
    async with LoopbackEngine(tokens_per_second=2000) as engine:
        report = Recorder()
        producer = chat_producer(engine.url, max_tokens=2)
        await produce(producer, report)
        await produce(producer, report)
    assert [attempt.chunks for attempt in report.attempts] == [2, 2]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (provider_error("p", {"type": "overloaded_error"}), "overloaded_error"),
        (provider_error("p", {"code": "rate_limit_exceeded"}), "rate_limit_exceeded"),
        (provider_error("p", {"type": "the prompt was bad"}, status=400), "status_400"),
        (provider_error("p"), None),
        (TruncatedStream("ended"), "TruncatedStream"),
    ],
)
def test_the_word_for_an_error(error: Exception, word: str | None) -> None:
    """It is the provider's own word, if it is one; else the status, or the error's name."""
    assert error_word(error) == word
    error.__cause__ = ConnectionResetError("the prompt")
    assert error_word(error) == (word if word and "_e" in word else "ConnectionResetError")
