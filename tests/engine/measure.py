"""Measures what an engine generates after readers of an application have left.

Four moments of leaving, one function each: `midstream`, `stalled`, `thinking`, `queueing`. Each
sends readers through an application to the engine, has them leave by close and by reset in
turn, and reports per reader what the engine generated afterwards (the burn) and how long the
application kept its connection to the engine. All counts are the engine's own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .connections import ConnectionWatch
from .llama_server import Counters, LlamaServer, Slot
from .processes import wait_until
from .readers import Leave, Reader, chat_request
from .reports import Departure, Report

CHAT = "/v1/chat/completions"
WAVE_SECONDS = 120.0
# Long enough to hold a slot for as long as a queue is looked at.
OCCUPY_TOKENS = 2000
# What a stalled reader leaves unread fills every buffer on the way after some 20 chunks
# of 4 KB (uvicorn holds 64 KB, the two kernels a few KB each): the application's send hangs.
STALL_PAD = 4096
STALL_BUFFER = 4096
STALL_TOKENS = 80
# A reader that leaves later than this after it asked for the engine's count was held up by other
# work on the machine: what was generated meanwhile is not the application's. It is sent again.
HELD_UP_SECONDS = 0.03
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A running application under test.

    Args:
        url: Its base URL.
        pid: The process that holds the connections to the engine.
    """

    url: str
    pid: int

    def address(self, path: str, *, max_tokens: int, words: int, pad: int = 0) -> str:
        """The address of one question to the pattern at `path`."""
        return f"{self.url}{path}?max_tokens={max_tokens}&words={words}&pad={pad}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one reader is going to do."""

    leave: Leave
    max_tokens: int
    read: int
    url: str
    receive_buffer: int | None = None
    stall: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """What was so when one reader left."""

    plan: _Plan
    read: int
    slot: Slot
    asked: float
    at: float

    @property
    def held_up(self) -> bool:
        """Whether the count was too old at the leaving, by the reader's own fault."""
        return self.at - self.asked > HELD_UP_SECONDS


def midstream(
    engine: LlamaServer,
    app: App,
    path: str,
    *,
    readers: int = 40,
    max_tokens: int = 400,
    first: int = 8,
    last: int = 40,
) -> Report:
    """Have readers leave mid-stream, after `first` to `last` tokens, as many at once as slots.

    Args:
        engine: The engine behind the application.
        app: The application.
        path: The pattern.
        readers: How many, in waves that fill the engine's slots.
        max_tokens: Tokens that each asks for.
        first: Tokens that the first reader reads.
        last: Tokens that the last reader reads; the others lie evenly between.
    """
    plans = [
        _Plan(
            leave=_turn(index),
            max_tokens=max_tokens + index % engine.slot_count,
            read=first + (last - first) * index // max(1, readers - 1),
            url=app.address(path, max_tokens=max_tokens + index % engine.slot_count, words=4),
        )
        for index in range(readers)
    ]
    return _in_waves(engine, app, path, "midstream", plans)


def stalled(
    engine: LlamaServer, app: App, path: str, *, readers: int = 4, max_tokens: int = 600
) -> Report:
    """Have slow readers leave: they stop reading until the application cannot send, then go.

    The application has to pad its chunks and to be served with a small send buffer.
    """
    plans = [
        _Plan(
            leave=_turn(index),
            max_tokens=max_tokens + index % engine.slot_count,
            read=5,
            url=app.address(
                path, max_tokens=max_tokens + index % engine.slot_count, words=4, pad=STALL_PAD
            ),
            receive_buffer=STALL_BUFFER,
            stall=STALL_TOKENS,
        )
        for index in range(readers)
    ]
    return _in_waves(engine, app, path, "stalled", plans)


def thinking(
    engine: LlamaServer,
    app: App,
    path: str,
    *,
    readers: int = 4,
    max_tokens: int = 200,
    words: int = 600,
) -> Report:
    """Have readers leave while the engine reads their long prompts, before the first token.

    llama.cpp does not notice a closed connection before it writes: it reads the prompt to its
    end and generates a token or two. What can be judged is how soon the application let go.
    """
    engine.wait_idle()
    before = engine.counters()
    with ConnectionWatch(app.pid, engine.port) as watch, contextlib.ExitStack() as stack:
        address = app.address(path, max_tokens=max_tokens, words=words)
        waiting = [stack.enter_context(Reader(address)) for _ in range(readers)]
        wait_until(
            lambda: engine.counters().processing == readers, "the prompts to start", seconds=10.0
        )
        if engine.generated() != before.generated_by_ended:
            raise RuntimeError("leaving before the first token: it was there already; more words")
        _require_held(watch, readers)
        left = _leave_all(waiting)
        _settle(engine, watch)
    burned = engine.counters().generated_by_ended - before.generated_by_ended
    return _unheard(path, "thinking", watch, left, max_tokens, burned)


def queueing(
    engine: LlamaServer,
    app: App,
    path: str,
    *,
    readers: int = 4,
    max_tokens: int = 200,
    patience: float = 1.5,
) -> Report:
    """Have readers leave while all slots are taken by others, before their prompts are begun.

    The others read from the engine directly, and leave `patience` seconds later at the latest.
    What these are generated for after they left, 2 tokens or so each, is part of the sum.
    """
    engine.wait_idle()
    before = engine.counters()
    with ConnectionWatch(app.pid, engine.port) as watch, contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(Reader(engine.url + CHAT, body=chat_request(OCCUPY_TOKENS)))
            for _ in range(engine.slot_count)
        ]
        for other in others:
            other.read(1)
        address = app.address(path, max_tokens=max_tokens, words=4)
        waiting = [stack.enter_context(Reader(address)) for _ in range(readers)]
        wait_until(
            lambda: engine.counters().waiting == readers, "the requests to queue", seconds=10.0
        )
        _require_held(watch, readers)
        left = _leave_all(waiting)
        _wait_released(watch, patience)
        theirs = engine.generated() - before.generated_by_ended
        _leave_all(others)
        _settle(engine, watch)
    burned = engine.counters().generated_by_ended - before.generated_by_ended - theirs
    return _unheard(path, "queueing", watch, left, max_tokens, burned)


def _turn(index: int) -> Leave:
    """Close and reset in turn."""
    return Leave.RESET if index % 2 else Leave.CLOSE


def _in_waves(
    engine: LlamaServer, app: App, path: str, moment: str, plans: Sequence[_Plan]
) -> Report:
    """Run as many readers at a time as the engine has slots; report on all."""
    departures: list[Departure] = []
    for start in range(0, len(plans), engine.slot_count):
        departures += _fair_wave(engine, app, plans[start : start + engine.slot_count])
    burned = sum(gone.burn or 0 for gone in departures)
    return Report(path=path, moment=moment, departures=tuple(departures), burned=burned)


def _fair_wave(engine: LlamaServer, app: App, plans: Sequence[_Plan]) -> list[Departure]:
    """Run some readers; as a whole again, a few times at most, where one was held up.

    Invariant: what decides is how long the reader took, never what was measured for it.
    """
    departures: list[Departure] = []
    for _ in range(REPEATS):
        departures, held_up = _wave(engine, app, plans)
        if not held_up:
            break
    return departures


def _wave(engine: LlamaServer, app: App, plans: Sequence[_Plan]) -> tuple[list[Departure], bool]:
    """Run some readers at the same time, each in a slot of its own; whether one was held up."""
    engine.wait_idle()
    before = engine.counters()
    # Nobody leaves before all have begun, or a freed slot would be taken twice.
    begun = threading.Barrier(len(plans), timeout=WAVE_SECONDS)
    with ConnectionWatch(app.pid, engine.port) as watch:
        with ThreadPoolExecutor(len(plans)) as pool:
            left = list(pool.map(lambda plan: _read_and_leave(engine, plan, begun), plans))
        _settle(engine, watch)
    left.sort(key=lambda one: one.at)
    totals = _generated_for(engine, before, left)
    times = watch.let_go([one.at for one in left])
    departures = [
        Departure(
            leave=one.plan.leave,
            read=one.read,
            generated=one.slot.decoded,
            burn=total - one.slot.decoded,
            rest=one.plan.max_tokens - one.slot.decoded,
            let_go=seconds,
        )
        for one, total, seconds in zip(left, totals, times, strict=True)
    ]
    return departures, any(one.held_up for one in left)


def _read_and_leave(engine: LlamaServer, plan: _Plan, begun: threading.Barrier) -> _Left:
    """Be one reader: read, perhaps stall, look at the engine's count, leave."""
    try:
        with Reader(plan.url, receive_buffer=plan.receive_buffer) as reader:
            reader.read(1)
            begun.wait()
            reader.read(plan.read)
            asked, slot = time.monotonic(), _slot_of(engine, plan)
            if plan.stall:
                enough = slot.decoded + plan.stall
                wait_until(
                    lambda: _slot_of(engine, plan).decoded >= enough,
                    "the engine to run ahead of a reader that stalls",
                    seconds=60.0,
                    every=0.05,
                )
                asked, slot = time.monotonic(), _slot_of(engine, plan)
            at = time.monotonic()
            reader.leave(plan.leave)
            return _Left(plan=plan, read=reader.tokens, slot=slot, asked=asked, at=at)
    except BaseException:
        begun.abort()
        raise


def _slot_of(engine: LlamaServer, plan: _Plan) -> Slot:
    """The slot that works for this reader; found by the number of tokens it asked for."""
    for slot in engine.slots():
        if slot.busy and slot.max_tokens == plan.max_tokens:
            return slot
    raise RuntimeError(
        f"finding the request for {plan.max_tokens} tokens in the engine: it has ended, "
        "so there is nothing left to burn; ask for more tokens"
    )


def _generated_for(engine: LlamaServer, before: Counters, left: Sequence[_Left]) -> list[int]:
    """Tokens generated for each reader of a wave, all told, now that the engine is idle.

    An ended slot shows prompt and answer together, less the last token, which was never fed
    back. All prompts of a wave are alike; the sum is checked against the engine's own total.
    """
    now = engine.counters()
    held = {slot.task: slot.held for slot in engine.slots()}
    prompt = (now.prompt_tokens - before.prompt_tokens) // len(left)
    totals = [held[one.slot.task] - prompt + 1 for one in left]
    counted = now.generated_by_ended - before.generated_by_ended
    if sum(totals) != counted:
        raise RuntimeError(
            f"counting tokens: the slots give {totals}, in all {sum(totals)}, "
            f"but the engine's total grew by {counted}"
        )
    return totals


def _leave_all(readers: Sequence[Reader]) -> list[tuple[Leave, float]]:
    """Have all readers leave now; how and when each did."""
    left = []
    for index, reader in enumerate(readers):
        left.append((_turn(index), time.monotonic()))
        reader.leave(_turn(index))
    return left


def _require_held(watch: ConnectionWatch, readers: int) -> None:
    """Make sure that the watch sees a connection for every reader before they leave."""
    held = watch.look()
    if held != readers:
        raise RuntimeError(f"leaving: {readers} readers wait, but {held} connections are held")


def _wait_released(watch: ConnectionWatch, seconds: float) -> None:
    """Wait until the application holds no connection, but no longer than that."""
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: watch.look() == 0, "the connections to go", seconds=seconds)


def _settle(engine: LlamaServer, watch: ConnectionWatch) -> None:
    """Let the engine finish whatever it still does for whoever left."""
    engine.wait_idle(seconds=WAVE_SECONDS)
    _wait_released(watch, 1.0)


def _unheard(
    path: str,
    moment: str,
    watch: ConnectionWatch,
    left: Sequence[tuple[Leave, float]],
    max_tokens: int,
    burned: int,
) -> Report:
    """The report on readers that left before their first token."""
    times = watch.let_go([at for _, at in left])
    departures = tuple(
        Departure(leave=leave, read=0, generated=0, burn=None, rest=max_tokens, let_go=seconds)
        for (leave, _), seconds in zip(left, times, strict=True)
    )
    return Report(path=path, moment=moment, departures=departures, burned=burned)
