"""A verifier says what is whole, what is not finished, and what it cannot know."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import Cause, LedgerError, OpenRecord, Receipt
from streamguard_ledger import (
    SQLiteLedger,
    WriterState,
    read_records,
    verify,
)
from streamguard_ledger.chainfile import ChainFile
from streamguard_ledger.folder import existing, is_held
from streamguard_ledger.numbers import contradictions
from streamguard_ledger.records import close_draft
from streamguard_ledger.recovery import recover

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]
Edit = Callable[..., Any]
Run = Callable[..., str]


def test_a_whole_ledger_is_ok_and_says_what_it_does_not_know(whole: Path) -> None:
    """Nothing wrong is exit 0, with every writer's state and what was not checked."""
    report = verify(whole)
    assert (report.ok, report.exit_code) == (True, 0)
    assert (report.streams, report.open_streams) == (2, 0)
    (writer,) = report.writers
    assert (writer.state, writer.records, writer.sound) == (WriterState.CLOSED, 6, True)
    assert writer.head == sha256(list(read_records(whole))[-1].body).hexdigest()
    assert "newest records" in report.not_checked[0]
    assert json.loads(json.dumps(report.to_data()))["exit_code"] == 0


def test_verifying_changes_nothing(whole: Path) -> None:
    """A verifier leaves every file as it was, and makes none that stay."""
    before = {file: file.read_bytes() for file in whole.rglob("*") if file.is_file()}
    verify(whole)
    after = {file: file.read_bytes() for file in whole.rglob("*") if file.is_file()}
    assert after == before


def test_an_empty_ledger_is_ok(path: Path) -> None:
    """A ledger that nobody has written yet has nothing wrong with it."""
    SQLiteLedger(path).close()
    shutil.rmtree(path / "writers")
    (path / "writers").mkdir()
    assert verify(path).ok


def test_a_killed_writer_is_incomplete_until_it_is_recovered(
    path: Path, run: Run, opening: Opening
) -> None:
    """P45: without an end nobody knows whether it was longer: exit 3, and what to do."""
    run(
        """
ledger = SQLiteLedger(sys.argv[1])
ledger.append_open(opening("a")).result()
os.kill(os.getpid(), signal.SIGKILL)
""",
        path,
        returncode=-9,
    )
    report = verify(path)
    assert (report.exit_code, report.open_streams) == (3, 1)
    assert report.writers[0].state is WriterState.UNRECOVERED
    assert "stream a has no receipt" in report.incomplete[0]
    assert "next start of the ledger" in report.incomplete[1]


def test_a_living_ledger_is_ok(path: Path, opening: Opening, closing_of: Closing) -> None:
    """A ledger in use, with streams that are open, has nothing wrong with it."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening("a")).result()
        ledger.append_open(opening("b")).result()
        ledger.append_close(closing_of("b")).result()
        report = verify(path)
    assert (report.ok, report.streams, report.open_streams) == (True, 2, 1)
    assert report.writers[0].state is WriterState.LIVE


def test_a_growing_ledger_is_never_called_tampered_with(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """What is written, closed and recovered while the verifier reads is no problem to it."""
    stop, begun = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            with SQLiteLedger(path) as ledger:
                for name in (f"a{number}", f"b{number}"):
                    ledger.append_open(opening(name)).result()
                ledger.append_close(closing_of(f"a{number}")).result()
            number += 1
            begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(20)
        for _ in range(25):
            assert verify(path).problems == ()
    finally:
        stop.set()
        thread.join()


def test_a_counterpart_that_came_meanwhile_is_looked_up(
    path: Path, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that ends and is recovered between two reads does not look tampered with."""
    older = SQLiteLedger(path)
    folder = existing(path)
    newer = ChainFile.create(folder)  # a process that has started, and recovers next
    done: list[Path] = []

    def held(lock: Path) -> bool:
        if lock == folder.lock_of(newer.writer) and not done:
            # The older file was read, and now it grows, ends, and is recovered.
            done.append(lock)
            older.append_open(opening("late")).result()
            older.close()
            recover(folder, newer)
        return is_held(lock)

    monkeypatch.setattr("streamguard_ledger.verifying.is_held", held)
    report = verify(path)
    newer.close()
    assert done
    assert (report.problems, report.streams, report.open_streams) == ((), 1, 0)


@pytest.mark.parametrize("odd", ["file", "lock"])
def test_what_cannot_be_opened_is_no_evidence(whole: Path, odd: str) -> None:
    """Somebody who cannot open a file is told so, and not that it was tampered with."""
    (file,) = (whole / "writers").glob("*.db")
    if odd == "file":
        file.unlink()
        file.mkdir()
    else:
        lock = file.with_suffix(".lock")
        lock.unlink()
        lock.symlink_to(lock.name)  # to itself
    with pytest.raises(LedgerError, match=r"cannot verify .*run as the user"):
        verify(whole)


def test_a_receipt_without_a_reference_is_paired(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """An OPEN that was reported as failed may be there all the same; its receipt knows nothing."""
    with SQLiteLedger(path) as first, SQLiteLedger(path) as second:
        first.append_close(closing_of("a")).result()
        second.append_open(opening("a")).result()
        first.append_open(opening("b")).result()
        second.append_close(closing_of("b")).result()
    report = verify(path)
    assert (report.ok, report.streams, report.open_streams) == (True, 2, 0)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_an_auditor_needs_no_right_to_write(whole: Path, run: Run) -> None:
    """A copy in a directory that the reader may not write can be verified."""
    copy = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(whole, copy, dirs_exist_ok=True)
        for item in (copy, *copy.rglob("*")):
            item.chmod(0o755 if item.is_dir() else 0o444)
        run(
            """
os.setgid(65534)
os.setuid(65534)
assert not os.access(sys.argv[1], os.W_OK)
os._exit(verify(sys.argv[1]).exit_code)
""",
            copy,
        )
    finally:
        shutil.rmtree(copy)


ZERO = "0.000000000000"
PAID = {"total": "0.000000000001", "currency": "USD"}
EUROS = PAID | {"currency": "EUR"}
AT_LEAST = {"unpriced": "unknown_usage", "lower": PAID["total"], "currency": "USD"}
MIXED = {"unpriced": "mixed_currencies"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, None),
        ({"category": "system"}, "its category is not that of its cause"),
        ({"cause": 5}, "its cause is not known"),
        ({"close": "perhaps"}, "its close state is not known"),
        ({"produced": -1}, "produced is no count"),
        ({"late": True}, "late is no count"),
        ({"committed": "7"}, "committed is no count"),
        ({"committed": 10}, "committed is more than produced"),
        ({"output": {"lower": 3, "value": 2}}, "output is not lower"),
        ({"waste": {"lower": 3, "upper": 2}}, "waste is not lower"),
        ({"prevented": 4}, "prevented is not lower"),
        ({"prevented": {"lower": 0, "value": 3, "upper": 2}}, "prevented is not lower"),
        ({"usage": {"input": {"lower": -1}}}, "usage.input is not lower"),
        ({"usage": {"reported": "{}"}}, None),
        ({"usage": 3}, None),
        ({"price": {"unpriced": "no_source"}}, None),
        ({"price": {"total": "1", "currency": "USD"}}, "a price contradicts itself"),
        ({"price": {"total": 1.5, "currency": "USD"}}, "a price contradicts itself"),
        ({"price": {}}, "a price contradicts itself"),
        ({"price": {"unpriced": "no_source"}, "attempts": 7}, None),
        ({"price": {"unpriced": "no_source"}, "attempts": [7, {}]}, None),
        ({"price": PAID, "attempts": [{"price": PAID}]}, None),
        ({"price": {"unpriced": "no_source"}, "attempts": [{"price": PAID}]}, "price is not what"),
        ({"price": PAID, "attempts": [{"price": PAID}, {"price": PAID}]}, "price is not what"),
        ({"price": PAID, "attempts": [{"price": PAID}, {"price": EUROS}]}, "price is not what"),
        ({"price": AT_LEAST, "attempts": [{"price": PAID}], "attempts_beyond": 1}, None),
        ({"price": PAID, "attempts": [{"price": PAID}], "attempts_beyond": 1}, "price is not what"),
        ({"price": MIXED, "attempts": [{"price": PAID}, {"price": EUROS}]}, None),
        ({"price": PAID | {"parts": {"input": {"amount": ZERO}}}}, "a price contradicts itself"),
    ],
)
def test_numbers_that_contradict_each_other_are_named(
    closing_of: Closing, changes: dict[str, Any], what: str | None
) -> None:
    """P27, P31: consumed <= committed <= produced, lower <= value <= upper, and money that adds up."""
    receipt = close_draft(closing_of(), None).fields | changes
    found = list(contradictions(receipt))
    assert (found == []) if what is None else (len(found) == 1 and found[0].startswith(what))


def test_every_cause_is_known(closing_of: Closing) -> None:
    """A receipt of any cause adds up."""
    for cause in Cause:
        assert list(contradictions(close_draft(closing_of(cause=cause), None).fields)) == []
