"""Generation: the life of one answer, from the queue to its last byte."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import Final, Protocol

from streamguard_testing import error_shapes
from streamguard_testing.dialects import Ask, Dialect, Kind, Said, Totals, Turn, Voice
from streamguard_testing.faults import Billing, Break, Cut, ErrorShape, Fault, Usage
from streamguard_testing.plans import Plan
from streamguard_testing.records import Ending, LiveRequest, State
from streamguard_testing.settings import EngineSettings

# Nobody trickles for ever: a reader that is forgotten must not keep a test server busy.
_LONGEST_TRICKLE: Final = 600.0


class Responder(Protocol):
    """The way to the reader; writing never waits, and is allowed when nobody is there any more."""

    @property
    def gone(self) -> bool:
        """Whether there is nobody left to write to."""

    def start(self, status: int, content_type: str) -> None:
        """Send the head of a streamed response, once; later calls do nothing."""

    def write(self, data: bytes) -> None:
        """Send a piece of a streamed response."""

    def finish(self) -> None:
        """Send what ends a streamed response in HTTP."""

    def whole(
        self, status: int, content_type: str, body: bytes, retry_after: int | None = None
    ) -> None:
        """Send a response in one piece."""

    def cut(self, how: Cut) -> None:
        """End the response where it is."""

    async def writable(self) -> bool:
        """Wait while too much is unsent; tell whether there was anything to wait for."""

    async def flushed(self) -> None:
        """Wait until the kernel has everything, or nobody is there any more."""


@dataclass(slots=True)
class Pace:
    """Absolute instants for steps of tokens, so that delays do not add up."""

    start: float
    step: float

    async def wait(self, number: int) -> None:
        """Wait until a step is due; lets the loop look at the sockets even when it is late."""
        await asyncio.sleep(max(0.0, self.start + number * self.step - time.monotonic()))


class Generation:
    """Makes and delivers one answer; a task that is cancelled when the engine lets go."""

    def __init__(
        self,
        *,
        live: LiveRequest,
        ask: Ask,
        plan: Plan,
        dialect: Dialect,
        fault: Fault,
        settings: EngineSettings,
        slots: asyncio.Semaphore | None,
        responder: Responder,
    ) -> None:
        self.live: Final = live
        self.fault: Final = fault
        self.ignore_close: Final = (
            fault.ignore_close or ask.background or fault.billing is Billing.FULL
        )
        self.voice: Final[Voice] = dialect.voice(_turn(live, ask, plan, fault))
        self.reason: Final = plan.reason
        self._dialect = dialect
        self._stream = ask.stream
        self._remember = ask.background or not ask.stream
        self._tokens = plan.tokens
        self._settings = settings
        self._slot: AbstractAsyncContextManager[None] = slots or nullcontext()
        self._responder = responder
        self._said: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        self._ending: Ending | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def ending(self) -> Ending | None:
        """How it ends; None while that is open."""
        return self._ending or self.live.ending

    def begin(self) -> asyncio.Task[None]:
        """Start to answer the request, in a task of its own."""
        self._task = asyncio.get_running_loop().create_task(self.run())
        return self._task

    def let_go(self) -> None:
        """Stop making this answer, now."""
        if self._task is not None:
            self._task.cancel()

    def cancel(self) -> None:
        """Stop making this answer because the caller said so; a stream just ends."""
        if self._ending is None:
            self._ending = Ending.CANCELLED
            if self._stream:
                self._responder.start(200, self.voice.content_type)
                self._responder.cut(Cut.CLEAN)
            self.let_go()

    async def run(self) -> None:
        """Answer the request."""
        async with self._slot:
            await self._generate()
        if self._ending is None:
            await self._deliver_end()

    def ended(self) -> None:
        """Write down how it ended, once the task is over, also one that never got to run."""
        left = self.live.noticed_at is not None
        self.live.end(self._ending or (Ending.ABANDONED if left else Ending.STOPPED))

    async def _generate(self) -> None:
        live, fault = self.live, self.fault
        live.started_at = started = time.monotonic()
        live.enter(State.THINKING)
        await Pace(started + fault.header_delay, 0.0).wait(0)
        if fault.status is not None:
            self._refuse(fault.status)
            self._ending = Ending.REFUSED
            return
        if self._stream and self.voice.early_head and not self._bare:
            self._responder.start(200, self.voice.content_type)
            self._responder.write(self.voice.open())
        limit = live.planned_tokens
        broken = fault.break_point()
        if broken is None or broken[1] > limit:
            await self._make(limit)
            return
        await self._make(broken[1])
        await self._break_off(broken[0])

    async def _make(self, count: int) -> None:
        """Make this many tokens at the engine's pace, and deliver them if they are streamed."""
        settings, live = self._settings, self.live
        pace = Pace(self._first_token_due(), settings.seconds_per_token * settings.burst)
        if count == 0:
            await pace.wait(0)
        lead = (settings.lead - 1) // settings.burst
        for step, done in enumerate(range(0, count, settings.burst)):
            await pace.wait(max(0, step - lead))
            if step == 0:
                live.enter(State.GENERATING)
            tokens = list(islice(self._tokens, min(settings.burst, count - done)))
            live.count(len(tokens), sum(kind is Kind.REASONING for kind, _ in tokens))
            self._hand_over(tokens)
            since = time.monotonic()
            if await self._responder.writable():
                # An engine that was held back does not catch up afterwards.
                pace.start += time.monotonic() - since

    def _first_token_due(self) -> float:
        think = self.fault.first_token_delay
        if think is None:
            think = self._settings.first_token_delay
        started = self.live.started_at
        assert started is not None
        return started + max(think, self.fault.header_delay)

    def _hand_over(self, tokens: list[tuple[Kind, str]]) -> None:
        for kind, group in groupby(tokens, itemgetter(0)):
            texts = [text for _, text in group]
            if self._remember:
                self._said[kind] += texts
            if self._stream:
                self._responder.start(200, self.voice.content_type)
                self._responder.write(self.voice.tokens(kind, texts))

    async def _break_off(self, how: Break) -> None:
        if how is Break.STALL:
            await asyncio.Event().wait()  # until the reader leaves or the engine is stopped
        elif how is Break.ERROR:
            await self._fail()
        else:
            await self._cut()

    async def _cut(self) -> None:
        if self._stream and self.fault.cut is Cut.CLEAN:
            self._responder.start(200, self.voice.content_type)
        await self._responder.flushed()  # the tokens come first; a reset would overtake them
        self._ending = Ending.CUT
        self._responder.cut(self.fault.cut)

    async def _fail(self) -> None:
        if not self._stream:
            self._refuse(self.fault.error_status)
        elif self._bare:
            body = error_shapes.bare(self.fault)
            self._responder.whole(200, "application/json", body)
        else:
            self._responder.start(200, self.voice.content_type)
            self._responder.write(error_shapes.frames(self.fault, self.voice, self.totals()))
            self._responder.finish()
        await self._responder.flushed()
        self._ending = Ending.FAILED

    @property
    def _bare(self) -> bool:
        """Whether there is an error where a stream was expected."""
        return self.fault.error_shape is ErrorShape.BODY and self.fault.error_after == 0

    def _refuse(self, status: int) -> None:
        body = error_shapes.body(self.fault, self._dialect, status)
        self._responder.whole(status, "application/json", body, self.fault.retry_after)

    async def _deliver_end(self) -> None:
        """Deliver what comes after the last token: finish, usage, terminal marker."""
        self.live.enter(State.FLUSHING)
        if self._stream:
            self._responder.start(200, self.voice.content_type)
            self._responder.write(self.voice.finish(self.reason))
        if self.fault.usage is Usage.LATE:
            await asyncio.sleep(self.fault.usage_delay)
        totals = None if self.fault.usage is Usage.NEVER else self.totals()
        if not self._stream:
            body = self.voice.whole(self.said(), self.reason, totals)
            self._responder.whole(200, self.voice.content_type, body)
        else:
            self._responder.write(self.voice.last(self.reason, totals))
            if self.fault.trickle_after_done:
                await self._trickle()
            self._responder.finish()
        await self._responder.flushed()
        self._ending = Ending.COMPLETED

    def said(self) -> Said:
        """Return what was said so far, unless it was streamed and nobody may ask for it again."""
        return Said(
            text="".join(self._said[Kind.TEXT]),
            reasoning="".join(self._said[Kind.REASONING]),
            arguments="".join(self._said[Kind.ARGUMENTS]),
        )

    async def _trickle(self) -> None:
        self._ending = Ending.COMPLETED
        self.live.enter(State.TRICKLING)
        pace = Pace(time.monotonic(), self.fault.trickle_interval)
        turn = 0
        while not self._responder.gone and time.monotonic() - pace.start < _LONGEST_TRICKLE:
            turn += 1
            await pace.wait(turn)
            self._responder.write(self.voice.idle())
            await self._responder.writable()

    def totals(self) -> Totals:
        """Return the counters as they are now."""
        live = self.live
        started = live.started_at or live.received_at
        first = live.instants[0] if live.instants else started
        return Totals(
            prompt_tokens=live.prompt_tokens,
            generated=len(live.instants),
            reasoning=live.reasoning,
            prompt_seconds=first - started,
            total_seconds=time.monotonic() - live.received_at,
        )


def _turn(live: LiveRequest, ask: Ask, plan: Plan, fault: Fault) -> Turn:
    return Turn(
        ask=ask,
        request_id=live.id,
        prompt_tokens=live.prompt_tokens,
        call=plan.call,
        running_usage=fault.usage is Usage.NORMAL,
    )
