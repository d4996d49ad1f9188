"""The records of a ledger as plain data: what an OPEN, a receipt and a writer's own records say.

A receipt is written as `streamguard_core.plain_receipt` says: its instants are nanoseconds since the
stream was opened, as a machine's own clock outgrows what JSON keeps exactly after 104 days. What
cannot be written at all (an integer beyond 2^53, a tag with a key that is not ASCII) is left out and
named in `left_out`: a receipt is never lost for one field.
An OPEN is refused instead, as nothing has been spent yet.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Any, Final

from streamguard_core import (
    Cause,
    CloseState,
    OpenRecord,
    Receipt,
    UsageError,
    __version__,
    plain_receipt,
    plain_record,
)
from streamguard_ledger import canonical

VERSION: Final = 1
"""Version of the records that this package writes, and the newest that it understands."""
MAX_OPEN_BYTES: Final = 64 * 1024
"""An OPEN larger than this is refused: its tags come from somewhere they should not."""
MAX_LEFT_OUT: Final = 32

CHAIN_FIELDS: Final = ("v", "kind", "log", "writer", "seq", "prev", "record_id", "open_ref")
"""What a record says about its place in the ledger rather than about its stream."""


class Kind(str, Enum):
    """What a record is. A verifier refuses kinds that it does not know."""

    WRITER_OPEN = "WRITER_OPEN"
    """The first record of every writer."""
    OPEN = "OPEN"
    """A stream may cost money from now on."""
    CLOSE = "CLOSE"
    """The receipt of a stream."""
    WRITER_RECOVERED = "WRITER_RECOVERED"
    """Another writer is gone: this was its last record, and every stream it left open is closed."""
    WRITER_CLOSE = "WRITER_CLOSE"
    """The last record of a writer that was closed in order."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Ref:
    """Where a record is, with the SHA-256 of its bytes."""

    writer: str
    seq: int
    hash: str

    def to_data(self) -> dict[str, Any]:
        """As plain data for a record."""
        return {"writer": self.writer, "seq": self.seq, "hash": self.hash}

    @classmethod
    def of(cls, data: object) -> Ref | None:
        """Read from a record; None where there is none, or a broken one."""
        match data:
            case {"writer": str() as writer, "seq": int() as seq, "hash": str() as digest}:
                return cls(writer, seq, digest)
        return None


@dataclass(frozen=True, slots=True)
class Draft:
    """A record before it has a place in a chain."""

    kind: Kind
    fields: dict[str, Any]
    stream_id: str | None = None

    def body(self, *, log: str, writer: str, seq: int, prev: str | None, record_id: str) -> bytes:
        """The canonical bytes of this record at its place.

        Raises:
            UsageError: when a field has no canonical bytes, or there are too many; never for a
                receipt, which does without that field.
        """
        place = {"v": VERSION, "kind": self.kind.value, "log": log, "writer": writer, "seq": seq}
        if prev is not None:
            place["prev"] = prev
        place["record_id"] = record_id
        try:
            body = canonical.encode(self.fields | place)
        except canonical.NotCanonical:
            if self.kind is not Kind.CLOSE:
                raise
            fields, missing = canonical.fitting(self.fields)
            left_out = [*fields.get("left_out", ()), *missing][:MAX_LEFT_OUT]
            return canonical.encode(fields | place | {"left_out": left_out})
        if self.kind is Kind.OPEN and len(body) > MAX_OPEN_BYTES:
            raise UsageError(
                f"cannot write the OPEN record of stream {self.stream_id}: it has more than"
                f" {MAX_OPEN_BYTES} bytes; give fewer or shorter tags"
            )
        return body


def digest(body: bytes) -> str:
    """The SHA-256 of a record's bytes, in hex: what the next record of the chain repeats."""
    return sha256(body).hexdigest()


def new_id() -> uuid.UUID:
    """A fresh UUIDv7: the time in steps of a quarter of a microsecond, then 62 random bits."""
    ms, rest = divmod(time.time_ns(), 1_000_000)
    value = ms << 80 | 0x7 << 76 | (rest << 12) // 1_000_000 << 64
    return uuid.UUID(int=value | 0x2 << 62 | int.from_bytes(os.urandom(8), "big") >> 2)


def now_us() -> int:
    """Wall clock, microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def open_draft(record: OpenRecord) -> Draft:
    """What is written before the provider is called.

    Raises:
        UsageError: when it holds an object that is no data at all.
    """
    return Draft(Kind.OPEN, plain_record(record), record.stream_id)


def close_draft(receipt: Receipt, opened: Ref | None) -> Draft:
    """A receipt; `opened` is where its OPEN is, None when that could not be written.

    Raises:
        UsageError: when it holds an object that is no data at all.
    """
    fields = plain_receipt(receipt)
    if opened is not None:
        fields["open_ref"] = opened.to_data()
    return Draft(Kind.CLOSE, fields, receipt.stream_id)


def crashed_draft(opened: Mapping[str, Any], ref: Ref) -> Draft:
    """The receipt of a stream whose process ended before it could write one.

    What was generated is unknown: no value, bounds from nothing to the limit of the OPEN.
    """
    about = {key: opened[key] for key in _OPENING if key in opened}
    bounds: dict[str, Any] = {"lower": 0, "source": "none"}
    limit = opened.get("max_tokens")
    if type(limit) is int and limit >= 0:
        bounds["upper"] = limit
    fields = about | {
        "cause": Cause.CRASHED.value,
        "category": Cause.CRASHED.category.value,
        "party": str(Cause.CRASHED.party),
        "detail": "the process ended before the stream was sealed",
        "close": CloseState.UNCONFIRMED.value,
        "output": bounds,
        "waste": bounds,
        "prevented": bounds,
        "sealed_us": now_us(),
        "open_ref": ref.to_data(),
        "recovered_from": {"writer": ref.writer, "seq": ref.seq},
    }
    return Draft(Kind.CLOSE, fields, opened["stream_id"])


def writer_open_draft(log: str) -> Draft:
    """The first record of a writer: which software wrote what follows."""
    host = sha256(f"{log} {platform.node()}".encode(errors="replace")).hexdigest()
    return Draft(
        Kind.WRITER_OPEN,
        {
            "at_us": now_us(),
            "host_ref": host[:16],
            "pid": os.getpid(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "sw": f"streamguard {__version__}",
        },
    )


def writer_close_draft(open_streams: int) -> Draft:
    """The last record of a writer, with the number of streams that it leaves open."""
    return Draft(Kind.WRITER_CLOSE, {"at_us": now_us(), "open": open_streams})


def writer_recovered_draft(end: Ref, closed: int, damage: str | None) -> Draft:
    """That another writer is gone, where it ended, and how many of its streams were closed."""
    fields: dict[str, Any] = {"at_us": now_us(), "closed": closed, "head": end.to_data()}
    if damage is not None:
        fields["damage"] = damage
    return Draft(Kind.WRITER_RECOVERED, fields)


_OPENING: Final = ("stream_id", "opened_us", "model", "provider", "max_tokens", "tags")
