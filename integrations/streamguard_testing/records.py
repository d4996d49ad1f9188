"""Records: what the engine counted for each request, as frozen snapshots of live counters."""

from __future__ import annotations

import asyncio
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """What the engine is doing for a request."""

    QUEUED = "queued"
    THINKING = "thinking"
    GENERATING = "generating"
    FLUSHING = "flushing"
    TRICKLING = "trickling"
    ENDED = "ended"


class Ending(StrEnum):
    """How a response ended."""

    COMPLETED = "completed"  #: terminal marker and all before it are with the kernel
    ABANDONED = "abandoned"  #: the reader left and the engine let go
    CUT = "cut"  #: a fault: no terminal marker
    FAILED = "failed"  #: a fault: an error frame inside the 200
    REFUSED = "refused"  #: an error status before any token
    CANCELLED = "cancelled"  #: the caller cancelled an answer that was made in the background
    STOPPED = "stopped"  #: the engine was stopped, or failed


class LeftBy(StrEnum):
    """How the reader left, as far as the engine's kernel can tell."""

    CLOSE = "close"
    RESET = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What the engine counted for one request up to one instant.

    All instants are `time.monotonic()`, which the processes of one machine share; None means that
    it has not happened.

    Invariant: generated_after_noticed <= generated, and reasoning <= generated.

    Attributes:
        id: The caller's choice (`x-engine-request-id`) or the engine's; also a response header.
        dialect: `openai.chat`, `openai.completions`, `openai.responses`, `anthropic.messages`,
            `gemini`, `ollama.chat` or `ollama.generate`.
        model: The model that was asked for.
        stream: Whether a stream was asked for.
        prompt_tokens: Tokens of the prompt.
        max_tokens: Tokens the caller allowed; None when it named no limit.
        planned_tokens: Tokens this answer has when nothing comes between.
        state: What the engine is doing for it.
        ending: How the response ended.
        generated: Tokens the model made, whether or not anybody could still read them.
        reasoning: How many of those were reasoning.
        generated_after_noticed: Tokens made after the engine had noticed that the reader left.
        ran_to_end: Whether every planned token was made.
        billed: Tokens of the answer that a provider would put on the bill: those that were made,
            and all planned ones as soon as the reader of a fault `billing: full` has left.
        left_by: How the reader left.
        connection_opened_at: The connection was accepted.
        received_at: The request was complete.
        started_at: A slot was free.
        first_byte_at: The first byte of the response was written.
        first_token_at: The first token was made.
        last_token_at: The latest token was made.
        noticed_at: The engine noticed that the reader had left.
        ended_at: The engine was through with the request.
        connection_closed_at: The connection was closed.
    """

    id: str
    dialect: str
    model: str
    stream: bool
    prompt_tokens: int
    max_tokens: int | None
    planned_tokens: int
    state: State
    ending: Ending | None
    generated: int
    reasoning: int
    generated_after_noticed: int
    ran_to_end: bool
    billed: int
    left_by: LeftBy | None
    connection_opened_at: float
    received_at: float
    started_at: float | None
    first_byte_at: float | None
    first_token_at: float | None
    last_token_at: float | None
    noticed_at: float | None
    ended_at: float | None
    connection_closed_at: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain data for JSON."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class LiveRequest:
    """The counters of one request while the engine works on it; the engine alone writes here."""

    id: str
    dialect: str
    model: str
    stream: bool
    prompt_tokens: int
    max_tokens: int | None
    planned_tokens: int
    bills_full: bool = False
    reason: str = "stop"
    reasoning: int = 0
    connection_opened_at: float
    changed: Callable[[], None]
    received_at: float = field(default_factory=time.monotonic)
    state: State = State.QUEUED
    ending: Ending | None = None
    left_by: LeftBy | None = None
    generated_when_noticed: int = 0
    started_at: float | None = None
    first_byte_at: float | None = None
    noticed_at: float | None = None
    ended_at: float | None = None
    connection_closed_at: float | None = None
    instants: array[float] = field(default_factory=lambda: array("d"))

    def enter(self, state: State) -> None:
        """Record that the engine now does something else for this request."""
        self.state = state
        self.changed()

    def count(self, tokens: int, reasoning: int = 0) -> None:
        """Record that the model made this many tokens just now, some of them reasoning."""
        self.reasoning += reasoning
        self.instants.extend([time.monotonic()] * tokens)
        self.changed()

    def notice(self, left_by: LeftBy) -> None:
        """Record that the reader left; the first notice counts."""
        if self.noticed_at is None:
            self.noticed_at = time.monotonic()
            self.left_by = left_by
            self.generated_when_noticed = len(self.instants)
            self.changed()

    def end(self, ending: Ending) -> None:
        """Record that the engine is through with this request."""
        self.ending = ending
        self.ended_at = time.monotonic()
        self.enter(State.ENDED)

    @property
    def settled(self) -> bool:
        """Whether nothing more can happen: ended and, if the reader left, its connection closed."""
        gone = self.noticed_at is None or self.connection_closed_at is not None
        return self.state is State.ENDED and gone

    @property
    def _bills_all(self) -> bool:
        left = self.noticed_at is not None
        return self.bills_full and left and self.ending is not Ending.REFUSED

    def snapshot(self) -> EngineRequest:
        """Return the counters as they are now."""
        made = len(self.instants)
        noticed = self.noticed_at is not None
        return EngineRequest(
            id=self.id,
            dialect=self.dialect,
            model=self.model,
            stream=self.stream,
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            planned_tokens=self.planned_tokens,
            state=self.state,
            ending=self.ending,
            generated=made,
            reasoning=self.reasoning,
            generated_after_noticed=made - self.generated_when_noticed if noticed else 0,
            ran_to_end=made >= self.planned_tokens and self.ending is not Ending.REFUSED,
            billed=self.planned_tokens if self._bills_all else made,
            left_by=self.left_by,
            connection_opened_at=self.connection_opened_at,
            received_at=self.received_at,
            started_at=self.started_at,
            first_byte_at=self.first_byte_at,
            first_token_at=self.instants[0] if made else None,
            last_token_at=self.instants[-1] if made else None,
            noticed_at=self.noticed_at,
            ended_at=self.ended_at,
            connection_closed_at=self.connection_closed_at,
        )


class RequestLog:
    """Remembers requests in the order of their arrival, within bounds, and tells who waits.

    Args:
        max_records: How many requests are remembered; then the oldest ended ones are forgotten.
        max_instants: Of how many tokens of ended requests the instants (8 bytes each) are kept.
    """

    def __init__(self, max_records: int, max_instants: int = 5_000_000) -> None:
        self._max_records = max_records
        self._max_instants = max_instants
        self._requests: dict[str, LiveRequest] = {}
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._opened = 0
        self._instants = 0

    def free_id(self, wanted: str | None) -> str:
        """Return the wanted id, numbered if a remembered request (a retry's first try) has it."""
        self._opened += 1
        base = wanted or f"request-{self._opened}"
        name, number = base, 1
        while name in self._requests:
            number += 1
            name = f"{base}.{number}"
        return name

    def add(self, live: LiveRequest) -> None:
        """Remember a request from now on."""
        self._requests[live.id] = live
        self._forget_oldest()
        self.changed()

    def ended(self, live: LiveRequest) -> None:
        """Charge an ended request to the bounds of this log."""
        if live.id in self._requests:
            self._instants += len(live.instants)
            self._forget_oldest()

    def get(self, request_id: str) -> LiveRequest | None:
        """Return the live counters of a request; None if it is not known."""
        return self._requests.get(request_id)

    def all(self) -> list[LiveRequest]:
        """Return the live counters of all remembered requests in order of arrival."""
        return list(self._requests.values())

    def generated_after(self, request_id: str, instant: float) -> int:
        """Return how many tokens of a request were made after an instant of `time.monotonic()`.

        Raises:
            LookupError: When no such request is remembered.
        """
        live = self._requests.get(request_id)
        if live is None:
            raise LookupError(f"the engine remembers no request {request_id!r}")
        return len(live.instants) - bisect_right(live.instants, instant)

    def forget_ended(self) -> int:
        """Forget the requests that have ended and return how many those were."""
        ended = [live for live in self._requests.values() if live.state is State.ENDED]
        for live in ended:
            self._forget(live)
        self.changed()
        return len(ended)

    def changed(self) -> None:
        """Wake whoever waits for what is now true."""
        for predicate, future in self._waiting:
            if future.done():
                continue
            try:
                met = predicate()
            except Exception as error:  # noqa: BLE001 - it belongs to the waiter
                future.set_exception(error)
                continue
            if met:
                future.set_result(None)

    async def wait_until(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait until a predicate over this log is true.

        Raises:
            TimeoutError: When it did not become true in time.
        """
        if predicate():
            return
        future = asyncio.get_running_loop().create_future()
        entry = (predicate, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            states = ", ".join(f"{live.id} {live.state}" for live in self.all()[-5:])
            raise TimeoutError(
                f"waited {timeout:g} s for {what}; the latest requests: {states or 'none'}"
            ) from None
        finally:
            self._waiting.remove(entry)

    def _forget_oldest(self) -> None:
        if not self._too_much():
            return
        for live in self.all():
            if live.state is State.ENDED and self._too_much():
                self._forget(live)

    def _too_much(self) -> bool:
        return len(self._requests) > self._max_records or self._instants > self._max_instants

    def _forget(self, live: LiveRequest) -> None:
        del self._requests[live.id]
        self._instants -= len(live.instants)
