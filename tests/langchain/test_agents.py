"""Agents and graphs: what calls models on its own initiative ends with its reader, and calls no other."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langchain")

from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph

from streamguard_core import AttemptOutcome, AttemptRole, Cause, CutOffError, Scope, use_scope
from streamguard_langchain import guard
from streamguard_testing import Fault, LoopbackEngine, run_engine

from .receipts import Receipts, eventually
from .rig import LEAD, QUESTION, anthropic, keep, openai, slow_engine


class Texts(TypedDict):
    """The state of a graph: what its nodes have written."""

    texts: Annotated[list[str], operator.add]


def graph(engine: Any, *, asynchronous: bool) -> Any:
    """A compiled graph of two nodes side by side, each with a model."""

    async def awrite(state: Texts) -> Texts:
        return {"texts": [(await openai(engine).ainvoke(QUESTION)).text]}

    def write(state: Texts) -> Texts:
        return {"texts": ["".join(chunk.text for chunk in openai(engine).stream(QUESTION))]}

    node: Callable[..., Any] = awrite if asynchronous else write
    built = StateGraph(Texts)
    for name in ("a", "b"):
        built.add_node(name, node)
        built.add_edge(START, name)
        built.add_edge(name, END)
    return built.compile()


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async-nodes", "sync-nodes"])
async def test_graph_that_is_left(asynchronous: bool, receipts: Receipts) -> None:
    """A graph whose reader leaves stops the models of all its nodes, also of those in threads (P46)."""
    async with slow_engine(interval=0.4) as engine:
        guarded = guard(graph(engine, asynchronous=asynchronous), on_receipt=receipts.append)
        stream: Any = guarded.astream({"texts": []}, stream_mode="messages")
        generated: list[int] = []
        async with asyncio.timeout(20), aclosing(stream) as left:
            async for _ in left:
                generated = [each.generated for each in engine.requests]
                if len(generated) == 2 and min(generated) >= LEAD:
                    break
        await engine.wait_idle()
        after = [each.generated for each in engine.requests]
        assert all(
            late <= max(early, LEAD) + 1 for early, late in zip(generated, after, strict=True)
        )
        await receipts.come()
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT


async def test_graph_that_is_read(receipts: Receipts) -> None:
    """A graph has the methods that it had, and one receipt with the calls of all its nodes."""
    async with slow_engine(interval=0.0, answer_tokens=8) as engine:
        bare = graph(engine, asynchronous=True)
        guarded = guard(bare, on_receipt=receipts.append)
        said = await guarded.ainvoke({"texts": []})
        assert len(said["texts"]) == 2
        assert guarded.get_graph().nodes.keys() == bare.get_graph().nodes.keys()
        assert guarded.stream_mode == bare.stream_mode
        assert receipts.one.cause is Cause.COMPLETED
        assert receipts.one.usage.output.value == 16


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} is known"


@pytest.mark.parametrize("way", ["closed", "cancelled", "scope"])
async def test_agent_that_is_left_in_its_second_round(way: str, receipts: Receipts) -> None:
    """LangChain's agent, left while it answers to a tool's result: at most one further chunk, no third call."""
    calls = Fault(tool_call=True, times=1)
    # The lead is long enough for the whole of the first round.
    async with LoopbackEngine(lead=40, interval=30.0, fault=calls) as engine:
        # Not OpenAI's: on Python 3.11 it swallows a cancellation that comes with a chunk.
        agent = create_agent(anthropic(engine), [look_up])
        guarded = guard(agent, on_receipt=receipts.append)
        scope = Scope()

        def answering() -> bool:
            return len(engine.requests) == 2 and engine.requests[1].generated >= 40

        async def read() -> None:
            given: Any = {"messages": [("user", QUESTION)]}
            stream: Any = guarded.astream(given, stream_mode="messages")
            async with aclosing(stream) as left:
                async for _ in left:
                    if way == "closed" and answering():
                        break

        with use_scope(scope):
            task = asyncio.create_task(read())
        await engine.wait_until(answering)
        if way == "cancelled":
            task.cancel()
        elif way == "scope":
            scope.disconnected("gone")
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        kinds = {"closed": type(None), "cancelled": asyncio.CancelledError, "scope": CutOffError}
        assert type(ended) is kinds[way]
        await engine.wait_idle()
        assert [each.generated for each in engine.requests][1:] == [40]
        await receipts.come()
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT
        assert [attempt.outcome for attempt in receipts.one.attempts] == [
            AttemptOutcome.COMPLETED,
            AttemptOutcome.CUT,
        ]


async def test_graph_that_is_left_in_its_second_round(receipts: Receipts) -> None:
    """The same of an agent that an application has built as a graph of its own."""
    async with LoopbackEngine(fault=Fault(tool_call=True, times=1)) as quick, slow_engine() as slow:
        calls = 0

        def choose(state: Any) -> Any:
            nonlocal calls
            calls += 1
            # Not OpenAI's for the second: on Python 3.11 it swallows a cancellation that comes with a chunk.
            return openai(quick) if calls == 1 else anthropic(slow)

        built = StateGraph(Texts)

        async def think(state: Texts) -> Texts:
            model = choose(state).bind_tools([look_up])
            answer = None
            async for chunk in model.astream(QUESTION):
                answer = chunk if answer is None else answer + chunk
            assert answer is not None
            if answer.tool_calls:
                known = await look_up.ainvoke({"word": "river"})
                return {"texts": [known]}
            return {"texts": [answer.text, "done"]}

        built.add_node("think", think)
        built.add_edge(START, "think")
        built.add_conditional_edges(
            "think", lambda state: END if "done" in state["texts"] else "think"
        )
        guarded = guard(built.compile(), on_receipt=receipts.append)
        came: list[Any] = []
        stream: AsyncIterator[Any] = guarded.astream({"texts": []}, stream_mode="messages")
        task = asyncio.create_task(keep(stream, came))
        await eventually(lambda: slow.requests and slow.requests[0].generated >= LEAD)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await slow.wait_idle()
        assert slow.requests[0].generated <= LEAD
        assert (len(quick.requests), len(slow.requests), calls) == (1, 1, 2)
        await receipts.come()
        assert [attempt.outcome for attempt in receipts.one.attempts] == [
            AttemptOutcome.COMPLETED,
            AttemptOutcome.CUT,
        ]


# What the oldest langchain-core says to a newer tenacity.
@pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning")
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_reader_leaves_during_a_back_off(asynchronous: bool, receipts: Receipts) -> None:
    """A chain that waits for its next retry makes no further call for a reader who left."""
    async with slow_engine(fault=Fault(status=503)) as engine:
        retried = openai(engine).with_retry(
            exponential_jitter_params={"initial": 0.5, "jitter": 0.0}, stop_after_attempt=5
        )
        chain = guard(retried, on_receipt=receipts.append)
        scope = Scope()
        with use_scope(scope):
            work: Any = (
                chain.ainvoke(QUESTION)
                if asynchronous
                else asyncio.to_thread(chain.invoke, QUESTION)
            )
            task = asyncio.create_task(work)
        await engine.wait_until(lambda: len(engine.requests) == 2)
        await engine.wait_idle()
        scope.disconnected("gone")
        with pytest.raises(CutOffError):
            await task
        await receipts.come()
        assert len(engine.requests) == 2
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT
        roles = [attempt.role for attempt in receipts.one.attempts]
        assert roles == [AttemptRole.FIRST, AttemptRole.RETRY]


@pytest.mark.parametrize("inside", [True, False], ids=["all-guarded", "first-guarded"])
async def test_no_fallback_for_a_reader_who_left(inside: bool, receipts: Receipts) -> None:
    """What ends a call for a reader who left is no failure that a fallback makes good (P38)."""
    async with slow_engine(first_token_delay=60.0) as engine, slow_engine() as other:
        first: Any = openai(engine)
        scope = Scope()
        chain: Any = (
            guard(first.with_fallbacks([anthropic(other)]), on_receipt=receipts.append)
            if inside
            else guard(first, on_receipt=receipts.append).with_fallbacks([anthropic(other)])
        )
        with use_scope(scope):
            task = asyncio.create_task(chain.ainvoke(QUESTION))
        await engine.wait_until(lambda: bool(engine.requests))
        scope.disconnected("gone")
        failure: list[BaseException] = []
        try:
            await task
        except BaseException as error:  # noqa: BLE001 - it is what this is about
            failure.append(error)
        assert isinstance(failure[0], CutOffError) is inside
        await engine.wait_idle()
        assert len(other.requests) == 0
        assert receipts.one.cause is Cause.CLIENT_DISCONNECT


async def test_retry_of_an_application(receipts: Receipts) -> None:
    """An application that tries again on any exception does not do so for a reader who left."""
    async with slow_engine() as engine:

        async def insist(question: str) -> str:
            for _ in range(5):
                try:
                    return (await openai(engine).ainvoke(question, stream=True)).text
                except Exception:  # noqa: BLE001 - as applications do
                    continue
            return "gave up"

        chain = guard(RunnableLambda(insist), on_receipt=receipts.append)
        scope = Scope()
        with use_scope(scope):
            task = asyncio.create_task(chain.ainvoke(QUESTION))
        await engine.wait_until(lambda: any(each.generated >= LEAD for each in engine.requests))
        scope.disconnected("gone")
        with pytest.raises(CutOffError):
            await task
        await engine.wait_idle()
        assert len(engine.requests) == 1


def test_batch_has_a_receipt_per_run(receipts: Receipts) -> None:
    """The runs of a batch are streams of their own, each with its receipt."""
    with run_engine(answer_tokens=6) as engine:
        chain = guard(openai(engine), on_receipt=receipts.append)
        answers = chain.batch([QUESTION, QUESTION, QUESTION])
        assert [receipt.output.value for receipt in receipts] == [6, 6, 6]
        assert len(answers) == 3
