"""The n-gram model is deterministic, endless, and counts as it speaks."""

from __future__ import annotations

import pytest

from streamguard_testing import NGramModel


def test_same_seed_same_text() -> None:
    """Two models with the same seed say the same, also beyond the length of their text."""
    assert NGramModel().generate(3000, seed=7) == NGramModel().generate(3000, seed=7)


def test_the_text_of_a_seed_is_for_ever() -> None:
    """What a seed says does not change from one Python, or one release, to the next."""
    assert "".join(NGramModel().generate(12, seed=0)) == (
        "Then the gate. He never found a second thread, and"
    )


def test_other_seed_other_text() -> None:
    """Another seed says something else."""
    texts = {"".join(NGramModel().generate(60, seed=seed)) for seed in range(8)}
    assert len(texts) == 8


def test_text_is_made_of_words_of_the_corpus() -> None:
    """Every n-gram that is said stands in the text the model was made of."""
    model = NGramModel("one two three one two four one five", order=2)
    said = "".join(model.generate(50, seed=3))
    for first, second in zip(said.split(), said.split()[1:], strict=False):
        assert f"{first} {second}" in "one two three one two four one five one two"


def test_starts_with_a_sentence() -> None:
    """An answer starts where a sentence starts, without a blank."""
    for seed in range(20):
        first = NGramModel().generate(1, seed)[0]
        assert first[0].isupper()


def test_counts_what_it_says() -> None:
    """The count of a text is the number of tokens that made it, for words with a blank in front."""
    model = NGramModel()
    assert model.count("Tell me about the river.") == 6
    assert model.count("") == 0
    assert model.count("".join(model.generate(500, seed=2))) == 500


def test_bytes_are_not_characters() -> None:
    """Some tokens are longer in UTF-8 than in characters, so that readers meet such."""
    text = "".join(NGramModel().generate(20_000))
    assert len(text.encode()) > len(text)


@pytest.mark.parametrize(
    ("text", "order", "message"),
    [("one two", 0, "order must be at least 1"), ("one two", 2, "needs more than that")],
)
def test_impossible_models_are_refused(text: str, order: int, message: str) -> None:
    """A model without context, or with a text that is too short for it, cannot be made."""
    with pytest.raises(ValueError, match=message):
        NGramModel(text, order=order)
