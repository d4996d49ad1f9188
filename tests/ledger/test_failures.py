"""When the disk fails, exactly what was lost is said, and the ledger goes on where it can."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import LedgerError, OpenRecord, Receipt, UsageError
from streamguard_ledger import SQLiteLedger, read_receipts, read_records, sqlite, verify
from streamguard_ledger.folder import FileLock, is_held
from streamguard_ledger.scribe import Scribe

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]


class _SmallDisk:
    """Real SQLite whose files cannot grow beyond some pages, until they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._connections: list[sqlite3.Connection] = []
        self.pages = 2**30
        original: Any = sqlite3.connect

        def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = original(
                *arguments, **options, check_same_thread=False
            )
            if "mode=rw" in arguments[0]:
                self._connections.append(connection)
                connection.execute(f"PRAGMA max_page_count = {self.pages}")
            return connection

        monkeypatch.setattr("streamguard_ledger.chainfile.sqlite3.connect", connect)

    def resize(self, pages: int) -> None:
        """Take effect on every file that is open."""
        self.pages = pages
        for connection in self._connections:
            connection.execute(f"PRAGMA max_page_count = {pages}")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> _SmallDisk:
    """Return a disk that can be made small."""
    return _SmallDisk(monkeypatch)


@contextmanager
def _together(ledger: SQLiteLedger) -> Iterator[None]:
    """What is appended inside is one batch."""
    assert ledger._writer is not None
    with ledger._writer._inbox._changed:
        yield


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    """The error says what was attempted, on which path, and what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        LedgerError,
        match=r"cannot open a ledger for writing at .*file/ledger:.*"
        r"Not a directory.*give a directory",
    ):
        SQLiteLedger(tmp_path / "file" / "ledger")


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A ledger is a directory."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"cannot open a ledger .*file.*give a directory"):
        SQLiteLedger(tmp_path / "file")


def test_a_directory_with_other_things_is_refused(tmp_path: Path) -> None:
    """Nobody's home directory becomes a ledger by a slip, and nothing is written into it."""
    (tmp_path / "letter.txt").write_text("")
    with pytest.raises(LedgerError, match="holds other things already; give a new or an empty one"):
        SQLiteLedger(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["letter.txt"]


def test_what_a_killed_start_left_is_no_obstacle(path: Path) -> None:
    """A process that was killed while it named the ledger does not stop the next one."""
    path.mkdir()
    (path / "ledger.json.0123").write_text("{")
    SQLiteLedger(path).close()
    assert verify(path).ok


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "damaged; restore that file"),
        ('{"format":"else","log":"x","v":1}', "not one of StreamGuard's"),
        ('{"format":"streamguard-ledger","log":"x","v":2}', "has version 2.*use a newer one"),
    ],
)
def test_a_name_that_cannot_be_read_is_refused(path: Path, text: str, why: str) -> None:
    """A damaged or newer ledger is neither written nor read."""
    path.mkdir()
    (path / "ledger.json").write_text(text)
    with pytest.raises(LedgerError, match=why):
        SQLiteLedger(path)
    with pytest.raises(LedgerError, match=why):
        read_records(path)


def test_a_queue_without_room_is_refused(path: Path) -> None:
    """A caller's mistake is the caller's, and nothing is made."""
    with pytest.raises(UsageError, match="leaves no room"):
        SQLiteLedger(path, max_queue_bytes=0)
    assert not path.exists()


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without STRICT tables there is no ledger, and the error names the version."""
    monkeypatch.setattr(sqlite, "OLDEST_SQLITE", (99, 0, 0))
    with pytest.raises(LedgerError, match=sqlite3.sqlite_version):
        SQLiteLedger(path)


def test_a_system_without_locks_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files cannot be locked nobody could tell who is alive; reading goes on."""
    SQLiteLedger(path).close()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(LedgerError, match="a ledger needs flock"):
        SQLiteLedger(path)
    assert verify(path).ok


def test_a_lock_is_held_by_one_and_seen_by_all(tmp_path: Path) -> None:
    """Only one can take a lock; looking at it does not take it."""
    file = tmp_path / "x.lock"
    assert not is_held(file)
    lock = FileLock.take(file)
    assert lock is not None
    assert FileLock.take(file) is None
    assert is_held(file)
    lock.release()
    assert not is_held(file)


def test_a_disk_that_is_full_at_the_start_leaves_nothing_behind(
    path: Path, disk: _SmallDisk
) -> None:
    """A writer that never wrote a record leaves no file that others would wonder about."""
    disk.pages = 1
    with pytest.raises(LedgerError, match=r"cannot write a new file in .*writers.*full"):
        SQLiteLedger(path)
    assert list((path / "writers").iterdir()) == []


def test_a_full_disk_fails_its_batch_and_nothing_else(
    path: Path, disk: _SmallDisk, opening: Opening, closing_of: Closing
) -> None:
    """P04: what was acknowledged stays, what failed is said and given back, and it goes on."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening("before")).result()
        disk.resize(20)
        receipts = [closing_of(f"c{number}", detail="x" * 190) for number in range(100)]
        with _together(ledger):
            futures = [ledger.append_close(receipt) for receipt in receipts]
        for future, receipt in zip(futures, receipts, strict=True):
            with pytest.raises(LedgerError, match=r"100 record\(s\).*full.*free space") as caught:
                future.result()
            assert caught.value.receipt is receipt
        disk.resize(2**30)
        ledger.append_open(opening("after")).result()
        ledger.append_close(closing_of("before")).result()
    assert {found["stream_id"] for found in read_receipts(path)} == {"before", "after"}
    assert len(list((path / "writers").glob("*.db"))) == 1
    report = verify(path)
    assert (report.problems, len(report.writers)) == ((), 1)


def test_an_error_says_nothing_secret(path: Path, disk: _SmallDisk, opening: Opening) -> None:
    """Tags, models and ids of streams do not reach the error of a disk."""
    with SQLiteLedger(path) as ledger:
        disk.resize(6)
        future = ledger.append_open(opening("secret-id", tags={"a": "secret" * 9_000}))
        error = future.exception()
        disk.resize(2**30)
    assert isinstance(error, LedgerError)
    assert "secret" not in str(error)


def test_a_full_disk_at_the_end_loses_only_the_end(
    path: Path,
    disk: _SmallDisk,
    opening: Opening,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """close() does not fail for the last record: the log says so, and the next start notes it."""
    ledger = SQLiteLedger(path)
    ledger.append_open(opening("a", tags={"a": "x" * 20_000})).result()
    number = 0
    disk.resize(1)
    while ledger.append_open(opening(str(number := number + 1))).exception() is None:
        pass
    with caplog.at_level(logging.WARNING):
        ledger.close()
    disk.pages = 2**30
    assert "cannot write the last record" in caplog.text
    assert verify(path).exit_code == 3
    SQLiteLedger(path).close()
    assert verify(path).ok


# The kernel refuses to write files beyond a size: an I/O error as a disk would give it.
IO_ERROR = """
import resource
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
ledger = SQLiteLedger(sys.argv[1])
ledger.append_open(opening("old")).result()
"""


def test_an_io_error_moves_the_chain_to_a_new_file(path: Path, run: Callable[..., str]) -> None:
    """P06: a file whose sync failed is not trusted again; its batch fails, and the rest goes on."""
    said = run(
        IO_ERROR
        + """
failed = []
limit(400_000)
for number in range(2000):
    try:
        ledger.append_open(opening(f"s{number}", tags={"a": "x" * 1000})).result()
    except LedgerError as error:
        failed.append((number, str(error)))
        if len(failed) == 2:
            break
limit(resource.RLIM_INFINITY)
ledger.append_close(closing("old")).result()
ledger.close()
import json
print(json.dumps(failed))
""",
        path,
    )
    failed = json.loads(said)
    assert len(failed) == 2
    assert all("disk I/O error; check that disk; the ledger goes on" in why for _, why in failed)
    assert len(list((path / "writers").glob("*.db"))) == 3
    found = {one["stream_id"]: one for one in read_receipts(path)}
    lost = {f"s{number}" for number, _ in failed}
    assert set(found) | lost == {"old", *(f"s{number}" for number in range(failed[-1][0] + 1))}
    places = found["old"]["records"]
    assert found["old"]["sealed"]
    assert places["open"]["writer"] != places["close"]["writer"]
    assert not verify(path).problems
    SQLiteLedger(path).close()
    assert verify(path).ok


def test_where_no_file_can_be_written_opens_are_refused(
    path: Path, run: Callable[..., str]
) -> None:
    """A ledger without a file refuses with a typed error, and goes on as soon as it can."""
    said = run(
        IO_ERROR
        + """
limit(0)
receipt = closing("old")
for future in (ledger.append_open(opening("a")), ledger.append_open(opening("b"))):
    assert isinstance(future.exception(), LedgerError), future
error = ledger.append_close(receipt).exception()
assert error.receipt is receipt
print(error)
limit(resource.RLIM_INFINITY)
ledger.append_close(receipt).result()
ledger.close()
""",
        path,
    )
    assert "cannot write a new file in" in said
    assert len(list((path / "writers").glob("*.db"))) == 2
    (found,) = (one for one in read_receipts(path) if one["stream_id"] == "old")
    assert found["sealed"]


def test_a_process_that_ends_without_a_file_ends(path: Path, run: Callable[..., str]) -> None:
    """close() works after the last file was given up."""
    run(
        IO_ERROR
        + """
limit(0)
assert ledger.append_open(opening("a")).exception()
ledger.close()
limit(resource.RLIM_INFINITY)
""",
        path,
    )
    SQLiteLedger(path).close()
    assert verify(path).ok


def test_somebody_else_in_the_file_is_noticed(
    path: Path, opening: Opening, edit: Callable[..., Any]
) -> None:
    """A row that another program put at the end is not overwritten; the chain goes on elsewhere."""
    with SQLiteLedger(path) as ledger:
        with edit(path) as connection:
            connection.execute("INSERT INTO record VALUES (1, 'r', 's', 'OPEN', x'00', x'00')")
        with pytest.raises(LedgerError, match=r"UNIQUE constraint failed: record\.seq"):
            ledger.append_open(opening("a")).result()
        ledger.append_open(opening("b")).result()
    report = verify(path)
    assert len(report.writers) == 2
    assert {problem.seq for problem in report.problems} == {1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_thread_that_failed(
    path: Path, opening: Opening, closing_of: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the writing thread fails every future, those in the queue and later ones too."""

    def write(self: Scribe, batch: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Scribe, "write", write)
    ledger = SQLiteLedger(path)
    receipt = closing_of()
    with _together(ledger):
        futures = [ledger.append_open(opening(str(number))) for number in range(600)]
        futures.append(ledger.append_close(receipt))
    for future in futures:
        with pytest.raises(LedgerError, match=r"writing thread failed.*restart"):
            future.result(20)
    error = futures[-1].exception()
    assert isinstance(error, LedgerError)
    assert error.receipt is receipt
    with pytest.raises(LedgerError, match="writing thread failed"):
        ledger.append_open(opening()).result(20)
    ledger.close()
    # Its streams are not recovered by others while its process lives.
    (lock,) = (path / "writers").glob("*.lock")
    assert is_held(lock)
