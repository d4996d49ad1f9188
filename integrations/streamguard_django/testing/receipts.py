"""The receipts that are sealed in a block, and what is asserted of one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, overload

from streamguard_core import Cause, CloseState, Receipt
from streamguard_django.scope import Session
from streamguard_django.signals import stream_opened, stream_sealed

_TIMEOUT: Final = 5.0
_LOOK: Final = 0.01
"""How often a stream is looked at that tells nobody of its end, in seconds."""


class Receipts(Sequence[Receipt]):
    """The receipts sealed so far, in the order in which they were sealed. Made by `collect_receipts`.

    Args:
        timeout: longest wait for a receipt, in seconds.
    """

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        self._timeout = timeout
        self._opened: dict[str, Session] = {}
        self._sealed: dict[str, Receipt] = {}
        self._changed = threading.Condition()

    @overload
    def __getitem__(self, index: int) -> Receipt: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Receipt]: ...
    def __getitem__(self, index: int | slice) -> Receipt | Sequence[Receipt]:
        """The receipts that are there now."""
        return self._now()[index]

    def __len__(self) -> int:
        return len(self._now())

    def __repr__(self) -> str:
        return f"<Receipts of {len(self._opened)} streams: {', '.join(map(_brief, self))}>"

    def opened(self, *, session: Session, **_: Any) -> None:
        """Receiver of `stream_opened`."""
        with self._changed:
            self._opened[session.stream_id] = session

    def sealed(self, *, receipt: Receipt, **_: Any) -> None:
        """Receiver of `stream_sealed`."""
        with self._changed:
            self._sealed[receipt.stream_id] = receipt
            self._changed.notify_all()

    def settle(self, count: int = 0) -> list[Receipt]:
        """Wait until every stream that was opened in the block is sealed; not on an event loop.

        Args:
            count: how many receipts there must be at least: for provider calls outside of any response,
                whose beginning nobody is told of.

        Raises:
            AssertionError: when that takes too long; says which streams still run.
        """
        give_up = time.monotonic() + self._timeout
        with self._changed:
            while self._running() or len(self._now()) < count:
                if time.monotonic() > give_up:
                    raise AssertionError(self._missing(count))
                self._changed.wait(_LOOK)
            return self._now()

    async def asettle(self, count: int = 0) -> list[Receipt]:
        """`settle()` for async tests: the loop runs on meanwhile."""
        return await asyncio.to_thread(self.settle, count)

    def only(self) -> Receipt:
        """Wait for the streams of the block, of which there must be one; its receipt.

        Raises:
            AssertionError: when there is none, or more than one, or when it does not end.
        """
        return self._one(self.settle(1))

    async def aonly(self) -> Receipt:
        """`only()` for async tests."""
        return self._one(await self.asettle(1))

    def _one(self, found: list[Receipt]) -> Receipt:
        if len(found) != 1:
            raise AssertionError(
                f"one stream was to end in this block, and {len(found)} did: {', '.join(map(_brief, found))}"
            )
        return found[0]

    def _now(self) -> list[Receipt]:
        """Also of the sessions that a view has built itself, without an observer that tells of them."""
        with self._changed:
            sealed = dict(self._sealed)
            for stream_id, session in self._opened.items():
                if session.sealed is not None:
                    sealed.setdefault(stream_id, session.sealed)
        return list(sealed.values())

    def _running(self) -> list[str]:
        return [name for name, session in self._opened.items() if session.sealed is None]

    def _missing(self, count: int) -> str:
        running = self._running()
        if running:
            return (
                f"{len(running)} of {len(self._opened)} streams have not ended within {self._timeout:g} s"
                f" ({', '.join(running)}): was the response read to its end, left, or closed?"
            )
        return (
            f"there are {len(self._now())} receipts, not {count}, after {self._timeout:g} s: is"
            " streamguard_django.StreamGuardMiddleware in MIDDLEWARE, and does the view stream?"
        )


@contextmanager
def collect_receipts(timeout: float = _TIMEOUT) -> Iterator[Receipts]:
    """Collect the receipts of the streams that end in a block, whichever thread or task seals them.

    Args:
        timeout: longest wait of the methods that wait, in seconds.

    Example:
        >>> with collect_receipts() as receipts:  # doctest: +SKIP
        ...     with StreamClient().stream("get", "/words") as response:
        ...         response.read()
        ...     assert_ended(receipts.only(), Cause.CLIENT_DISCONNECT)
    """
    receipts = Receipts(timeout)
    stream_opened.connect(receipts.opened)
    stream_sealed.connect(receipts.sealed)
    try:
        yield receipts
    finally:
        stream_opened.disconnect(receipts.opened)
        stream_sealed.disconnect(receipts.sealed)


def assert_ended(receipt: Receipt, cause: Cause, *, at_most: int | None = None) -> None:
    """Assert that a stream ended for this cause, that its producer is known to have ended, and in time.

    Args:
        receipt: of the stream.
        cause: why it is to have ended.
        at_most: how many chunks its producer may have made.

    Raises:
        AssertionError: when it did not; says what the receipt says.
    """
    wrong = []
    if receipt.cause is not cause:
        wrong.append(f"it ended as {receipt.cause}, not as {cause}")
    if receipt.close is CloseState.UNCONFIRMED:
        wrong.append("its producer was told to end, and had not by the close deadline")
    if at_most is not None and receipt.produced > at_most:
        wrong.append(f"{receipt.produced} chunks were produced, and {at_most} were allowed")
    if wrong:
        said = f": {receipt.detail}" if receipt.detail else ""
        raise AssertionError(
            f"stream {receipt.stream_id}: {'; '.join(wrong)}. The receipt says {receipt.cause} ({receipt.category}),"
            f" because of {receipt.party or 'nobody'}{said}; {receipt.produced} chunks produced, {receipt.committed}"
            f" committed, {receipt.consumed} consumed, {receipt.late} late; close {receipt.close}"
        )


def _brief(receipt: Receipt) -> str:
    return f"{receipt.stream_id} {receipt.cause}"
