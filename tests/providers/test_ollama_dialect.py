"""The dialect of Ollama's own API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamguard_core import Chunk, ChunkKind, CountSource, TruncatedStream
from streamguard_providers import ProviderError, StreamDecoder

from .decoding import FIXTURES, Decoded


def decoded(*lines: dict[str, Any] | bytes) -> Decoded:
    """Decode a stream of lines."""
    raw = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return Decoded(StreamDecoder.ollama(), [line + b"\n" for line in raw])


def test_chat() -> None:
    """A chat has text, thoughts and whole tool calls, then the reason and the counters."""
    got = Decoded(StreamDecoder.ollama(), [(FIXTURES / "chat.ndjson").read_bytes()])
    assert got.chunks[:3] == [Chunk("Hm.", ChunkKind.REASONING), "Grüße", " from 🌍"]
    assert got.tools() == [(None, "find", '{"q":"x"}')]
    assert (got.decoder.finish, got.decoder.model) == ("stop", "llama-test")
    assert got.decoder.done
    assert got.failure is None


def test_generate() -> None:
    """A completion has text, and a context that nobody asked for is skipped."""
    got = Decoded(StreamDecoder.ollama(), [(FIXTURES / "generate.ndjson").read_bytes()])
    assert got.chunks == ["The", " river"]
    assert got.decoder.finish == "length"
    usage = got.decoder.usage
    assert usage is not None
    assert (usage.input.value, usage.output.value) == (9, 5)
    assert usage.output.source is CountSource.PROVIDER_FINAL
    assert usage.reported is not None
    assert usage.reported["total_duration"] == 5000


def test_thoughts_of_generate() -> None:
    """Thoughts stand beside the response there."""
    assert decoded({"thinking": "hm", "response": ""}).chunks == [Chunk("hm", ChunkKind.REASONING)]


def test_a_missing_count_is_unknown() -> None:
    """A prompt that was cached is not counted by Ollama: that is unknown, not zero."""
    usage = decoded({"response": "", "done": True, "eval_count": 0}).decoder.usage
    assert usage is not None
    assert not usage.input.known
    assert usage.output.value == 0


def test_no_counters_is_no_usage() -> None:
    """A model that was only loaded used nothing that was told of."""
    got = decoded({"message": {"content": ""}, "done": True, "done_reason": "load"})
    assert (got.decoder.usage, got.decoder.finish, got.failure) == (None, "load", None)


def test_the_end_must_come() -> None:
    """Without `done` the stream is truncated, unless the reason came without it."""
    assert isinstance(decoded({"response": "a", "done": False}).failure, TruncatedStream)
    assert decoded({"response": "a", "done_reason": "stop"}).failure is None


def test_an_error_in_mid_stream() -> None:
    """An error line ends the stream as the provider's failure; what came before it is kept."""
    got = decoded({"response": "a", "done": False}, {"error": "an error: unexpected EOF"})
    assert got.chunks == ["a"]
    assert isinstance(got.failure, ProviderError)
    assert got.failure.provider == "ollama"
    assert got.failure.message == "an error: unexpected EOF"


@pytest.mark.parametrize(
    "odd",
    [
        {"response": "a", "model": 5},
        {"message": {"content": "a", "tool_calls": {"x": 1}}},
        {"message": {"content": "a", "thinking": []}},
        {"response": "a", "eval_count": "many"},
        {"response": "a", "done": "no"},
    ],
)
def test_one_odd_field_loses_no_token(odd: dict[str, Any]) -> None:
    """A field of an unexpected type costs itself, not the chunk."""
    got = decoded(odd)
    assert got.chunks == ["a"]
    assert got.decoder.malformed == 0


def test_odd_tool_calls() -> None:
    """Tool calls are taken as far as they can be read."""
    calls = [{"id": "x", "function": {"name": "f", "arguments": {"a": 1}}}, {"function": 5}]
    got = decoded({"message": {"content": 5, "tool_calls": calls}})
    assert got.tools() == [("x", "f", '{"a":1}'), (None, None, "")]


def test_half_a_character_in_arguments_becomes_a_replacement() -> None:
    """Halves of characters in a tool call's arguments raise nothing."""
    line = b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":{"a":"\\ud83d"}}}]}}'
    assert json.loads(decoded(line).tools()[0][2]) == {"a": "\ufffd"}


def test_several_tool_calls_are_numbered() -> None:
    """Calls without an index get one each, over all lines."""
    line = {"message": {"tool_calls": [{"function": {"name": "f", "arguments": {}}}] * 2}}
    assert [call[1] for call in decoded(line, line).tools()] == ["f"] * 4


@pytest.mark.parametrize("bad", [b"{", b"[]", b"5", b"\xff"])
def test_what_cannot_be_read_is_skipped_and_counted(bad: bytes) -> None:
    """A line that is no JSON object costs itself only."""
    got = decoded({"response": "a"}, bad, {"response": "b", "done": True})
    assert got.chunks == ["a", "b"]
    assert got.decoder.malformed == 1
