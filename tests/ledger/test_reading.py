"""A ledger is read as records or as receipts, whole, also while somebody writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import LedgerError, OpenRecord, ReadableLedger, Receipt, Usage
from streamguard_ledger import (
    NotCanonical,
    SQLiteLedger,
    StoredRecord,
    canonical,
    read_receipt,
    read_receipts,
    read_records,
)

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]
Edit = Callable[..., Any]


def test_open_and_close_are_one_receipt(path: Path, opening: Opening, closing_of: Closing) -> None:
    """A stream is one dict: the receipt's fields, and nothing of the chain."""
    usage = Usage.reported_by_provider(output=4, reported={"cost": 0.5})
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening(max_tokens=5)).result()
        ledger.append_close(closing_of(usage=usage, finish="stop")).result()
        (found,) = read_receipts(path)
    writer = found["records"]["open"]["writer"]
    assert found["records"] == {
        "open": {"writer": writer, "seq": 1},
        "close": {"writer": writer, "seq": 2},
    }
    assert (found["sealed"], found["max_tokens"], found["finish"]) == (True, 5, "stop")
    assert found["usage"]["reported"] == '{"cost":0.5}'
    assert not {"v", "kind", "log", "writer", "seq", "prev", "record_id", "open_ref"} & set(found)


def test_an_open_stream_is_shown_as_open(path: Path, opening: Opening) -> None:
    """A stream without a receipt has what its OPEN says."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening(model="m")).result()
        (found,) = read_receipts(path)
    assert (found["sealed"], found["model"], list(found["records"])) == (False, "m", ["open"])
    assert "cause" not in found


def test_receipts_come_in_the_order_of_their_opening(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """Writers in the order of their start, streams in the order of their OPEN; more than a page."""
    names = [f"s{number}" for number in range(450)]
    with SQLiteLedger(path) as ledger:
        for name in names:
            ledger.append_open(opening(name))
        for name in reversed(names):
            ledger.append_close(closing_of(name))
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening("last")).result()
        ledger.append_close(closing_of("never opened")).result()
    found = [one["stream_id"] for one in read_receipts(path)]
    assert found == [*names, "last", "never opened"]


def test_a_receipt_in_another_file_is_found(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """OPEN and CLOSE of a stream may be in different files, whichever is read first."""
    with SQLiteLedger(path) as first, SQLiteLedger(path) as second:
        first.append_open(opening("a")).result()
        second.append_close(closing_of("a")).result()
        second.append_open(opening("b")).result()
        first.append_close(closing_of("b")).result()
        found = list(read_receipts(path))
    assert [(one["stream_id"], one["sealed"]) for one in found] == [("a", True), ("b", True)]
    for one in found:
        places = one["records"]
        assert places["open"]["writer"] != places["close"]["writer"]


def test_records_are_the_exact_bytes(whole: Path) -> None:
    """What is read is what is hashed."""
    found = list(read_records(whole))
    assert [record.seq for record in found] == list(range(6))
    assert all(canonical.encode(record.data) == record.body for record in found)


def test_a_reader_does_not_hold_the_writer_up(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """Half-way through its reading, a reader leaves the writer free, and sees what is new."""
    with SQLiteLedger(path) as ledger:
        for number in range(300):
            ledger.append_open(opening(f"s{number}"))
        ledger.append_open(opening("next")).result()
        reading = read_receipts(path)
        next(reading)
        ledger.append_close(closing_of("next")).result()
        found = {one["stream_id"]: one["sealed"] for one in reading}
    assert found["next"]


@pytest.mark.parametrize("read", [read_receipts, read_records])
def test_what_is_no_ledger_is_said_at_once(tmp_path: Path, read: Callable[..., Any]) -> None:
    """A missing path, a file, an empty and a foreign directory are told apart, when called."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").write_text("")
    (tmp_path / "odd" / "ledger.json").mkdir(parents=True)
    for name, what in {
        "missing": "nothing is there",
        "file": "it is a file, and a ledger is a directory",
        "empty": "the directory is empty",
        "foreign": "no ledger.json",
        "odd": "Is a directory",
    }.items():
        with pytest.raises(LedgerError, match=what):
            read(tmp_path / name)


def test_damage_is_said_after_everything_that_can_be_read(
    path: Path, opening: Opening, edit: Edit
) -> None:
    """One bad record or file does not hide the others, and is not passed over in silence."""
    with SQLiteLedger(path) as ledger:
        for name in ("a", "b", "c"):
            ledger.append_open(opening(name)).result()
    with edit(path) as connection:
        connection.execute("UPDATE record SET body = x'ff' WHERE stream_id = 'b'")
    (path / "writers" / f"{'0' * 32}.db").write_bytes(b"garbage" * 1000)
    seen: list[str] = []
    with pytest.raises(LedgerError, match=r"cannot read all of .*2 problem.*streamguard verify"):
        seen.extend(one["stream_id"] for one in read_receipts(path))
    assert seen == ["a", "c"]
    records: list[StoredRecord] = []
    with pytest.raises(LedgerError, match="not a database"):
        records.extend(read_records(path))
    assert len(records) == 5
    with pytest.raises(NotCanonical):
        _ = records[2].data


def test_a_writer_without_a_record_is_nothing_to_read(whole: Path) -> None:
    """A process that was killed before its first record left an empty file."""
    (whole / "writers" / f"{'0' * 32}.db").touch()
    assert len(list(read_receipts(whole))) == 2
    assert len(list(read_records(whole))) == 6


def test_one_receipt_is_found_wherever_its_records_are(
    recovered: Path, opening: Opening, edit: Edit
) -> None:
    """By its stream's id: closed by its own process, by a later one, or still open; a strange id is None."""
    with SQLiteLedger(recovered) as ledger:
        ledger.append_open(opening("live")).result()
        every = {one["stream_id"]: one for one in read_receipts(recovered)}
        assert sorted(every) == ["live", "s0", "s1", "s2"]
        for stream_id, receipt in every.items():
            assert ledger.read_receipt(stream_id) == receipt
        assert read_receipt(recovered, "strange") is None
        many = ["s2", "strange", "live", "s2", *(f"x{number}" for number in range(300))]
        assert sorted(one["stream_id"] for one in ledger.read_receipts(many)) == ["live", "s2"]
    assert every["s2"]["records"]["open"]["writer"] != every["s2"]["records"]["close"]["writer"]
    with edit(recovered) as connection:
        connection.execute("UPDATE record SET body = x'ff' WHERE stream_id = 's0'")
    with pytest.raises(LedgerError, match="record 1"):
        read_receipt(recovered, "s0")


def test_a_ledger_reads_and_verifies_itself(whole: Path, edit: Edit) -> None:
    """Who holds only the object, as an adapter does, can read back and verify what all processes wrote."""
    with SQLiteLedger(whole) as ledger:
        assert isinstance(ledger, ReadableLedger)
        assert list(ledger.read_receipts()) == list(read_receipts(whole))
        assert ledger.verify().ok
        with edit(whole) as connection:
            connection.execute("UPDATE record SET hash = x'00' WHERE seq = 2")
        report = ledger.verify()
    assert (report.ok, report.exit_code) == (False, 1)
    assert report.problems
