"""A process that is told to go: what lives in it is ended in order, and the signal is passed on."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from streamguard_core import (
    Cause,
    DrainEnd,
    MemoryLedger,
    Receipt,
    RecordedStream,
    Scope,
    Shutdown,
    StreamSession,
    SyncStreamSession,
    UsageError,
    drain,
)
from streamguard_core import _signal_chain as chain
from streamguard_core import shutdown as module
from streamguard_core._signal_chain import Link, put_in_front, take_back

BOUND = 10.0
HARMLESS = signal.SIGURG
"""By default it does nothing, so what a process does by default can be looked at from inside."""


class Stream:
    """Something that lives: says when it was ended."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self.ended = threading.Event()

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """Note it."""
        self.causes.append(cause)
        self.ended.set()


class SlowLedger(MemoryLedger):
    """Receipts become durable when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.writing: list[Future[None]] = []

    def append_close(self, receipt: Receipt) -> Future[None]:
        """Begin."""
        self.writing.append(Future())
        return self.writing[-1]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Begin as a fresh process does, and put the handlers back, whatever a test leaves."""
    numbers = (signal.SIGTERM, signal.SIGINT, HARMLESS)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in (signal.SIGTERM, HARMLESS):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def called() -> list[int]:
    """The signals that the server's own handler got."""
    numbers: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    return numbers


class TestEnding:
    """What is known is ended, whoever asks."""

    @pytest.mark.parametrize("name", ["grace", "flush"])
    @pytest.mark.parametrize("value", [-1.0, float("nan")])
    def test_times_are_no_less_than_nothing(self, name: str, value: float) -> None:
        """A negative time is refused where it is written."""
        with pytest.raises(UsageError, match=name):
            Shutdown(**{name: value})

    def test_a_cut_ends_everything(self) -> None:
        """Every member is ended as SHUTDOWN, and the scopes among them end theirs."""
        shutdown, scope, stream = Shutdown(), Scope(), Stream()
        recorded = RecordedStream()
        recorded.start()
        scope.add(recorded)
        shutdown.add(scope)
        shutdown.add(stream)
        shutdown.cut()
        assert stream.causes == [Cause.SHUTDOWN]
        assert recorded.sealed is not None
        assert (recorded.sealed.cause, recorded.sealed.detail) == (Cause.SHUTDOWN, module.DETAIL)

    def test_whoever_comes_later_is_ended_at_once(self) -> None:
        """After the signal nothing is begun any more, also while what runs has its grace."""
        shutdown, first, late = Shutdown(grace=600), Stream(), Stream()
        shutdown.add(first)
        shutdown.begin()
        shutdown.add(late)
        assert late.causes == [Cause.SHUTDOWN]
        assert first.causes == []
        shutdown.begin()
        assert first.ended.wait(BOUND)

    def test_with_nothing_to_end_there_is_nothing_to_wait_for(self) -> None:
        """P20: no thread is started where nothing lives; the process may go."""
        shutdown, threads = Shutdown(grace=600), threading.active_count()
        finished = [shutdown.finished]
        shutdown.begin()
        finished.append(shutdown.finished)
        assert finished == [False, True]
        assert threading.active_count() == threads

    def test_the_grace_is_over_when_nothing_runs(self) -> None:
        """What completes by itself within the grace is not ended; the wait is over with the last one."""
        shutdown, stream = Shutdown(grace=600), Stream()
        shutdown.add(stream)
        shutdown.begin()
        shutdown.discard(stream)
        assert shutdown.finished
        late = Stream()
        shutdown.add(late)
        assert late.causes == [Cause.SHUTDOWN]
        assert stream.causes == []

    def test_a_grace_that_is_over_ends_what_runs(self) -> None:
        """Without a second signal, too."""
        shutdown, stream = Shutdown(grace=0.02), Stream()
        shutdown.add(stream)
        shutdown.begin()
        assert stream.ended.wait(BOUND)

    def test_the_grace_itself(self) -> None:
        """It is over when nothing lives any more, at the second signal, and when its time has come."""
        for second in (True, False):
            shutdown, stream = Shutdown(grace=600), Stream()
            shutdown.add(stream)
            shutdown.begin()
            over = shutdown.begin if second else functools.partial(shutdown.discard, stream)
            threading.Timer(0.02, over).start()
            shutdown._run(float("inf"))
            assert bool(stream.causes) is second
        shutdown, stream = Shutdown(grace=600), Stream()
        shutdown.add(stream)
        shutdown.begin()
        shutdown._run(0)
        assert stream.causes == [Cause.SHUTDOWN]

    def test_a_second_signal_ends_the_grace(self) -> None:
        """Whoever asks twice does not want to wait."""
        shutdown, stream = Shutdown(grace=600), Stream()
        shutdown.add(stream)
        shutdown.begin()
        assert stream.causes == []
        shutdown.begin()
        assert stream.ended.wait(BOUND)

    def test_one_that_fails_does_not_spare_the_others(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What a member raises is logged by its type, and the rest is ended all the same."""

        class Failing(Stream):
            def terminate(self, cause: Cause, detail: str = "") -> None:
                raise ZeroDivisionError("a secret")

        shutdown = Shutdown()
        members = [Failing(), Stream(), Failing(), Stream()]
        for member in members:
            shutdown.add(member)
        with caplog.at_level(logging.ERROR, "streamguard"):
            shutdown.cut()
        assert all(member.causes for member in members if type(member) is Stream)
        assert "ZeroDivisionError" in caplog.text
        assert "secret" not in caplog.text

    def test_what_is_dropped_is_forgotten(self) -> None:
        """The registry keeps nothing alive."""
        shutdown = Shutdown()
        shutdown.add(Stream())
        gc.collect()
        assert shutdown.live == 0

    def test_without_a_thread_nothing_new_is_begun_at_least(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that can start no thread leaves what runs to its server, and passes the signal on."""

        def none_left(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr("_thread.start_new_thread", none_left)
        shutdown, stream = Shutdown(), Stream()
        shutdown.add(stream)
        shutdown.begin()
        assert shutdown.claims_disconnects
        assert stream.causes == []

    def test_a_disconnect_in_the_same_moment_is_the_servers(self) -> None:
        """P21: at the signal and after the cut the server closes connections; during a long grace readers leave."""
        shutdown, stream = Shutdown(grace=600), Stream()
        claims = [shutdown.claims_disconnects]
        shutdown.add(stream)
        shutdown.begin()
        claims.append(shutdown.claims_disconnects)
        shutdown._began = (shutdown._began or 0) - 2
        claims.append(shutdown.claims_disconnects)
        shutdown.cut()
        claims.append(shutdown.claims_disconnects)
        assert claims == [False, True, False, True]

    def test_a_process_may_serve_again(self) -> None:
        """A second run of a server in one process begins anew, once the first is over."""
        shutdown, stream = Shutdown(), Stream()
        shutdown.add(stream)
        shutdown.cut()
        shutdown.rearm()
        begun = [shutdown.begun]
        shutdown.discard(stream)
        shutdown.rearm()
        begun.append(shutdown.begun)
        assert begun == [True, False]
        shutdown.add(stream)
        assert stream.causes == [Cause.SHUTDOWN]


class TestDurable:
    """Nothing goes before its receipt is kept."""

    def test_a_stream_is_held_until_its_receipt_is_durable(self) -> None:
        """Also when nobody else holds it any more."""
        shutdown, ledger = Shutdown(), SlowLedger()
        stream = RecordedStream(ledger=ledger)
        stream.start()
        stream.ended()
        assert stream.durable is ledger.writing[0]
        shutdown.hold(stream)
        del stream
        gc.collect()
        assert shutdown.live == 1
        ledger.writing[0].set_result(None)
        assert shutdown.live == 0

    def test_what_is_durable_is_not_held(self) -> None:
        """Nor is a stream without a ledger."""
        shutdown = Shutdown()
        for ledger in (MemoryLedger(), None):
            stream = RecordedStream(ledger=ledger)
            stream.start()
            assert stream.durable is None
            stream.ended()
            shutdown.hold(stream)
        assert shutdown.live == 0

    def test_a_live_stream_is_known_as_long_as_it_exists(self) -> None:
        """A call that outlives its request is ended by the cut."""
        shutdown, stream = Shutdown(), RecordedStream()
        stream.start()
        shutdown.hold(stream)
        shutdown.cut()
        assert stream.cause is Cause.SHUTDOWN

    async def test_flushing_waits_for_what_is_left(self) -> None:
        """Until nothing is left; or until the time for it is over, and says so."""
        shutdown, stream = Shutdown(flush=BOUND), Stream()
        shutdown.add(stream)
        waiting = asyncio.create_task(shutdown.flushed())
        await asyncio.sleep(0)
        assert not waiting.done()
        shutdown.discard(stream)
        assert await waiting
        impatient = Shutdown(flush=0)
        impatient.add(stream)
        assert not await impatient.flushed()

    def test_flushing_without_a_loop(self) -> None:
        """The same for a host that blocks."""
        shutdown, stream = Shutdown(flush=BOUND), Stream()
        shutdown.add(stream)
        threading.Timer(0.02, shutdown.discard, (stream,)).start()
        assert shutdown.flushed_sync()
        impatient = Shutdown(flush=0)
        impatient.add(stream)
        assert not impatient.flushed_sync()


class TestDrained:
    """A server that goes does not read on for nobody."""

    async def test_a_drain_is_stopped(self) -> None:
        """The cause stays that of the reader; the receipt says that reading on was stopped."""

        async def words() -> AsyncIterator[str]:
            yield "word"
            await asyncio.Event().wait()

        session = StreamSession(words(), on_disconnect=drain(600))
        session.start()
        await session.read_ready()
        session.disconnected()
        assert session.sealed is None
        session.terminate(Cause.SHUTDOWN)
        receipt = await session.receipt()
        assert (receipt.cause, receipt.drain) == (Cause.CLIENT_DISCONNECT, DrainEnd.STOPPED)

    def test_a_drain_without_a_loop_is_stopped(self) -> None:
        """The same while a thread reads on."""
        inside, go = threading.Event(), threading.Event()

        def words() -> Iterator[str]:
            yield "word"
            yield "word"
            inside.set()
            assert go.wait(BOUND)
            yield "word"

        session = SyncStreamSession(words(), on_disconnect=drain(600))
        iterator = iter(session)
        next(iterator)
        reading = threading.Thread(target=iterator.close)  # type: ignore[attr-defined]
        reading.start()
        assert inside.wait(BOUND)
        session.terminate(Cause.SHUTDOWN)
        go.set()
        reading.join(BOUND)
        assert session.receipt().drain is DrainEnd.STOPPED


class TestChain:
    """A handler in front of another one."""

    def test_the_previous_handler_is_called_once(self, called: list[int]) -> None:
        """Per signal, however often it was installed and by however many."""
        first, second = Shutdown(), Shutdown()
        for _ in range(3):
            assert first.install()
            assert second.install()
        signal.raise_signal(signal.SIGTERM)
        assert called == [signal.SIGTERM]
        assert first.begun
        assert second.begun
        signal.raise_signal(signal.SIGTERM)
        assert called == [signal.SIGTERM] * 2

    def test_streams_are_ended_at_the_signal(self, called: list[int]) -> None:
        """And the server hears of it in the same step, so that it takes no new connections."""
        shutdown, stream = Shutdown(grace=0), Stream()
        shutdown.add(stream)
        shutdown.install()
        signal.raise_signal(signal.SIGTERM)
        assert called == [signal.SIGTERM]
        assert stream.ended.wait(BOUND)

    def test_a_server_that_replaces_the_handler_is_chained_again(self) -> None:
        """P19: installed too early it is overwritten; the next time it stands in front of the server's."""
        calls: list[str] = []
        signal.signal(signal.SIGTERM, lambda *_: calls.append("before"))
        shutdown = Shutdown()
        shutdown.install()
        original = signal.signal(signal.SIGTERM, lambda *_: calls.append("server"))
        shutdown.install()
        signal.raise_signal(signal.SIGTERM)
        assert calls == ["server"]
        # What uvicorn does when it has served.
        signal.signal(signal.SIGTERM, original)
        signal.raise_signal(signal.SIGTERM)
        assert calls == ["server", "before"]

    def test_it_can_be_taken_back(self, called: list[int]) -> None:
        """The handler that was there is back; with two, when the last one leaves."""
        before = signal.getsignal(signal.SIGTERM)
        first, second = Shutdown(), Shutdown()
        first.install()
        second.install()
        first.uninstall()
        signal.raise_signal(signal.SIGTERM)
        assert (first.begun, second.begun, called) == (False, True, [signal.SIGTERM])
        second.uninstall()
        assert signal.getsignal(signal.SIGTERM) is before

    def test_whoever_came_in_front_stays(self, called: list[int]) -> None:
        """What is behind somebody else's handler is not taken away under them; it passes the signal on."""
        shutdown = Shutdown()
        shutdown.install()
        in_front = functools.partial(_pass_on, signal.getsignal(signal.SIGTERM))
        signal.signal(signal.SIGTERM, in_front)
        shutdown.uninstall()
        assert signal.getsignal(signal.SIGTERM) is in_front
        signal.raise_signal(signal.SIGTERM)
        assert called == [signal.SIGTERM]
        assert not shutdown.begun

    def test_one_that_is_dropped_is_not_called(self, called: list[int]) -> None:
        """An application that is gone leaves nothing that grows."""
        for _ in range(5):
            Shutdown().install()
        gc.collect()
        last = Shutdown()
        last.install()
        link = signal.getsignal(signal.SIGTERM)
        assert isinstance(link, Link)
        assert len(link._told) == 1

    def test_only_the_main_thread_can(self, called: list[int]) -> None:
        """P19: installed too late it is in a thread; nothing changes then, and the caller is told."""
        shutdown, answers = Shutdown(), list[bool]()
        thread = threading.Thread(target=lambda: answers.append(shutdown.install()))
        thread.start()
        thread.join()
        shutdown.install()
        thread = threading.Thread(target=shutdown.uninstall)
        thread.start()
        thread.join()
        assert answers == [False]
        assert isinstance(signal.getsignal(signal.SIGTERM), Link)

    def test_a_subinterpreter_has_no_say(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """There `signal.signal` raises ValueError: it is as in a thread."""

        def refuses(*_: object) -> None:
            raise ValueError

        monkeypatch.setattr("signal.signal", refuses)
        try:
            assert not Shutdown().install()
        finally:
            monkeypatch.undo()

    def test_an_ignored_signal_stays_ignored(self) -> None:
        """A process that does not go must not end its streams."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert not Shutdown().install()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN

    @pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_DFL])
    def test_ctrl_c_is_the_interpreters_without_a_server(self, handler: Any) -> None:
        """SIGINT is chained where a server handles it, and left alone elsewhere."""
        signal.signal(signal.SIGINT, handler)
        Shutdown().install()
        assert signal.getsignal(signal.SIGINT) == handler

    def test_ctrl_c_of_asyncio_is_left_alone(self) -> None:
        """The handler of `asyncio.run` cancels the main task, and is put back by its own rules."""
        seen: list[Any] = []

        async def main() -> None:
            before = signal.getsignal(signal.SIGINT)
            Shutdown().install()
            seen.extend((before, signal.getsignal(signal.SIGINT)))

        signal.signal(signal.SIGINT, signal.default_int_handler)
        asyncio.run(main())
        assert isinstance(seen[0], functools.partial)
        assert seen[1] is seen[0]

    def test_ctrl_c_of_a_server_is_chained(self) -> None:
        """Uvicorn goes at SIGINT as well."""
        calls: list[int] = []
        signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
        shutdown = Shutdown()
        shutdown.install()
        signal.raise_signal(signal.SIGINT)
        assert (shutdown.begun, calls) == (True, [signal.SIGINT])


class TestDefault:
    """Where there is no handler, the signal does what it does by default, when nothing is left."""

    def _link(self, shutdown: Shutdown) -> Link:
        signal.signal(HARMLESS, signal.SIG_DFL)
        link = put_in_front(HARMLESS, shutdown)
        assert link is not None
        return link

    def _default(self) -> bool:
        return signal.getsignal(HARMLESS) is signal.SIG_DFL

    def test_at_once_without_streams(self) -> None:
        """P20: nothing is waited for."""
        shutdown = Shutdown(flush=600)
        self._link(shutdown)
        signal.raise_signal(HARMLESS)
        assert self._default()
        assert shutdown.begun

    def test_when_the_last_stream_is_over(self) -> None:
        """The process goes on meanwhile: whatever carries the streams may be this very thread."""
        shutdown, stream = Shutdown(grace=0, flush=BOUND), Stream()
        self._link(shutdown)
        shutdown.add(stream)
        signal.raise_signal(HARMLESS)
        assert stream.ended.wait(BOUND)
        assert not self._default()
        shutdown.discard(stream)
        waiting = threading.Event()
        for _ in range(int(BOUND * 100)):
            if self._default():
                break
            waiting.wait(0.01)
        assert self._default()

    def test_at_the_second_signal(self) -> None:
        """Whoever asks twice does not want to wait."""
        shutdown, stream = Shutdown(grace=600), Stream()
        link = self._link(shutdown)
        shutdown.add(stream)
        link(HARMLESS, None)
        link(HARMLESS, None)
        assert self._default()

    @pytest.mark.parametrize("flush", [BOUND, 0.02])
    def test_a_server_that_has_served_and_raises_it_again(self, flush: float) -> None:
        """What is still being written is waited for, within bounds, in the handler: the process ends after it."""
        shutdown, stream = Shutdown(grace=0, flush=flush), Stream()
        self._link(shutdown)
        shutdown.add(stream)
        shutdown.cut()
        if flush == BOUND:
            threading.Timer(0.05, shutdown.discard, (stream,)).start()
        signal.raise_signal(HARMLESS)
        assert self._default()
        assert shutdown.finished is (flush == BOUND)

    @pytest.mark.parametrize("to_threads", [True, False])
    def test_the_signal_is_raised_again(
        self, monkeypatch: pytest.MonkeyPatch, *, to_threads: bool
    ) -> None:
        """In the main thread, where handlers run; on Windows, which cannot choose one, in the process."""
        if not to_threads:
            monkeypatch.delattr("signal.pthread_kill")
        calls: list[int] = []
        signal.signal(HARMLESS, lambda number, frame: calls.append(number))
        chain._die_later(HARMLESS, [])
        assert calls == [HARMLESS]

    def test_without_siginterrupt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Windows has none either."""
        monkeypatch.delattr("signal.siginterrupt")
        shutdown = Shutdown()
        take_back(HARMLESS, self._link(shutdown), shutdown)
        assert self._default()


def _pass_on(handler: Any, number: int, frame: Any) -> None:
    handler(number, frame)
