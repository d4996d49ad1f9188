"""Tests of the virtual clock and the jumping loop."""

from __future__ import annotations

import asyncio
import queue
import selectors
import socket
import threading
import time

import pytest

from streamguard_core import UsageError
from streamguard_core.testing import Deadlock, JumpingLoop, ManualClock, jumping_loop, run, settled


def loop_here() -> JumpingLoop:
    """Return the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    return loop


def test_manual_clock_moves_only_when_it_is_advanced() -> None:
    """Both clocks of a ManualClock stand still between two advances."""
    clock = ManualClock(5, 7)
    assert (clock.monotonic_ns(), clock.wall_us()) == (5, 7)
    clock.advance(0.5)
    assert (clock.monotonic_ns(), clock.wall_us()) == (500_000_005, 500_007)


def test_manual_clock_lets_only_wall_time_step_back() -> None:
    """Wall time may be set back; monotonic time refuses to go back and says so."""
    clock = ManualClock()
    clock.step_wall(-1)
    assert (clock.monotonic_ns(), clock.wall_us()) == (0, -1_000_000)
    with pytest.raises(UsageError, match=r"advance.-1. was called; time goes on"):
        clock.advance(-1)


def test_an_hour_takes_no_time() -> None:
    """The loop jumps to the next timer instead of waiting for it."""

    async def main() -> tuple[float, list[str]]:
        done: list[str] = []

        async def after(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            done.append(name)

        await asyncio.gather(after(3600, "hour"), after(60, "minute"))
        return asyncio.get_running_loop().time(), done

    began = time.monotonic()
    assert run(main()) == (3600.0, ["minute", "hour"])
    assert time.monotonic() - began < 60


def test_deadlock_says_who_waits_where() -> None:
    """When nothing is left to wait for, the error names the tasks and the lines they wait in."""

    async def starved() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(starved(), name="the hungry one")

    with pytest.raises(Deadlock) as caught:
        run(main())
    assert "the hungry one: test_deadlock_says_who_waits_where.<locals>.starved" in str(
        caught.value
    )
    assert "test_testing_loop.py" in str(caught.value)


def test_deadlock_without_a_task() -> None:
    """A loop that somebody runs for ever without a task is a deadlock, too."""
    loop = jumping_loop()
    with pytest.raises(Deadlock, match="no task"):
        loop.run_forever()
    loop.close()


def test_a_task_that_was_never_begun_is_named() -> None:
    """The report does not break on a task that is no coroutine's."""

    async def main() -> None:
        await asyncio.gather(asyncio.get_running_loop().create_future())

    with pytest.raises(Deadlock, match="main"):
        run(main())


def test_a_deaf_task_left_behind_is_a_deadlock() -> None:
    """`run` does not hide a task that ignores its cancellation after `main` has returned."""

    async def deaf() -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    tasks: list[asyncio.Task[None]] = []

    async def main(fail: bool) -> None:
        tasks.append(asyncio.create_task(deaf(), name="deaf"))
        await asyncio.sleep(0)
        if fail:
            raise ValueError

    with pytest.raises(Deadlock, match="deaf"):
        run(main(False))
    with pytest.raises(ValueError):  # noqa: PT011 - the first failure is the one to show
        run(main(True))
    for task in tasks:
        # Nobody can end it; do not let the collector complain about it.
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_timer_set_for_ever_is_found_out() -> None:
    """Time does not run on without end: the horizon is a deadlock."""

    async def main() -> None:
        for _ in range(1000):
            await asyncio.sleep(60)

    with pytest.raises(Deadlock, match="the horizon is reached"):
        run(main(), loop=JumpingLoop(horizon=600))


def test_a_thread_that_works_is_waited_for_really() -> None:
    """A timer of the loop does not overtake a thread that still computes."""

    async def main() -> list[str]:
        loop, seen = loop_here(), list[str]()
        done = asyncio.Event()

        def work() -> None:
            sum(range(200_000))
            loop.call_soon_threadsafe(seen.append, "thread")
            loop.call_soon_threadsafe(done.set)

        loop.call_later(1, seen.append, "timer")
        threading.Thread(target=work).start()
        await done.wait()
        await asyncio.sleep(2)
        return seen

    assert run(main()) == ["thread", "timer"]


def test_a_thread_that_waits_does_not_hold_time_up() -> None:
    """A thread that only the loop can wake counts as waiting, and counts as working once it was woken."""

    async def main() -> list[str]:
        loop, seen = loop_here(), list[str]()
        given: queue.Queue[str] = queue.Queue()
        got = asyncio.Event()

        def work() -> None:
            seen.append(given.get())
            loop.call_soon_threadsafe(got.set)

        threading.Thread(target=work).start()
        await asyncio.sleep(3600)
        given.put("an hour later")
        # A second timer must not overtake the thread on its way.
        loop.call_later(1, seen.append, "timer")
        await got.wait()
        return seen

    assert run(main()) == ["an hour later"]


def test_a_thread_that_waits_for_ever_is_a_deadlock() -> None:
    """Two sides that wait for each other are found out though one is a thread."""
    never = threading.Event()

    async def main() -> None:
        threading.Thread(target=never.wait).start()
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(main())
    never.set()


def test_a_thread_that_works_too_long_is_a_deadlock() -> None:
    """Patience with threads is limited, and the thread is named."""
    never = threading.Event()

    async def main() -> None:
        # A timed wait ends by itself, so it counts as work.
        threading.Thread(target=never.wait, args=(60,), name="slow one").start()
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="slow one"):
        run(main(), loop=JumpingLoop(patience=0.01))
    never.set()


def test_calls_in_an_executor_are_waited_for() -> None:
    """`asyncio.to_thread` works, and an idle worker thread does not hold time up afterwards."""

    async def main() -> tuple[int, float]:
        result = await asyncio.to_thread(sum, range(100_000))
        await asyncio.sleep(10)
        return result, asyncio.get_running_loop().time()

    assert run(main()) == (4999950000, 10.0)


def test_a_call_in_an_executor_may_wait_for_the_loop() -> None:
    """A worker thread that waits inside a call is one that waits."""

    async def main() -> bool:
        woken = threading.Event()
        call = asyncio.ensure_future(asyncio.to_thread(woken.wait))
        await asyncio.sleep(5)
        woken.set()
        return await call

    assert run(main())


def test_sleeping_in_a_thread_is_virtual() -> None:
    """A thread that sleeps in the loop's time wakes at its instant, or when the loop is closed."""

    async def main() -> float:
        loop, times = loop_here(), list[float]()

        def work() -> None:
            loop.sleep_in_thread(1800)
            loop.call_soon_threadsafe(lambda: times.append(loop.time()))

        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.sleep(3600)
        thread.join()
        # This one is woken by the loop's close.
        threading.Thread(target=loop.sleep_in_thread, args=(9,)).start()
        await settled()
        return times[0]

    assert run(main()) == 1800.0


def test_settled_lets_no_time_pass() -> None:
    """`settled()` returns when all others wait, before any timer."""

    async def main() -> tuple[list[int], float]:
        seen: list[int] = []

        async def steps() -> None:
            for number in range(20):
                seen.append(number)
                await asyncio.sleep(0)
            await asyncio.sleep(1)
            seen.append(99)

        task = asyncio.create_task(steps())
        waiter = asyncio.create_task(settled())
        await asyncio.sleep(0)
        # One that waits no more keeps nobody waiting.
        waiter.cancel()
        await settled()
        result = list(seen), asyncio.get_running_loop().time()
        await task
        return result

    assert run(main()) == (list(range(20)), 0.0)


def test_settled_needs_a_jumping_loop() -> None:
    """On a real loop nobody knows when all others wait."""
    with pytest.raises(
        UsageError, match=r"settled\(\) was awaited on a .*EventLoop; run it with run"
    ):
        asyncio.run(settled())


def test_sockets_are_served() -> None:
    """Real file descriptors work on the loop."""

    async def main() -> bytes:
        loop = loop_here()
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.setblocking(False)
            received = asyncio.create_task(loop.sock_recv(here, 10))
            await settled()
            await loop.sock_sendall(there, b"hello")
            return await received

    assert run(main()) == b"hello"


async def test_streams_of_asyncio_work() -> None:
    """A transport registers, changes and removes its descriptor as on any loop."""
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)
    other_reader, other_writer = await asyncio.open_connection(sock=there)
    writer.write(b"x" * 1_000_000)
    assert len(await other_reader.readexactly(1_000_000)) == 1_000_000
    for end in (writer, other_writer):
        end.close()
        await end.wait_closed()
    assert await reader.read() == b""


def test_the_selector_is_a_whole_one() -> None:
    """What asyncio does not use of a selector is there as well."""
    here, there = socket.socketpair()
    loop = jumping_loop()
    with here, there:
        selector = loop._selector  # type: ignore[attr-defined]
        selector.register(here, selectors.EVENT_READ, "mine")
        assert selector.modify(here, selectors.EVENT_READ, "yours").data == "yours"
        assert selector.get_key(here).data == "yours"
        assert selector.get_map()[here].data == "yours"
        selector.unregister(here)
    loop.close()
