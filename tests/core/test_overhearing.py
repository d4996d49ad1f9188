"""A signal whose handler is a server's alone is heard of all the same, from a thread."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from streamguard_core import Cause, Shutdown
from streamguard_core import _overhearing as module

from .signals import BOUND, Stream

pytestmark = [
    pytest.mark.usefixtures("handlers"),
    pytest.mark.skipif(not hasattr(socket, "SO_PASSCRED"), reason="only Linux says who wrote"),
]


@pytest.fixture
def shutdown() -> Iterator[Shutdown]:
    """What hears; the descriptor is nobody's afterwards, and before: loops of earlier tests may leave theirs."""
    signal.set_wakeup_fd(-1)
    made = Shutdown(grace=0)
    yield made
    made.uninstall()
    assert signal.set_wakeup_fd(-1) == -1


def server(numbers: list[int]) -> None:
    """A server sets its handlers: last, and for good."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: numbers.append(number))


def test_it_is_heard_behind_a_servers_handler(shutdown: Shutdown) -> None:
    """P19: a handler that is set too late to be in front of is called as ever, and the streams end."""
    stream, called = Stream(), list[int]()
    assert shutdown.overhear()
    assert shutdown.overhear()
    shutdown.install()
    server(called)
    shutdown.add(stream)
    shutdown.listen()
    shutdown.listen()
    signal.raise_signal(signal.SIGTERM)
    assert stream.ended.wait(BOUND)
    assert stream.causes == [Cause.SHUTDOWN]
    assert called == [signal.SIGTERM]


def test_two_requests_at_once_begin_one_thread(
    shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two would close the descriptor twice, and the second time it may be another file's."""
    shutdown.overhear()
    begun: list[object] = []
    start, pid = threading.Thread.start, os.getpid()

    def another_first() -> int:
        monkeypatch.setattr(os, "getpid", lambda: pid)
        shutdown.listen()
        return pid

    def counted(thread: threading.Thread) -> None:
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(os, "getpid", another_first)
    monkeypatch.setattr(threading.Thread, "start", counted)
    shutdown.listen()
    assert len(begun) == 1


def test_what_came_before_anybody_listened_is_heard(shutdown: Shutdown) -> None:
    """The thread begins when something is served; nothing is lost by that."""
    stream = Stream()
    shutdown.overhear()
    server([])
    shutdown.add(stream)
    signal.raise_signal(signal.SIGTERM)
    assert not shutdown.begun
    shutdown.listen()
    assert stream.ended.wait(BOUND)


def test_a_handler_in_front_tells_by_itself(shutdown: Shutdown) -> None:
    """The same signal heard twice would count as a second one, which ends the grace."""
    server([])
    patient = Shutdown(grace=600)
    ear = module.overhear(patient, [signal.SIGTERM])
    assert ear is not None
    stream = Stream()
    patient.add(stream)
    assert patient.install()
    signal.raise_signal(signal.SIGTERM)
    ear._tell(signal.SIGTERM)
    ear.listen()
    ear.uninstall()
    patient.uninstall()
    assert patient.begun
    assert not patient._hurried
    patient.cut()


class Counting(Shutdown):
    """Counts how often it was told."""

    told = 0

    def begin(self) -> None:
        """Note it."""
        self.told += 1


def test_other_signals_and_those_of_nobody_are_none(shutdown: Shutdown) -> None:
    """Only what ends a process counts, and only where a handler has a say in it."""
    counting = Counting()
    ear = module.overhear(counting, [signal.SIGTERM])
    assert ear is not None
    before = signal.signal(signal.SIGURG, lambda number, frame: None)
    signal.raise_signal(signal.SIGURG)
    server([])
    signal.raise_signal(signal.SIGTERM)
    ear.listen()
    ear.uninstall()
    signal.signal(signal.SIGURG, before)
    for each in threading.enumerate():
        if each.name == "streamguard-signals":
            each.join(BOUND)
    assert counting.told == 1
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ear._tell(signal.SIGTERM)
    assert counting.told == 1
    del counting
    ear._tell(signal.SIGTERM)  # nobody is left to be told


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_told_to_go_is_not_this_process(shutdown: Shutdown) -> None:
    """A view may fork; the child writes to the same descriptor, and neither ends its parent nor listens itself."""
    stream = Stream()
    shutdown.overhear()
    server([])
    shutdown.add(stream)
    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        shutdown.listen()
        heard = any(each.name == "streamguard-signals" for each in threading.enumerate())
        os._exit(heard)
    assert os.waitpid(child, 0)[1] == 0
    shutdown.listen()
    assert not stream.ended.wait(0.05)
    signal.raise_signal(signal.SIGTERM)
    assert stream.ended.wait(BOUND)


def test_a_descriptor_that_somebody_has_is_left_alone(shutdown: Shutdown) -> None:
    """Event loops and gunicorn hear of signals that way themselves."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        mine.setblocking(False)
        signal.set_wakeup_fd(mine.fileno())
        assert not shutdown.overhear()
        shutdown.listen()
        assert signal.set_wakeup_fd(-1) == mine.fileno()
        assert shutdown.overhear()
        signal.set_wakeup_fd(mine.fileno())
        shutdown.uninstall()
        assert signal.set_wakeup_fd(-1) == mine.fileno()


def test_only_the_main_thread_can(shutdown: Shutdown) -> None:
    """Elsewhere nothing is taken, and nothing given back."""
    found: list[object] = []
    taking = threading.Thread(target=lambda: found.append(shutdown.overhear()))
    taking.start()
    taking.join(BOUND)
    assert found == [False]
    assert shutdown.overhear()
    giving = threading.Thread(target=shutdown.uninstall)
    giving.start()
    giving.join(BOUND)
    before = signal.set_wakeup_fd(-1)
    assert before != -1
    signal.set_wakeup_fd(before)


def test_a_writer_that_nobody_names_is_not_this_process() -> None:
    """Without credentials a byte is nobody's."""
    assert module._sender([(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"")]) == 0
