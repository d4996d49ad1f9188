"""The buffer that a reader who lost its connection resumes from, and the ids that say where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import AnyChunk, Chunk, UsageError, size_of
from streamguard_core.replay import Refusal, Replay, ResumeError, ResumePoint

CHUNK = st.one_of(st.text(max_size=6), st.binary(max_size=6), st.builds(Chunk, st.text(max_size=6)))
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
LONG, LONGER = "a.b:" + "9" * 16, "a" * 600 + ".b:7"
PLACES = st.text(st.sampled_from("0123456789abcdef"), min_size=1, max_size=8)


@given(st.lists(st.lists(CHUNK, max_size=5), max_size=12), st.integers(1, 20), st.integers(1, 9))
def test_a_replay_is_the_end_of_what_was_recorded(
    batches: list[list[AnyChunk]], max_bytes: int, max_chunks: int
) -> None:
    """Invariant: it holds the chunks from `first` to `end` without a gap, within both bounds; both only grow."""
    replay, sent = Replay(max_bytes, max_chunks), list[AnyChunk]()
    for batch in batches:
        first = replay.first
        replay.record(len(sent), batch)
        sent += batch
        assert replay.end == len(sent)
        assert first <= replay.first <= replay.end
        held = replay.since(replay.first)
        assert held == sent[replay.first :]
        assert replay.held_bytes == sum(map(size_of, held)) <= max_bytes
        assert len(held) <= max_chunks


@given(st.lists(CHUNK, min_size=1, max_size=30), st.data())
def test_nothing_falls_out_that_had_room(chunks: list[AnyChunk], data: st.DataObject) -> None:
    """The oldest goes only when with it a bound would be passed."""
    max_bytes, max_chunks = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 30))
    replay = Replay(max_bytes, max_chunks)
    replay.record(0, chunks)
    if replay.first:
        more = chunks[replay.first - 1 :]
        assert sum(map(size_of, more)) > max_bytes or len(more) > max_chunks


@given(st.lists(CHUNK, max_size=20), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6))))
def test_a_chunk_that_is_handed_over_again_is_recorded_once(
    chunks: list[AnyChunk], steps: list[tuple[int, int]]
) -> None:
    """What a reader who came back is handed again, at whatever offset, neither repeats nor replaces anything."""
    replay = Replay()
    for back, length in steps:
        offset = max(0, replay.end - back)
        replay.record(offset, chunks[offset : offset + length])
        assert replay.since(0) == chunks[: replay.end]


def test_a_gap_is_a_mistake() -> None:
    """Chunks that were never recorded cannot be left out."""
    replay = Replay()
    replay.record(0, ["a"])
    with pytest.raises(UsageError, match="record each chunk"):
        replay.record(2, ["c"])


@pytest.mark.parametrize(
    ("offset", "refusal"), [(0, Refusal.DROPPED), (1, None), (3, None), (4, Refusal.BEYOND)]
)
def test_what_is_not_here_is_refused(offset: int, refusal: Refusal | None) -> None:
    """Dropped chunks and chunks that never were have their own answers; all others are given."""
    replay = Replay(max_chunks=2)
    replay.record(0, ["a", "b", "c"])
    if refusal is None:
        assert replay.since(offset) == ["a", "b", "c"][offset:]
        return
    with pytest.raises(ResumeError) as caught:
        replay.since(offset)
    assert caught.value.refusal is refusal


def test_a_chunk_larger_than_the_buffer_is_not_kept() -> None:
    """It was sent, so it counts; a reader that has not got it cannot resume."""
    replay = Replay(max_bytes=3)
    replay.record(0, ["long", "a"])
    assert (replay.first, replay.end, replay.held_bytes) == (1, 2, 1)


@pytest.mark.parametrize("bounds", [{"max_bytes": 0}, {"max_chunks": 0}, {"max_bytes": True}])
def test_bounds_are_positive(bounds: dict[str, Any]) -> None:
    """A buffer that can hold nothing is a mistake."""
    with pytest.raises(UsageError, match="at least 1"):
        Replay(**bounds)


@given(IDS, PLACES, st.none() | st.integers(0, 10**15 - 1))
def test_an_id_says_what_it_was_made_of(stream_id: str, place: str, offset: int | None) -> None:
    """What a reader sends back unchanged is understood, whatever characters a stream's name has."""
    point = ResumePoint(stream_id, place, offset)
    assert ResumePoint.parse(str(point)) == point


@given(st.text(max_size=30))
def test_anything_else_is_refused_or_means_itself(text: str) -> None:
    """No text is taken for an id that it is not."""
    try:
        point = ResumePoint.parse(text)
    except ResumeError:
        return
    assert text.startswith(point.prefix)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "a:7",
        "a.:7",
        ".b:7",
        "a.b:",
        "a.b:-1",
        "a.b:1.5",
        "a.b:\u0663",
        "a.b:END",
        LONG,
        LONGER,
    ],
)
def test_ids_that_nobody_gave_are_malformed(text: str) -> None:
    """Neither numbers alone, nor other digits than ours, nor what is far too long."""
    with pytest.raises(ResumeError) as caught:
        ResumePoint.parse(text)
    assert caught.value.refusal is Refusal.MALFORMED
