"""What the asyncio and the synchronous session share: what is known about the stream, reports, the seal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import AsyncGeneratorType
from typing import Any, Final

from streamguard_core._arguments import (
    as_limits,
    check_clock,
    check_deadlines,
    check_max_tokens,
    check_observers,
    check_tags,
)
from streamguard_core._failures import TOLD, cause_of_error, describe
from streamguard_core._ids import new_stream_id
from streamguard_core._pricing import priced
from streamguard_core._seal import (
    Description,
    build_receipt,
    finish_of,
    heed_attempts,
    truncated_by,
    was_told,
)
from streamguard_core._terms import SessionTerms
from streamguard_core.accounting import Usage
from streamguard_core.causes import Cause
from streamguard_core.clock import SYSTEM_CLOCK, Clock
from streamguard_core.errors import UsageError
from streamguard_core.gates import Gate, check_gates
from streamguard_core.ledger import Ledger, check_ledger
from streamguard_core.limits import DEFAULT_DEADLINES, Deadlines
from streamguard_core.observers import CutOff, Observer, Observers, Opened, Sealed
from streamguard_core.policies import OnDisconnect, as_policy, cancel
from streamguard_core.price import Pricer, check_pricer
from streamguard_core.producers import Drive, call_if_lazy, classify
from streamguard_core.protocol import Action, StreamProtocol
from streamguard_core.receipt import Attempt, OpenRecord, Receipt
from streamguard_core.statistics import Statistics
from streamguard_core.termination import Termination, TerminationLookup
from streamguard_core.transitions import AWAY, DRAINING

logger = logging.getLogger("streamguard")

MAX_ATTEMPTS: Final = 64
_ASYNC: Final = Drive.ASYNC
_FACTORY: Final = Drive.FACTORY
_NO_TAGS: Final[Mapping[str, str]] = {}


class SessionBase(SessionTerms):
    """The parts of a session that need neither a loop nor a thread."""

    __slots__ = (
        "__weakref__",
        "_clock",
        "_closers",
        "_closing",
        "_drive",
        "_gates",
        "_goes_on",
        "_ledger",
        "_observers",
        "_open_written",
        "_opening",
        "_prices",
        "_sealed",
        "failure",
        "keeps_failure",
    )

    def __init__(
        self,
        producer: object | None = None,
        *,
        speculative_buffer_limit: int = 8,
        max_inflight_commits: int = 16,
        max_buffer_bytes: int = 1 << 20,
        model: str | None = None,
        provider: str | None = None,
        max_tokens: int | None = None,
        tags: Mapping[str, str] | None = None,
        deadlines: Deadlines | None = None,
        gates: Iterable[Gate] = (),
        on_disconnect: OnDisconnect = cancel,
        termination: Termination | TerminationLookup | None = None,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        observers: Iterable[Observer] = (),
        prices: Pricer | None = None,
        stream_id: str | None = None,
    ) -> None:
        self._clock = SYSTEM_CLOCK if clock is None else check_clock(clock)
        limits = as_limits(speculative_buffer_limit, max_inflight_commits, max_buffer_bytes)
        self._gates = check_gates(tuple(gates), speculative_buffer_limit) if gates else ()
        self._protocol = StreamProtocol(
            limits,
            DEFAULT_DEADLINES if deadlines is None else check_deadlines(deadlines),
            self._agree(as_policy(on_disconnect), termination),
            self._clock.monotonic_ns(),
        )
        self._about = Description(
            stream_id=stream_id or new_stream_id(),
            opened_us=self._clock.wall_us(),
            model=model,
            provider=provider,
            max_tokens=None if max_tokens is None else check_max_tokens(max_tokens),
            tags=check_tags(tags) if tags else _NO_TAGS,
        )
        self._ledger = None if ledger is None else check_ledger(ledger)
        self._prices = None if prices is None else check_pricer(prices)
        self._observers = Observers(check_observers(observers)) if observers else _NO_OBSERVERS
        self._closers: list[Callable[[], None]] | None = None
        self._producer: Any = None
        self._drive: Drive | None = None
        self._opening: Future[None] | None = None
        self._closing: Future[None] | None = None
        self._open_written = False
        self._goes_on = False
        """It goes on with a stream whose OPEN record is written already."""
        self._sealed: Receipt | None = None
        self.keeps_failure = False
        """Keep what the producer raises, for somebody who answers with it; its traceback holds on to much."""
        self.failure: BaseException | None = None
        if producer is not None:
            self._set_producer(producer)

    # -- what everybody may ask ------------------------------------------------------------------------

    @property
    def stream_id(self) -> str:
        """Names the stream in receipts, logs and URLs; time-ordered (UUIDv7 layout, RFC 9562 5.7)."""
        return self._about.stream_id

    @property
    def sealed(self) -> Receipt | None:
        """The receipt, once it exists."""
        return self._sealed

    @property
    def durable(self) -> Future[None] | None:
        """Done when the ledger has the receipt; None before the seal, and without a ledger."""
        return self._closing

    @property
    def cause(self) -> Cause | None:
        """The terminal cause, once it is fixed."""
        signal = self._protocol.signal
        return signal.cause if signal is not None else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The calls to providers that are over, in order; the first 64."""
        return self._about.attempts

    def statistics(self) -> Statistics:
        """A frozen snapshot of the counters and states."""
        protocol = self._protocol
        return Statistics(
            stream_id=self._about.stream_id,
            state=protocol.state.value,
            producer=protocol.producer.value,
            consumer=protocol.consumer.value,
            cause=self.cause,
            produced=protocol.produced,
            committed=protocol.committed,
            consumed=self._consumed(),
            late=protocol.late,
            buffered_bytes=protocol.buffered_bytes,
        )

    @property
    def finish_reason(self) -> str | None:
        """What the provider said at its end, as far as it is known now."""
        return finish_of(self._protocol, self._about)

    def _consumed(self) -> int:
        return self._protocol.consumed

    def __repr__(self) -> str:
        """Identity and state; never content."""
        return f"<{type(self).__name__} {self._about.stream_id} {self._protocol!r}>"

    # -- endings ---------------------------------------------------------------------------------------

    def cancel(self, detail: str = "") -> None:
        """End now: the user asked for it (`USER_CANCEL`). Safe from any thread, at any time, twice."""
        self.terminate(Cause.USER_CANCEL, detail)

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End now, with authority. Safe from any thread, at any time, twice.

        Args:
            cause: why; the first one that is fixed stays (G8).
            detail: in your own words; it stands on the receipt, so nothing of a prompt or an answer.
        """
        self._apply(lambda now_ns: self._end(cause, detail, now_ns))

    # -- Report: what producers and transports tell ----------------------------------------------------

    def connected(self) -> None:
        """The provider's connection stands."""
        self._protocol.connected(self._clock.monotonic_ns())

    def finish(self, reason: str | None = None, usage: Usage | None = None) -> None:
        """The provider said its finish reason or its usage; may be called again with what comes later."""
        self._protocol.provider_finished(reason, usage)

    def identify(self, *, model: str | None = None, request_id: str | None = None) -> None:
        """What the provider calls the model and this call; the response's model wins over the requested one."""
        self._about.model = model or self._about.model
        self._about.request_id = request_id or self._about.request_id

    def attempt(self, attempt: Attempt) -> None:
        """One finished call to a provider; the first 64 are kept."""
        if len(self._about.attempts) < MAX_ATTEMPTS:
            self._about.attempts += (attempt,)
        else:
            self._about.attempts_beyond += 1

    def on_close(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at the cutoff, in the same step; at once when that has passed. Returns its undo."""
        if not self._protocol.live and self._protocol.producer is not DRAINING:
            _call_closer(callback)
            return _nothing
        if self._closers is None:
            self._closers = []
        closers = self._closers
        closers.append(callback)
        if (
            not self._protocol.live
            and self._protocol.producer is not DRAINING
            and callback in closers
        ):
            # The cutoff came from another thread meanwhile, and may have run the list before us.
            closers.remove(callback)
            _call_closer(callback)
            return _nothing

        def undo() -> None:
            if callback in closers:
                closers.remove(callback)

        return undo

    def wanted(self) -> bool:
        """Whether somebody reads, or may still come: for a reader who left no further call is made.

        False from a disconnect on, also while `grace` keeps the stream alive or a drain reads it on.
        """
        return self._protocol.live and self._protocol.consumer is not AWAY

    def _end(self, cause: Cause, detail: str, now_ns: int) -> None:
        """End now; a server that goes does not wait either for what is read on after its reader left."""
        self._protocol.terminate(cause, detail, now_ns)
        if cause is Cause.SHUTDOWN:
            self._protocol.stop_draining(now_ns)

    def _apply(self, step: Callable[[int], object]) -> None:
        """Do `step` with the instant, and perform what it decided; the drivers say in which thread."""
        raise AssertionError("provided by the driver")

    def _perform(self) -> None:
        """Carry out what the protocol decided, until it has nothing more to say."""
        protocol = self._protocol
        while protocol.pending:
            for action in protocol.take_actions():
                self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        """Do one thing that was decided; the drivers say how."""
        raise AssertionError("provided by the driver")

    # -- inside ----------------------------------------------------------------------------------------

    def _set_producer(self, producer: object) -> None:
        if self._producer is not None:
            raise UsageError(
                "attach() was called on a session that has a producer; a stream has one producer"
            )
        made: object = producer
        if type(producer) is AsyncGeneratorType:
            # The usual case, which needs no looking into.
            drive = _ASYNC
        else:
            drive = classify(producer)
            if drive is _FACTORY and (made := call_if_lazy(producer)) is not producer:
                drive = classify(made)
        self._producer, self._drive = made, drive

    def _write_open(self) -> None:
        """Begin to make the OPEN record durable: before the provider is called."""
        if self._open_written:
            return
        self._open_written = True
        if self._ledger is None and self._observers is _NO_OBSERVERS:
            return
        about = self._about
        record = OpenRecord(
            stream_id=about.stream_id,
            opened_us=about.opened_us,
            model=about.model,
            provider=about.provider,
            max_tokens=about.max_tokens,
            tags=about.tags,
        )
        if self._ledger is not None and not self._goes_on:
            self._opening = _begin(self._ledger.append_open, record)
        self._observers.notify(Opened(record))

    def _close_transports(self) -> None:
        """Close the provider's transports, in the same step as the cutoff (G10)."""
        self._give_place_back()
        self._protocol.close_called(self._clock.monotonic_ns())
        closers, self._closers = self._closers, None
        for closer in closers or ():
            _call_closer(closer)

    def _notify_cutoff(self) -> None:
        signal = self._protocol.signal
        if self._observers is not _NO_OBSERVERS and signal is not None:
            self._observers.notify(CutOff(signal, self.statistics()))

    def _producer_ended(self, error: BaseException | None) -> None:
        """The producer is out of the way: by itself, by failing, or because it was told to."""
        self._note_end(error)
        self._perform()

    def _note_end(self, error: BaseException | None) -> None:
        self._give_place_back()
        now_ns = self._clock.monotonic_ns()
        told = not self._protocol.live
        if error is None and not told and (provider := truncated_by(self._protocol, self._about)):
            detail = f"{provider} ended without its terminal marker"
            self._protocol.producer_failed(Cause.TRUNCATED, detail, now_ns)
        elif error is None or (told and isinstance(error, TOLD)):
            self._protocol.producer_finished(now_ns)
        else:
            cause = cause_of_error(error)
            if not told:
                logger.warning(
                    "stream %s: the producer raised %s", self.stream_id, type(error).__name__
                )
            self.failure = error if self.keeps_failure else None
            self._protocol.producer_failed(cause, describe(error), now_ns)

    def _build_receipt(self) -> Receipt:
        """Seal the protocol, build the receipt, begin to make it durable. Exactly once (G11)."""
        heed_attempts(self._protocol, self._about)
        self._protocol.seal(self._clock.monotonic_ns())
        self._closers = None
        if was_told(self._protocol):
            self._about.termination = self._row()
        built = build_receipt(self._protocol, self._about, self._clock.wall_us())
        receipt = self._sealed = priced(built, self._prices)
        self._write_open()
        if self._ledger is not None:
            self._closing = _begin(self._ledger.append_close, receipt)
            self._closing.add_done_callback(_log_unwritten)
        if self._observers is not _NO_OBSERVERS:
            self._observers.notify(Sealed(receipt))
        return receipt


def _log_unwritten(closing: Future[None]) -> None:
    """A receipt that was not written is said even if nobody waits for it; its text is ours or a store's."""
    error = None if closing.cancelled() else closing.exception()
    if error is not None:
        logger.error("a receipt could not be made durable: %s", describe(error))


def _begin(append: Callable[[Any], Future[None]], record: object) -> Future[None]:
    """Begin to write; a ledger that raises instead has failed like one whose future does."""
    try:
        return append(record)
    except Exception as error:
        failed: Future[None] = Future()
        failed.set_exception(error)
        return failed


def _call_closer(closer: Callable[[], None]) -> None:
    try:
        closer()
    except Exception as error:
        # A transport that cannot be closed must not keep the others open, nor the stream unsealed.
        logger.warning("closing a provider's transport raised %s", type(error).__name__)


def _nothing() -> None:
    """The undo of a callback that has already run."""


_NO_OBSERVERS: Final = Observers()
