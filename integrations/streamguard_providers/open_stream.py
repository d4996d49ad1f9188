"""Opens one response of any provider: bytes in, chunks out as they come, and one `End`, last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Final, Self, overload

from streamguard_core import UsageError
from streamguard_providers.opened import Item, Opened
from streamguard_providers.results import MAX_OUTPUT_BYTES
from streamguard_providers.stream_decoder import StreamDecoder

_DRAIN_SECONDS: Final = 1.0


class OpenStream(Opened):
    """One response, read from an iterator of bytes; see `open_stream`.

    An iterator over chunks and the `End`; also a context manager that closes the byte source.
    """

    def __init__(self, source: Iterable[bytes], *options: Any) -> None:
        super().__init__(*options)
        self._source = source
        self._pieces = iter(source)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        if not self._ready:
            self._fill()
        item = self._next_ready()
        if item is None:
            raise StopIteration
        return item

    def batches(self) -> Iterator[list[Item]]:
        """What each piece of the transport gives, as one list; the last one ends in the `End`."""
        while True:
            if not self._ready:
                self._fill()
            batch = self._all_ready()
            if not batch:
                return
            yield batch

    def close(self) -> None:
        """Stop reading: close the byte source, once.

        Before the end it ends the response as `CANCELLED`.

        Raises:
            UsageError: when another thread is waiting for bytes just now.
        """
        if self._is_reading:
            raise UsageError("close() while another thread reads: end the read first")
        self._cancelled()
        self._close_source()

    def _fill(self) -> None:
        """Read until there is something to hand out."""
        while not self._ready and self.end is None:
            try:
                self._ready += self._read()
            except BaseException:
                self._cancelled()
                self._close_source()
                raise
        if self.end is not None:
            self._close_source()

    def _read(self) -> list[Item]:
        self._is_reading = True
        try:
            data = next(self._pieces)
        except StopIteration:
            return self._ended()
        except Exception as error:  # noqa: BLE001 - whatever a transport raises is kept as the cause
            return self._broke(error)
        finally:
            self._is_reading = False
        return self._take(data)

    def _close_source(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for closing in _closers(self._pieces, self._source, "close"):
            with contextlib.suppress(Exception):  # how the response ended is known already
                closing()


class AsyncOpenStream(Opened):
    """One response, read from an async iterator of bytes; see `open_stream`.

    An async iterator over chunks and the `End`; also an async context manager that closes the byte
    source.
    """

    def __init__(self, source: AsyncIterable[bytes], *options: Any) -> None:
        super().__init__(*options)
        self._source = source
        self._pieces = aiter(source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if not self._ready:
            await self._fill()
        item = self._next_ready()
        if item is None:
            raise StopAsyncIteration
        return item

    async def batches(self) -> AsyncIterator[list[Item]]:
        """What each piece of the transport gives, as one list; the last one ends in the `End`."""
        while True:
            if not self._ready:
                await self._fill()
            batch = self._all_ready()
            if not batch:
                return
            yield batch

    async def aclose(self) -> None:
        """Stop reading: close the byte source, once.

        Before the end it ends the response as `CANCELLED`.

        Raises:
            UsageError: when another task is waiting for bytes just now: cancel that task.
        """
        if self._is_reading:
            raise UsageError("aclose() while another task reads: cancel that task instead")
        self._cancelled()
        await self._close_source()

    async def _fill(self) -> None:
        """Read until there is something to hand out."""
        while not self._ready and self.end is None:
            try:
                self._ready += await self._read()
            except BaseException:
                self._cancelled()
                await self._close_source()
                raise
        if self.end is not None:
            await self._close_source()

    async def _read(self) -> list[Item]:
        # An error is all that a reader waits for; what may come after it must not keep it waiting.
        draining = self.decoder.error is not None
        self._is_reading = True
        try:
            if draining:
                async with asyncio.timeout(_DRAIN_SECONDS):
                    data = await anext(self._pieces)
            else:
                data = await anext(self._pieces)
        except StopAsyncIteration:
            return self._ended()
        except Exception as error:  # noqa: BLE001 - whatever a transport raises is kept as the cause
            return self._broke(error)
        finally:
            self._is_reading = False
        return self._take(data)

    async def _close_source(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for closing in _closers(self._pieces, self._source, "aclose"):
            with contextlib.suppress(Exception):  # how the response ended is known already
                await closing()


@overload
def open_stream(
    byte_iterator: AsyncIterable[bytes],
    dialect: str = "auto",
    content_type: str | None = None,
    *,
    provider: str | None = None,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    idle_timeout: float | None = None,
    clock: Callable[[], float] = monotonic,
) -> AsyncOpenStream: ...


@overload
def open_stream(
    byte_iterator: Iterable[bytes],
    dialect: str = "auto",
    content_type: str | None = None,
    *,
    provider: str | None = None,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    idle_timeout: float | None = None,
    clock: Callable[[], float] = monotonic,
) -> OpenStream: ...


def open_stream(
    byte_iterator: AsyncIterable[bytes] | Iterable[bytes],
    dialect: str = "auto",
    content_type: str | None = None,
    *,
    provider: str | None = None,
    max_output_bytes: int = MAX_OUTPUT_BYTES,
    idle_timeout: float | None = None,
    clock: Callable[[], float] = monotonic,
) -> AsyncOpenStream | OpenStream:
    r"""Open a response: iterate over its chunks as they come, and over one `End`, always last.

    Nothing is raised for what a provider or a network does: an error of the provider, a stream
    without its terminal marker and a broken connection are states of the `End`, which `End.check`
    raises for who wants that. Cancelling or closing closes the byte source, exactly once.

    Args:
        byte_iterator: the body with its compression undone; async or not, and so is what is
            returned. Its `aclose` or `close` is called, if it has one.
        dialect: the name of a wire format, such as `openai-chat`; `auto` finds it out.
        content_type: what the response says it is; helps `auto`.
        provider: who is speaking, for errors.
        max_output_bytes: how much of the output is kept for `accumulator` and the tool calls.
        idle_timeout: seconds for which bytes may come that are nothing of an answer (comments);
            then the response has stalled. Silence is the transport's own timeout to notice.
        clock: tells seconds, for `idle_timeout`.

    Returns:
        An iterator of the kind that was given. After an error it reads on for a little, as the
        usage may still come: for 64 KiB, and, where it is async, a second.

    Raises:
        UsageError: when there is no such dialect, or what was given is no iterator of bytes.

    Example:
        >>> body = [b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n', b"data: [DONE]\n\n"]
        >>> for item in open_stream(body, "openai-chat"):
        ...     print(item)
        Hi
        <End completed_unconfirmed, finish None>
    """
    decoder = StreamDecoder.auto(provider or "provider", content_type, dialect=dialect)
    options = (decoder, max_output_bytes, idle_timeout, clock)
    source: object = byte_iterator
    if isinstance(source, AsyncIterable):
        return AsyncOpenStream(source, *options)
    if isinstance(source, Iterable) and not isinstance(source, bytes | str):
        return OpenStream(source, *options)
    raise UsageError(
        f"open_stream was given {type(byte_iterator).__name__}; it reads an iterator of bytes,"
        " async or not"
    )


def _closers(pieces: object, source: object, name: str) -> list[Callable[[], Any]]:
    """How to close an iterator, and what it was made from, where they can be closed."""
    found = [getattr(pieces, name, None)]
    if source is not pieces:
        found.append(getattr(source, name, None))
    return [closing for closing in found if callable(closing)]
