"""The parts of the example `langchain_pipeline`, one at a time, with text that is cut in every way."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from typing import Any

import pytest

from .sites import EXAMPLES

pytest.importorskip("langchain_core")


@pytest.fixture(scope="module", autouse=True)
def _example() -> Any:
    """The example's modules can be imported."""
    sys.path.append(str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))


def splits(text: str) -> Iterable[list[str]]:
    """Ways in which a text may come: whole, by characters, in two at every place, and at random."""
    yield [text]
    yield list(text)
    yield from ([text[:at], text[at:]] for at in range(1, len(text)))
    chance = random.Random(7)
    for _ in range(200):
        places = sorted({0, len(text), *(chance.randrange(len(text)) for _ in range(8))})
        yield [text[start:end] for start, end in pairwise(places)]


async def each(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Items, as an async iterator."""
    for item in items:
        yield item


def through(phrases: list[str], pieces: list[str]) -> tuple[str, str | None]:
    """What a window shows of an answer, and the rule that was broken."""
    from langchain_pipeline.guardrails import Guardrails

    window, shown = Guardrails(phrases).window(), ""
    for piece in pieces:
        shown += window.take(piece)
        if window.broken is not None:
            return shown, window.broken
    return shown + window.rest(), window.broken


LONG = "The river begins as a thin thread of water between two stones, and nobody steps over it. "


@pytest.mark.parametrize(
    ("forbidden", "rule"),
    [
        ("lean\n on", "lean on"),
        ("LEAN on", "lean on"),
        ("someone.else@mail.example.org", "e-mail"),
        # Longer than what is held back, but known as one from its first characters on.
        ("someone.else@mail.example" + ".org" * 15, "e-mail"),
        ("4111 1111 1111 1111", "card number"),
        ("sk-abcdefghijklmnop1234", "secret key"),
    ],
)
def test_nothing_of_what_is_forbidden_is_shown(forbidden: str, rule: str) -> None:
    """However the text is cut: what is before it, and not its first character."""
    before = LONG * 2
    for pieces in splits(before + forbidden + " the rail. " + LONG):
        assert through(["lean on"], pieces) == (before, rule)


def test_what_stands_at_the_very_end_is_found() -> None:
    """No character after it is needed."""
    for pieces in splits(LONG + "they lean on"):
        assert through(["lean on"], pieces) == (LONG + "they ", "lean on")


@pytest.mark.parametrize(
    "text",
    [
        LONG * 3,
        "clean on. " + LONG * 2,
        "clean on, lean one, lean, on 4111 1111 sk-short @mail x@y",
    ],
)
def test_what_only_looks_forbidden_is_shown(text: str) -> None:
    """A text that breaks no rule comes out as it went in, however it is cut."""
    for pieces in splits(text):
        assert through(["lean on"], pieces) == (text, None)


async def test_the_aggregator_keeps_words_and_paragraphs() -> None:
    """However the text is cut, the lines are the same; words are whole, and paragraphs stay apart."""
    from langchain_pipeline.aggregator import TokenAggregator

    text = "one two  three four\n\n\nfive sixsixsixsixsixsix seven"
    for pieces in splits(text):
        aggregator = TokenAggregator(width=12)
        laid = [word async for word in aggregator.words(each(pieces))]
        assert "".join(laid) == "one two\nthree four\n\nfive\nsixsixsixsixsixsix\nseven"
        assert aggregator.answer == text


def test_metrics_of_a_stream() -> None:
    """All figures are those of the clock; what is not known yet is not zero."""
    from langchain_pipeline.metrics import MetricsCollector

    instants = iter([10.0, 10.5, 10.6, 10.7, 11.2])
    metrics = MetricsCollector(clock=lambda: next(instants))
    assert (metrics.first, metrics.rate, metrics.gap, metrics.quality) == (None,) * 4
    metrics.came("It ")
    assert (metrics.first, metrics.rate, metrics.gap) == (0.5, None, None)
    for text in ("was ", "the ", "best"):
        metrics.came(text)
    assert metrics.tokens == 4
    assert metrics.rate == pytest.approx(3 / 0.7)
    assert metrics.gap == pytest.approx(0.1)
    assert metrics.longest_gap == pytest.approx(0.5)


def test_quality_is_of_the_form() -> None:
    """Repetition and broken characters cost; a text without either is spotless, however it is cut."""
    from langchain_pipeline.metrics import Form

    def score(pieces: Iterable[str]) -> float:
        form = Form()
        for piece in pieces:
            form.add(piece)
        return form.score

    assert {score(pieces) for pieces in splits(LONG)} == {1.0}
    assert {score(pieces) for pieces in splits("a b c d e a b c d e .")} == {5 / 6}
    assert score([LONG * 10]) < 0.2
    assert score(["\x1b" * 5 + "fine " * 1]) == 0.5


async def test_what_would_steer_a_terminal_is_taken_out() -> None:
    """A model's escape sequences do not reach the reader, and an empty answer is a failure."""
    from langchain_core.messages import AIMessageChunk
    from langchain_pipeline.responses import EmptyAnswer, ResponseHandler

    cuts: list[Any] = []
    handler = ResponseHandler(None, lambda *why: cuts.append(why))
    chunks = [AIMessageChunk(content=text) for text in ("a\x1b[2J", "\n", "", "é")]
    assert [text async for text in handler.check(each(chunks))] == ["a\ufffd[2J", "\n", "é"]
    handler = ResponseHandler(None, lambda *why: cuts.append(why))
    with pytest.raises(EmptyAnswer):
        [text async for text in handler.check(each([AIMessageChunk(content="")]))]
    assert cuts == []


async def test_an_answer_without_end_is_cut_off() -> None:
    """It is bounded, whatever the model does."""
    from langchain_core.messages import AIMessageChunk
    from langchain_pipeline.responses import LONGEST, ResponseHandler

    from streamguard_core import Cause

    cuts: list[Any] = []
    handler = ResponseHandler(None, lambda *why: cuts.append(why))
    endless = (AIMessageChunk(content="x" * 1000) for _ in iter(int, 1))
    got = [text async for text in handler.check(each(endless))]
    assert sum(map(len, got)) == LONGEST + 1000
    assert [cause for cause, _ in cuts] == [Cause.BUDGET]


async def test_the_model_outside_of_a_guard_says_so() -> None:
    """It has nobody to tell of its calls, and makes none."""
    from langchain_pipeline.model import RoutedModel

    from streamguard_providers import OllamaProducer, Route, Router

    model = RoutedModel(
        router=Router(routes={"m": Route(OllamaProducer, "m")}), model_name="m", max_tokens=9
    )
    with pytest.raises(RuntimeError, match="outside of guard"):
        await model.ainvoke("?")
    with pytest.raises(TypeError, match="use astream"):
        model.invoke("?")
