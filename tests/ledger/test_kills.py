"""Processes are killed and race at every step: nothing acknowledged is lost, nothing doubled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamguard_core import OpenRecord, Receipt
from streamguard_ledger import (
    SQLiteLedger,
    read_receipts,
    verify,
)

from .reading_back import crashed_in, records_in, recovered_in

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]
Run = Callable[..., str]
Spawn = Callable[..., subprocess.Popen[str]]
Edit = Callable[..., Any]

# Children of one process: they start in milliseconds and are killed for real.
FAMILY = """
import random, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
path = sys.argv[1]
def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid
def exit_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def leave_open(count):
    def work():
        ledger = SQLiteLedger(path)
        for future in [ledger.append_open(opening(f"s{n}", max_tokens=9)) for n in range(count)]:
            future.result()
        die()
    assert exit_of(child(work)) == -signal.SIGKILL
"""


def test_recovery_is_done_once(path: Path, run: Run) -> None:
    """Later starts write nothing about a process that was recovered."""
    run(FAMILY + "leave_open(3)", path)
    for _ in range(3):
        SQLiteLedger(path).close()
    assert crashed_in(path) == ["s0", "s1", "s2"]
    ends = recovered_in(path)
    # The killed one, and each of the two that were closed in order and have a successor.
    assert [end["closed"] for end in ends] == [3, 0, 0]
    assert len({end["head"]["writer"] for end in ends}) == 3
    assert verify(path).ok


def test_a_lost_note_of_a_recovery_does_no_harm(path: Path, run: Run) -> None:
    """The note in the lock file only saves time: without it recovery finds nothing to do."""
    run(FAMILY + "leave_open(3)", path)
    SQLiteLedger(path).close()
    for lock in (path / "writers").glob("*.lock"):
        lock.write_bytes(b"")
    SQLiteLedger(path).close()
    assert crashed_in(path) == ["s0", "s1", "s2"]
    assert verify(path).ok


# Kills a start of the ledger at one of its steps, counted from the outside.
KILLED_AT = (
    FAMILY
    + """
from streamguard_ledger import recovery, chainfile, folder
recovery._BATCH = 2
def killed_at(path, step):
    left = [step]
    def counted(original):
        def call(*arguments, **options):
            result = original(*arguments, **options)
            left[0] -= 1
            if left[0] < 0:
                die()
            return result
        return call
    def work():
        for owner, name in (
            (chainfile.ChainFile, "insert"), (chainfile.ChainFile, "_begin"),
            (recovery, "_examine"), (recovery, "_drop_closed_elsewhere"), (recovery, "_write"),
            (folder.FileLock, "settle"), (folder.FileLock, "release"),
        ):
            setattr(owner, name, counted(getattr(owner, name)))
        SQLiteLedger(path).close()
    return exit_of(child(work))
"""
)


def test_recovery_can_be_killed_anywhere(path: Path, run: Run) -> None:
    """P20: killed at any one of its steps, recovery never yields two receipts, nor none."""
    said = run(
        KILLED_AT
        + """
import shutil
leave_open(3)
for step in range(200):
    copy = f"{path}-{step}"
    shutil.copytree(path, copy)
    code = killed_at(copy, step)
    assert code in (0, -signal.SIGKILL)
    assert not verify(copy).problems, (step, verify(copy))
    SQLiteLedger(copy).close()
    report = verify(copy)
    assert report.ok, (step, report)
    causes = [one["cause"] for one in read_receipts(copy)]
    closes = [one for one in read_records(copy) if one.data["kind"] == "CLOSE"]
    assert causes == ["CRASHED"] * 3 and len(closes) == 3, (step, causes)
    if code == 0:
        break
print(step)
""",
        path,
    )
    assert 10 <= int(said) < 200


def test_recovery_can_be_killed_again_and_again(path: Path, run: Run) -> None:
    """P20: seven starts killed one after the other still end in one receipt for each stream."""
    run(
        KILLED_AT
        + """
leave_open(9)
for step in range(3, 23, 3):
    assert killed_at(path, step) in (0, -signal.SIGKILL)
    assert not verify(path).problems
""",
        path,
    )
    SQLiteLedger(path).close()
    assert crashed_in(path) == [f"s{number}" for number in range(9)]
    assert verify(path).ok


def test_recoverers_that_race_write_one_receipt_each(path: Path, run: Run) -> None:
    """P21: eight processes start at once beside three dead ones: no stream is closed twice."""
    run(
        FAMILY
        + """
for part in range(3):
    def work():
        ledger = SQLiteLedger(path)
        for n in range(60):
            ledger.append_open(opening(f"p{part}-{n}")).result()
        die()
    exit_of(child(work))
gate, go = os.pipe()
def start():
    os.close(go)
    os.read(gate, 1)  # until everybody is there
    SQLiteLedger(path).close()
pids = [child(start) for _ in range(8)]
os.close(go)
assert [exit_of(pid) for pid in pids] == [0] * 8
""",
        path,
    )
    SQLiteLedger(path).close()
    assert crashed_in(path) == sorted(f"p{part}-{n}" for part in range(3) for n in range(60))
    assert verify(path).ok


KILLED_AT_RANDOM = """
import json, select, time
chance = random.Random(7)
acked = {"open": set(), "close": set()}
def stream(out, number):
    def work():
        ledger = SQLiteLedger(path)
        def writing(part):
            for n in range(10_000):
                name = f"{number}-{part}-{n}"
                ledger.append_open(opening(name)).result()
                os.write(out, f"open {name}\\n".encode())
                if n % 3:
                    ledger.append_close(closing(name)).result()
                    os.write(out, f"close {name}\\n".encode())
        for part in range(4):
            threading.Thread(target=writing, args=(part,), daemon=True).start()
        threading.Event().wait()
    return work
for number in range(30):
    got, out = os.pipe()
    pid = child(stream(out, number))
    os.close(out)
    # Every other one while it starts, at a random instant; the rest after so many records.
    wanted = chance.randrange(1, 50) if number % 2 else 1
    patience = 20 if number % 2 else chance.random() * 0.03
    limit, text = time.monotonic() + patience, b""
    while text.count(b"\\n") < wanted and (left := limit - time.monotonic()) > 0:
        if select.select([got], [], [], left)[0]:
            text += os.read(got, 64)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while part := os.read(got, 65536):
        text += part
    os.close(got)
    for line in text.decode().splitlines():
        kind, name = line.split()
        acked[kind].add(name)
    if number % 10 == 9:
        report = verify(path)
        assert not report.problems, report.problems
print(json.dumps({kind: sorted(names) for kind, names in acked.items()}))
"""


def test_whatever_was_acknowledged_survives_kills(path: Path, run: Run) -> None:
    """P01: 30 processes, each killed at a random moment of opening, writing or recovering."""
    said = run(FAMILY + KILLED_AT_RANDOM, path)
    acked = json.loads(said)
    assert len(acked["open"]) > 100
    SQLiteLedger(path).close()
    found = {one["stream_id"]: one for one in read_receipts(path)}
    assert set(acked["open"]) <= set(found)
    assert all(one["sealed"] for one in found.values())
    assert {found[name]["cause"] for name in acked["close"]} == {"COMPLETED"}
    report = verify(path)
    assert report.ok, report
    closes = sum(one["kind"] == "CLOSE" for one in records_in(path))
    assert closes == len(found) == report.streams
