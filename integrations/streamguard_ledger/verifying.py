"""Verifies a ledger: every byte, every chain, every pair of OPEN and CLOSE, every sum."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from streamguard_core import LedgerError
from streamguard_ledger.chain import Chain
from streamguard_ledger.chainfile import Row, connect_reader, integrity, is_damage, is_empty, rows
from streamguard_ledger.folder import Folder, existing, is_held
from streamguard_ledger.numbers import contradictions
from streamguard_ledger.pairs import Pairs
from streamguard_ledger.records import Kind, Ref
from streamguard_ledger.report import Problem, VerifyReport, WriterReport, WriterState

_ROUNDS: Final = 5


def verify(path: str | os.PathLike[str]) -> VerifyReport:
    """Check all of a ledger, also while it is written; changes nothing.

    Found is every changed, missing, added or moved record that is followed by another one, or
    whose writer was recovered, and every changed byte of the others. What cannot be known is said
    in `not_checked`.

    Args:
        path: the directory that `SQLiteLedger` was given, or a copy of it.

    Raises:
        LedgerError: when there is no ledger.
    """
    return _Verification(existing(Path(path))).run()


class _Writer:
    """What is known of one writer's file so far."""

    def __init__(self, log: str, writer: str, problems: dict[Problem, None]) -> None:
        self.problems = problems
        self.chain = Chain(log, writer, self.note)
        self.records = 0
        self.live = False
        self.broken = False
        """True when the file cannot be read to its end."""

    def note(self, seq: int | None, what: str) -> None:
        self.problems[Problem(self.chain.writer, seq, what)] = None

    def state(self, *, recovered: bool) -> WriterState:
        if self.live:
            return WriterState.LIVE
        if self.chain.closed:
            return WriterState.CLOSED
        return WriterState.RECOVERED if recovered else WriterState.UNRECOVERED


class _Verification:
    """One pass over a ledger that may grow meanwhile.

    A record may refer to one that was durable before it, in a file that was read earlier and has
    grown since. So whatever lacks its counterpart sends us through all files once more.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._problems: dict[Problem, None] = {}
        self._writers = {
            writer: _Writer(folder.log, writer, self._problems) for writer in folder.writer_ids()
        }
        self._pairs = Pairs(lambda ref, what: self._writers[ref.writer].note(ref.seq, what))
        self._ends: dict[str, tuple[Ref, Ref]] = {}
        """Where a writer ended as a later one noted, and the place of that note."""

    def run(self) -> VerifyReport:
        for writer in self._writers:
            self._scan(writer)
        for _ in range(_ROUNDS):
            if not self._lacks_something():
                break
            for writer in self._writers:
                self._scan(writer)
        self._check_ends()
        self._pairs.complain()
        incomplete = self._incomplete()
        return VerifyReport(
            path=str(self._folder.path),
            log=self._folder.log,
            writers=tuple(self._report(writer) for writer in self._writers),
            streams=self._pairs.streams,
            open_streams=len(self._pairs.open),
            problems=tuple(self._problems),
            unknown=self._unknown(),
            incomplete=tuple(incomplete),
        )

    def _scan(self, writer: str) -> None:
        """Read a file on from where it was read to."""
        known = self._writers[writer]
        path = self._folder.file_of(writer)
        try:
            known.live = is_held(self._folder.lock_of(writer))
            with closing(connect_reader(path)) as connection:
                if is_empty(connection):
                    return
                if not known.records:
                    for line in integrity(connection):
                        known.note(None, f"its file is damaged: {line}")
                for row in rows(connection, after=known.chain.last):
                    known.records += 1
                    record = known.chain.feed(row)
                    if record is not None:
                        self._take(known, row, record)
        except (OSError, sqlite3.Error) as error:
            if not is_damage(error):
                raise LedgerError(
                    f"cannot verify {path}: {error}; run as the user that the application runs"
                    " as, and while its process is not starting or ending"
                ) from error
            known.broken = True
            known.note(None, f"its file cannot be read: {error}")

    def _take(self, known: _Writer, row: Row, record: dict[str, Any]) -> None:
        place = known.chain.end
        match record["kind"]:
            case Kind.OPEN:
                self._pairs.take_open(place, str(row.stream_id))
            case Kind.CLOSE:
                for what in contradictions(record):
                    known.note(row.seq, what)
                self._pairs.take_close(place, str(row.stream_id), record)
            case Kind.WRITER_RECOVERED:
                end = Ref.of(record.get("head"))
                if end is None:
                    known.note(row.seq, "it does not say where the recovered writer ended")
                else:
                    self._ends[end.writer] = end, place

    def _lacks_something(self) -> bool:
        late = any(
            writer in self._writers and self._writers[writer].chain.last < end.seq
            for writer, (end, _) in self._ends.items()
        )
        lost = any(ref.writer in self._ends for ref in self._pairs.open.values())
        return late or lost or self._pairs.lacks_an_open

    def _check_ends(self) -> None:
        """A writer that was recovered ends where it ended then."""
        for writer, (end, place) in self._ends.items():
            known = self._writers.get(writer)
            if known is None:
                self._writers[place.writer].note(
                    place.seq, f"the writer that it recovered, {writer}, is gone"
                )
            elif known.broken or known.chain.newer is not None:
                continue
            elif known.chain.last < end.seq:
                known.note(None, f"its records from {known.chain.last + 1} to {end.seq} are gone")
            elif known.chain.last > end.seq:
                known.note(end.seq + 1, "was added after its writer had ended")
            elif known.chain.end != end:
                known.note(end.seq, "it is not the record with which its writer ended")

    def _incomplete(self) -> list[str]:
        """What is open though its process is gone; as a problem where that cannot be."""
        lines = []
        for stream_id, ref in self._pairs.open.items():
            known = self._writers[ref.writer]
            if ref.writer in self._ends:
                known.note(ref.seq, f"the receipt of stream {stream_id} is gone")
            elif not known.live:
                lines.append(f"writer {ref.writer} #{ref.seq}: stream {stream_id} has no receipt")
        for writer, known in self._writers.items():
            if self._state(writer) is WriterState.UNRECOVERED and not known.broken:
                lines.append(
                    f"writer {writer}: it has no end; its process was killed, or records at its"
                    " end are gone. The next start of the ledger recovers what is there"
                )
        return lines

    def _unknown(self) -> tuple[str, ...]:
        return tuple(
            f"writer {writer}: it has records of version {known.chain.newer}; use newer software"
            for writer, known in self._writers.items()
            if known.chain.newer is not None
        )

    def _state(self, writer: str) -> WriterState:
        return self._writers[writer].state(recovered=writer in self._ends)

    def _report(self, writer: str) -> WriterReport:
        known = self._writers[writer]
        return WriterReport(
            writer=writer,
            state=self._state(writer),
            records=known.records,
            head=known.chain.head,
            sound=all(problem.writer != writer for problem in self._problems),
        )
