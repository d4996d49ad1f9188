"""`streamguard receipts` and `streamguard verify` show a ledger, and exit with what they found."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table
from typer.testing import CliRunner, Result

from streamguard_cli.receipts import register as register_receipts
from streamguard_cli.tables import printable, show
from streamguard_cli.verify import register as register_verify
from streamguard_core import Cause, Count, CountSource, Instants, OpenRecord, Price, Receipt
from streamguard_ledger import SQLiteLedger

Opening = Callable[..., OpenRecord]
Closing = Callable[..., Receipt]
Edit = Callable[..., Any]


def _call(*arguments: object) -> Result:
    app = typer.Typer()
    register_receipts(app)
    register_verify(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _lines(result: Result) -> dict[str, list[str]]:
    """The lines of a table by their first cell."""
    table = result.stdout.partition("\n\n")[0].splitlines()
    return {line.split()[0]: line.split() for line in table[1:]}


@pytest.fixture
def mixed(path: Path, opening: Opening, closing_of: Closing) -> Path:
    """Return a ledger with a crashed stream, an open one, and some that ended."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening("crashed", opened_us=1, max_tokens=40, model="m1")).result()
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening("open", opened_us=2, model="m2")).result()
        exact = closing_of(
            "exact",
            opened_us=3,
            model="m3",
            output=Count.exact(12, CountSource.PROVIDER_FINAL),
            waste=Count.exact(0, CountSource.PROVIDER_FINAL),
            prevented=Count.at_least(0, CountSource.NONE, 400),
            price=Price(total="0.007500000000", currency="USD"),
            instants=Instants(opened_ns=7, sealed_ns=1_500_000_007),
        )
        rough = closing_of(
            "rough",
            opened_us=4,
            cause=Cause.COMPLETED,
            output=Count(30, 20, 40, CountSource.HEURISTIC),
            waste=Count.at_least(5, CountSource.CHUNKS),
        )
        for receipt in (exact, rough):
            ledger.append_close(receipt).result()
    return path


def test_receipts_shows_a_line_for_every_stream(mixed: Path) -> None:
    """Stream, cause, category, model, chunks, tokens with source, waste, prevented, price, close, time."""
    result = _call("receipts", mixed)
    assert result.exit_code == 0
    lines = _lines(result)
    assert list(lines) == ["crashed", "open", "exact", "rough"]
    assert " ".join(lines["exact"]) == (
        "exact CLIENT_DISCONNECT user m3 9/7/6/1 12 provider_final 0 0..400 0.0075 USD confirmed 1.50"
    )
    assert " ".join(lines["rough"]) == (
        "rough COMPLETED completed 9/7/6/1 ~30 20..40 heuristic >=5 unknown unpriced confirmed 0.00"
    )
    assert " ".join(lines["open"]) == "open m2 open"
    assert " ".join(lines["crashed"]) == (
        "crashed CRASHED system m1 unknown 0..40 0..40 0..40 unknown unconfirmed, recovered"
    )


def test_receipts_adds_up_what_is_known(mixed: Path) -> None:
    """The last line holds the totals; unknown is counted beside them and never as zero (G12)."""
    total = _call("receipts", mixed).stdout.rpartition("\n\n")[2]
    assert total == (
        "Total: 4 streams, 1 open, produced 18 (+ 1 unknown), committed 14 (+ 1 unknown),"
        " consumed 12 (+ 1 unknown), late 2 (+ 1 unknown), tokens 42 (+ 1 unknown),"
        " waste 0 (+ 2 unknown), prevented at most 440 (+ 1 unknown),"
        " price 0.0075 USD (+ 2 unpriced)\n"
    )
    crashed = _call("receipts", mixed, "--cause", "crashed").stdout
    assert "1 streams, 0 open, produced unknown" in crashed


def test_receipts_can_be_narrowed(mixed: Path) -> None:
    """--cause and --last choose; the latest are those that were opened last."""
    assert list(_lines(_call("receipts", mixed, "--cause", "COMPLETED"))) == ["rough"]
    assert list(_lines(_call("receipts", mixed, "--last", 2))) == ["exact", "rough"]
    assert _call("receipts", mixed, "--cause", "SHUTDOWN").stdout == "No receipts.\n"


def test_receipts_as_json_is_one_object_per_line(mixed: Path) -> None:
    """Other programs get every field, in lines that they can read one by one."""
    result = _call("receipts", mixed, "--json", "--last", 3)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["stream_id"] for one in found] == ["open", "exact", "rough"]
    assert found[1]["output"]["source"] == "provider_final"
    assert not found[0]["sealed"]


@pytest.mark.parametrize("command", ["receipts", "verify"])
def test_what_is_no_ledger_is_a_usage_error(tmp_path: Path, command: str) -> None:
    """Exit 2, and a sentence that says what is there instead and what to give."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, what in {
        "missing": "nothing is there; give the directory",
        "empty": "the directory is empty: no ledger was ever opened here; give the one",
        ".": "the directory has no ledger.json, so it is no ledger; give the one",
        "file": "it is a file, and a ledger is a directory",
    }.items():
        result = _call(command, tmp_path / name)
        assert result.exit_code == 2
        assert what in result.stderr
        assert result.stdout == ""
    assert _call(command).exit_code == 2
    assert _call("receipts", tmp_path, "--last", 0).exit_code == 2
    assert _call("receipts", tmp_path, "--cause", "BOREDOM").exit_code == 2


@pytest.mark.parametrize("command", ["receipts", "verify"])
def test_a_ledger_that_has_lost_its_writers_is_said(whole: Path, command: str) -> None:
    """Exit 2 and what to do, when the folder of all records is missing or is no folder."""
    shutil.rmtree(whole / "writers")
    result = _call(command, whole)
    assert result.exit_code == 2
    assert "its folder writers is missing, and all records with it; restore it" in result.stderr
    (whole / "writers").write_text("")
    result = _call(command, whole)
    assert result.exit_code == 2
    assert "Not a directory" in result.stderr


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may read everything, so it is somebody else for a while; everybody else stays who he is."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
@pytest.mark.parametrize("command", ["receipts", "verify"])
@pytest.mark.parametrize("closed", [".", "writers"])
def test_a_ledger_of_somebody_else_is_said(whole: Path, command: str, closed: str) -> None:
    """Exit 2, and as whom to run it."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own can be entered by its user alone
        Path(folder).chmod(0o755)
        copy = Path(shutil.copytree(whole, Path(folder) / "ledger"))
        for item in (copy, *copy.rglob("*")):
            item.chmod(0o755 if item.is_dir() else 0o444)
        assert _call(command, copy).exit_code == 0  # and has imported what it needs
        (copy / closed).chmod(0)
        try:
            with _as_nobody():
                result = _call(command, copy)
        finally:
            (copy / closed).chmod(0o700)
    assert result.exit_code == 2
    assert "run as the user that the application runs as" in result.stderr


def test_receipts_shows_what_it_can_and_says_that_it_is_not_all(whole: Path, edit: Edit) -> None:
    """Exit 3 with a warning, after the lines that could be read."""
    with edit(whole) as connection:
        connection.execute("UPDATE record SET body = x'00' WHERE seq = 1")
    result = _call("receipts", whole)
    assert list(_lines(result)) == ["s1"]
    assert result.exit_code == 3
    assert "cannot read all of the ledger" in result.stderr


def test_receipts_survives_forged_fields(whole: Path, edit: Edit) -> None:
    """A receipt with fields of other types is shown, not a traceback."""
    forged = b'{"stream_id":"s0","output":7,"instants":[],"produced":{},"opened_us":"x"}'
    with edit(whole) as connection:
        connection.execute("UPDATE record SET body = ? WHERE seq = 2", (forged,))
    result = _call("receipts", whole)
    assert result.exit_code == 0
    assert set(_lines(result)) == {"s0", "s1"}


def test_what_came_over_a_network_cannot_steer_the_terminal(path: Path, opening: Opening) -> None:
    """Control sequences in a model's name are shown as what they are: nothing to be obeyed."""
    with SQLiteLedger(path) as ledger:
        ledger.append_open(opening(model="\x1b[2Jmodel\r[red]")).result()
        output = _call("receipts", path).stdout
    assert "\x1b" not in output
    assert "\ufffd[2Jmodel\ufffd[red]" in output


def test_verify_says_ok_and_what_it_cannot_know(whole: Path) -> None:
    """Exit 0 for a whole ledger, with its writers, and what was not checked."""
    result = _call("verify", whole)
    assert result.exit_code == 0
    assert "closed        6  sound" in result.stdout
    assert "2 streams, 0 of them open" in result.stdout
    assert "Not checked:\n  - whether the newest records" in result.stdout
    assert result.stdout.endswith(
        "OK: every record is as it was written, and every stream adds up.\n"
    )


def test_verify_exits_1_on_evidence(whole: Path, edit: Edit) -> None:
    """A changed record is listed with its writer and seq."""
    with edit(whole) as connection:
        connection.execute("UPDATE record SET body = CAST(body || ' ' AS BLOB) WHERE seq = 2")
    result = _call("verify", whole)
    assert result.exit_code == 1
    assert "NOT SOUND" in result.stdout
    assert " #2: its bytes are not those that were written" in result.stdout
    assert "NOT OK" in result.stdout


def test_verify_exits_3_on_what_is_not_finished(whole: Path, edit: Edit) -> None:
    """A ledger whose last process was killed is neither whole nor tampered with."""
    with edit(whole) as connection:
        connection.execute("DELETE FROM record WHERE seq > 3")
    result = _call("verify", whole)
    assert result.exit_code == 3
    assert "INCOMPLETE" in result.stdout


def test_verify_as_json_is_the_whole_report(whole: Path) -> None:
    """Other programs get everything, and the exit code with it."""
    result = _call("verify", whole, "--json")
    report = json.loads(result.stdout)
    assert (report["ok"], report["exit_code"], report["streams"]) == (True, 0, 2)
    assert report["writers"][0]["state"] == "closed"


def test_verify_shows_the_first_of_many_problems(path: Path, opening: Opening, edit: Edit) -> None:
    """A screenful is enough to see; the rest is counted."""
    with SQLiteLedger(path) as ledger:
        for number in range(60):
            ledger.append_open(opening(str(number)))
    with edit(path) as connection:
        connection.execute("UPDATE record SET record_id = 'x' || seq")
    result = _call("verify", path)
    assert result.stdout.count("otherwise than its place") == 50
    assert "and 12 more; --json tells all" in result.stdout


def test_a_table_is_as_wide_as_its_content_where_nobody_looks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a pipe nothing is cut off or folded."""
    table = Table(box=None)
    table.add_column("wide")
    table.add_row(printable("x" * 500))
    show(table)
    assert "x" * 500 in capsys.readouterr().out


def test_a_table_fits_into_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a screen it is folded to its width."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    table = Table(box=None)
    table.add_column("wide", overflow="fold")
    table.add_row(printable("x" * 500))
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 8
    assert all(line.count("x") <= 60 for line in lines)
