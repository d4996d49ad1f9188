"""The handler alone, given to chains that are not guarded: each run of a model has its receipt."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda

from streamguard_core import (
    AttemptOutcome,
    AttemptRole,
    Cause,
    LedgerError,
    MemoryLedger,
    OpenRecord,
    Scope,
    use_scope,
)
from streamguard_langchain import ChainStopped, StreamGuardCallbackHandler
from streamguard_testing import Fault, run_engine

from .receipts import Receipts, eventually
from .rig import LEAD, MODELS, QUESTION, anthropic, keep, openai, read, slow_engine


@pytest.fixture
def handler(receipts: Receipts) -> StreamGuardCallbackHandler:
    """A handler that tells of its receipts."""
    return StreamGuardCallbackHandler(on_receipt=receipts.append)


def with_handler(handler: StreamGuardCallbackHandler) -> Any:
    """The config of a call."""
    return {"callbacks": [handler]}


@pytest.mark.parametrize("name", MODELS)
async def test_whole_answer(
    name: str, handler: StreamGuardCallbackHandler, receipts: Receipts
) -> None:
    """A run that comes to its end has a receipt with what the provider said."""
    async with slow_engine(interval=0.0, answer_tokens=20) as engine:
        chain = MODELS[name](engine) | StrOutputParser()
        texts = [text async for text in chain.astream(QUESTION, with_handler(handler))]
        receipt = receipts.one
        (attempt,) = receipt.attempts
        assert receipt.cause is Cause.COMPLETED
        assert receipt.produced == receipt.consumed == attempt.chunks
        assert receipt.produced >= len([text for text in texts if text])
        assert (receipt.output.value, receipt.model, receipt.provider) == (20, "m", name)
        assert attempt.outcome is AttemptOutcome.COMPLETED
        assert attempt.finish is not None
        assert None not in (attempt.run_id, attempt.parent_run_id)


def test_sync_and_not_streamed(handler: StreamGuardCallbackHandler, receipts: Receipts) -> None:
    """A sync call for a whole answer, of which no chunk is seen, is receipted as well."""
    with run_engine(answer_tokens=20) as engine:
        openai(engine).invoke(QUESTION, with_handler(handler))
        assert (receipts.one.cause, receipts.one.output.value) == (Cause.COMPLETED, 20)


async def test_reasoning_is_counted(
    handler: StreamGuardCallbackHandler, receipts: Receipts
) -> None:
    """Tokens of reasoning that the provider reports are on the receipt."""
    fault = Fault(reasoning_tokens=7)
    async with slow_engine(interval=0.0, answer_tokens=20, fault=fault) as engine:
        model = openai(engine, reasoning_effort="low")
        async for _ in model.astream(QUESTION, with_handler(handler)):
            pass
        assert receipts.one.usage.reasoning.value == 7


async def test_reader_who_leaves(handler: StreamGuardCallbackHandler, receipts: Receipts) -> None:
    """A run whose reader closes the iterator, and one whose task is cancelled, ended with their readers."""
    async with slow_engine() as engine:
        await read(openai(engine).astream(QUESTION, with_handler(handler)), 3)
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT
        assert receipts.one.attempts[0].outcome is AttemptOutcome.CUT

        # Not OpenAI's, which on Python 3.11 swallows a cancellation that comes together with a chunk.
        stream = anthropic(engine).astream(QUESTION, with_handler(handler))
        task = asyncio.create_task(keep(stream, []))
        await engine.wait_until(lambda: len(engine.requests) == 2)
        await engine.wait_until(lambda: engine.requests[1].generated >= LEAD)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await receipts.come(2)
        assert receipts[1].cause is Cause.CLIENT_DISCONNECT


async def test_call_that_is_cancelled_while_it_waits(
    handler: StreamGuardCallbackHandler, receipts: Receipts
) -> None:
    """A run that is cancelled in `ainvoke()`, of which LangChain tells nothing, has ended with its reader."""
    async with slow_engine(first_token_delay=60.0) as engine:
        chain = anthropic(engine) | StrOutputParser()
        task = asyncio.create_task(chain.ainvoke(QUESTION, with_handler(handler)))
        await engine.wait_until(lambda: len(engine.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await receipts.come()
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT
        assert receipts.one.attempts[0].outcome is AttemptOutcome.CUT
        assert handler._runs == {}


async def test_scope_ends(handler: StreamGuardCallbackHandler, receipts: Receipts) -> None:
    """In a request whose reader is gone the next chunk is refused, and nothing more is begun."""
    async with slow_engine(interval=0.3) as engine:
        scope = Scope()
        model = openai(engine)
        with use_scope(scope):
            task = asyncio.create_task(read(model.astream(QUESTION, with_handler(handler)), 10**6))
        await engine.wait_until(lambda: any(each.generated >= LEAD for each in engine.requests))
        generated = engine.requests[0].generated
        scope.disconnected("gone")
        with pytest.raises(ChainStopped):
            await task
        await engine.wait_idle()
        assert engine.requests[0].generated <= generated + 1
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT
        with use_scope(scope), pytest.raises(ChainStopped):
            await model.ainvoke(QUESTION, with_handler(handler))
        assert len(engine.requests) == 1


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_retry_is_an_attempt(
    asynchronous: bool, handler: StreamGuardCallbackHandler, receipts: Receipts
) -> None:
    """What `with_retry` calls again is a further attempt on the same receipt."""
    fault = Fault(status=500, times=1)
    async with slow_engine(interval=0.0, answer_tokens=5, fault=fault) as engine:
        chain = (openai(engine) | StrOutputParser()).with_retry(wait_exponential_jitter=False)
        if asynchronous:
            await chain.ainvoke(QUESTION, with_handler(handler))
        else:
            await asyncio.to_thread(chain.invoke, QUESTION, with_handler(handler))
        receipt = receipts.one
        assert receipt.cause is Cause.COMPLETED
        assert [(each.role, each.outcome) for each in receipt.attempts] == [
            (AttemptRole.FIRST, AttemptOutcome.FAILED),
            (AttemptRole.RETRY, AttemptOutcome.COMPLETED),
        ]


@pytest.mark.parametrize("streamed", [True, False])
async def test_fallback_is_an_attempt(
    streamed: bool, handler: StreamGuardCallbackHandler, receipts: Receipts
) -> None:
    """Another model that is tried after a failure is a fallback on the same receipt."""
    async with (
        slow_engine(fault=Fault(status=500)) as broken,
        slow_engine(interval=0.0, answer_tokens=5) as engine,
    ):
        chain = openai(broken).with_fallbacks([anthropic(engine)])
        if streamed:
            async for _ in chain.astream(QUESTION, with_handler(handler)):
                pass
        else:
            await chain.ainvoke(QUESTION, with_handler(handler))
        receipt = receipts.one
        assert receipt.cause is Cause.COMPLETED
        assert [(each.role, each.provider) for each in receipt.attempts] == [
            (AttemptRole.FIRST, "openai"),
            (AttemptRole.FALLBACK, "anthropic"),
        ]


async def test_failure_that_nobody_makes_good(
    handler: StreamGuardCallbackHandler, receipts: Receipts
) -> None:
    """A failure is a receipt when no further try can come, and no earlier."""
    async with slow_engine(fault=Fault(status=500)) as engine:
        chain = openai(engine) | StrOutputParser()
        with pytest.raises(Exception, match="told to fail"):
            await chain.ainvoke(QUESTION, with_handler(handler))
        assert receipts.one.cause is Cause.PRODUCER_ERROR
        assert receipts.one.attempts[0].error is not None

        def survives(question: str) -> str:
            try:
                return str(chain.invoke(question))
            except Exception:  # noqa: BLE001 - as applications do
                return "sorry"

        assert await RunnableLambda(survives).ainvoke(QUESTION, with_handler(handler)) == "sorry"
        assert [receipt.cause for receipt in receipts] == [Cause.PRODUCER_ERROR] * 2


async def test_shared_by_many_chains(
    handler: StreamGuardCallbackHandler, receipts: Receipts
) -> None:
    """One handler of 100 chains, in tasks and threads, gives every chunk to the right receipt (P42)."""
    async with slow_engine(interval=0.001) as engine:
        chains: list[Runnable[Any, Any]] = [
            openai(engine, model=f"m{most}", max_tokens=most) | StrOutputParser()
            for most in range(3, 103)
        ]

        async def run(chain: Runnable[Any, Any]) -> int:
            return len([1 async for _ in chain.astream(QUESTION, with_handler(handler))])

        def run_in_a_thread(chain: Runnable[Any, Any]) -> int:
            return len(list(chain.stream(QUESTION, with_handler(handler))))

        counts = await asyncio.gather(
            *map(run, chains[::2]),
            *(asyncio.to_thread(run_in_a_thread, chain) for chain in chains[1::2]),
        )
        assert len(receipts) == 100
        found = {receipt.model: receipt for receipt in receipts}
        for index, count in zip([*range(3, 103, 2), *range(4, 103, 2)], counts, strict=True):
            receipt = found[f"m{index}"]
            assert receipt.output.value == index
            assert receipt.produced == count
            assert receipt.max_tokens == index


async def test_own_failure_changes_nothing(
    receipts: Receipts, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong inside of the handler is logged, and the chain's result is what it would have been."""

    class Broken(StreamGuardCallbackHandler):
        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            raise RuntimeError("broken inside")

        def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("broken inside")

    async with slow_engine(interval=0.0, answer_tokens=5) as engine:
        chain = openai(engine) | StrOutputParser()
        wanted = await chain.ainvoke(QUESTION)
        with caplog.at_level(logging.WARNING):
            broken = Broken(on_receipt=receipts.append)
            texts = [text async for text in chain.astream(QUESTION, with_handler(broken))]
        assert "".join(texts) == wanted
        assert "broken inside" in caplog.text


async def test_ledger_comes_first(receipts: Receipts) -> None:
    """The OPEN record is durable before the provider is called; where it cannot be, nothing is called."""

    class Refusing(MemoryLedger):
        def append_open(self, record: OpenRecord) -> Future[None]:
            refused: Future[None] = Future()
            refused.set_exception(LedgerError("the disk is full"))
            return refused

    async with slow_engine(interval=0.0, answer_tokens=5) as engine:
        ledger = MemoryLedger()
        handler = StreamGuardCallbackHandler(ledger=ledger, tags={"tenant": "a"})
        await openai(engine).ainvoke(QUESTION, with_handler(handler))
        assert (len(ledger.opened), len(ledger.receipts)) == (1, 1)
        refusing = StreamGuardCallbackHandler(ledger=Refusing(), on_receipt=receipts.append)
        with pytest.raises(ChainStopped) as stopped:
            await openai(engine).ainvoke(QUESTION, with_handler(refusing))
        assert isinstance(stopped.value.__cause__, LedgerError)
        assert len(engine.requests) == 1
        assert receipts.one.cause is Cause.INTERNAL_ERROR


async def test_reader_leaves_while_the_stream_is_opened(receipts: Receipts) -> None:
    """A reader who leaves while the OPEN record is written has a sealed receipt, and no call was made for him."""
    scope = Scope()

    class Slow(MemoryLedger):
        def append_open(self, record: OpenRecord) -> Future[None]:
            scope.disconnected("gone")
            return super().append_open(record)

    ledger = Slow()
    handler = StreamGuardCallbackHandler(ledger=ledger, on_receipt=receipts.append)
    async with slow_engine() as engine:
        with use_scope(scope), pytest.raises(ChainStopped):
            await openai(engine).ainvoke(QUESTION, with_handler(handler))
        assert len(engine.requests) == 0
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT
        assert (len(ledger.opened), len(ledger.receipts)) == (1, 1)
        assert (handler._runs, scope.members) == ({}, [])


async def test_two_handlers_make_one_receipt(receipts: Receipts) -> None:
    """A run that two handlers see, one of the model's and one of the call's, has one receipt."""
    async with slow_engine(interval=0.0, answer_tokens=5) as engine:
        model = openai(engine, callbacks=[StreamGuardCallbackHandler(on_receipt=receipts.append)])
        other = StreamGuardCallbackHandler(on_receipt=receipts.append)
        await model.ainvoke(QUESTION, with_handler(other))
        assert len(receipts) == 1


async def test_nothing_is_kept(handler: StreamGuardCallbackHandler, receipts: Receipts) -> None:
    """A handler that has seen chains end, fail and be left keeps nothing of them."""
    async with slow_engine(fault=Fault(status=500, times=1), interval=0.01) as engine:
        chain = openai(engine, max_tokens=20) | StrOutputParser()
        with pytest.raises(Exception, match="told to fail"):
            await chain.ainvoke(QUESTION, with_handler(handler))
        await chain.ainvoke(QUESTION, with_handler(handler))
        await read(chain.astream(QUESTION, with_handler(handler)), 2)
        await eventually(lambda: len(receipts) == 3)
        assert (handler._runs, len(handler._tree)) == ({}, 0)
