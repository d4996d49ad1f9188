"""Tests of the adapter check: it passes what keeps its contract, and names every rule that is broken."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from streamguard_core import AnyChunk, Cause, StreamSession, text_of
from streamguard_core.testing import (
    ConformanceError,
    ScriptedProducer,
    check_adapter,
    check_producer,
    emit,
)

# -- adapters -----------------------------------------------------------------------------------------


class Sender:
    """An adapter that sends to a list; variants of it misbehave."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.session: StreamSession | None = None

    async def __call__(self, session: StreamSession) -> None:
        """Send every chunk."""
        self.begin(session)
        async with session:
            async for chunk in session:
                self.send(chunk)

    def begin(self, session: StreamSession) -> None:
        """A new stream."""
        self.sent.clear()
        self.session = session

    def send(self, chunk: AnyChunk) -> None:
        """Send one chunk."""
        self.sent.append(text_of(chunk))

    def texts(self) -> list[str]:
        """What was sent for the latest session."""
        return self.sent

    def leave(self) -> None:
        """The client goes away."""
        assert self.session is not None
        self.session.disconnected("the client went away")


async def test_adapters_that_keep_their_contract() -> None:
    """Chunk by chunk, or in batches; with and without what was sent, and a reader that leaves."""

    class Batching(Sender):
        async def __call__(self, session: StreamSession) -> None:
            self.begin(session)
            async with session:
                while batch := await session.read_ready():
                    for chunk in batch:
                        self.send(chunk)

    for sender in (Sender(), Batching()):
        report = await check_adapter(sender)
        assert (report.runs, report.chunks) == (7, 40)
        report = await check_adapter(sender, sent=sender.texts, leave=sender.leave)
        assert report.runs == 8
        assert report.subject == type(sender).__qualname__


async def rules_of(adapter: Any, **keywords: Any) -> dict[str, str]:
    """The rules an adapter breaks, with what was attempted."""
    with pytest.raises(ConformanceError) as caught:
        await check_adapter(adapter, **keywords)
    return {violation.rule: violation.attempted for violation in caught.value.violations}


async def test_an_adapter_that_stops_before_eos() -> None:
    """It closes streams that would have completed."""

    async def impatient(session: StreamSession) -> None:
        async with session:
            async for chunk in session:
                if chunk == "c":
                    break

    rules = await rules_of(impatient)
    assert rules["MUST read on to EOS"].startswith("a short stream that is pulled")
    assert "MUST NOT change why the stream ended" in rules
    assert "MUST take every chunk over, and ask for more only when it was sent" in rules


async def test_an_adapter_that_leaves_streams_open() -> None:
    """Without a with block and without reading there is no receipt."""

    async def careless(session: StreamSession) -> None:
        session.start()

    rules = await rules_of(careless)
    assert rules["MUST leave exactly one receipt"].endswith("it had 0 receipts")


async def test_an_adapter_that_never_returns() -> None:
    """After EOS it is done."""

    async def lingering(session: StreamSession) -> None:
        async with session:
            async for _ in session:
                pass
            await asyncio.sleep(50)

    assert "MUST return soon after EOS" in await rules_of(lingering)


async def test_an_adapter_that_swallows_its_cancellation() -> None:
    """The framework above it would hang, or take the request for served."""

    async def deaf(session: StreamSession) -> None:
        try:
            async with session:
                async for _ in session:
                    pass
        except asyncio.CancelledError:
            pass

    rules = await rules_of(deaf)
    assert set(rules) == {"MUST let an outside cancellation through"}


async def test_an_adapter_that_sends_out_of_order() -> None:
    """What arrives is compared with what was committed."""

    class Reordering(Sender):
        def send(self, chunk: AnyChunk) -> None:
            self.sent.insert(0, text_of(chunk))

    sender = Reordering()
    rules = await rules_of(sender, sent=sender.texts)
    assert set(rules) == {"MUST send every chunk once, in order"}


async def test_an_adapter_that_does_not_report_leaving() -> None:
    """A reader that leaves is said to have left, not an error, and not nothing."""
    sender = Sender()

    def silent() -> None: ...

    rules = await rules_of(sender, leave=silent)
    assert "MUST report that the reader left" in rules

    def blaming() -> None:
        assert sender.session is not None
        sender.session.terminate(Cause.PRODUCER_ERROR)

    assert "MUST report that the reader left" in await rules_of(sender, leave=blaming)


async def test_an_adapter_that_raises_is_allowed_to() -> None:
    """Its framework may want an exception for a stream that failed."""

    async def raising(session: StreamSession) -> None:
        async with session:
            async for _ in session:
                pass
        if session.cause is not Cause.COMPLETED:
            raise ConnectionError

    report = await check_adapter(raising)
    assert report.raised == ("ConnectionError",)


def test_checks_run_on_a_real_loop_as_well() -> None:
    """A test with a real server awaits them where it is."""

    async def main() -> None:
        assert (await check_producer(lambda: ScriptedProducer(emit("a")))).chunks == 1
        assert (await check_adapter(Sender())).chunks == 40

    asyncio.run(main())
    assert threading.active_count() >= 1
