"""A process that is told to go: what lives in it is ended in order, and its receipts become durable."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from streamguard_core import (
    Cause,
    DrainEnd,
    MemoryLedger,
    RecordedStream,
    Scope,
    Shutdown,
    StreamSession,
    SyncStreamSession,
    UsageError,
    drain,
)
from streamguard_core import shutdown as module
from streamguard_core.shutdown import until_durable, until_durable_sync

from .signals import BOUND, SlowLedger, Stream

pytestmark = pytest.mark.usefixtures("handlers")


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

    def test_a_scope_hands_its_streams_over(self) -> None:
        """What is durable is forgotten, what is not is known by itself; saying so again changes nothing."""
        shutdown, scope, slow = Shutdown(), Scope(), SlowLedger()
        streams = [RecordedStream(ledger=each) for each in (slow, MemoryLedger(), None, slow)]
        for stream in streams:
            stream.start()
        shutdown.add(scope)
        shutdown.release(scope, streams)
        known = [shutdown.live]
        for stream in streams[:3]:
            stream.ended()
            shutdown.release(scope, streams)
            known.append(shutdown.live)
        assert known == [4, 4, 3, 2]
        slow.writing[0].set_result(None)
        assert shutdown.live == 1
        shutdown.cut()
        assert streams[3].cause is Cause.SHUTDOWN

    async def test_waiting_for_what_is_being_written(self) -> None:
        """Only receipts that are on their way are waited for; one that could not be written is over, too."""
        ledger = SlowLedger()
        streams = [RecordedStream(ledger=each) for each in (ledger, ledger, None)]
        for stream in streams:
            stream.start()
        await until_durable(streams)
        until_durable_sync(streams, BOUND)
        streams[0].ended()
        streams[1].ended()
        until_durable_sync(streams, 0)
        waiting = asyncio.create_task(until_durable(streams))
        ledger.writing[0].set_result(None)
        await asyncio.sleep(0)
        assert not waiting.done()
        ledger.writing[1].set_exception(OSError("the disk is full"))
        await waiting
        until_durable_sync(streams, BOUND)

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
