"""A handler stands in front of the server's own: each signal is passed on exactly once."""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import threading
from typing import Any

import pytest

from streamguard_core import Shutdown
from streamguard_core import _signal_chain as chain
from streamguard_core._signal_chain import Link, put_in_front, take_back

from .signals import BOUND, HARMLESS, Stream

pytestmark = pytest.mark.usefixtures("handlers")


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
