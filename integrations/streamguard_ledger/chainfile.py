"""The file of one writer: a SQLite table into which records are inserted, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from streamguard_core import UsageError
from streamguard_ledger.folder import FileLock, Folder, is_held, sync_directory
from streamguard_ledger.records import Draft, Kind, Ref, digest, new_id, writer_open_draft

TABLE: Final = """\
CREATE TABLE record (
  seq INTEGER PRIMARY KEY,
  record_id TEXT NOT NULL UNIQUE,
  stream_id TEXT,
  kind TEXT NOT NULL,
  body BLOB NOT NULL,
  hash BLOB NOT NULL
) STRICT"""
INDEXED: Final = "kind IN ('OPEN', 'CLOSE')"
"""What a query says so that SQLite uses the index below."""
INDEX: Final = f"""\
CREATE UNIQUE INDEX one_open_one_close ON record (stream_id, kind)
WHERE {INDEXED}"""
SCHEMA: Final = {
    ("table", "record", TABLE),
    ("index", "one_open_one_close", INDEX),
    ("index", "sqlite_autoindex_record_1", None),
}
"""What a writer's file holds, and nothing else: no trigger, no view."""

_APPLICATION_ID: Final = 0x53474C31  # "SGL1": for `file` and whoever else meets such a file
_INSERT: Final = (
    "INSERT INTO record (seq, record_id, stream_id, kind, body, hash) VALUES (?, ?, ?, ?, ?, ?)"
)
_FIND: Final = (
    "SELECT seq, record_id, stream_id, kind, body, hash FROM record"  # noqa: S608 - of constants
    f" WHERE {INDEXED} AND kind = ? AND stream_id = ?"
)
_TYPES: Final = {
    (int, str, str, str, bytes, bytes),
    (int, str, type(None), str, bytes, bytes),
}
_DAMAGE: Final = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
}
PRIMARY: Final = 0xFF
"""The low byte of SQLite's error codes names the kind, the rest the circumstances."""
_BUSY_S: Final = 5.0
_PAGE: Final = 500


class Row(NamedTuple):
    """A row as it stands in a file, believed in nothing."""

    seq: int
    record_id: str
    stream_id: str | None
    kind: str
    body: bytes
    hash: bytes


class ChainFile:
    """One writer's file and the end of its chain; for one thread, which alone writes it.

    Invariant: what is in the file is a prefix of what was inserted, in order.
    """

    def __init__(self, folder: Folder, lock: FileLock, writer: str) -> None:
        self.lock = lock
        self.writer = writer
        self.path = folder.file_of(writer)
        self._log = folder.log
        self._seq = 0
        self._prev: str | None = None
        self._connection = connect_owner(self.path, create=True)

    @classmethod
    def create(cls, folder: Folder) -> ChainFile:
        """Start a chain in a file of its own.

        Raises:
            OSError: when the lock file cannot be made.
            sqlite3.Error: when the file cannot be written.
        """
        writer = new_id().hex
        lock = FileLock.take(folder.lock_of(writer))
        assert lock is not None, "a fresh random name is locked by nobody"
        try:
            file = cls(folder, lock, writer)
            try:
                file._begin(folder)
            except BaseException:
                file._connection.close()
                raise
        except BaseException:
            _remove(folder, writer)
            lock.release()
            raise
        return file

    @contextmanager
    def batch(self) -> Iterator[None]:
        """A transaction: what is inserted inside is durable afterwards, or not there at all.

        Raises:
            sqlite3.Error: when it cannot be made durable; the chain then ends where it ended.
        """
        end = self._seq, self._prev
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._seq, self._prev = end
            if self._connection.in_transaction:  # SQLite rolls some failures back by itself
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    def insert(self, draft: Draft) -> Ref:
        """Append a record to the chain, inside a batch.

        Raises:
            UsageError: when this one record cannot be written; the batch goes on.
            sqlite3.Error: when the file cannot be written.
        """
        record_id = str(new_id())
        place = {"log": self._log, "writer": self.writer, "seq": self._seq, "prev": self._prev}
        body = draft.body(**place, record_id=record_id)  # type: ignore[arg-type]
        ref = Ref(self.writer, self._seq, digest(body))
        row = Row(ref.seq, record_id, draft.stream_id, draft.kind, body, bytes.fromhex(ref.hash))
        try:
            self._connection.execute(_INSERT, row)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise  # somebody else wrote into this file
            raise UsageError(
                f"stream {draft.stream_id} has its {draft.kind} record already, and records are"
                " never replaced; give every stream an id of its own"
            ) from None
        self._seq, self._prev = ref.seq + 1, ref.hash
        return ref

    def close(self) -> None:
        """Let go of the file, then of the lock; what is written stays, whatever happens here."""
        self.abandon()
        self.lock.release()

    def abandon(self) -> None:
        """Let go of the file alone: as long as the lock is held, nobody recovers its streams."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _begin(self, folder: Folder) -> None:
        with self.batch():
            self._connection.execute(TABLE)
            self._connection.execute(INDEX)
            self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self.insert(writer_open_draft(folder.log))
        sync_directory(folder.writers)


def connect_owner(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open a file as its owner: the only connection that writes it, or folds its WAL in.

    Raises:
        sqlite3.Error: when it cannot be opened, or is no database.
    """
    connection = _open(path, "mode=rwc" if create else "mode=rw")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open a file for reading, also while its owner writes.

    A file without a living owner and without a WAL changes no more; it is read without making
    anything beside it, so also in a directory that nobody may write.

    Raises:
        OSError: when its lock cannot be looked at.
        sqlite3.Error: when it cannot be opened.
    """
    at_rest = not is_held(path.with_suffix(".lock")) and not _wal_of(path).exists()
    return _open(path, "mode=ro&immutable=1" if at_rest else "mode=ro")


def is_empty(connection: sqlite3.Connection) -> bool:
    """True for a file whose writer has not come to its first record; not for one that was emptied.

    Raises:
        sqlite3.Error: when the file cannot be read, or is no database.
    """
    if connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None:
        return False
    return bool(connection.execute("PRAGMA application_id").fetchone() == (0,))


def rows(connection: sqlite3.Connection, *, after: int = -1) -> Iterator[Row]:
    """All rows behind a seq, in order; a page at a time, so that a live writer is not held up.

    Raises:
        sqlite3.Error: when the file is damaged; what was read before is good.
    """
    while page := connection.execute(
        "SELECT seq, record_id, stream_id, kind, body, hash FROM record"
        " WHERE seq > ? ORDER BY seq LIMIT ?",
        (after, _PAGE),
    ).fetchall():
        for values in page:
            if tuple(map(type, values)) not in _TYPES:
                raise sqlite3.DatabaseError(f"record {values[0]} holds values of other types")
            yield Row._make(values)
        after = page[-1][0]


def find(connection: sqlite3.Connection, kind: Kind, stream_ids: list[str]) -> list[Row]:
    """The OPEN or the CLOSE records of some streams, as far as they are in a file."""
    if is_empty(connection):
        return []
    found = (connection.execute(_FIND, (kind, one)).fetchone() for one in stream_ids)
    return [Row._make(values) for values in found if values is not None]


def integrity(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with the file as a database; empty when it is sound."""
    found = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(10)")]
    if found != ["ok"]:
        return found
    there = set(connection.execute("SELECT type, name, sql FROM sqlite_schema"))
    return [] if there == SCHEMA else ["the file holds other tables, indexes or triggers"]


def is_damage(error: Exception) -> bool:
    """True when a file could be opened and is not what it should be; false for a busy one."""
    if not isinstance(error, sqlite3.Error):
        return False
    # What Python's own module raises (text that is not UTF-8) has no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & PRIMARY in _DAMAGE


def _open(path: Path, how: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None)
    _distrust(connection)
    return connection


def _wal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _distrust(connection: sqlite3.Connection) -> None:
    """A file may have been tampered with: believe nothing that it says about itself."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA mmap_size = 0")


def _remove(folder: Folder, writer: str) -> None:
    """Take away what is left of a writer that never wrote a record."""
    path = folder.file_of(writer)
    for name in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))):
        with suppress(OSError):
            name.unlink(missing_ok=True)
    with suppress(OSError):
        folder.lock_of(writer).unlink(missing_ok=True)
