"""OpenAIProducer: how usage is asked for, and that the reader sees nothing of it."""

from __future__ import annotations

from typing import Any

import pytest

from streamguard_core import CountSource
from streamguard_providers import OpenAIProducer
from streamguard_testing import LoopbackEngine

from .makers import openai_producer
from .recorder import Recorder, produce
from .waiting import outcome


def asked(base_url: str, **options: Any) -> Any:
    """The field `stream_options` of a request to a server."""
    producer = OpenAIProducer("m", prompt="q", api_key="k", base_url=base_url, **options)
    return producer._body.get("stream_options")


@pytest.mark.parametrize(
    ("base_url", "options", "expected"),
    [
        ("http://server/v1", {}, {"include_usage": True}),
        ("http://server/v1", {"ask_usage": False}, None),
        ("https://api.mistral.ai/v1", {}, None),
        ("https://api.mistral.ai/v1", {"ask_usage": True}, {"include_usage": True}),
        (
            "http://server/v1",
            {"continuous_usage": True},
            {"include_usage": True, "continuous_usage_stats": True},
        ),
        (
            "http://server/v1",
            {"ask_usage": False, "options": {"stream_options": {"x": 1}}},
            {"x": 1},
        ),
    ],
)
def test_how_usage_is_asked_for(base_url: str, options: dict[str, Any], expected: Any) -> None:
    """Usage is asked for wherever that is known; Mistral refuses the field, and reports it all the same."""
    assert asked(base_url, **options) == expected


async def test_usage_in_every_chunk_is_no_chunk(engine: LoopbackEngine) -> None:
    """Continuous usage is known wherever the stream is cut off, and the reader sees only text."""
    report = Recorder()

    async def read() -> None:
        producer = openai_producer(engine.url, max_tokens=500, continuous_usage=True)
        async for batch in producer.stream(report=report):
            report.chunks += batch
            if len(report.chunks) >= 5:
                report.cut()

    await outcome(read())
    (attempt,) = report.attempts
    assert all(isinstance(chunk, str) and chunk for chunk in report.chunks)
    assert attempt.usage is not None
    assert attempt.usage.output.source is CountSource.PROVIDER_CUMULATIVE
    assert attempt.usage.output.value is not None
    assert attempt.usage.output.value >= 5


async def test_the_usage_chunk_is_no_chunk(engine: LoopbackEngine) -> None:
    """The chunk with the usage, which has no choices, is not the reader's."""
    report = Recorder()
    assert len(await produce(openai_producer(engine.url, max_tokens=4), report)) == 4
    assert report.usage is not None
    assert report.attempts[0].chunks == 4
