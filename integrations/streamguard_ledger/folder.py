"""The directory of a ledger: its name, its writers' files, and the locks of those that live."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamguard_core import LedgerError
from streamguard_ledger import canonical
from streamguard_ledger.records import VERSION, new_id

_FORMAT: Final = "streamguard-ledger"
_SETTLED: Final = b"settled\n"
_WRITER_FILE: Final = re.compile(r"[0-9a-f]{32}\.db")
_AS_WHOM: Final = "run as the user that the application runs as"


@dataclass(frozen=True, slots=True)
class Folder:
    """A ledger on disk: `ledger.json` names it, `writers/` holds a file for every writer."""

    path: Path
    log: str

    @property
    def writers(self) -> Path:
        """Where the writers' files are."""
        return self.path / "writers"

    def file_of(self, writer: str) -> Path:
        """The file that one writer writes."""
        return self.writers / f"{writer}.db"

    def lock_of(self, writer: str) -> Path:
        """The file whose lock a writer holds as long as it lives."""
        return self.writers / f"{writer}.lock"

    def writer_ids(self) -> list[str]:
        """All writers there ever were, in the order in which they started.

        Raises:
            LedgerError: when their folder is missing or cannot be read.
        """
        try:
            names = [path.name for path in self.writers.iterdir()]
        except FileNotFoundError:
            raise LedgerError(
                f"cannot read the ledger at {self.path}: its folder {self.writers.name} is missing,"
                " and all records with it; restore it from a backup"
            ) from None
        except OSError as error:
            raise LedgerError(
                f"cannot read the ledger at {self.path}: {_reason(error)}; {_AS_WHOM}"
            ) from None
        return sorted(Path(name).stem for name in names if _WRITER_FILE.fullmatch(name))


def prepare(path: Path) -> Folder:
    """Make a directory a ledger, or find that it is one.

    Raises:
        LedgerError: when that is not possible; says what to do.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _named(path):
            _refuse_foreign(path)
            _name(path)
        folder = existing(path)
        folder.writers.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path)
        sync_directory(path.parent)
    except OSError as error:
        raise LedgerError(
            f"cannot open a ledger for writing at {path}: {_reason(error)};"
            " give a directory on a local disk that this process may create or write"
        ) from error
    return folder


def existing(path: Path) -> Folder:
    """The ledger at a path, for reading.

    Raises:
        LedgerError: when there is none; says what is there instead.
    """
    try:
        text = (path / "ledger.json").read_bytes()
    except OSError as error:
        raise LedgerError(f"cannot read a ledger at {path}: {_instead(path, error)}") from None
    match _decoded(text):
        case {"format": "streamguard-ledger", "v": 1, "log": str() as log}:
            return Folder(path, log)
        case {"format": "streamguard-ledger", "v": int() as version}:
            raise LedgerError(
                f"cannot read the ledger at {path}: its format has version {version}, this software"
                f" knows version {VERSION}; use a newer one"
            )
    raise LedgerError(
        f"cannot read a ledger at {path}: its ledger.json is not one of StreamGuard's, or damaged;"
        " restore that file from a backup"
    )


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FileLock:
    """An exclusive lock on a file, held until it is released or the process ends.

    A forked child inherits the handle, and with it the lock: it has to `forget()`.
    """

    __slots__ = ("_handle",)

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def take(cls, path: Path) -> FileLock | None:
        """Lock a file, which is made if need be; None when somebody else holds it.

        Raises:
            LedgerError: when there are no such locks.
            OSError: when the file cannot be opened.
        """
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _flock(handle, path, exclusive=True):
                return cls(handle)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def settle(self) -> None:
        """Note in the file that nothing is left to be recovered."""
        os.pwrite(self._handle, _SETTLED, 0)

    @property
    def settled(self) -> bool:
        """True when somebody noted that nothing is left to be recovered."""
        return os.pread(self._handle, len(_SETTLED), 0) == _SETTLED

    def release(self) -> None:
        """Give the lock up, also for children that inherited it."""
        import fcntl  # noqa: PLC0415 - not everywhere; take() said so

        fcntl.flock(self._handle, fcntl.LOCK_UN)
        os.close(self._handle)

    def forget(self) -> None:
        """Close the handle of a forked child; the lock stays with the parent."""
        os.close(self._handle)


def is_held(path: Path) -> bool:
    """True while a process holds the lock on a file; False where nobody can tell.

    Raises:
        OSError: when the file is there and cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _flock(handle, path, exclusive=False)
    except LedgerError:
        return False
    finally:
        os.close(handle)


def _flock(handle: int, path: Path, *, exclusive: bool) -> bool:
    try:
        import fcntl  # noqa: PLC0415 - not everywhere

        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        raise LedgerError(
            f"cannot lock {path}: {error}; a ledger needs flock, so keep it on a local disk"
            " under Linux, macOS or BSD"
        ) from None
    return True


def _named(path: Path) -> bool:
    return (path / "ledger.json").exists()


def _refuse_foreign(path: Path) -> None:
    """Nobody's home directory becomes a ledger by a slip."""
    foreign = next(_foreign(path), None)
    if foreign is not None and not _named(path):
        raise LedgerError(
            f"cannot make a ledger of {path}: the directory holds other things already;"
            " give a new or an empty one"
        )


def _foreign(path: Path) -> Iterator[Path]:
    return (item for item in path.iterdir() if not item.name.startswith("ledger.json"))


def _name(path: Path) -> None:
    """Write `ledger.json` whole or not at all; the first of several processes wins."""
    body = canonical.encode({"format": _FORMAT, "log": new_id().hex, "v": VERSION})
    draft = path / f"ledger.json.{new_id().hex}"
    with draft.open("xb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        (path / "ledger.json").hardlink_to(draft)
    draft.unlink()


def _decoded(text: bytes) -> dict[str, object]:
    try:
        return canonical.decode(text)
    except canonical.NotCanonical:
        return {}


def _instead(path: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{_reason(error)}; {_AS_WHOM}"
    if not path.exists():
        return "nothing is there; give the directory that SQLiteLedger(...) was given"
    if path.is_file():
        return "it is a file, and a ledger is a directory; give the one that SQLiteLedger() made"
    if not any(path.iterdir()):
        return (
            "the directory is empty: no ledger was ever opened here;"
            " give the one that SQLiteLedger(...) was given"
        )
    return (
        "the directory has no ledger.json, so it is no ledger;"
        " give the one that SQLiteLedger(...) was given"
    )


def _reason(error: OSError) -> str:
    return f"{error.strerror or error} ({error.filename})" if error.filename else str(error)
