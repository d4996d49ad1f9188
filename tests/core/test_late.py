"""Tasks that outlive their request are held, and what they raise is logged by type alone."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from streamguard_core.late import Late


async def _raises() -> None:
    raise ValueError("sk-secret")


async def test_a_task_is_held_until_it_is_done() -> None:
    """Whoever began it may forget it: the collector does not take it, and it is let go at its end."""
    late, may_end = Late(), asyncio.get_running_loop().create_future()
    end = weakref.ref(may_end)
    task = asyncio.ensure_future(_waiting(may_end))
    late.keep(task)
    late.keep(task)
    # From here on the task and what it waits for know nobody but one another.
    del may_end, task
    await asyncio.sleep(0)
    gc.collect()
    future = end()
    assert future is not None
    assert len(late) == 1
    future.set_result(None)
    await late.all_done()
    assert len(late) == 0


async def _waiting(future: asyncio.Future[None]) -> None:
    await future


@pytest.mark.parametrize("done", [False, True])
async def test_what_a_task_raises_is_said_without_its_text(
    done: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also of one that was over when it came; nobody else is told, and nothing secret."""
    late, task = Late(), asyncio.ensure_future(_raises())
    if done:
        await asyncio.wait([task])
    late.keep(task)
    await late.all_done()
    assert [record.message for record in caplog.records] == [
        "after the end of a stream, ValueError was raised"
    ]


async def test_a_cancelled_task_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """A loop that is closed cancels what runs on it."""
    late, task = Late(), asyncio.ensure_future(asyncio.Event().wait())
    late.keep(task)
    task.cancel()
    await late.all_done()
    assert caplog.records == []


async def test_what_is_added_while_it_is_waited_for_is_waited_for() -> None:
    """The last receipt's callback may begin another."""
    late, ended = Late(), list[str]()

    async def second() -> None:
        ended.append("second")

    async def first() -> None:
        late.keep(asyncio.ensure_future(second()))

    late.keep(asyncio.ensure_future(first()))
    await late.all_done()
    assert ended == ["second"]
