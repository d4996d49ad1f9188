"""Where a resumed answer is joined to the text so far: nothing twice, nothing lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamguard_core import AnyChunk, Chunk, ChunkKind
from streamguard_providers.seam import Seam, overlap
from streamguard_providers.shown import Shown

PREFIX = "It was the best of times, it was the worst of times, it was"
REST = " the age of wisdom, it was the age of foolishness."


def joined(prefix: str, pieces: list[Any], **options: Any) -> str:
    """What the reader gets of the pieces of a resumed answer."""
    seam = Seam(prefix, **options)
    out: list[AnyChunk] = []
    for piece in pieces:
        out += seam.pass_on([piece])
    return "".join(map(str, out + seam.end()))


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("back", [0, 24, 30, 45, len(PREFIX)])
def test_a_repetition_is_left_out(back: int, size: int) -> None:
    """Whether the provider repeats nothing, its last words or all, however it is cut, the reader gets the rest."""
    said = PREFIX[len(PREFIX) - back :] + REST
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    assert joined(PREFIX, pieces) == REST


@given(
    st.text("ab ", max_size=80),
    st.text("ab ", max_size=80),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_whatever_comes_is_joined_as_a_whole_would_be(
    prefix: str, said: str, sizes: list[int]
) -> None:
    """What comes out is what went in, less one repetition; it does not depend on how it was cut."""
    pieces, at, turn = [], 0, 0
    while at < len(said):
        size = sizes[turn % len(sizes)]
        pieces.append(said[at : at + size])
        at, turn = at + size, turn + 1
    got = joined(prefix, pieces)
    assert got == joined(prefix, [said] if said else [])
    assert said.endswith(got)
    repeated = said[: len(said) - len(got)]
    assert prefix.endswith(repeated)
    assert len(repeated) in {0, overlap(prefix, said)}


def test_short_equal_words_are_meant() -> None:
    """A word that is said again is no repetition of the provider's."""
    assert joined("It was very", [" very", " late"]) == " very late"
    assert joined(PREFIX, ["it was", " the spring"]) == "it was the spring"
    assert joined(PREFIX, [PREFIX, "x"], shortest=0) == PREFIX + "x"


def test_what_differs_is_released_at_once() -> None:
    """Text that stands nowhere in the prefix is not held back; a word of it only until it differs."""
    seam = Seam(PREFIX)
    assert seam.pass_on([" the"]) == []
    assert seam.pass_on([" age"]) == [" the", " age"]
    assert seam.pass_on([" of"]) == [" of"]


def test_other_chunks_keep_their_place() -> None:
    """Chunks that are no text pass unchanged, in their order; a chunk is cut where the repetition ends."""
    data = Chunk(kind=ChunkKind.DATA, data=b"x")
    seam = Seam(PREFIX)
    assert seam.pass_on([data]) == []
    assert seam.pass_on([Chunk(PREFIX + " the")]) == [data, Chunk(" the")]
    assert seam.end() == []


def test_a_model_that_thinks_again_does_so_unseen() -> None:
    """Reasoning of a resumed answer is not shown where there was some already."""
    thought = Chunk("Hm", kind=ChunkKind.REASONING)
    assert Seam("").pass_on([thought, "a"]) == [thought, "a"]
    assert Seam("", thought=True).pass_on([thought, "a"]) == ["a"]


@pytest.mark.parametrize(
    ("shown", "answer", "rest"),
    [
        ([], "It was", ["It was"]),
        (["It "], "It was", ["was"]),
        (["It ", "was"], ["It w", "as late"], [" late"]),
        (["It was"], "It was", []),
        (["It is"], "It was", None),
        ([Chunk("f", kind=ChunkKind.TOOL)], "It was", None),
        ([b"raw"], "It was", None),
        ([Chunk("Hm", kind=ChunkKind.REASONING), "It "], "It was", ["was"]),
    ],
)
def test_the_rest_of_a_cached_answer(shown: Any, answer: Any, rest: Any) -> None:
    """A cached answer goes on where the reader is, or is another answer."""
    seen = Shown()
    if shown:
        seen.add(shown)
    assert seen.rest_of(answer) == rest
