"""Tests of the conformance checks: they pass what keeps its contract, and name every rule that is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from streamguard_core import Chunk, CutOffError, UsageError
from streamguard_core.testing import (
    ConformanceError,
    ConformanceReport,
    ScriptedProducer,
    ScriptedPull,
    Step,
    check_producer,
    emit,
    emit_from_thread,
    emit_late,
    emit_without_awaiting,
    fail,
    finish,
    hang,
    ignore_cancel,
    raise_in_finally,
    scripted_iterator,
    wait,
)

GOOD: list[list[Step]] = [
    [],
    [emit("a")],
    [wait(3), emit("a", "b"), wait(3), emit(Chunk("c"), b"d"), finish("stop")],
    [emit("a"), fail()],
    [emit("a"), raise_in_finally()],
    [emit("x")] * 100,
]
KINDS: dict[str, Callable[..., object]] = {
    "run": ScriptedProducer,
    "stream": ScriptedPull,
    "iterator": lambda *script: scripted_iterator(
        *[step for step in script if step != finish("stop")]
    ),
}


@pytest.mark.parametrize("script", GOOD, ids=range(len(GOOD)))
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_producers_that_keep_their_contract(
    kind: Callable[..., object], script: list[Step]
) -> None:
    """Waiting, failing and reporting are allowed; the report says how much was checked."""
    report = await check_producer(lambda: kind(*script))
    assert isinstance(report, ConformanceReport)
    chunks = sum(len(step.chunks) for step in script if hasattr(step, "chunks"))
    assert report.chunks == chunks
    assert report.runs == 2 + 2 * min(chunks + 1, 16)


async def test_errors_are_reported_by_type() -> None:
    """Raising is allowed and noted."""
    report = await check_producer(lambda: ScriptedProducer(emit("a"), fail(ValueError("secret"))))
    assert report.raised == ("ValueError",)
    assert "secret" not in repr(report)


async def broken(factory: Callable[[], object], **keywords: Any) -> dict[str, str]:
    """The rules that a producer breaks, with what was attempted."""
    with pytest.raises(ConformanceError) as caught:
        await check_producer(factory, **keywords)
    for violation in caught.value.violations:
        assert str(violation) in str(caught.value)
        assert violation.advice
    return {violation.rule: violation.attempted for violation in caught.value.violations}


class Producer:
    """A producer made of one function."""

    def __init__(self, run: Callable[[Any, Any], Any]) -> None:
        self._run = run

    async def run(self, *, out: Any, cancel_event: Any) -> Any:
        """Run it."""
        return await self._run(out, cancel_event)


async def test_a_deaf_producer_is_found() -> None:
    """One that ignores its cancellation goes on emitting, or on waiting."""
    rules = await broken(lambda: ScriptedProducer(ignore_cancel(), emit("a", "b")))
    assert (
        rules["MUST stop promptly once cancel_event is set"]
        == "it emitted after it was told to stop"
    )
    rules = await broken(lambda: ScriptedProducer(emit("a"), ignore_cancel(), wait(100)))
    assert "still ran" in rules["MUST stop promptly once cancel_event is set"]


async def test_a_producer_that_does_not_await_is_found() -> None:
    """It would overrun the buffers."""
    rules = await broken(lambda: ScriptedProducer(emit_without_awaiting("a", "b")))
    assert rules["MUST await what out() returns before it emits again"].startswith(
        "it emitted again"
    )


async def test_a_producer_that_emits_from_a_thread_is_found() -> None:
    """A thread cannot wait for room."""
    rules = await broken(lambda: ScriptedProducer(emit_from_thread("a")))
    assert "another thread" in rules["MUST await what out() returns before it emits again"]


@pytest.mark.parametrize("marker", [None, "[DONE]", b"[DONE]", 5, ["a"]])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_an_eos_object_is_found(kind: Callable[..., object], marker: Any) -> None:
    """The end is told by returning."""
    rules = await broken(lambda: kind(emit("a"), emit(marker)))
    assert "MUST NOT emit EOS, nor anything that is no chunk" in rules


async def test_emitting_after_return_is_found() -> None:
    """And the task that does it, if it goes on."""
    rules = await broken(lambda: ScriptedProducer(emit("a"), emit_late("b")))
    assert "MUST NOT emit after it returned" in rules


async def test_a_task_left_behind_is_found() -> None:
    """Somebody has to await it."""

    async def run(out: Any, cancel_event: Any) -> None:
        tasks.append(asyncio.create_task(asyncio.sleep(1000), name="left behind"))
        await out("a")

    tasks: list[asyncio.Task[None]] = []
    rules = await broken(lambda: Producer(run))
    assert rules["MUST NOT leave tasks behind"] == "after it had ended, left behind went on"
    assert all(task.cancelled() for task in tasks)


async def test_a_result_is_found() -> None:
    """`run` hands back nothing."""

    async def run(out: Any, cancel_event: Any) -> str:
        await out("a")
        return "done"

    rules = await broken(lambda: Producer(run))
    assert rules == {
        "MUST hand back nothing but what it says to out.finish()": "run() returned a str"
    }


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_producer_that_never_ends_is_found(kind: Callable[..., object]) -> None:
    """A whole run is bounded."""
    rules = await broken(lambda: kind(emit("a"), hang()), end_within=10)
    assert "10 s later" in rules["MUST come to an end"]


async def test_raising_cancelled_error_by_hand_is_found() -> None:
    """It is not a way to end."""
    rules = await broken(lambda: ScriptedProducer(emit("a"), fail(asyncio.CancelledError())))
    assert "MUST NOT raise CancelledError by itself" in rules


async def test_closing_transports_comes_first() -> None:
    """A producer may rely on `on_close` being called before it is cancelled, and may take it back."""
    order: list[str] = []

    async def run(out: Any, cancel_event: Any) -> None:
        out.connected()
        out.identify(model="m")
        out.attempt(None)
        out.on_close(lambda: order.append("forgotten"))()
        undo = out.on_close(lambda: order.append("closed"))
        try:
            await out("a")
            assert not cancel_event.is_set()
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            assert cancel_event.is_set()
            assert await cancel_event.wait()
            order.append("cancelled")
            raise
        undo()

    await check_producer(lambda: Producer(run))
    assert order
    assert order == ["closed", "cancelled"] * (len(order) // 2)


async def test_who_waits_in_out_is_told_of_the_cutoff() -> None:
    """A task of the producer's own, which nobody cancels, learns of it by CutOffError, as in a session."""
    told: list[str] = []

    class Helped:
        async def run(self, *, out: Any, cancel_event: Any) -> None:
            async def emit_all() -> None:
                for word in "abc":
                    if cancel_event.is_set():
                        return
                    await out(word)

            helper = asyncio.create_task(emit_all())
            try:
                await asyncio.wait([helper])
            finally:
                try:
                    await helper
                except CutOffError as error:
                    told.append(str(error))

    await check_producer(Helped)
    assert told == ["the stream was cut off while out() waited"] * 3


async def test_batches_must_be_lists_with_something_in_them() -> None:
    """An empty batch is a wake-up for nothing."""
    rules = await broken(lambda: ScriptedPull(emit("a"), emit()))
    assert rules["MUST hand over non-empty lists of chunks"] == "it handed over an empty list"

    class Tuples:
        async def stream(self, *, report: Any) -> AsyncIterator[Any]:
            yield ("a",)

    rules = await broken(Tuples)
    assert rules["MUST hand over non-empty lists of chunks"] == "it handed over a tuple"


async def test_a_deaf_iterator_is_found() -> None:
    """One that swallows the cancellation of its reader."""
    rules = await broken(
        lambda: scripted_iterator(ignore_cancel(), emit("a"), wait(100), emit("b"))
    )
    assert "waiting for chunk 2" in rules["MUST stop promptly once cancel_event is set"]


async def test_an_iterator_that_goes_on_after_its_close_is_found() -> None:
    """After `aclose()` there is nothing more."""

    class Endless:
        def __aiter__(self) -> Endless:
            return self

        async def __anext__(self) -> str:
            self.left = getattr(self, "left", 3) - 1
            if self.left < 0:
                raise StopAsyncIteration
            return "a"

        async def aclose(self) -> None: ...

    rules = await broken(Endless)
    assert rules == {
        "MUST hand over nothing after aclose()": "it was asked for more after aclose()"
    }


async def test_an_iterator_whose_close_hangs_is_found() -> None:
    """Closing is bounded as well."""

    class Hanging:
        def __aiter__(self) -> Hanging:
            return self

        async def __anext__(self) -> str:
            raise StopAsyncIteration

        async def aclose(self) -> None:
            await asyncio.sleep(100)

    rules = await broken(Hanging)
    assert rules["MUST stop promptly once cancel_event is set"].startswith("aclose() was called")


async def test_an_iterator_without_a_close() -> None:
    """It has nothing to close, and that is fine."""

    class Plain:
        def __init__(self) -> None:
            self._left = 2

        def __aiter__(self) -> Plain:
            return self

        async def __anext__(self) -> str:
            self._left -= 1
            if self._left < 0:
                raise StopAsyncIteration
            return "a"

    assert (await check_producer(Plain)).chunks == 2


@pytest.mark.parametrize("subject", [["a"], lambda: None])
async def test_what_cannot_be_checked(subject: object) -> None:
    """Sync iterators and factories of factories are not what is asked for."""
    with pytest.raises(
        UsageError, match=r"check_producer.. was given a factory of '.*' producers; it checks"
    ):
        await check_producer(lambda: subject)
