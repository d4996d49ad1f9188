"""A forked child writes a file of its own, and never touches its parent's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from streamguard_ledger import SQLiteLedger, WriterState, read_receipts, read_records, verify

Run = Callable[..., str]

FORK = """
import atexit, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of any fork beside a thread
def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            atexit._run_exitfuncs()  # as a process that ends in order
            os._exit(0)
        finally:
            os._exit(1)
    return pid
def succeeded(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
ledger = SQLiteLedger(sys.argv[1])
ledger.append_open(opening("parent")).result()
"""


def _writers_of(path: Path) -> dict[str, str]:
    """Which writer holds the OPEN of a stream."""
    return {
        record.data["stream_id"]: record.writer
        for record in read_records(path)
        if record.data["kind"] == "OPEN"
    }


def test_a_child_writes_its_own_file(path: Path, run: Run) -> None:
    """Parent and child write at the same time, each in its own chain, and both are whole."""
    run(
        FORK
        + """
def work():
    ledger.append_open(opening("child")).result()
    ledger.append_close(closing("child")).result()
    ledger.close()
pid = child(work)
ledger.append_close(closing("parent")).result()
assert succeeded(pid)
ledger.close()
""",
        path,
    )
    writers = _writers_of(path)
    assert writers["parent"] != writers["child"]
    report = verify(path)
    assert report.ok
    assert {writer.state for writer in report.writers} == {WriterState.CLOSED}
    assert report.open_streams == 0


def test_a_child_that_writes_nothing_leaves_no_trace(path: Path, run: Run) -> None:
    """A child may exit in order, with its ledger inherited: the parent's file is not its own."""
    run(
        FORK
        + """
pid = os.fork()
if pid == 0:
    sys.exit(0)  # in order: what the parent wants done at exit is not the child's
assert succeeded(pid)
ledger.append_close(closing("parent")).result()
ledger.close()
""",
        path,
    )
    assert [record.data["kind"] for record in read_records(path)] == [
        "WRITER_OPEN",
        "OPEN",
        "CLOSE",
        "WRITER_CLOSE",
    ]


def test_a_child_ends_whatever_its_parent_was_doing(path: Path, run: Run) -> None:
    """A lock that a thread of the parent held at the fork stops no child from ending or writing."""
    run(
        FORK
        + """
import threading
held, done = threading.Event(), threading.Event()
def hold():
    with ledger._writer._inbox._changed:
        held.set()
        done.wait()
thread = threading.Thread(target=hold, daemon=True)
thread.start()
held.wait()
pids = []
for writes in (False, True):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # a child that waits for ever is killed
        if writes:
            ledger.append_open(opening("child")).result()
        sys.exit(0)
    pids.append(pid)
assert [succeeded(pid) for pid in pids] == [True, True]
done.set()
thread.join()
ledger.close()
""",
        path,
    )
    assert set(_writers_of(path)) == {"parent", "child"}


def test_grandchildren_have_files_too(path: Path, run: Run) -> None:
    """Every process of a family has a chain of its own."""
    run(
        FORK
        + """
def grandchild():
    ledger.append_open(opening("grandchild")).result()
    ledger.close()
def work():
    ledger.append_open(opening("child")).result()
    assert succeeded(child(grandchild))
    ledger.append_open(opening("child again")).result()
    ledger.close()
assert succeeded(child(work))
ledger.close()
""",
        path,
    )
    writers = _writers_of(path)
    assert len({writers["parent"], writers["child"], writers["grandchild"]}) == 3
    assert writers["child"] == writers["child again"]
    assert not verify(path).problems


def test_a_child_of_a_child_that_wrote_nothing_writes(path: Path, run: Run) -> None:
    """Between two forks a ledger may have no file at all."""
    run(
        FORK
        + """
def grandchild():
    ledger.append_open(opening("grandchild")).result()
    ledger.close()
def work():
    assert succeeded(child(grandchild))
assert succeeded(child(work))
ledger.close()
""",
        path,
    )
    assert set(_writers_of(path)) == {"parent", "grandchild"}
    assert len(list((path / "writers").glob("*.db"))) == 2


def test_threads_of_a_child_share_its_file(path: Path, run: Run) -> None:
    """Whichever thread writes first starts the file, and the others wait for it."""
    run(
        FORK
        + """
import threading
def work():
    gate = threading.Barrier(8)
    def write(name):
        gate.wait()
        ledger.append_open(opening(name)).result()
    threads = [threading.Thread(target=write, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
assert succeeded(child(work))
ledger.close()
""",
        path,
    )
    writers = _writers_of(path)
    assert len(writers) == 9
    assert len(set(writers.values())) == 2


def test_a_child_of_a_closed_ledger_is_refused(path: Path, run: Run) -> None:
    """What the parent closed stays closed."""
    said = run(
        FORK
        + """
ledger.close()
def work():
    print(ledger.append_open(opening("child")).exception(), flush=True)
    ledger.close()
assert succeeded(child(work))
""",
        path,
    )
    assert "the ledger is closed" in said
    assert len(list((path / "writers").glob("*.db"))) == 1


def test_a_child_without_a_disk_is_refused(path: Path, run: Run) -> None:
    """A child that cannot have a file gets the error in its future, with its receipt."""
    run(
        FORK
        + """
import resource
def work():
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    receipt = closing("child")
    error = ledger.append_close(receipt).exception()
    assert isinstance(error, LedgerError), error
    assert "cannot write a new file" in str(error)
    assert error.receipt is receipt
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert succeeded(child(work))
ledger.close()
""",
        path,
    )


def test_forks_in_the_middle_of_writing_harm_nobody(path: Path, run: Run) -> None:
    """A child is never born with SQLite's mutexes locked: 25 forks beside a busy thread."""
    run(
        FORK
        + """
import threading
stop = threading.Event()
def busy():
    number = 0
    while not stop.is_set():
        ledger.append_open(opening(f"busy{number}")).result()
        number += 1
thread = threading.Thread(target=busy)
thread.start()
def work(name):
    ledger.append_open(opening(name)).result()
    ledger.append_close(closing(name)).result()
    ledger.close()
pids = [child(lambda: work(f"child{number}")) for number in range(25)]
assert all([succeeded(pid) for pid in pids])
stop.set()
thread.join()
ledger.close()
""",
        path,
    )
    sealed = {one["stream_id"] for one in read_receipts(path) if one["sealed"]}
    assert sealed == {f"child{number}" for number in range(25)}
    assert verify(path).problems == ()


def test_a_ledger_that_was_dropped_is_not_told_of_forks(path: Path, run: Run) -> None:
    """A fork after a ledger is gone finds nothing to do."""
    run(
        FORK
        + """
import gc
warnings.simplefilter("ignore")
ledger = None
gc.collect()
assert succeeded(child(lambda: None))
""",
        path,
    )
    assert verify(path).exit_code == 3


def test_a_child_that_outlives_its_parent_does_not_keep_its_lock(
    path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    """A killed parent is recovered although its child, which inherited everything, still lives."""
    parent = spawn(
        FORK
        + """
def outlive():
    print(os.getpid(), flush=True)  # born: what runs in a child behind the fork has run
    sys.stdin.read()  # until the test lets go
os.waitpid(child(outlive), 0)
""",
        path,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    os.kill(pid, 0)  # the child lives
    SQLiteLedger(path).close()
    (found,) = read_receipts(path)
    assert found["cause"] == "CRASHED"
    assert verify(path).ok


def test_a_fork_waits_until_nobody_is_inside_sqlite(path: Path, run: Run) -> None:
    """A child inherits locked mutexes for ever, so a fork waits for the writing thread."""
    run(
        FORK
        + """
import threading
order = []
entered = threading.Event()
os.register_at_fork(before=entered.set)  # runs before the ledger's own
def fork():
    pid = child(lambda: None)
    order.append("forked")
    assert succeeded(pid)
thread = threading.Thread(target=fork)
with ledger._writer.busy:
    thread.start()
    entered.wait()
    for _ in range(200_000):  # let the other thread run, if nothing holds it
        assert order == []
    order.append("released")
thread.join()
assert order == ["released", "forked"], order
ledger.close()
""",
        path,
    )
