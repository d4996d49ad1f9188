"""What a chain has begun and not waited for calls models when the chain is over, with LangChain's core alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda

from streamguard_core import Cause, MemoryLedger, Scope, current_scope, use_scope
from streamguard_langchain import ChainStopped, guard

from .receipts import BOUND, Receipts, eventually


class Afterwards:
    """A part of a chain that begins a task, which waits until it is told to call a model.

    Args:
        called: what the task calls.
    """

    def __init__(self, called: Runnable[Any, Any]) -> None:
        self._called = called
        self._go_on = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []

    async def begin(self, given: str) -> str:
        """The part."""

        async def later() -> Any:
            await self._go_on.wait()
            return (await self._called.ainvoke(given)).text

        self._tasks.append(asyncio.create_task(later()))
        return given

    async def call(self) -> Any:
        """Let the task call, and return what came of it."""
        self._go_on.set()
        return await self._tasks[0]


def model() -> FakeListChatModel:
    """A model that answers at once."""
    return FakeListChatModel(responses=["late"])


@pytest.mark.parametrize("guarded", [False, True], ids=["model", "guarded-model"])
async def test_after_the_chain(guarded: bool, receipts: Receipts) -> None:
    """A model that is called when its chain has completed answers, and has a receipt of its own."""
    part = Afterwards(guard(model(), on_receipt=receipts.append) if guarded else model())
    chain = guard(RunnableLambda(part.begin), on_receipt=receipts.append)
    assert await chain.ainvoke("?") == "?"
    assert await part.call() == "late"
    await receipts.come(2)
    assert [receipt.cause for receipt in receipts] == [Cause.COMPLETED] * 2
    assert [len(receipt.attempts) for receipt in receipts] == [0, 1]


@pytest.mark.parametrize("guarded", [False, True], ids=["model", "guarded-model"])
async def test_after_a_part_of_a_chain(guarded: bool, receipts: Receipts) -> None:
    """A model that is called when its part of a chain has completed belongs to the stream around it."""
    part = Afterwards(guard(model()) if guarded else model())
    inner = guard(RunnableLambda(part.begin), on_receipt=receipts.append)

    async def outer(given: str) -> Any:
        await inner.ainvoke(given)
        return await part.call()

    chain = guard(RunnableLambda(outer), on_receipt=receipts.append)
    assert await chain.ainvoke("?") == "late"
    assert (receipts.one.cause, len(receipts.one.attempts)) == (Cause.COMPLETED, 1)


async def test_after_a_chain_in_a_request(receipts: Receipts) -> None:
    """In a request that goes on it is the request's: recorded in its ledger, and refused when its reader has left."""

    async def call(leave: Callable[[Scope], object]) -> tuple[Awaitable[Any], MemoryLedger]:
        part, ledger = Afterwards(model()), MemoryLedger()
        scope = Scope(ledger=ledger)
        with use_scope(scope):
            await guard(RunnableLambda(part.begin), on_receipt=receipts.append).ainvoke("?")
            leave(scope)
            return asyncio.ensure_future(part.call()), ledger

    answered, ledger = await call(lambda scope: None)
    assert await answered == "late"
    assert len(ledger.receipts) == 2
    refused, ledger = await call(lambda scope: scope.disconnected("gone"))
    with pytest.raises(ChainStopped):
        await refused
    assert len(ledger.receipts) == 1


async def test_reader_who_left_behind_the_finish(receipts: Receipts) -> None:
    """A reader who leaves behind a provider's finish has completed the stream, and not the chain: nothing is begun."""
    told, gone = threading.Event(), threading.Event()
    refused: list[BaseException] = []

    def go_on(given: str) -> str:
        scope = current_scope()
        assert scope is not None
        assert scope.session is not None
        scope.session.finish("tool_calls")
        told.set()
        gone.wait(BOUND)
        try:
            return model().invoke(given).text
        except BaseException as error:
            refused.append(error)
            raise

    ledger = MemoryLedger()
    chain = guard(RunnableLambda(go_on), ledger=ledger, on_receipt=receipts.append)
    task = asyncio.ensure_future(chain.ainvoke("?"))
    await asyncio.to_thread(told.wait, BOUND)
    task.cancel()
    await eventually(lambda: receipts)
    gone.set()
    await eventually(lambda: refused)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(refused[0], ChainStopped)
    assert (receipts.one.cause, receipts.one.client_left_early) == (Cause.COMPLETED, True)
    assert len(ledger.opened) == 1


_RESOURCE = """
async def resource(closed):
    try:
        yield "open"
    finally:
        closed.append(True)
"""


@pytest.mark.parametrize(
    ("module", "theirs"),
    [
        *[("httpx._models", True), ("openai", True), ("langchain_openai.chat_models", True)],
        *[("shop.pool", False), ("openai_shop.pool", False), ("httpx_pool", False)],
    ],
)
async def test_what_a_chain_leaves_open(module: str, theirs: bool) -> None:
    """A generator of LangChain's or of an SDK's is closed with its chain; an application's own lives on."""
    space: dict[str, Any] = {"__name__": module}
    exec(_RESOURCE, space)  # by the name of its module it is told whose it is
    closed: list[bool] = []
    opened = space["resource"](closed)

    async def part(given: AsyncIterator[Any]) -> AsyncIterator[Any]:
        yield await anext(opened)
        yield "never"

    stream: Any = guard(RunnableGenerator(part)).astream("?")
    async with aclosing(stream):
        assert await anext(stream) == "open"
    assert bool(closed) is theirs
    await opened.aclose()
