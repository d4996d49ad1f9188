"""Records are durable before anybody hears of it, once each, from any number of threads."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import Cause, Ledger, LedgerError, OpenRecord, Receipt, StreamSession
from streamguard_ledger import SQLiteLedger, read_receipts, read_records, verify
from streamguard_ledger.chainfile import ChainFile

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]


def _kinds(path: Path) -> list[str]:
    return [record.data["kind"] for record in read_records(path)]


def _files(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "writers").glob("*.db"))


def test_it_is_a_ledger(path: Path) -> None:
    """It implements the interface that sessions write to."""
    with SQLiteLedger(path) as ledger:
        assert isinstance(ledger, Ledger)
        assert repr(ledger) == f"<SQLiteLedger {path} open>"
    assert repr(ledger) == f"<SQLiteLedger {path} closed>"


def test_a_stream_is_two_records_between_those_of_its_writer(whole: Path) -> None:
    """A chain begins with WRITER_OPEN, ends with WRITER_CLOSE, and holds OPEN and CLOSE."""
    assert _kinds(whole) == ["WRITER_OPEN", "OPEN", "CLOSE", "OPEN", "CLOSE", "WRITER_CLOSE"]
    first, *_, last = (record.data for record in read_records(whole))
    assert first["sqlite"] == sqlite3.sqlite_version
    assert first["sw"].startswith("streamguard ")
    assert "prev" not in first
    assert last["open"] == 0


async def test_a_session_writes_its_receipt(path: Path) -> None:
    """A session's stream is in the ledger when its receipt is handed over."""
    with SQLiteLedger(path) as ledger:
        async with StreamSession(producer=_tokens, max_tokens=9, ledger=ledger) as session:
            async for _ in session:
                session.cancel("enough")
        receipt = await session.receipt()
        (found,) = read_receipts(path)
    assert found["stream_id"] == receipt.stream_id
    assert (found["cause"], found["committed"]) == ("USER_CANCEL", receipt.committed)
    assert found["sealed"]


async def _tokens() -> Any:
    for _ in range(5):
        yield "x"


def test_a_future_resolves_when_the_record_can_be_read(path: Path, opening: Opening) -> None:
    """G11: whoever hears that a record is durable finds it in the file at that instant."""
    seen: list[str] = []
    with SQLiteLedger(path) as ledger:
        future = ledger.append_open(opening())
        future.add_done_callback(lambda _: seen.extend(_kinds(path)))
        future.result()
    assert "OPEN" in seen


def test_files_are_private_and_safe(path: Path, opening: Opening) -> None:
    """The directory is the owner's alone; the database is STRICT, in WAL mode, fully synced."""
    with SQLiteLedger(path / "deep" / "er") as ledger:
        ledger.append_open(opening()).result()
        path = ledger.path
        assert path.stat().st_mode & 0o777 == 0o700
        assert (path / "writers").stat().st_mode & 0o777 == 0o700
        (file,) = (path / "writers").glob("*.db")
        assert file.with_name(file.name + "-wal").exists()
    with closing(sqlite3.connect(file)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        assert mode == "wal"
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO record VALUES (99, 'r', 's', 'OPEN', 'text', x'00')")


def test_the_owner_syncs_every_commit(tmp_path: Path) -> None:
    """P03: the connection that writes runs with synchronous=FULL."""
    from streamguard_ledger.chainfile import connect_owner

    with closing(connect_owner(tmp_path / "x.db", create=True)) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_records_that_gather_share_a_transaction(
    path: Path, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group commit: what comes while the disk is busy is committed together."""
    sizes: list[int] = []

    @contextmanager
    def counted(file: ChainFile) -> Iterator[None]:
        before = file._seq
        with original(file):
            yield
        sizes.append(file._seq - before)

    original = ChainFile.batch
    monkeypatch.setattr(ChainFile, "batch", counted)
    with SQLiteLedger(path) as ledger:
        assert ledger._writer is not None
        with ledger._writer._inbox._changed:
            futures = [ledger.append_open(opening(str(number))) for number in range(40)]
        for future in futures:
            future.result()
    # Beside them: WRITER_OPEN and WRITER_CLOSE.
    assert sizes == [1, 40, 1]


def test_threads_share_one_chain(path: Path, opening: Opening, closing_of: Closing) -> None:
    """Any thread may append; every record is there once, and the chain has no gap."""

    def stream(number: int) -> None:
        ledger.append_open(opening(f"s{number}")).result()
        ledger.append_close(closing_of(f"s{number}")).result()

    with SQLiteLedger(path, max_queue_bytes=4096) as ledger, ThreadPoolExecutor(16) as pool:
        list(pool.map(stream, range(400)))
    report = verify(path)
    assert report.ok
    assert (report.streams, report.open_streams) == (400, 0)
    assert [record.seq for record in read_records(path)] == list(range(802))
    assert len(_files(path)) == 1


def test_a_stream_has_one_open_and_one_receipt(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """G11: a second record of a kind is refused, the first one stays, and others are unharmed."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening()).result()
        ledger.append_close(closing_of(detail="first")).result()
        again = [ledger.append_open(opening()), ledger.append_close(closing_of(detail="second"))]
        other = ledger.append_open(opening("other"))
        other.result()
        for future in again:
            with pytest.raises(LedgerError, match=r"stream s0 has its .* record already"):
                future.result()
    by_id = {found["stream_id"]: found for found in read_receipts(path)}
    assert by_id["s0"]["detail"] == "first"
    assert "other" in by_id


def test_one_bad_record_does_not_harm_its_batch(path: Path, opening: Opening) -> None:
    """P15: a record that cannot be written fails alone, although it was committed with others."""
    with SQLiteLedger(path) as ledger:
        assert ledger._writer is not None
        with ledger._writer._inbox._changed:
            futures = [
                ledger.append_open(opening("a")),
                ledger.append_open(opening("bad", tags={"é": "x"})),
                ledger.append_open(opening("b")),
            ]
        with pytest.raises(LedgerError, match="give ASCII keys"):
            futures[1].result()
        assert [futures[0].result(), futures[2].result()] == [None, None]
    assert verify(path).streams == 2


def test_a_receipt_whose_open_could_not_be_written_is_kept(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """The session that could not open still says how it ended."""
    with SQLiteLedger(path) as ledger:
        with pytest.raises(LedgerError):
            ledger.append_open(opening(max_tokens=2**60)).result()
        ledger.append_close(closing_of(cause=Cause.INTERNAL_ERROR)).result()
    (found,) = read_receipts(path)
    assert found["cause"] == "INTERNAL_ERROR"
    assert verify(path).ok


def test_close_writes_what_was_appended(path: Path, opening: Opening) -> None:
    """P09: nothing that was appended before close() is lost, and close() waits for it."""
    ledger = SQLiteLedger(path, max_queue_bytes=1)
    futures = [ledger.append_open(opening(str(number))) for number in range(100)]
    ledger.close()
    assert all(future.done() and future.exception() is None for future in futures)
    ledger.close()
    assert _kinds(path)[-1] == "WRITER_CLOSE"
    assert [record.data for record in read_records(path)][-1]["open"] == 100


def test_a_closed_ledger_refuses_and_gives_the_receipt_back(
    path: Path, opening: Opening, closing_of: Closing
) -> None:
    """After close() every future fails at once; a receipt is in the error."""
    with SQLiteLedger(path) as ledger:
        pass
    receipt = closing_of()
    with pytest.raises(LedgerError, match="closed") as caught:
        ledger.append_close(receipt).result(0)
    assert caught.value.receipt is receipt
    with pytest.raises(LedgerError, match="closed") as caught:
        ledger.append_open(opening()).result(0)
    assert caught.value.receipt is None


def test_whoever_waits_may_close_the_ledger(path: Path, opening: Opening) -> None:
    """A callback runs in the writing thread, and may even end it."""
    closed = threading.Event()
    ledger = SQLiteLedger(path)

    def end(_: Future[None]) -> None:
        ledger.close()
        closed.set()

    ledger.append_open(opening()).add_done_callback(end)
    assert closed.wait(20)
    assert ledger._writer is not None
    ledger._writer._thread.join(20)
    assert _kinds(path) == ["WRITER_OPEN", "OPEN", "WRITER_CLOSE"]


def test_a_forgotten_ledger_warns_and_is_closed_in_order(path: Path, opening: Opening) -> None:
    """A ledger that nobody holds any more writes what it was given, and says that it was lost."""
    ledgers = [SQLiteLedger(path)]
    ledgers[0].append_open(opening())
    with pytest.warns(ResourceWarning, match="was never closed"):
        ledgers.clear()
    assert _kinds(path) == ["WRITER_OPEN", "OPEN", "WRITER_CLOSE"]


def test_a_process_that_ends_without_close_loses_nothing(
    path: Path, run: Callable[..., str]
) -> None:
    """At the end of the process what was appended is written and the chain is ended."""
    run(
        """
ledger = SQLiteLedger(sys.argv[1])
for number in range(50):
    ledger.append_open(opening(str(number)))
""",
        path,
    )
    assert _kinds(path) == ["WRITER_OPEN", *["OPEN"] * 50, "WRITER_CLOSE"]


def test_the_path_is_fixed_at_construction(
    tmp_path: Path, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path stays where it was when the process changes its directory."""
    monkeypatch.chdir(tmp_path)
    with SQLiteLedger("ledger") as ledger:
        monkeypatch.chdir("/")
        ledger.append_open(opening()).result()
        assert ledger.path == tmp_path / "ledger"
        assert verify(ledger.path).streams == 1


def test_ledgers_in_one_directory_have_a_file_each(path: Path, opening: Opening) -> None:
    """Two ledgers at a time write side by side, under one name, and leave each other alone."""
    with SQLiteLedger(path) as one, SQLiteLedger(path) as two:
        assert one.log == two.log
        one.append_open(opening("a")).result()
        two.append_open(opening("b")).result()
        assert len(_files(path)) == 2
        assert verify(path).ok
    assert [found["sealed"] for found in read_receipts(path)] == [False, False]
