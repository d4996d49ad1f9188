"""The reader of a guarded chain leaves: the engine's own count says what that has saved."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel

from streamguard_core import (
    AttemptOutcome,
    Cause,
    CloseState,
    CutOffError,
    Deadlines,
    Scope,
    use_scope,
)
from streamguard_langchain import guard
from streamguard_testing import run_engine

from .receipts import Receipts, eventually
from .rig import LEAD, MODELS, QUESTION, keep, openai, read, slow_engine

PROMPT = ChatPromptTemplate.from_template("{question}")
ASKED = {"question": QUESTION}


@pytest.mark.parametrize("name", MODELS)
async def test_reader_who_closes(name: str, receipts: Receipts) -> None:
    """A reader who closes the iterator leaves no call behind, and one receipt that says so."""
    async with slow_engine() as engine:
        chain = guard(PROMPT | MODELS[name](engine) | StrOutputParser(), on_receipt=receipts.append)
        await read(chain.astream(ASKED), 3)
        await engine.wait_idle()
        assert engine.requests[0].generated <= LEAD
        receipt = receipts.one
        assert receipt.cause is Cause.CLIENT_DISCONNECT
        assert receipt.close is CloseState.CONFIRMED
        (attempt,) = receipt.attempts
        assert (attempt.outcome, attempt.cut) == (AttemptOutcome.CUT, True)


@pytest.mark.parametrize("phase", ["streaming", "thinking"])
async def test_cancelled_task(phase: str, receipts: Receipts) -> None:
    """A chain cancelled from outside stops its engine, and its owner gets his CancelledError."""
    delay = 30.0 if phase == "thinking" else 0.0
    async with slow_engine(first_token_delay=delay) as engine:
        chain = guard(PROMPT | openai(engine), on_receipt=receipts.append)
        came: list[Any] = []
        task = asyncio.create_task(keep(chain.astream(ASKED), came))
        await eventually(lambda: engine.requests and (delay or len(came) >= LEAD))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.wait_idle()
        assert engine.requests[0].generated <= LEAD
        await receipts.come()
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT


async def test_swallowed_cancellation(receipts: Receipts) -> None:
    """A cancellation that a part of the chain swallows reaches its owner all the same."""
    inside = asyncio.Event()

    async def deaf(given: str) -> Any:
        yield "a"
        inside.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        for _ in range(100):
            yield "b"

    chain = guard(RunnableLambda(deaf), on_receipt=receipts.append)
    came: list[Any] = []
    task = asyncio.create_task(keep(chain.astream(QUESTION), came))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert came == ["a"]
    await receipts.come()
    assert receipts.one.cause is Cause.CLIENT_DISCONNECT


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_scope_of_a_request_ends(asynchronous: bool, receipts: Receipts) -> None:
    """The reader of the request around it is gone: the chain ends, wherever it waits, and says so."""
    async with slow_engine(interval=0.5) as engine:
        chain = guard(PROMPT | openai(engine), on_receipt=receipts.append)
        came: list[Any] = []
        scope = Scope()

        with use_scope(scope):
            work: Any = (
                keep(chain.astream(ASKED), came)
                if asynchronous
                else asyncio.to_thread(lambda: came.extend(chain.stream(ASKED)))
            )
            task = asyncio.create_task(work)
        await engine.wait_until(lambda: any(each.generated >= LEAD for each in engine.requests))
        generated = engine.requests[0].generated
        scope.disconnected("gone")
        with pytest.raises(CutOffError, match="CLIENT_DISCONNECT"):
            await task
        await engine.wait_idle()
        assert engine.requests[0].generated <= generated + 1
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT
        assert scope.members == []


async def test_parallel_models_all_stop(receipts: Receipts) -> None:
    """All three models of a `RunnableParallel` stop, also those that had a chunk nobody took."""
    async with slow_engine() as engine:
        parallel = RunnableParallel(
            {name: PROMPT | model(engine) for name, model in MODELS.items()}
        )
        stream = guard(parallel, on_receipt=receipts.append).astream(ASKED)
        async with aclosing(stream) as left:  # type: ignore[type-var]
            async for _ in left:
                if len([each for each in engine.requests if each.generated >= LEAD]) == 3:
                    break
        await engine.wait_idle()
        assert [each.generated for each in engine.requests] == [LEAD] * 3
        outcomes = {attempt.outcome for attempt in receipts.one.attempts}
        assert (outcomes, len(receipts.one.attempts)) == ({AttemptOutcome.CUT}, 3)


async def test_parallel_branch_that_thinks(receipts: Receipts) -> None:
    """A branch that has not begun to answer is let go as well; LangChain itself waits for its token."""
    async with slow_engine() as fast, slow_engine(first_token_delay=60.0) as thinking:
        parallel = RunnableParallel(a=openai(fast), b=openai(thinking), c=openai(thinking))
        await read(guard(parallel, on_receipt=receipts.append).astream(QUESTION), 2)
        await thinking.wait_idle()
        await fast.wait_idle()
        assert [each.generated for each in thinking.requests] == [0, 0]
        assert len(receipts.one.attempts) == 3


async def test_nested_chain(receipts: Receipts) -> None:
    """A guarded chain inside of a guarded chain belongs to the outer one's stream."""
    async with slow_engine() as engine:
        inner = guard(PROMPT | openai(engine) | StrOutputParser(), on_receipt=receipts.append)

        async def tell(given: dict[str, str]) -> Any:
            async for text in inner.astream(given):
                yield text

        stream = guard(RunnableLambda(tell), on_receipt=receipts.append).astream(ASKED)
        await read(stream, 3)
        await engine.wait_idle()
        assert engine.requests[0].generated <= LEAD
        assert len(receipts.one.attempts) == 1


def test_sync_reader_who_closes(receipts: Receipts) -> None:
    """A sync chain that is closed is not read to its end, as LangChain does for its trace (P40)."""
    with run_engine(lead=LEAD, interval=30.0) as engine:
        chain = guard(PROMPT | openai(engine) | StrOutputParser(), on_receipt=receipts.append)
        stream: Any = chain.stream(ASKED)
        for _ in range(3):
            next(stream)
        stream.close()
        engine.wait_idle()
        assert engine.requests[0].generated <= LEAD
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT
        assert len(receipts.one.attempts) == 1


def test_sync_parallel(receipts: Receipts) -> None:
    """The threads of a sync `RunnableParallel` end with their next chunk."""
    with run_engine(lead=LEAD, interval=0.5) as engine:
        parallel = RunnableParallel(a=openai(engine), b=openai(engine), c=openai(engine))
        stream: Any = guard(parallel, on_receipt=receipts.append).stream(QUESTION)
        next(stream)
        engine.wait_until(lambda requests: [each.generated for each in requests] >= [LEAD] * 3)
        before = sum(each.generated for each in engine.requests)
        stream.close()
        engine.wait_idle()
        assert sum(each.generated for each in engine.requests) <= before + 3
        assert len(receipts.one.attempts) == 3


async def test_thread_inside_of_an_async_chain(receipts: Receipts) -> None:
    """A sync function in a thread, which no cancellation reaches, ends with its next chunk."""
    async with slow_engine(interval=0.5) as engine:
        began = threading.Event()

        def tell(question: str) -> str:
            texts = []
            for chunk in openai(engine).stream(question):
                texts.append(chunk.text)
                began.set()
            return "".join(texts)

        chain = guard(RunnableLambda(tell), on_receipt=receipts.append)
        task = asyncio.create_task(chain.ainvoke(QUESTION))
        await asyncio.to_thread(began.wait)
        generated = engine.requests[0].generated
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.wait_idle()
        assert engine.requests[0].generated <= max(generated, LEAD) + 1


async def test_deadline_raises(receipts: Receipts) -> None:
    """A chain that is cut off by a deadline does not look like one that has ended."""
    async with slow_engine() as engine:
        chain = guard(openai(engine), deadlines=Deadlines(idle=0.3), on_receipt=receipts.append)
        with pytest.raises(CutOffError, match="TIMEOUT_IDLE"):
            async for _ in chain.astream(QUESTION):
                pass
        await engine.wait_idle()
        await receipts.come()
        assert receipts.one.cause is Cause.TIMEOUT_IDLE


async def test_reader_who_takes_it_all(receipts: Receipts) -> None:
    """Somebody who reads to the end gets everything, and the receipt has what the provider said."""
    async with slow_engine(interval=0.0, answer_tokens=20) as engine:
        chain = guard(PROMPT | openai(engine) | StrOutputParser(), on_receipt=receipts.append)
        texts = [text async for text in chain.astream(ASKED)]
        receipt = receipts.one
        assert receipt.cause is Cause.COMPLETED
        assert (receipt.produced, receipt.consumed) == (len(texts), len(texts))
        assert (receipt.output.value, receipt.finish, receipt.model) == (20, "stop", "m")
        (attempt,) = receipt.attempts
        assert attempt.run_id is not None
        assert attempt.parent_run_id is not None
