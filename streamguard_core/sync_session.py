"""Runs one stream without an event loop: `SyncStreamSession`, for WSGI and synchronous chains."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Unpack

from streamguard_core._failures import describe
from streamguard_core._sync_driver import SyncDriver
from streamguard_core.causes import Cause
from streamguard_core.chunks import AnyChunk, buffer_size
from streamguard_core.errors import UsageError
from streamguard_core.options import SessionOptions
from streamguard_core.policies import Rule
from streamguard_core.receipt import Receipt
from streamguard_core.transitions import STOPPING


class SyncStreamSession(SyncDriver):
    """One stream of a blocking iterator, over the same protocol as `StreamSession`.

    The reader's thread runs the iterator. Another thread may end the stream at any time: the cause is fixed
    and the count frozen at once, and the provider's transport is closed (`on_close`), which makes a blocked
    read fail; without such a transport a blocked iterator ends at its next chunk.

    `on_disconnect` is `cancel()`, `drain(...)` or `by_provider(...)` of these: a grace needs somebody who
    reads on, which only `StreamSession` has.

    Args:
        producer: a sync iterator, or a callable that returns one; None when `attach()` gives it later.
        stream_id: names the stream; a fresh one by default.
        options: the keywords of `StreamSession`, except `own_task`.

    Raises:
        UsageError: for a producer that is no sync iterator (or a callable returning one), and for `grace`.

    Example:
        >>> with SyncStreamSession(iter(["never", "again"])) as session:
        ...     chunks = list(session)
        >>> chunks, str(session.receipt().cause)
        (['never', 'again'], 'COMPLETED')
    """

    __slots__ = ("_handed", "_reader", "_started")

    def __init__(
        self,
        producer: object | None = None,
        *,
        stream_id: str | None = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        super().__init__(producer, stream_id=stream_id, **options)
        if any(policy.rule is Rule.GRACE for policy in self._policies()):
            raise UsageError(
                "on_disconnect=grace(...) was given to a SyncStreamSession; use a StreamSession"
            )
        self._reader = 0
        self._handed = 0
        """How many chunks `read_ready()` handed over last; consumed when it is called again."""
        self._started = False

    # -- start and read --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: write the OPEN record and start the clocks. The provider is called by the first read."""
        with self._lock:
            if self._started:
                return
            self._started = True
            if self._protocol.live:
                self._protocol.opened_ns = self._clock.monotonic_ns()
                self._protocol.producer_since_ns = self._protocol.opened_ns
            self._write_open()
            self._arm()

    def attach(self, producer: object) -> None:
        """Give the producer that was not there when the session was built."""
        self._set_producer(producer)

    def opened(self) -> None:
        """Wait until the OPEN record is durable; only then may the provider be called.

        Raises:
            LedgerError: when the ledger could not write it. The stream is cut off as INTERNAL_ERROR.
        """
        self.start()
        if self._opening is not None:
            try:
                self._opening.result()
            except Exception:
                self.terminate(Cause.INTERNAL_ERROR, "the OPEN record could not be written")
                raise

    def __iter__(self) -> Iterator[AnyChunk]:
        """The chunks, in order, until EOS. One reader at a time; a producer's failure is told by `cause`."""
        self._claim_reader()
        try:
            self._open_iterator()
            while True:
                while (chunk := self._next_committed()) is None:
                    if not self._advance():
                        self._hand_eos()
                        return
                yield chunk
                self._took(chunk)
        except GeneratorExit:
            self._leave("the reader closed its iterator")
        finally:
            self._reader = 0

    def read_ready(self, limit: int = 16) -> list[AnyChunk]:
        """One or more chunks that are committed, at most `limit`; waits for the first; `[]` is EOS.

        Calling again says that the previous batch was sent.

        Raises:
            UsageError: when `limit` is below 1, or another thread is reading.
            LedgerError: when the OPEN record could not be written.
        """
        if limit < 1:
            raise UsageError(f"read_ready(limit={limit}) was called; a batch has at least 1 chunk")
        self._claim_reader()
        try:
            self._open_iterator()
            for chunk in list(islice(self._dispatcher.queue, self._handed)):
                self._took(chunk)
            self._handed = 0
            while self._next_committed() is None:
                if not self._advance():
                    self._hand_eos()
                    return []
            inflight = self._protocol.committed - self._protocol.consumed
            batch = list(islice(self._dispatcher.queue, min(limit, inflight)))
            self._handed = len(batch)
            return batch
        finally:
            self._reader = 0

    # -- endings ---------------------------------------------------------------------------------------

    def disconnected(self, detail: str = "") -> None:
        """The reader's transport is gone: intent, which the policy turns into authority (G9)."""
        self._apply(lambda now_ns: self._intend(detail, now_ns))

    def close(self) -> None:
        """Nobody reads on: end a live stream as the policy says, and seal."""
        if self._started or not self._protocol.live:
            self._leave("the session was closed")
        else:
            self.terminate(Cause.CLIENT_DISCONNECT, "closed before it was started")

    def receipt(self) -> Receipt:
        """Wait for the seal and for the ledger; returns the receipt.

        Raises:
            LedgerError: when the ledger could not make it durable.
            UsageError: when the stream was never started.
        """
        if not self._started and self._protocol.live:
            raise UsageError(
                "receipt() was called before the stream was started; start() it or read it first"
            )
        if self._reader != threading.get_ident():
            # Nobody is reading in this thread, so nobody is kept from reading by being waited for here.
            self._apply(self._protocol.leave)
        self._drain()
        self._done.wait()
        if self._closing is not None:
            self._closing.result()
        assert self._sealed is not None
        return self._sealed

    def __enter__(self) -> SyncStreamSession:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            self.terminate(Cause.CONSUMER_ERROR, describe(error))
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_started", False) and self._sealed is None:
            warnings.warn(
                f"{self!r} was dropped without being closed; use `with`, or read it to its end",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self._apply(
                lambda now_ns: self._protocol.terminate(
                    Cause.CONSUMER_ERROR, "the session was dropped without being closed", now_ns
                )
            )
            self._apply(self._protocol.leave)

    # -- inside ----------------------------------------------------------------------------------------

    def _claim_reader(self) -> None:
        self.start()
        with self._lock:
            if self._reader:
                raise UsageError(
                    f"session {self.stream_id} is being read; a stream has one reader at a time"
                )
            self._reader = threading.get_ident()
            self._protocol.reading()

    def _open_iterator(self) -> None:
        """Call the producer, once the OPEN record is durable; one that fails has ended the stream."""
        if self._iterator is not None or not self._protocol.live:
            return
        self.opened()
        if not self._enter():
            return
        try:
            iterator = self._call()
        except BaseException as error:
            self._producer_over(error)
            if isinstance(error, UsageError) or not isinstance(error, Exception):
                raise
            return
        with self._lock:
            self._inside = False
            self._iterator = iterator
            if self._protocol.producer is STOPPING:
                self._close_iterator()

    def _next_committed(self) -> AnyChunk | None:
        """The oldest chunk the reader may take, or None."""
        protocol = self._protocol
        return self._dispatcher.queue[0] if protocol.committed > protocol.consumed else None

    def _advance(self) -> bool:
        """Run the iterator for one chunk; False when there is nothing more to read."""
        with self._lock:
            iterator = self._iterator
            if iterator is None or not self._enter():
                return False
            self._protocol.producer_since_ns = (
                self._clock.monotonic_ns() if self._protocol.timed else None
            )
        self._run(iterator)
        return True

    def _took(self, chunk: AnyChunk) -> None:
        """The reader came back: the chunk is consumed."""
        with self._lock:
            self._protocol.consumer_since_ns = None
            self._dispatcher.queue.popleft()
            self._dispatcher.taken(buffer_size(chunk), self._clock.monotonic_ns())
            self._perform()

    def _hand_eos(self) -> None:
        self._apply(self._protocol.take_eos)
        self._drain()

    def _leave(self, detail: str) -> None:
        """The reader left: the policy decides."""
        self._apply(lambda now_ns: self._intend(detail, now_ns))
        self._apply(self._protocol.leave)
        self._drain()
