"""The real openai package on a guarded transport: no line of the application changes."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from streamguard_core import CutOffError, Scope, use_scope
from streamguard_providers import GuardedAsyncTransport, GuardedTransport
from streamguard_testing import LoopbackEngine

from .recorder import Recorder
from .waiting import outcome, until

openai = pytest.importorskip("openai")


def question(**rest: Any) -> dict[str, Any]:
    """The arguments of a streaming call."""
    return {
        "model": "m",
        "messages": [{"role": "user", "content": "Tell me about the river."}],
        "stream": True,
        "max_tokens": 5000,
        **rest,
    }


def caused_by_cutoff(error: BaseException | None) -> bool:
    """Whether a cutoff is behind an SDK's own error."""
    while error is not None:
        if isinstance(error, CutOffError):
            return True
        error = error.__cause__
    return False


@pytest.mark.parametrize("delay", [0.0, 30.0], ids=["streaming", "thinking"])
async def test_async_reader_that_nobody_cancels(
    library: Any, delay: float, collector: bool
) -> None:
    """A background task with an unbounded queue, which nobody cancels, stops the engine."""
    async with LoopbackEngine(tokens_per_second=300, first_token_delay=delay) as engine:
        http = library.AsyncClient(transport=GuardedAsyncTransport())
        client = openai.AsyncOpenAI(
            api_key="k", base_url=engine.openai_url, http_client=http, max_retries=1
        )
        queue: asyncio.Queue[object] = asyncio.Queue()

        async def read_all() -> None:
            async for chunk in await client.chat.completions.create(**question()):
                queue.put_nowait(chunk)

        scope = Scope()
        with use_scope(scope):
            task = asyncio.create_task(read_all())
        if delay:
            await engine.wait_until(lambda: bool(engine.requests))
        else:
            await until(lambda: queue.qsize() > 5)
        scope.disconnected()
        failure = await outcome(task)
        assert isinstance(failure, Exception)
        assert caused_by_cutoff(failure)
        await engine.wait_idle()
        (request,) = engine.requests  # the SDK's retries were refused
        assert request.generated - queue.qsize() < 100
        assert not request.ran_to_end
        await client.close()


@pytest.mark.parametrize("delay", [0.0, 30.0], ids=["streaming", "thinking"])
async def test_sync_reader(library: Any, delay: float) -> None:
    """The sync SDK in a worker thread is let go from the loop's thread."""
    async with LoopbackEngine(tokens_per_second=300, first_token_delay=delay) as engine:
        http = library.Client(transport=GuardedTransport())
        client = openai.OpenAI(
            api_key="k", base_url=engine.openai_url, http_client=http, max_retries=0
        )
        chunks: list[object] = []
        failure: list[BaseException] = []

        def read_all() -> None:
            try:
                chunks.extend(iter(client.chat.completions.create(**question())))
            except Exception as error:  # noqa: BLE001 - looked at below
                failure.append(error)

        scope = Scope()
        with use_scope(scope):
            context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(read_all,), daemon=True)
        thread.start()
        if delay:
            await engine.wait_until(lambda: bool(engine.requests))
        else:
            await until(lambda: chunks)
        scope.disconnected()
        await asyncio.to_thread(thread.join, 5)
        assert caused_by_cutoff(failure[0])
        await engine.wait_idle()
        assert not engine.requests[0].ran_to_end
        client.close()


async def test_a_whole_stream_is_one_attempt(library: Any, engine: LoopbackEngine) -> None:
    """A stream read to its end is an attempt of the session's, and nothing is left behind."""
    http = library.AsyncClient(transport=GuardedAsyncTransport())
    client = openai.AsyncOpenAI(api_key="k", base_url=engine.openai_url, http_client=http)
    scope, session = Scope(), Recorder()
    scope.session = session
    with use_scope(scope):
        stream = await client.chat.completions.create(**question(max_tokens=20))
        chunks = [chunk async for chunk in stream]
        plain = await client.chat.completions.create(**question(max_tokens=5, stream=False))
    assert len(chunks) >= 20
    assert plain.usage.completion_tokens == 5
    assert [attempt.status for attempt in session.attempts] == [200, 200]
    assert session.closers == []
    assert engine.open_connections == 1
    await client.close()
