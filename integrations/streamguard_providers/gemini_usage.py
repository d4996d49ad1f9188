"""What Gemini's `usageMetadata` says, in our token classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streamguard_core import UNKNOWN, Count, CountSource, Usage
from streamguard_providers.dialects import number_in

_COUNTS: Final = (
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "totalTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
)


def tells_tokens(reported: Mapping[str, Any]) -> bool:
    """Whether there is a count of tokens in it; the first ones often name the kind of traffic only."""
    if reported.get("promptTokenCount") is not None:
        return True
    return any(reported.get(name) is not None for name in _COUNTS)


def gemini_usage(reported: Mapping[str, Any], *, final: bool = True) -> Usage:
    """Normalise a `usageMetadata` object: thoughts are output there, and prompts of tools are input.

    Before the end, output may grow, and the prompt's count may be corrected in either direction
    (from 19 to 17, or from 55 to 257): its value is the best known, without bounds.

    Args:
        reported: the object, which is cumulative: the last one is the usage.
        final: False for one that came before a finish reason.
    """
    source = CountSource.PROVIDER_FINAL if final else CountSource.PROVIDER_CUMULATIVE

    def count(value: int | None, *, rising: bool) -> Count:
        if value is None:
            return UNKNOWN
        if final:
            return Count.exact(value, source)
        return Count(value, value if rising else 0, None, source)

    prompt = number_in(reported.get("promptTokenCount"))
    tools = number_in(reported.get("toolUsePromptTokenCount"))
    answer = number_in(reported.get("candidatesTokenCount"))
    thoughts = number_in(reported.get("thoughtsTokenCount"))
    total = number_in(reported.get("totalTokenCount"))
    whole = None if prompt is None else prompt + (tools or 0)
    output = None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0)
    rest = Count()
    if final and whole is not None and total is not None and total >= whole:
        rest = Count.at_least(0, source, upper=total - whole)
    return Usage(
        input=count(whole, rising=False),
        cached_input=count(number_in(reported.get("cachedContentTokenCount")), rising=False),
        # What is not told cannot be more than the total leaves.
        output=rest if output is None else count(output, rising=True),
        reasoning=count(thoughts, rising=True),
        reported=reported,
    )
