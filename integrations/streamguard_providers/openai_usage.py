"""Usage objects of OpenAI's form, as OpenAI and the servers that imitate it fill them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamguard_core import Usage
from streamguard_providers.dialects import mapping_in, number_in


def openai_usage(reported: Mapping[str, Any], *, final: bool = True) -> Usage:
    """Normalise a usage object of OpenAI's form, as OpenAI and others fill it in.

    Args:
        reported: the object.
        final: False for one that came in mid-stream and may still grow.
    """
    before = mapping_in(reported.get("prompt_tokens_details")) or {}
    after = mapping_in(reported.get("completion_tokens_details")) or {}
    prompt = number_in(reported.get("prompt_tokens"))
    output = number_in(reported.get("completion_tokens"))
    reasoning = number_in(after.get("reasoning_tokens"))
    total = number_in(reported.get("total_tokens"))
    if (
        prompt is not None
        and output is not None
        and reasoning
        and prompt + output + reasoning == total
    ):
        output += reasoning  # xAI leaves the reasoning out of completion_tokens
    return Usage.reported_by_provider(
        input=prompt,
        output=output,
        cached_input=_first(
            before.get("cached_tokens"),
            reported.get("prompt_cache_hit_tokens"),
            reported.get("cached_tokens"),
            reported.get("cache_read_input_tokens"),
        ),
        cache_write=_first(
            before.get("cache_write_tokens"),
            reported.get("cache_write_tokens"),
            reported.get("cache_creation_input_tokens"),
        ),
        reasoning=reasoning,
        reported=reported,
        final=final,
    )


def _first(*values: object) -> int | None:
    for value in values:
        number = number_in(value)
        if number is not None:
            return number
    return None
