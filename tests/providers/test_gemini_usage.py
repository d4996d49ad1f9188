"""Usage in Gemini's responses."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import Count, CountSource

from .gemini_events import decoded, holds, text, usage
from .wire import event


def test_the_last_usage_with_counts_is_taken_whole() -> None:
    """Usage is cumulative: assigned, not added; one that names the traffic only replaces no counts."""
    traffic = {"trafficType": "ON_DEMAND"}
    got = decoded(
        event(text("a", usageMetadata=traffic)),
        event(
            text("b", usageMetadata=usage(55, 4) | {"promptTokensDetails": [{"tokenCount": 55}]})
        ),
        event(text("c", finish="STOP", usageMetadata=usage(257, 8))),
        event({"usageMetadata": traffic}),
    )
    assert got.decoder.reported == usage(257, 8)
    assert decoded(event(text("a", usageMetadata=traffic))).decoder.reported == traffic
    assert decoded(event(text("a", usageMetadata={}))).decoder.usage is None


@pytest.mark.parametrize(("early", "late"), [(19, 17), (55, 257)])
def test_the_prompt_may_be_counted_again(early: int, late: int) -> None:
    """The prompt's count changes between chunks in both directions: until the end it has no bounds."""
    before = decoded(event(text("a", usageMetadata=usage(early, 4, 9)))).decoder.usage
    assert before is not None
    assert before.input == Count(early, 0, None, CountSource.PROVIDER_CUMULATIVE)
    assert before.output == Count(13, 13, None, CountSource.PROVIDER_CUMULATIVE)
    assert holds(before.input, late)


def test_usage_may_come_after_the_finish_reason() -> None:
    """Usage before the finish reason is not final, usage with or after it is."""
    tells, ends = {"usageMetadata": usage(3, 4)}, text("a", finish="STOP")
    for events, source in (
        ((tells, ends), CountSource.PROVIDER_CUMULATIVE),
        ((ends, tells), CountSource.PROVIDER_FINAL),
        (({**ends, **tells},), CountSource.PROVIDER_FINAL),
    ):
        used = decoded(*map(event, events)).decoder.usage
        assert used is not None
        assert used.output.source is source


USAGES = [
    (usage(25, 1, 66), (25, 67, None, 66)),
    (
        {**usage(10, 5), "toolUsePromptTokenCount": 30, "cachedContentTokenCount": 4},
        (40, 5, 4, None),
    ),
    (usage(10, None, 5), (10, 5, None, 5)),
    ({"promptTokenCount": 10}, (10, None, None, None)),
    ({"promptTokenCount": 10.0, "candidatesTokenCount": "5"}, (10, None, None, None)),
    ({"candidatesTokenCount": 0}, (None, 0, None, None)),
]


@pytest.mark.parametrize(("reported", "expected"), USAGES)
def test_usage_has_its_classes(reported: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    """Thoughts are output, prompts of tools are input; what is not reported is unknown."""
    used = decoded(event(text("a", finish="STOP", usageMetadata=reported))).decoder.usage
    assert used is not None
    counts = (used.input, used.output, used.cached_input, used.reasoning)
    assert tuple(count.value for count in counts) == expected


def test_the_total_bounds_what_is_not_told() -> None:
    """An output that is left out cannot be more than the total leaves for it."""
    said = {"promptTokenCount": 10, "totalTokenCount": 14}
    used = decoded(event(text("a", finish="MAX_TOKENS", usageMetadata=said))).decoder.usage
    assert used is not None
    assert used.output == Count.at_least(0, CountSource.PROVIDER_FINAL, upper=4)
