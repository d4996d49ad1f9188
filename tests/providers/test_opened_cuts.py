"""Opened streams under the knife: no cut makes a difference, and none passes for an end."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import Count, ProducerError, TruncatedStream, Usage
from streamguard_providers import End, EndState, OpenStream, open_stream

from .decoding import FIXTURES

#: Each fixture's dialect, and the bytes before which it says nothing of its end.
STREAMS = {
    "chat.sse": ("openai-chat", b'"usage":{'),
    "tools.sse": ("openai-chat", b'"usage":{'),
    "choices.sse": ("openai-chat", b'"usage":{'),
    "completions.sse": ("openai-completions", b'"usage":{'),
    "responses.sse": ("openai-responses", b'"type":"response.completed"'),
    "anthropic.sse": ("anthropic", b'"type":"message_stop"'),
    "gemini.sse": ("gemini", b'"finishReason"'),
    "gemini.json": ("gemini", b'"finishReason"'),
    "chat.ndjson": ("ollama", b'"done":true'),
    "generate.ndjson": ("ollama", b'"done":true'),
}
COUNTS = ("input", "output", "cached_input", "cache_write", "reasoning")


@cache
def fixture(name: str) -> bytes:
    """The bytes of one of our own streams."""
    return (FIXTURES / name).read_bytes()


def opened(pieces: list[bytes], dialect: str) -> tuple[OpenStream, End]:
    """Read a stream to its end."""
    stream = open_stream(pieces, dialect)
    *chunks, end = stream
    assert isinstance(end, End)
    assert not any(isinstance(chunk, End) for chunk in chunks)
    return stream, end


def summary(pieces: list[bytes], dialect: str) -> tuple[object, ...]:
    """All that must not depend on how the bytes were cut."""
    stream, end = opened(pieces, dialect)
    kept = stream.accumulator
    choices = [(c, kept.text(c), kept.reasoning(c), kept.refusal(c)) for c in kept.choices]
    return end, choices, kept.chunks


def holds(bounds: Count, true: Count) -> bool:
    """Whether the bounds contain the true figure, where there is one."""
    if true.value is None:
        return True
    above = bounds.upper is None or true.value <= bounds.upper
    return bounds.lower <= true.value and above


def assert_truncated(data: bytes, dialect: str, true: Usage) -> None:
    """A beginning of a stream says that it is one, and nothing that the rest would prove wrong."""
    _, end = opened([data], dialect)
    assert end.state is EndState.TRUNCATED, len(data)
    assert not any(call.executable for call in end.tool_calls)
    for name in COUNTS:
        assert holds(getattr(end.usage, name), getattr(true, name)), (len(data), name)
    with pytest.raises(TruncatedStream) as caught:
        end.check()
    assert isinstance(caught.value, ProducerError)


def test_every_fixture_is_here() -> None:
    """A new stream among the fixtures must be cut as well, and each is whole by itself."""
    assert set(STREAMS) == {path.name for path in FIXTURES.iterdir()}
    for name, (dialect, marker) in STREAMS.items():
        assert marker in fixture(name)
        stream, end = opened([fixture(name)], dialect)
        refused = bool(stream.accumulator.refusal())
        assert end.state is (EndState.REFUSED if refused else EndState.COMPLETED), name


@pytest.mark.parametrize("named", [True, False], ids=["named", "auto"])
@pytest.mark.parametrize("name", STREAMS)
def test_every_single_cut_gives_the_same(name: str, named: bool) -> None:
    """A stream cut in two at any byte comes to what the whole one comes to."""
    data, dialect = fixture(name), STREAMS[name][0] if named else "auto"
    expected = summary([data], dialect)
    for place in range(1, len(data)):
        assert summary([data[:place], data[place:]], dialect) == expected, place


@pytest.mark.parametrize("name", STREAMS)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_random_cuts_give_the_same(name: str, data: st.DataObject) -> None:
    """A stream cut anywhere, any number of times, comes to what the whole one comes to."""
    stream, dialect = fixture(name), STREAMS[name][0]
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=60).map(sorted))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    assert summary(pieces, dialect) == summary([stream], dialect)


@pytest.mark.parametrize("name", STREAMS)
def test_cut_before_its_marker_it_is_truncated(name: str) -> None:
    """At whatever byte it breaks off: its usage bounds hold the true usage, no call is executable."""
    dialect, marker = STREAMS[name]
    data = fixture(name)
    true = opened([data], dialect)[1].usage
    for place in range(data.rindex(marker)):
        assert_truncated(data[:place], dialect, true)
