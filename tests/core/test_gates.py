"""Tests of gates: they see every chunk once, in order, before it is committed, and fail closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from streamguard_core import (
    CUT,
    HOLD,
    PASS,
    AnyChunk,
    Cause,
    Chunk,
    Gate,
    MemoryLedger,
    Party,
    StreamSession,
    UsageError,
    Verdict,
    grace,
)
from streamguard_core.testing import (
    ScriptedConsumer,
    ScriptedProducer,
    emit,
    hang,
    read,
    scripted_iterator,
    settled,
    wait,
)

ReadAll = Callable[[StreamSession], Coroutine[Any, Any, list[AnyChunk]]]


class Words:
    """A gate that answers by a function of the text so far and the chunk, and notes what it saw."""

    def __init__(
        self,
        answer: Callable[[str, AnyChunk], Any] = lambda text, chunk: PASS,
        finish: Callable[[str], Any] | None = None,
    ) -> None:
        self._answer = answer
        self.seen: list[tuple[str, AnyChunk]] = []
        if finish is not None:
            self.finish = finish

    def decide(self, text_so_far: str, chunk: AnyChunk) -> Verdict:
        """Answer."""
        self.seen.append((text_so_far, chunk))
        verdict: Verdict = self._answer(text_so_far, chunk)
        return verdict


async def test_a_gate_sees_every_chunk_once_with_the_text_before_it(read_all: ReadAll) -> None:
    """In order, and with the text of all chunks before, whatever their kind."""
    gate = Words()
    script = [emit("a"), emit(Chunk("b")), emit(b"raw"), emit("c", "d")]
    session = StreamSession(scripted_iterator(*script), gates=[gate])
    assert await read_all(session) == ["a", Chunk("b"), b"raw", "c", "d"]
    assert gate.seen == [("", "a"), ("a", Chunk("b")), ("ab", b"raw"), ("ab", "c"), ("abc", "d")]
    await session.receipt()


async def test_a_held_chunk_is_released_by_a_later_pass(read_all: ReadAll) -> None:
    """HOLD keeps a chunk speculative; PASS releases everything up to its own chunk."""
    gate = Words(lambda text, chunk: PASS if chunk == "." else HOLD)
    session = StreamSession(
        ScriptedProducer(emit("a", "b"), wait(5), emit("."), hang()), gates=[gate]
    )
    session.start()
    await settled()
    statistics = session.statistics()
    assert (statistics.produced, statistics.committed, statistics.speculative) == (2, 0, 2)
    reading = asyncio.create_task(read_all(session))
    await asyncio.sleep(6)
    assert session.statistics().committed == 3
    session.cancel()
    assert await reading == ["a", "b", "."]
    await session.receipt()


async def test_cut_discards_what_was_not_released(read_all: ReadAll) -> None:
    """Neither the chunk nor anything held is delivered; the cause is policy's, and it is waste (G14)."""
    gate = Words(
        lambda text, chunk: (
            CUT(detail="rule 7") if chunk == "bad" else PASS if chunk == "a" else HOLD
        )
    )
    session = StreamSession(ScriptedProducer(emit("a", "b", "bad", "c"), hang()), gates=[gate])
    assert await read_all(session) == ["a"]
    receipt = await session.receipt()
    assert (receipt.cause, receipt.detail, receipt.party) == (
        Cause.GUARDRAIL,
        "rule 7",
        Party.POLICY,
    )
    assert (receipt.produced, receipt.committed, receipt.consumed) == (3, 1, 1)
    assert receipt.waste.value == 2
    assert session.statistics().buffered_bytes == 0


async def test_a_gate_may_name_another_cause(read_all: ReadAll) -> None:
    """A budget is a gate as well."""
    gate = Words(lambda text, chunk: CUT(Cause.BUDGET, "spent") if len(text) > 3 else PASS)
    session = StreamSession(scripted_iterator(*(emit("ab") for _ in range(9))), gates=[gate])
    assert await read_all(session) == ["ab", "ab"]
    assert (await session.receipt()).cause is Cause.BUDGET


async def test_every_gate_must_let_pass(read_all: ReadAll) -> None:
    """A chunk is released when all gates have let it pass; each is asked about each chunk."""
    first = Words(lambda text, chunk: PASS if chunk in {"b", "d"} else HOLD)
    second = Words(lambda text, chunk: PASS if chunk in {"c", "d"} else HOLD)
    session = StreamSession(
        ScriptedProducer(emit("a", "b"), wait(1), emit("c"), wait(1), emit("d")),
        gates=[first, second],
    )
    session.start()
    committed = []
    for _ in range(3):
        await settled()
        committed.append(session.statistics().committed)
        await asyncio.sleep(1)
    assert committed == [0, 2, 4]
    assert await read_all(session) == ["a", "b", "c", "d"]
    assert len(first.seen) == len(second.seen) == 4
    await session.receipt()


async def test_after_a_cut_nobody_is_asked() -> None:
    """The second gate is not asked about a chunk that the first one has cut."""
    first, second = Words(lambda text, chunk: CUT()), Words()
    session = StreamSession(ScriptedProducer(emit("a")), gates=[first, second])
    assert [chunk async for chunk in session] == []
    assert second.seen == []
    await session.receipt()


async def test_what_is_held_at_the_end_is_decided(read_all: ReadAll) -> None:
    """Without a `finish` it is released; with one, that decides: PASS and HOLD release, CUT discards."""
    outcomes: list[tuple[Callable[[str], Any] | None, list[str], Cause]] = [
        (None, ["a", "b"], Cause.COMPLETED),
        (lambda text: PASS, ["a", "b"], Cause.COMPLETED),
        (lambda text: HOLD, ["a", "b"], Cause.COMPLETED),
        (lambda text: CUT() if text == "ab" else PASS, [], Cause.GUARDRAIL),
        (lambda text: None, [], Cause.INTERNAL_ERROR),
    ]
    for finish, expected, cause in outcomes:
        gate = Words(lambda text, chunk: HOLD, finish)
        session = StreamSession(ScriptedProducer(emit("a", "b")), gates=[gate])
        assert await read_all(session) == expected
        assert (await session.receipt()).cause is cause


async def test_a_gate_that_let_everything_pass_is_not_asked_at_the_end() -> None:
    """`finish` is about what is held."""
    asked: list[str] = []

    def finish(text: str) -> Verdict:
        asked.append(text)
        return PASS

    gate = Words(finish=finish)
    session = StreamSession(ScriptedProducer(emit("a")), gates=[gate])
    assert [chunk async for chunk in session] == ["a"]
    assert asked == []
    await session.receipt()


async def test_a_gate_that_raises_cuts() -> None:
    """It fails closed; it is our fault, not the producer's, and its text stays out (G14)."""

    def broken(text: str, chunk: AnyChunk) -> Verdict:
        raise ValueError(f"secret {chunk!r}")

    for gate in (Words(broken), Words(lambda text, chunk: HOLD, lambda text: broken(text, ""))):
        session = StreamSession(ScriptedProducer(emit("a")), gates=[gate])
        assert [chunk async for chunk in session] == []
        receipt = await session.receipt()
        assert (receipt.cause, receipt.detail) == (Cause.INTERNAL_ERROR, "a gate raised ValueError")


async def test_a_gate_that_answers_nonsense_cuts() -> None:
    """An answer that is no verdict is an error of ours, and names the gate."""
    session = StreamSession(ScriptedProducer(emit("a")), gates=[Words(lambda text, chunk: True)])
    assert [chunk async for chunk in session] == []
    receipt = await session.receipt()
    assert receipt.cause is Cause.INTERNAL_ERROR
    assert receipt.detail == "gate Words answered neither PASS, HOLD nor CUT"


async def test_a_gate_that_holds_more_than_there_is_room_for() -> None:
    """Nothing can ever move: cut off instead of hanging (G4, pitfall 38)."""
    gate = Words(lambda text, chunk: HOLD)
    session = StreamSession(
        ScriptedProducer(emit(*"abcdef"), hang()), gates=[gate], speculative_buffer_limit=3
    )
    assert [chunk async for chunk in session] == []
    receipt = await session.receipt()
    assert receipt.cause is Cause.GUARDRAIL
    assert receipt.detail == "a gate held 3 chunks and the speculative buffer is full"
    assert (receipt.produced, receipt.committed) == (3, 0)
    assert receipt.late == 1


async def test_a_gate_that_holds_while_the_reader_is_slow() -> None:
    """A full buffer is no deadlock as long as the reader has something to take; then it is one."""
    gate = Words(lambda text, chunk: PASS if chunk == "a" else HOLD)
    session = StreamSession(
        ScriptedProducer(emit(*"abcdef"), hang()), gates=[gate], speculative_buffer_limit=2
    )
    iterator = aiter(session)
    assert await anext(iterator) == "a"
    await settled()
    assert session.cause is None
    assert [chunk async for chunk in iterator] == []
    assert (await session.receipt()).cause is Cause.GUARDRAIL


async def test_text_is_kept_as_far_as_the_gates_look_back() -> None:
    """A gate sees at least its `lookback`; the largest counts, and None keeps all."""
    for lookbacks, at_least, at_most in (
        ((10,), 10, 21),
        ((10, 30), 30, 61),
        ((10, None), 500, 500),
    ):
        gates = []
        for lookback in lookbacks:
            gate = Words()
            gate.lookback = lookback  # type: ignore[attr-defined]
            gates.append(gate)
        session = StreamSession(ScriptedProducer(*(emit("x") for _ in range(501))), gates=gates)
        async for _ in session:
            pass
        assert at_least <= len(gates[0].seen[-1][0]) <= at_most
        await session.receipt()


async def test_text_without_a_lookback_is_bounded() -> None:
    """A gate that does not say how far it looks back gets 4096 characters at least."""
    gate = Words()
    session = StreamSession(ScriptedProducer(*(emit("x" * 100) for _ in range(100))), gates=[gate])
    async for _ in session:
        pass
    assert 4096 <= len(gate.seen[-1][0]) <= 2 * 4096
    await session.receipt()


def test_a_lookahead_that_does_not_fit_is_refused_when_the_session_is_built() -> None:
    """A gate that says how much it may hold is checked against the buffer."""
    gate = Words()
    gate.lookahead = 8  # type: ignore[attr-defined]
    with pytest.raises(
        UsageError,
        match="gate Words may hold 8 chunks, which needs speculative_buffer_limit of at least 9, got 8",
    ):
        StreamSession(gates=[gate])
    assert StreamSession(gates=[gate], speculative_buffer_limit=9).cause is None


def test_a_gate_is_recognised_by_its_shape() -> None:
    """Anything with `decide` is a gate."""
    assert isinstance(Words(), Gate)
    assert not isinstance(object(), Gate)


async def test_a_gate_that_cuts_in_the_turn_of_the_finish() -> None:
    """The guardrail decides about the last chunk before the producer's end is known (pitfall 16)."""
    gate = Words(lambda text, chunk: CUT() if chunk == "c" else PASS)
    ledger = MemoryLedger()
    session = StreamSession(ScriptedProducer(emit("a", "b", "c")), gates=[gate], ledger=ledger)
    assert [chunk async for chunk in session] == ["a", "b"]
    assert (await session.receipt()).cause is Cause.GUARDRAIL
    assert len(ledger.receipts) == 1


async def test_gates_under_grace() -> None:
    """A gate goes on deciding while the reader is away."""
    gate = Words(lambda text, chunk: CUT() if chunk == "bad" else PASS)
    session = StreamSession(
        ScriptedProducer(emit("a"), wait(5), emit("bad")), gates=[gate], on_disconnect=grace(30)
    )
    await ScriptedConsumer(read(1)).consume(session)
    receipt = await session.receipt()
    assert (receipt.cause, receipt.policy) == (Cause.GUARDRAIL, "grace(30s)")
    assert receipt.instants.cutoff_ns == 5 * 10**9
