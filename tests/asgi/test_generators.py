"""Which generators of a request are ended with it, and which are somebody's to keep."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from streamguard_asgi import StreamGuardMiddleware
from streamguard_core.generators import unwatch_generators, watch_generators

from .driver import Engine, Server, eventually

START = {"type": "http.response.start", "status": 200, "headers": []}


def chunk(text: str) -> dict[str, Any]:
    """A part of a response."""
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}


async def left(app: Any, engine: Engine | None = None) -> Server:
    """Run a request whose reader leaves in the middle of a send; `engine` makes its tokens for it."""
    async with Server(StreamGuardMiddleware(app)) as server:
        await server.until(lambda: bool(server.bodies))
        server.stall()
        if engine is not None:
            engine.make(9)
        await eventually(lambda: server.senders)
        server.leave(release=False)
        await server.ended()
    return server


async def test_from_the_outermost_on() -> None:
    """A generator's own cleanup comes before that of the generators it iterates, as in `aclosing`."""
    closed: list[str] = []
    held: list[Any] = []
    engine = Engine(1)

    def named(name: str, inner: Any) -> AsyncGenerator[str, None]:
        async def generator() -> AsyncGenerator[str, None]:
            try:
                async for text in inner:
                    yield text
            finally:
                await asyncio.sleep(0)
                closed.append(name)

        held.append(generator())
        made: AsyncGenerator[str, None] = held[-1]
        return made

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        async for text in named("outer", named("middle", engine.stream())):
            await send(chunk(text))

    await left(app, engine)
    assert closed == ["outer", "middle"]


async def test_an_iterator_that_passes_a_generator_on() -> None:
    """A class with `__anext__` around a generator is iterated, and so is what is inside."""
    engine = Engine(1)

    class Passing:
        def __init__(self) -> None:
            self._inner = engine.stream()

        def __aiter__(self) -> Passing:
            return self

        async def __anext__(self) -> str:
            return await self._inner.__anext__()

    passing = Passing()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        async for text in passing:
            await send(chunk(text))

    await left(app, engine)
    assert engine.closed


async def test_what_a_context_manager_holds_is_left_alone() -> None:
    """An application's resource, entered by its first request, outlives that request's reader."""
    engine, exited = Engine(9), list[str]()
    stack = contextlib.AsyncExitStack()

    @contextlib.asynccontextmanager
    async def resource() -> AsyncIterator[Any]:
        async for text in engine.stream():
            try:
                yield text
                break
            finally:
                exited.append(text)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        text = await stack.enter_async_context(resource())
        while True:
            await send(chunk(text))
            await asyncio.sleep(0)

    await left(app)
    assert exited == []
    assert not engine.closed
    await stack.aclose()
    assert exited == ["token1 "]
    assert engine.generated == 1


async def test_what_somebody_asks_for_himself_is_left_alone() -> None:
    """A container keeps the generators of its resources, and asks each for one item."""
    engine = Engine(9)
    kept = engine.stream()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        text = await anext(kept)
        while True:
            await send(chunk(text))
            await asyncio.sleep(0)

    await left(app)
    assert not engine.closed
    assert await anext(kept) == "token2 "
    await kept.aclose()


async def test_a_live_task_goes_on() -> None:
    """An application's own work, begun in a request, iterates on after its reader has left."""
    engine, tasks, seen = Engine(1), list[asyncio.Task[None]](), list[str]()

    async def work() -> None:
        async for text in engine.stream():
            seen.append(text)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(work()))
        await send(START)
        while True:
            await send(chunk("a"))
            await asyncio.sleep(0)

    await left(app)
    engine.make(2)
    engine.finish()
    await tasks[0]
    assert len(seen) == 3


async def test_a_complete_response_changes_nothing() -> None:
    """What an application keeps of an answer that was read to its end is its own."""
    engine = Engine(9)
    kept = engine.stream()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        async for text in kept:
            await send(chunk(text))
            break
        await send({"type": "http.response.body"})

    await Server(StreamGuardMiddleware(app)).run()
    assert not engine.closed
    await kept.aclose()


async def test_a_cleanup_that_raises_is_logged_by_its_type_alone(caplog: Any) -> None:
    """The text of an error may quote a prompt."""
    held: list[Any] = []

    async def failing() -> AsyncIterator[str]:
        try:
            while True:
                yield "a"
                await asyncio.sleep(0)
        finally:
            raise RuntimeError("the prompt")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        held.append(failing())
        await send(START)
        async for text in held[0]:
            await send(chunk(text))

    await left(app)
    assert "RuntimeError" in caplog.text
    assert "prompt" not in caplog.text


async def test_the_hook_stands_once_over_the_loops_own() -> None:
    """However many requests come, the loop's hook is called once per generator, and ours can be taken out."""
    before = sys.get_asyncgen_hooks().firstiter
    watch_generators()
    first = sys.get_asyncgen_hooks().firstiter
    watch_generators()
    assert sys.get_asyncgen_hooks().firstiter is first
    engine = Engine(1)
    generator = engine.stream()
    await anext(generator)
    loop: Any = asyncio.get_running_loop()
    assert generator in loop._asyncgens
    unwatch_generators()
    assert sys.get_asyncgen_hooks().firstiter == before
    await generator.aclose()
