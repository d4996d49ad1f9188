"""A stream whose process was killed gets one CRASHED receipt, whatever happens to recovery."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import LedgerError, OpenRecord, Receipt
from streamguard_ledger import (
    SQLiteLedger,
    WriterState,
    read_receipts,
    verify,
)
from streamguard_ledger.chainfile import ChainFile

from .reading_back import crashed_in, recovered_in

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]
Run = Callable[..., str]
Spawn = Callable[..., subprocess.Popen[str]]
Edit = Callable[..., Any]


def test_open_streams_of_a_killed_process_are_closed(path: Path, spawn: Spawn) -> None:
    """P20: after SIGKILL the next start writes one CRASHED receipt for each open stream."""
    process = spawn(
        """
ledger = SQLiteLedger(sys.argv[1])
for name in ("done", "one", "two"):
    ledger.append_open(opening(name, max_tokens=70, model="m", tags={"tenant": "t"})).result()
ledger.append_close(closing("done")).result()
print("ready", flush=True)
sys.stdin.read()
""",
        path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    before = verify(path)
    assert (before.exit_code, before.open_streams) == (3, 2)
    with SQLiteLedger(path):
        after = verify(path)
    assert (after.exit_code, after.open_streams) == (0, 0)
    assert [writer.state for writer in after.writers] == [WriterState.RECOVERED, WriterState.LIVE]
    found = {one["stream_id"]: one for one in read_receipts(path)}
    assert found["done"]["cause"] == "COMPLETED"
    for name, seq in (("one", 2), ("two", 3)):
        one = found[name]
        assert (one["cause"], one["category"], one["close"]) == ("CRASHED", "system", "unconfirmed")
        assert one["output"] == {"lower": 0, "upper": 70, "source": "none"}
        assert "produced" not in one
        assert one["recovered_from"] == {"writer": before.writers[0].writer, "seq": seq}
        assert (one["model"], one["tags"], one["sealed"]) == ("m", {"tenant": "t"}, True)


def test_a_living_writer_is_left_alone(
    path: Path, opening: Opening, closing_of: Closing, spawn: Spawn
) -> None:
    """Who starts beside a living process, or another ledger of its own, closes none of theirs."""
    process = spawn(
        """
ledger = SQLiteLedger(sys.argv[1])
ledger.append_open(opening("theirs")).result()
print("ready", flush=True)
sys.stdin.read()
ledger.append_close(closing("theirs")).result()
ledger.close()
""",
        path,
    )
    assert process.stdout is not None
    process.stdout.readline()
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening("ours")).result()
        SQLiteLedger(path).close()
        assert crashed_in(path) == []
        assert verify(path).open_streams == 2
        ledger.append_close(closing_of("ours")).result()
    process.communicate()
    assert verify(path).ok
    assert verify(path).open_streams == 0


def test_streams_left_open_by_an_orderly_end_are_closed(path: Path, opening: Opening) -> None:
    """A ledger closed before its streams leaves them to the next one."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening()).result()
    assert verify(path).exit_code == 3
    SQLiteLedger(path).close()
    assert crashed_in(path) == ["s0"]
    assert verify(path).ok


def test_a_receipt_in_another_file_counts(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """A stream whose receipt went to another file has not crashed."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening()).result()
        with SQLiteLedger(path) as other:
            other.append_close(closing_of()).result()
    SQLiteLedger(path).close()
    assert crashed_in(path) == []
    assert verify(path).ok


def test_a_damaged_file_is_recovered_as_far_as_it_goes(
    path: Path, opening: Opening, edit: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage is logged and noted in the new chain, and the streams that can be read are closed."""
    with SQLiteLedger(path) as ledger:
        for name in ("a", "b"):
            ledger.append_open(opening(name)).result()
    with edit(path) as connection:
        connection.execute("UPDATE record SET body = x'00' WHERE stream_id = 'a'")
    with caplog.at_level(logging.ERROR):
        SQLiteLedger(path).close()
    assert "is damaged" in caplog.text
    assert "streamguard verify" in caplog.text
    assert crashed_in(path) == ["b"]
    (end,) = recovered_in(path)
    assert end["damage"].startswith("3 problem(s), the first: record 1")
    assert verify(path).exit_code == 1


def test_an_open_without_a_stream_is_passed_over(
    path: Path, opening: Opening, edit: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    """A forged OPEN that names no stream stops nothing."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening("a")).result()
    with edit(path) as connection:
        connection.execute("""UPDATE record SET body = CAST('{"kind":"OPEN"}' AS BLOB)
                              WHERE seq = 1""")
    with caplog.at_level(logging.ERROR):
        SQLiteLedger(path).close()
    assert crashed_in(path) == []


def test_a_file_that_is_no_database_stops_nobody(
    path: Path, opening: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of garbage is logged at every start, and recovery of the others goes on."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening()).result()
    (path / "writers" / f"{'0' * 32}.db").write_bytes(b"garbage" * 1000)
    for _ in range(2):
        with caplog.at_level(logging.ERROR):
            caplog.clear()
            SQLiteLedger(path).close()
        assert f"{'0' * 32}.db is damaged" in caplog.text
    assert crashed_in(path) == ["s0"]


def test_a_writer_that_was_killed_before_its_first_record_is_settled(path: Path) -> None:
    """An empty file is noted as empty, so that nobody can fill it later."""
    SQLiteLedger(path).close()
    empty = path / "writers" / f"{'0' * 32}.db"
    empty.touch()
    assert verify(path).exit_code == 3
    SQLiteLedger(path).close()
    assert empty.with_suffix(".lock").read_bytes() == b"settled\n"
    assert {"writer": "0" * 32, "seq": -1, "hash": ""} in [
        one["head"] for one in recovered_in(path)
    ]
    assert verify(path).ok


def test_what_cannot_be_opened_stops_nobody(
    path: Path, opening: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock or a file that cannot be opened is logged and left, and the others are recovered."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening()).result()
    odd = [path / "writers" / f"{digit * 32}.db" for digit in "01"]
    odd[0].touch()
    odd[0].with_suffix(".lock").symlink_to(f"{odd[0].stem}.lock")  # to itself
    odd[1].mkdir()
    with caplog.at_level(logging.ERROR):
        SQLiteLedger(path).close()
    for file in odd:
        assert f"cannot recover {file}" in caplog.text
        assert f"cannot look for receipts in {file}" in caplog.text
    assert odd[1].with_suffix(".lock").read_bytes() == b""
    assert crashed_in(path) == ["s0"]


def test_what_newer_software_wrote_is_left_to_it(
    path: Path, opening: Opening, edit: Edit, caplog: pytest.LogCaptureFixture
) -> None:
    """P54: after a downgrade the old software closes no stream whose records it cannot read."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening()).result()
    with edit(path) as connection:
        connection.execute("""UPDATE record SET body = CAST('{"v":2}' AS BLOB) WHERE seq = 2""")
    with caplog.at_level(logging.ERROR):
        SQLiteLedger(path).close()
    assert "newer software wrote it" in caplog.text
    assert crashed_in(path) == []
    assert verify(path).exit_code == 1  # the hash beside it was not changed along


def test_a_recovery_that_cannot_write_fails_the_start(
    path: Path, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk during recovery is said at construction; the next start finishes."""
    with SQLiteLedger(path) as ledger:
        for number in range(300):
            ledger.append_open(opening(str(number)))
    original = ChainFile._begin

    def small(file: ChainFile, folder: Any) -> None:
        original(file, folder)
        file._connection.execute("PRAGMA max_page_count = 20")

    with monkeypatch.context() as patched:
        patched.setattr(ChainFile, "_begin", small)
        with pytest.raises(LedgerError, match=r"cannot write what is recovered .*full.*again"):
            SQLiteLedger(path)
    assert len(crashed_in(path)) < 300
    SQLiteLedger(path).close()
    assert len(crashed_in(path)) == len(set(crashed_in(path))) == 300
    assert verify(path).ok
