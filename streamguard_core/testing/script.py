"""The words of which scripted producers are written.

A script is read top to bottom. What misbehaves is a word like any other::

    >>> from streamguard_core.testing import emit, hang, ignore_cancel
    >>> script = [emit("never"), ignore_cancel(), hang()]

`producers.py` plays them; not every word makes sense for every kind of producer, and
where one does not, its docstring says what happens instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamguard_core.accounting import Usage
from streamguard_core.chunks import AnyChunk
from streamguard_core.errors import TruncatedStream
from streamguard_core.producers import Report


class Step:
    """One word of a script."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Emit(Step):
    """See `emit`."""

    chunks: tuple[AnyChunk, ...]


@dataclass(frozen=True, slots=True)
class EmitWithoutAwaiting(Step):
    """See `emit_without_awaiting`."""

    chunks: tuple[AnyChunk, ...]


@dataclass(frozen=True, slots=True)
class EmitFromThread(Step):
    """See `emit_from_thread`."""

    chunks: tuple[AnyChunk, ...]


@dataclass(frozen=True, slots=True)
class EmitLate(Step):
    """See `emit_late`."""

    chunks: tuple[AnyChunk, ...]


@dataclass(frozen=True, slots=True)
class Wait(Step):
    """See `wait`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang(Step):
    """See `hang`."""


@dataclass(frozen=True, slots=True)
class Fail(Step):
    """See `fail`."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Finish(Step):
    """See `finish`."""

    reason: str | None
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class IgnoreCancel(Step):
    """See `ignore_cancel`."""


@dataclass(frozen=True, slots=True)
class RaiseInFinally(Step):
    """See `raise_in_finally`."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Call(Step):
    """See `call`."""

    function: Callable[[Report | None], object]


def emit(*chunks: AnyChunk) -> Emit:
    """Emit these chunks, one after the other; a `ScriptedPull` hands them over as one batch.

    `emit()` yields nothing: an empty batch from a `ScriptedPull`, nothing at all from the others.
    """
    return Emit(chunks)


def big_chunk(size: int = 10 << 20) -> Emit:
    """Emit one chunk of `size` bytes."""
    return Emit(("x" * size,))


def emit_without_awaiting(*chunks: AnyChunk) -> EmitWithoutAwaiting:
    """Call `out` and never await what it returns; an iterator, which cannot, just yields."""
    return EmitWithoutAwaiting(chunks)


def emit_from_thread(*chunks: AnyChunk) -> EmitFromThread:
    """Call `out` from a thread and go on when it is done; an iterator lets it make the chunk."""
    return EmitFromThread(chunks)


def emit_late(*chunks: AnyChunk) -> EmitLate:
    """Emit too late: from a task that outlives `run()`, or in answer to an interruption."""
    return EmitLate(chunks)


def wait(seconds: float) -> Wait:
    """Be silent for a time: the loop's, or in a thread the `JumpingLoop`'s or a `ManualClock`'s."""
    return Wait(seconds)


def hang() -> Hang:
    """Wait for what never comes; `Played.release()` makes a thread go on."""
    return Hang()


def fail(error: BaseException | None = None) -> Fail:
    """Raise `error` (by default a `ConnectionError`)."""
    return Fail(error or ConnectionError("the provider's connection broke"))


def truncate() -> Fail:
    """End without the protocol's terminal marker: raise `TruncatedStream`."""
    return Fail(TruncatedStream("the stream ended without its terminal marker"))


def finish(reason: str | None = "stop", usage: Usage | None = None) -> Finish:
    """Report the provider's finish; for an iterator only where it was given a `report`."""
    return Finish(reason, usage)


def ignore_cancel() -> IgnoreCancel:
    """From here on swallow every cancellation and go on with what was interrupted."""
    return IgnoreCancel()


def raise_in_finally(error: BaseException | None = None) -> RaiseInFinally:
    """From here on raise `error` (by default a `RuntimeError`) at the end, however it comes."""
    return RaiseInFinally(error or RuntimeError("cleaning up failed"))


def call(function: Callable[[Report | None], object]) -> Call:
    """Call `function` with what the producer reports through (None for a plain iterator)."""
    return Call(function)
