"""Checks that every stream has one OPEN and one CLOSE, and that the CLOSE refers to that OPEN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamguard_ledger.records import Ref


class Pairs:
    """Takes OPEN and CLOSE records of all writers, in any order."""

    def __init__(self, report: Callable[[Ref, str], None]) -> None:
        self.open: dict[str, Ref] = {}
        """Where the OPEN of each stream is that has no CLOSE."""
        self._early: dict[str, tuple[Ref, Ref]] = {}
        """CLOSE records whose OPEN was not seen yet: where they are, and where it should be."""
        self._opened: set[str] = set()
        self._closed: set[str] = set()
        self._report = report

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return len(self._opened | self._closed)

    @property
    def lacks_an_open(self) -> bool:
        """True while a CLOSE refers to an OPEN that was not seen."""
        return bool(self._early)

    def take_open(self, place: Ref, stream_id: str) -> None:
        """An OPEN record."""
        if stream_id in self._opened:
            self._report(place, f"stream {stream_id} has another OPEN record")
            return
        self._opened.add(stream_id)
        early = self._early.pop(stream_id, None)
        if early is not None:
            self._compare(early[0], early[1], place)
        elif stream_id not in self._closed:
            self.open[stream_id] = place

    def take_close(self, place: Ref, stream_id: str, record: dict[str, Any]) -> None:
        """A CLOSE record. It refers to no OPEN where that could not be written."""
        if stream_id in self._closed:
            self._report(place, f"stream {stream_id} has another receipt")
            return
        self._closed.add(stream_id)
        refers_to = Ref.of(record.get("open_ref"))
        if refers_to is None and "open_ref" in record:
            self._report(place, "its reference to the OPEN record is none")
        opened = self.open.pop(stream_id, None)
        if refers_to is None:
            return
        if opened is not None:
            self._compare(place, refers_to, opened)
        else:
            self._early[stream_id] = place, refers_to

    def complain(self) -> None:
        """Report what never got its counterpart."""
        for stream_id, (place, refers_to) in self._early.items():
            self._report(
                place,
                f"the OPEN record of stream {stream_id} is gone:"
                f" writer {refers_to.writer} #{refers_to.seq}",
            )

    def _compare(self, close: Ref, refers_to: Ref, opened: Ref) -> None:
        if refers_to != opened:
            self._report(close, "it refers to another OPEN record than that of its stream")
