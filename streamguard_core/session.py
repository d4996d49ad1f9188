"""Runs one stream on asyncio: `StreamSession`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, Unpack

from streamguard_core._push_session import PushSession
from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import UsageError
from streamguard_core.observers import Flushed
from streamguard_core.options import SessionOptions
from streamguard_core.policies import Rule
from streamguard_core.producers import Drive
from streamguard_core.receipt import Receipt

_PULLED: Final = (Drive.ASYNC, Drive.BATCHES)
_CANCEL: Final = Rule.CANCEL


class StreamSession(PushSession):
    """One stream, from its opening to its receipt.

    Chunks are pulled straight through, without a task, where nothing has to look ahead: the producer is an
    async iterator (or hands over batches), there are no gates, and the policy is `cancel`. Otherwise a pump
    runs the producer and fills the speculative buffer.

    Args:
        producer: what makes the chunks: an object with `async def run(*, out, cancel_event)` or
            `stream(*, report)`, an async or sync iterator, or a callable returning one. May be given
            later with `attach()`.
        speculative_buffer_limit: chunks produced and not yet committed, at most.
        max_inflight_commits: chunks committed and not yet consumed, at most.
        max_buffer_bytes: bytes in both buffers together, at most.
        model, provider, max_tokens, tags: for the receipt; `max_tokens` is the request's own cap. At
            most 16 tags, of which 256 characters each are kept.
        deadlines: timeouts of each phase; none by default.
        gates: decide between speculative and committed, in order.
        on_disconnect: `cancel()`, `grace(seconds, max_tokens)`, `drain(seconds, max_bytes)`, or
            `by_provider()`, which chooses by what closing saves.
        termination: what closing saves: a `TerminationTable`, or one row. By default what the
            producer's own attribute `termination` says, if it has one.
        ledger: where the OPEN record and the receipt become durable.
        clock: monotonic and wall time; the loop's clock by default.
        observers: called with frozen notices.
        prices: what calls cost, for the receipt; without it they are UNPRICED.
        stream_id: names the stream; a fresh UUIDv7 by default.
        own_task: run an async iterator in a task of its own even where it could be pulled. For iterators
            that swallow cancellation: such a one would hold the reader that awaits it.

    Raises:
        UsageError: for anything above that is out of range, with what to do.

    Example:
        >>> import asyncio
        >>> async def words():
        ...     for word in ("never", "again"):
        ...         yield word
        >>> async def main():
        ...     async with StreamSession(words()) as session:
        ...         chunks = [chunk async for chunk in session]
        ...     return chunks, str((await session.receipt()).cause)
        >>> asyncio.run(main())
        (['never', 'again'], 'COMPLETED')
    """

    __slots__ = ("_own_task",)

    def __init__(
        self,
        producer: object | None = None,
        *,
        own_task: bool = False,
        stream_id: str | None = None,
        **options: Unpack[SessionOptions],
    ) -> None:
        self._own_task = own_task
        super().__init__(producer, stream_id=stream_id, **options)

    def __aiter__(self) -> AsyncGenerator[AnyChunk, None]:
        """The chunks, in order, until EOS. One reader at a time.

        A producer's failure ends the iteration like any other end: `session.cause` and the receipt say so.
        """
        self.start()
        if self._pump is None:
            return self._iterate_pull()
        self._check_one_way()
        return self._iterate_push()

    async def read_ready(self, limit: int = 16) -> list[AnyChunk]:
        """Everything committed and ready now, at most `limit` chunks; waits for the first; `[]` is EOS.

        A flush never waits for more than is there. Calling again says that the previous batch was sent.

        Raises:
            UsageError: when somebody else is reading, or `limit` is less than 1.
        """
        if limit < 1:
            raise UsageError(f"read_ready(limit={limit}) was called; a batch has at least 1 chunk")
        if self._loop is None:
            self.start()
        if self._pump is None and not self._pump_instead():
            batch = await self._read_ended()
        else:
            batch = await self._read_ready_push(limit)
        if batch and self._observers:
            self._observers.notify(Flushed(self.statistics(), len(batch)))
        return batch

    def batches(
        self, limit: int = 16, *, beside: bool = False
    ) -> AsyncGenerator[list[AnyChunk], None]:
        """The stream as batches of what is committed and ready together; the end of the iteration is EOS.

        What `read_ready()` returns one by one, for a reader that takes the whole stream: asking for the next
        batch says that the previous one was sent. Close it (`aclose()`) when leaving early.

        Args:
            limit: chunks in a batch, at most.
            beside: the cheapest way for a send loop whose task is its own. An async iterator is run in the
                reader's task: chunks that come one at a time go straight through, and where they come
                together the next one is begun before the batch is handed over. Such a reader sends by
                `await session.beside(send(...))` while `session.reads_ahead`.

        Raises:
            UsageError: when `limit` is less than 1; when somebody else is reading.
        """
        if limit < 1:
            raise UsageError(f"batches(limit={limit}) was called; a batch has at least 1 chunk")
        self.start()
        if self._pump is None:
            if self._drive is Drive.BATCHES:
                return self._pull_lists(limit)
            if beside or not self._pump_instead():
                return self._pull_ahead(limit)
        return self._iterate_push_batches(limit)

    async def receipt(self) -> Receipt:
        """Wait for the seal and for the ledger; returns the receipt.

        Raises:
            LedgerError: when the ledger could not make it durable; `.receipt` holds it.
            UsageError: when the stream was never started.
        """
        receipt: Receipt = await super().receipt()
        return receipt

    async def shutdown(self, grace: float = 0.0) -> Receipt:
        """End what nothing else has ended within `grace` seconds, as SHUTDOWN; returns the receipt (G8)."""
        receipt: Receipt = await super().shutdown(grace)
        return receipt

    async def __aenter__(self) -> StreamSession:
        self.start()
        return self

    def _launch(self) -> None:
        """Start the pump where something looks ahead, reads on after the reader, or pushes."""
        if not self._protocol.live:
            self._close_unread()
        elif not self._pulls():
            self._start_pump()

    def _pump_instead(self) -> bool:
        """Run the iterator in a task of its own: only that may look ahead without touching the reader's."""
        if self._reading or self._producer is None or not self._protocol.live:
            return False
        # Read by `async for`, an SDK's own objects would go straight through; so they do here.
        self._start_pump(foreign=True)
        return True

    def _check_pulled(self) -> None:
        if self._pump is not None:
            raise UsageError("`async for` was begun after read_ready(); read a stream in one way")

    def _pulls(self) -> bool:
        self._settle()
        looks_ahead = self._gates or self._own_task or self._protocol.policy.rule is not _CANCEL
        return self._drive in _PULLED and not looks_ahead
