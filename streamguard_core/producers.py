"""Who makes chunks: the producer contracts, and which way a given producer is driven."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum
from functools import partial
from typing import Any, Protocol, runtime_checkable

from streamguard_core.accounting import Usage
from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import UsageError
from streamguard_core.receipt import Attempt


class CancelEvent(Protocol):
    """Set when the stream is cut off; `asyncio.Event` has this shape."""

    def is_set(self) -> bool:
        """True from the cutoff on."""

    async def wait(self) -> Any:
        """Return at the cutoff."""


class Report(Protocol):
    """What a producer may tell its session besides chunks. Every call is optional, cheap and never awaits."""

    def connected(self) -> None:
        """The provider's connection stands: the connect deadline is met."""

    def finish(self, reason: str | None = None, usage: Usage | None = None) -> None:
        """The provider's own end was seen; may be called again when the usage comes later.

        Args:
            reason: the provider's word (`stop`, `length`, ...); None leaves what is known.
            usage: what it reported, in place of what it reported before; None leaves what is known.
        """

    def identify(self, *, model: str | None = None, request_id: str | None = None) -> None:
        """What the provider calls itself and this call.

        Args:
            model: the model that answers, which wins over the one that was asked for.
            request_id: the provider's id of this call.
        """

    def attempt(self, attempt: Attempt) -> None:
        """One finished call to a provider, for the receipt."""

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at the cutoff, in the same step, to close the provider's transport.

        Called at once when the cutoff has passed. Returns a function that takes it back.
        """


class Out(Report, Protocol):
    """What `Producer.run` emits through: `await out(token)`."""

    def __call__(self, token: AnyChunk) -> Awaitable[None]:
        """Hand over one chunk; awaiting the result gives backpressure."""


@runtime_checkable
class Producer(Protocol):
    """The push contract.

    MUST emit through `out`, MUST stop promptly once `cancel_event` is set, MUST NOT emit EOS, buffer or
    account, MAY raise (`TruncatedStream` when the provider's end is missing).
    """

    async def run(self, *, out: Out, cancel_event: CancelEvent) -> None:
        """Produce the whole stream.

        Args:
            out: takes each chunk, and what is known besides.
            cancel_event: is set at the cutoff; from then on nothing that is emitted counts.
        """


@runtime_checkable
class PullProducer(Protocol):
    """The pull contract: batches of what came together, asked for one at a time, with no task between."""

    def stream(self, *, report: Report) -> AsyncIterator[list[AnyChunk]]:
        """Iterate over non-empty lists of chunks; reports through `report`."""


class Drive(Enum):
    """How a producer is driven."""

    RUN = "run"
    BATCHES = "batches"
    ASYNC = "async"
    SYNC = "sync"
    FACTORY = "factory"
    """A callable that may call the provider when it is called: only once the OPEN record is durable."""


def classify(producer: Any) -> Drive:
    """Decide how to drive `producer`.

    Raises:
        UsageError: when it is neither a producer, nor an iterable, nor a callable returning one.
    """
    if callable(getattr(producer, "stream", None)):
        return Drive.BATCHES
    if callable(getattr(producer, "run", None)):
        return Drive.RUN
    if hasattr(producer, "__aiter__"):
        return Drive.ASYNC
    if hasattr(producer, "__iter__") and not isinstance(producer, str | bytes | dict):
        return Drive.SYNC
    if callable(producer):
        return Drive.FACTORY
    raise UsageError(
        f"producer of type {type(producer).__name__} was given; a producer has"
        " `async def run(*, out, cancel_event)` or `stream(*, report)`, or is an async or sync iterator"
        " of chunks, or a callable returning one"
    )


def call_if_lazy(factory: Any) -> Any:
    """The iterator of a generator function, which runs nothing yet; other callables are returned as they are."""
    function = factory.func if isinstance(factory, partial) else factory
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        return factory()
    return factory
