"""Changes records as somebody can who knows the format."""

from __future__ import annotations

import json
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

from streamguard_ledger import VerifyReport, canonical
from streamguard_ledger.chainfile import Row, connect_reader, rows


def rows_of(path: Path, number: int = 0) -> list[Row]:
    """The rows of one writer's file."""
    file = sorted((path / "writers").glob("*.db"))[number]
    with closing(connect_reader(file)) as connection:
        return list(rows(connection))


def log_of(path: Path) -> str:
    """The id of a ledger."""
    return str(json.loads((path / "ledger.json").read_text())["log"])


def whats(report: VerifyReport) -> str:
    """What a verification found, a line each."""
    return "\n".join(map(str, report.problems))


def rehash(body: bytes) -> tuple[bytes, bytes]:
    """A body and its hash."""
    return body, sha256(body).digest()


def forge(connection: Any, place: int, **changes: Any) -> None:
    """Change fields of a record, and its columns and its own hash along with it."""
    (body,) = connection.execute("SELECT body FROM record WHERE seq = ?", (place,)).fetchone()
    record = {key: item for key, item in (json.loads(body) | changes).items() if item is not None}
    body, digest = rehash(canonical.encode(record))
    connection.execute(
        "UPDATE record SET body = ?, hash = ?, kind = ?, stream_id = ? WHERE seq = ?",
        (body, digest, record["kind"], record.get("stream_id"), place),
    )


def rechain(connection: Any, start: int = 0) -> None:
    """Make a chain consistent again, as somebody who knows the format can."""
    found = connection.execute("SELECT seq, body FROM record ORDER BY seq").fetchall()
    prev = None
    for seq, old in found:
        record = json.loads(old)
        if seq > start and prev is not None:
            record["prev"] = prev
        body, digest = rehash(canonical.encode(record))
        prev = digest.hex()
        connection.execute(
            "UPDATE record SET body = ?, hash = ? WHERE seq = ?", (body, digest, seq)
        )
