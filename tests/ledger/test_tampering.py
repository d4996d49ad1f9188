"""Whatever was changed, removed, added or moved is found, with its place."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import LedgerError, OpenRecord
from streamguard_ledger import SQLiteLedger, read_records, verify
from streamguard_ledger.chain import Chain

from .forging import forge, log_of, rechain, rows_of, whats

Opening = Callable[..., OpenRecord]
Edit = Callable[..., Any]


def test_every_flipped_bit_of_every_record_is_found(whole: Path) -> None:
    """P43: exhaustive: each single bit of each record's bytes."""
    log, found = log_of(whole), rows_of(whole)
    writer = str(json.loads(found[0].body)["writer"])
    flips = 0
    for index, row in enumerate(found):
        for bit in range(len(row.body) * 8):
            body = bytearray(row.body)
            body[bit // 8] ^= 1 << bit % 8
            problems: list[tuple[int, str]] = []
            chain = Chain(log, writer, lambda *problem: problems.append(problem))  # noqa: B023
            chain.last, chain.head = index - 1, found[index - 1].hash.hex() if index else None
            chain.feed(row._replace(body=bytes(body)))
            assert problems, (row.kind, bit)
            flips += 1
    assert flips > 20_000


def test_every_flipped_bit_is_found_by_the_next_record(whole: Path) -> None:
    """P43: exhaustive, where the hash beside the record was changed along: the chain tells."""
    log, found = log_of(whole), rows_of(whole)
    writer = str(json.loads(found[0].body)["writer"])
    # OPEN, with the CLOSE behind it.
    row, after = found[1], found[2]
    for bit in range(len(row.body) * 8):
        body = bytearray(row.body)
        body[bit // 8] ^= 1 << bit % 8
        problems: list[tuple[int, str]] = []
        chain = Chain(log, writer, lambda *problem: problems.append(problem))  # noqa: B023
        chain.last, chain.head = 0, found[0].hash.hex()
        chain.feed(row._replace(body=bytes(body), hash=sha256(body).digest()))
        chain.feed(after)
        assert problems, bit


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_the_file_are_found_or_change_nothing(whole: Path, seed: int) -> None:
    """P43: any bit of the whole file: either it is found, or every record is as it was."""
    (file,) = (whole / "writers").glob("*.db")
    good = file.read_bytes()
    before = [record.body for record in read_records(whole)]
    chance = random.Random(seed)
    told = 0
    for _ in range(60):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        file.write_bytes(bad)
        try:
            report = verify(whole)
        except LedgerError:
            told += 1
            continue
        if report.ok:
            assert [record.body for record in read_records(whole)] == before
        told += not report.ok
    assert told


@pytest.mark.parametrize("seq", range(6))
def test_a_deleted_record_is_found(whole: Path, edit: Edit, seq: int) -> None:
    """P44: each record of a writer that was closed in order, the last one too."""
    with edit(whole) as connection:
        connection.execute("DELETE FROM record WHERE seq = ?", (seq,))
    report = verify(whole)
    if seq < 5:
        assert report.exit_code == 1
        assert {problem.seq for problem in report.problems} >= {seq + 1}
        assert "rows are missing" in whats(report)
    else:
        # Without an end, a writer may just as well have been killed: it says so.
        assert report.exit_code == 3
        assert "records at its end are gone" in report.incomplete[0]


def test_a_deleted_record_is_found_after_renumbering(whole: Path, edit: Edit) -> None:
    """P44: closing the gap does not help, as every record knows its number."""
    with edit(whole) as connection:
        connection.execute("DELETE FROM record WHERE seq = 3")
        for seq in (4, 5):
            connection.execute("UPDATE record SET seq = ? WHERE seq = ?", (seq - 1, seq))
    found = whats(verify(whole))
    assert "otherwise than its place: seq" in found
    assert "does not follow the record before it" in found


def test_an_inserted_record_is_found(whole: Path, edit: Edit) -> None:
    """P44: a record between others, although it is well-formed and has a good hash."""
    with edit(whole) as connection:
        connection.execute("UPDATE record SET seq = 6 WHERE seq = 5")
        connection.execute(
            "INSERT INTO record SELECT 5, 'other', 's9', kind, body, hash FROM record WHERE seq = 4"
        )
    report = verify(whole)
    assert {problem.seq for problem in report.problems} == {5, 6}


def test_swapped_records_are_found(whole: Path, edit: Edit) -> None:
    """P44: two records in each other's place."""
    with edit(whole) as connection:
        for old, new in ((1, 99), (3, 1), (99, 3)):
            connection.execute("UPDATE record SET seq = ? WHERE seq = ?", (new, old))
    assert {problem.seq for problem in verify(whole).problems} >= {1, 2, 3, 4}


@pytest.mark.parametrize("column", ["record_id", "stream_id", "kind"])
def test_a_column_that_says_otherwise_is_found(whole: Path, edit: Edit, column: str) -> None:
    """What reports select by must be what the record says."""
    with edit(whole) as connection:
        connection.execute(f"UPDATE record SET {column} = 'x' WHERE seq = 1")
    assert f"otherwise than its place: {column}" in whats(verify(whole))


def test_a_record_that_lost_its_stream_is_found(whole: Path, edit: Edit) -> None:
    """An OPEN or a CLOSE without a stream in its column is hidden from reports."""
    with edit(whole) as connection:
        connection.execute("UPDATE record SET stream_id = NULL WHERE seq = 2")
    assert "otherwise than its place: stream_id" in whats(verify(whole))


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE other (x)",
        "DROP INDEX one_open_one_close",
        "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM record; END",
        "ALTER TABLE record RENAME COLUMN hash TO hash2",
        "DROP TABLE record",
    ],
)
def test_another_schema_is_found(whole: Path, edit: Edit, sql: str) -> None:
    """A file holds its one table and nothing that could change what is seen."""
    with edit(whole) as connection:
        connection.execute(sql)
    assert verify(whole).exit_code == 1


def test_a_view_in_the_place_of_the_table_is_found(whole: Path, edit: Edit) -> None:
    """A view that shows good records is no table of records."""
    with edit(whole) as connection:
        connection.execute("ALTER TABLE record RENAME TO kept")
        connection.execute("CREATE VIEW record AS SELECT * FROM kept")
    assert "other tables" in whats(verify(whole))


def test_values_of_other_types_are_found(whole: Path, edit: Edit) -> None:
    """A column that lost its type does not break the verifier."""
    with edit(whole) as connection:
        connection.execute("ALTER TABLE record RENAME TO kept")
        connection.execute("CREATE TABLE record (seq, record_id, stream_id, kind, body, hash)")
        connection.execute("INSERT INTO record SELECT * FROM kept")
        connection.execute("UPDATE record SET body = 7 WHERE seq = 1")
    assert "record 1 holds values of other types" in whats(verify(whole))


def test_text_that_is_no_text_is_found(whole: Path, edit: Edit) -> None:
    """A column with bytes that are not UTF-8 does not break the verifier."""
    with edit(whole) as connection:
        connection.execute("UPDATE record SET kind = CAST(x'ff' AS TEXT) WHERE seq = 1")
    assert "cannot be read" in whats(verify(whole))


def test_a_file_under_another_name_is_found(whole: Path) -> None:
    """A writer's records know their writer."""
    (file,) = (whole / "writers").glob("*.db")
    file.rename(file.with_name("0" * 32 + ".db"))
    assert "otherwise than its place: writer" in whats(verify(whole))


def test_a_file_of_another_ledger_is_found(whole: Path, tmp_path: Path) -> None:
    """A writer's records know their ledger."""
    SQLiteLedger(tmp_path / "other").close()
    (file,) = (tmp_path / "other" / "writers").glob("*.db")
    shutil.copy(file, whole / "writers")
    assert "otherwise than its place: log" in whats(verify(whole))


def test_a_kind_that_nobody_knows_is_found(whole: Path, edit: Edit) -> None:
    """An unknown kind of record fails the verification: it could mean anything."""
    with edit(whole) as connection:
        forge(connection, 5, kind="BONUS")
    report = verify(whole)
    assert report.exit_code == 1
    assert "its kind is not known" in whats(report)


def test_newer_records_are_not_called_ok(whole: Path, edit: Edit) -> None:
    """P54: what newer software wrote is not verified by this one, and not called tampered with."""
    with edit(whole) as connection:
        forge(connection, 5, v=2)
    report = verify(whole)
    assert (report.ok, report.exit_code) == (False, 4)
    assert "version 2; use newer software" in report.unknown[0]


@pytest.mark.parametrize(
    ("seq", "changes", "what"),
    [
        (0, {"prev": "00"}, "follows nothing"),
        (0, {"kind": "WRITER_CLOSE"}, "starts with WRITER_OPEN"),
        (3, {"kind": "WRITER_OPEN", "stream_id": None}, "starts with WRITER_OPEN"),
        (3, {"kind": "WRITER_CLOSE", "stream_id": None}, "follows the end of its writer"),
        (3, {"kind": "WRITER_RECOVERED", "stream_id": None}, "does not say where"),
        (4, {"cause": "BOREDOM"}, "its cause is not known"),
        (4, {"consumed": 8}, "consumed is more than committed"),
        (4, {"price": {"total": "0", "currency": "USD"}}, "a price contradicts itself"),
        (4, {"stream_id": "s0"}, "UNIQUE"),
        (4, {"open_ref": 7}, "its reference to the OPEN record is none"),
        (4, {"open_ref": {"writer": "x", "seq": 3, "hash": "y"}}, "refers to another OPEN"),
        (4, {"stream_id": "s7"}, "the OPEN record of stream s7 is gone"),
    ],
)
def test_a_forged_chain_that_contradicts_itself_is_found(
    whole: Path, edit: Edit, seq: int, changes: dict[str, Any], what: str
) -> None:
    """Somebody who rebuilds every hash must still tell a story that holds together."""
    with edit(whole) as connection:
        if what == "UNIQUE":
            # Two receipts of one stream: the index had to go, which is found as well.
            connection.execute("DROP INDEX one_open_one_close")
            what = "stream s0 has another receipt"
        forge(connection, seq, **changes)
        rechain(connection)
    report = verify(whole)
    assert report.exit_code == 1
    assert what in whats(report)


def test_a_second_open_is_found(whole: Path, edit: Edit) -> None:
    """A stream is opened once."""
    with edit(whole) as connection:
        connection.execute("DROP INDEX one_open_one_close")
        forge(connection, 3, stream_id="s0")
        rechain(connection)
    assert "stream s0 has another OPEN record" in whats(verify(whole))


def test_a_second_open_in_another_file_is_found(path: Path, opening: Opening) -> None:
    """A stream is opened once in all of a ledger: ids must not repeat between processes."""
    with SQLiteLedger(path) as one, SQLiteLedger(path) as two:
        one.append_open(opening()).result()
        two.append_open(opening()).result()
        assert "stream s0 has another OPEN record" in whats(verify(path))
