"""What a later writer saw of one that is gone tells of every change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamguard_ledger import SQLiteLedger, verify
from streamguard_ledger.records import Draft, Kind

from .forging import forge, log_of, rechain, rehash, rows_of, whats

Edit = Callable[..., Any]
Run = Callable[..., str]


def test_a_rewritten_writer_is_found_by_the_one_that_recovered_it(
    recovered: Path, edit: Edit
) -> None:
    """P44: a whole chain made anew does not end where a later writer saw it end."""
    with edit(recovered) as connection:
        forge(connection, 4, detail="nothing happened")
        rechain(connection)
    report = verify(recovered)
    assert "is not the record with which its writer ended" in whats(report)
    assert [writer.sound for writer in report.writers] == [False, True]


def test_a_rewritten_open_is_found_by_the_receipt_of_a_recovery(
    recovered: Path, edit: Edit
) -> None:
    """A receipt in another file holds the hash of its OPEN."""
    with edit(recovered) as connection:
        forge(connection, 3, max_tokens=1)
        rechain(connection)
    assert "refers to another OPEN record" in whats(verify(recovered))


@pytest.mark.parametrize("kept", [0, 3, 6])
def test_a_cut_tail_of_a_recovered_writer_is_found(recovered: Path, edit: Edit, kept: int) -> None:
    """P45: what a later writer saw must still be there."""
    with edit(recovered) as connection:
        connection.execute("DELETE FROM record WHERE seq >= ?", (kept,))
    report = verify(recovered)
    assert report.exit_code == 1
    assert f"its records from {kept} to 6 are gone" in whats(report)


def test_records_behind_the_end_of_a_recovered_writer_are_found(
    path: Path, edit: Edit, run: Run
) -> None:
    """P64: the chain of a process that is gone cannot be extended."""
    run(
        "one = SQLiteLedger(sys.argv[1])\nos.kill(os.getpid(), signal.SIGKILL)", path, returncode=-9
    )
    SQLiteLedger(path).close()
    assert verify(path).ok
    writer = min(file.stem for file in (path / "writers").glob("*.db"))
    with edit(path) as connection:
        prev = rows_of(path)[0].hash.hex()
        place = {"log": log_of(path), "writer": writer, "seq": 1, "prev": prev, "record_id": "r"}
        body = Draft(Kind.OPEN, {"stream_id": "forged"}, "forged").body(**place)  # type: ignore[arg-type]
        connection.execute(
            "INSERT INTO record VALUES (1, 'r', 'forged', 'OPEN', ?, ?)", rehash(body)
        )
    report = verify(path)
    assert "was added after its writer had ended" in whats(report)


def test_a_file_that_is_gone_is_found(recovered: Path) -> None:
    """P46: the writer that recovered it, and the receipts that refer to it, tell."""
    min((recovered / "writers").glob("*.db")).unlink()
    found = whats(verify(recovered))
    assert "is gone" in found
    assert "the OPEN record of stream s2 is gone" in found


def test_a_receipt_of_a_recovery_that_is_gone_is_found(recovered: Path, edit: Edit) -> None:
    """A stream of a recovered writer must have its receipt."""
    with edit(recovered, 1) as connection:
        forge(connection, 1, kind="WRITER_RECOVERED", stream_id=None, head=None)
        connection.execute("DELETE FROM record WHERE seq = 1")
        for seq in (2, 3):
            connection.execute("UPDATE record SET seq = ? WHERE seq = ?", (seq - 1, seq))
            forge(connection, seq - 1, seq=seq - 1)
        rechain(connection)
    report = verify(recovered)
    assert whats(report).endswith("#3: the receipt of stream s2 is gone")
    assert len(report.problems) == 1


def test_a_damaged_file_that_was_recovered_is_told_once(recovered: Path) -> None:
    """Garbage is evidence, not a crash; what cannot be read is not also said to be missing."""
    min((recovered / "writers").glob("*.db")).write_bytes(b"garbage" * 1000)
    found = whats(verify(recovered))
    assert "cannot be read: file is not a database" in found
    assert "are gone" not in found
