"""Whose doing it is that a task ended before its stream did (G14)."""

from __future__ import annotations

import asyncio

import pytest

from streamguard_core import Attempt, AttemptOutcome, Cause, ProducerError, Scope, Shutdown
from streamguard_core.cancellation import cause_of, cause_of_failure
from streamguard_core.shielding import finish


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError(), Cause.CONSUMER_ERROR),
        (asyncio.CancelledError(), Cause.OPERATOR_CANCEL),
        (
            asyncio.CancelledError("Task cancelled, timeout graceful shutdown exceeded"),
            Cause.SHUTDOWN,
        ),
        (
            asyncio.CancelledError("Cancelled by cancel scope 7f at /srv/shutdown/views.py"),
            Cause.OPERATOR_CANCEL,
        ),
    ],
)
def test_an_error_says_whose_doing_it_is(error: BaseException, cause: Cause) -> None:
    """A message is believed only where it is uvicorn's own: those of others quote paths."""
    assert cause_of(error, None) is cause
    assert cause_of(error, Scope()) is cause


def test_after_the_signal_a_cancellation_is_the_servers() -> None:
    """A process that was told to go cancels for that reason, whatever it says."""
    scope = Scope()
    scope.shutdown = Shutdown()
    assert cause_of(asyncio.CancelledError(), scope) is Cause.OPERATOR_CANCEL
    scope.shutdown.begin()
    assert cause_of(asyncio.CancelledError(), scope) is Cause.SHUTDOWN


async def _host() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("module", "cause"),
    [("hypercorn.asyncio.task_group", Cause.SHUTDOWN), ("hypercorns", Cause.OPERATOR_CANCEL)],
)
async def test_hypercorn_cancels_its_requests_only_when_it_goes(module: str, cause: Cause) -> None:
    """The task that runs a request is known by the module of its coroutine; others' say nothing."""
    exec_in = {"__name__": module}
    exec("async def host(work): await work()", exec_in)
    scope = Scope()
    scope.host = asyncio.ensure_future(exec_in["host"](_host))  # type: ignore[operator]
    await asyncio.sleep(0)
    assert cause_of(asyncio.CancelledError(), scope) is Cause.OPERATOR_CANCEL
    scope.host.cancel()
    assert cause_of(asyncio.CancelledError(), scope) is cause
    await asyncio.wait([scope.host])
    assert cause_of(asyncio.CancelledError(), scope) is Cause.OPERATOR_CANCEL


async def test_what_must_be_finished_is_although_its_waiter_is_cancelled() -> None:
    """The cancellation is kept back until the work is done, and propagates then."""
    may_end, ended = asyncio.Event(), list[str]()

    async def work() -> None:
        await may_end.wait()
        ended.append("work")

    async def host() -> None:
        try:
            await finish(work(), 60)
        finally:
            ended.append("host")

    waiting = asyncio.ensure_future(host())
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    assert not ended
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["work", "host"]


async def test_work_that_takes_too_long_goes_on_by_itself() -> None:
    """The wait is bounded; the task that comes back is the one that still runs."""
    may_end = asyncio.Event()
    task = await finish(may_end.wait(), 0.001)
    assert not task.done()
    may_end.set()
    assert await task


def _raised(error: Exception, source: BaseException | None = None) -> Exception:
    """The error, as one that was raised from `source`."""
    error.__cause__ = source
    return error


def _of(package: str) -> Exception:
    """An error whose type that package has defined."""
    kind: type[Exception] = type("APIError", (Exception,), {"__module__": package})
    return kind()


def _circle() -> Exception:
    """Two errors that are each other's cause, as careless code makes them."""
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    return first


@pytest.mark.parametrize(
    ("error", "failed", "cause"),
    [
        (KeyError(), False, Cause.CONSUMER_ERROR),
        (KeyError(), True, Cause.CONSUMER_ERROR),
        (_circle(), True, Cause.CONSUMER_ERROR),
        (ProducerError(), False, Cause.PRODUCER_ERROR),
        (_of("google.genai.errors"), False, Cause.PRODUCER_ERROR),
        (_of("google.cloud.errors"), False, Cause.CONSUMER_ERROR),
        (_of("openai_of_mine"), True, Cause.CONSUMER_ERROR),
        (_of("httpx"), False, Cause.CONSUMER_ERROR),
        (_of("httpx"), True, Cause.PRODUCER_ERROR),
        (_raised(ValueError(), _raised(KeyError(), _of("openai"))), False, Cause.PRODUCER_ERROR),
        (ExceptionGroup("", [ValueError(), _of("openai")]), False, Cause.PRODUCER_ERROR),
    ],
)
def test_an_endpoints_error_is_its_own_unless_a_provider_is_behind_it(
    error: Exception, failed: bool, cause: Cause
) -> None:
    """By the types of what was raised; a client of anybody's needs a call that failed."""
    attempts = [Attempt(outcome=AttemptOutcome.FAILED if failed else AttemptOutcome.COMPLETED)]
    assert cause_of_failure(error, attempts) is cause
    assert failed or cause_of_failure(error, ()) is cause
