"""Framing and dialect are found out from the response itself, however it is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamguard_core import UsageError
from streamguard_providers import ProviderError, StreamDecoder

from .decoding import FIXTURES, Decoded, decoder_for
from .wire import DONE, event, token

NAMES = sorted(path.name for path in FIXTURES.iterdir())


def auto(data: bytes, kind: str | None = None) -> Decoded:
    """What a decoder makes of a body of which it knows nothing, whole and byte by byte."""
    whole = Decoded(StreamDecoder.auto("somebody", kind), [data])
    single = Decoded(StreamDecoder.auto("somebody", kind), [bytes([byte]) for byte in data])
    assert single.summary() == whole.summary()
    assert single.decoder.dialect_name == whole.decoder.dialect_name
    assert str(single.failure) == str(whole.failure)
    return whole


@pytest.mark.parametrize("name", NAMES)
def test_every_single_cut_gives_the_same(name: str) -> None:
    """Wherever the first piece ends, framing and dialect are found, and the response read as it is."""
    data = (FIXTURES / name).read_bytes()
    named = decoder_for(name)
    expected = Decoded(named, [data]).summary()
    for place in range(len(data) + 1):
        got = Decoded(StreamDecoder.auto(), [data[:place], data[place:]])
        assert got.decoder.dialect_name == named.dialect_name, place
        assert got.summary() == expected, place


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_random_cuts_give_the_same(name: str, data: st.DataObject) -> None:
    """Cut anywhere, any number of times, a response is read as with its own decoder."""
    stream = (FIXTURES / name).read_bytes()
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=40).map(sorted))
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    expected = Decoded(decoder_for(name), [stream]).summary()
    assert Decoded(StreamDecoder.auto(), pieces).summary() == expected


FIRST: list[tuple[str, dict[str, Any]]] = [
    ("openai-chat", {"choices": [{"delta": {"content": "a"}}]}),
    ("openai-chat", {"choices": [{"delta": {}, "text": "a"}]}),
    ("openai-chat", {"object": "error", "message": "m", "type": "server_error"}),
    ("openai-chat", {"error": {"message": "m", "type": "server_error"}}),
    ("openai-completions", {"choices": [{"text": "a"}]}),
    ("openai-completions", {"object": "text_completion", "choices": []}),
    ("openai-responses", {"type": "response.created", "response": {}}),
    ("openai-responses", {"type": "keepalive", "sequence_number": 0}),
    ("openai-responses", {"type": "error", "message": "m", "code": "server_error"}),
    ("openai-responses", {"type": "error", "sequence_number": 1, "error": {"message": "m"}}),
    ("anthropic", {"type": "message_start", "message": {}}),
    ("anthropic", {"type": "content_block_delta", "index": 0, "delta": {"text": "a"}}),
    ("anthropic", {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}),
    ("gemini", {"candidates": []}),
    ("gemini", {"promptFeedback": {"blockReason": "SAFETY"}}),
    ("gemini", {"usageMetadata": {"promptTokenCount": 1}}),
    ("gemini", {"error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}),
    ("ollama", {"message": {"content": "a"}, "done": False}),
    ("ollama", {"created_at": "2026-01-01T00:00:00Z", "response": "a"}),
]


@pytest.mark.parametrize(("name", "payload"), FIRST)
def test_the_first_payload_tells_the_dialect(name: str, payload: dict[str, Any]) -> None:
    """Each dialect is known by the keys of its payloads, in an event or as a line."""
    assert auto(event(payload)).decoder.dialect_name == name
    assert auto(json.dumps(payload).encode() + b"\n").decoder.dialect_name == name


@pytest.mark.parametrize(("name", "payload"), FIRST)
def test_what_tells_nothing_is_kept_until_a_payload_tells(
    name: str, payload: dict[str, Any]
) -> None:
    """Payloads that may be anybody's do not decide, and are read by the dialect that is found then."""
    before = event({"type": "something new"}) + event({"id": 1}) + b"data: nonsense\n\n"
    got = auto(before + event(payload))
    assert got.decoder.dialect_name == name
    assert got.decoder.malformed == 1


def test_a_prompts_filter_does_not_tell_chats_from_completions() -> None:
    """Azure's first chunk has no choice: what follows says which of the two it is."""
    first = event({"choices": [], "prompt_filter_results": [], "model": ""})
    got = auto(first + event({"choices": [{"text": "a", "finish_reason": "stop"}]}) + DONE)
    assert (got.decoder.dialect_name, got.chunks) == ("openai-completions", ["a"])
    got = auto(first + token("a", "stop") + DONE)
    assert (got.decoder.dialect_name, got.chunks) == ("openai-chat", ["a"])


def test_what_nothing_tells_is_read_as_a_chat() -> None:
    """Past sixteen payloads, or at the end, nobody waits any longer for one that tells."""
    got = auto(event({"id": 1}))
    assert got.decoder.dialect_name == "openai-chat"
    decoder = StreamDecoder.auto()
    for _ in range(16):
        decoder.feed(event({"id": 1}))
        assert decoder.dialect_name is None
    decoder.feed(event({"id": 1}))
    assert decoder.dialect_name == "openai-chat"


def test_too_much_that_cannot_be_read_is_an_error() -> None:
    """A body of nonsense fails, even though its dialect was never found."""
    got = auto(b"data: nonsense\n\n" * 17)
    assert isinstance(got.failure, ProviderError)
    assert got.failure.type == "malformed_stream"


ERRORS = [
    (b'{"error":{"message":"m","type":"server_error"}}', "openai-chat"),
    (b'{\n "error": {\n  "message": "m"\n }\n}\n', "openai-chat"),
    (b'[{\n "error": {"code": 503, "message": "m", "status": "UNAVAILABLE"}}]', "gemini"),
    (b'{ "error":\n {"code": 503, "message": "m", "status": "UNAVAILABLE"}}', "gemini"),
    (b'{"error":"m"}\n', "ollama"),
    (b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}', "anthropic"),
    (b'event: error\ndata: {"message":"m","type":"server_error"}\n\n', "openai-chat"),
    (b"event: error\ndata: m\n\n", "openai-chat"),
    (b'error: {"code":500,"message":"m"}\n\n', "openai-chat"),
]


@pytest.mark.parametrize(("data", "name"), ERRORS)
def test_an_error_alone_is_one_in_any_shape(data: bytes, name: str) -> None:
    """An error that stands alone is found, whatever its framing, and told by the provider's name."""
    got = auto(data)
    assert isinstance(got.failure, ProviderError)
    assert (got.failure.message, got.failure.provider) == ("m", "somebody")
    assert got.decoder.dialect_name == name


WHOLE = [
    ({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}, "openai-chat"),
    ({"choices": [{"text": "a", "finish_reason": "stop"}]}, "openai-completions"),
    ({"type": "message", "content": [{"type": "text", "text": "a"}]}, "anthropic"),
    (
        {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]},
        "gemini",
    ),
    ({"message": {"content": "a"}, "done": True, "done_reason": "stop"}, "ollama"),
    (
        {
            "object": "response",
            "status": "completed",
            "output": [{"content": [{"type": "output_text", "text": "a"}]}],
        },
        "openai-responses",
    ),
]


@pytest.mark.parametrize("indent", [None, 0, 2], ids=["compact", "lines", "pretty"])
@pytest.mark.parametrize("kind", [None, "application/json", "text/event-stream"])
@pytest.mark.parametrize(("answer", "name"), WHOLE)
def test_a_document_in_place_of_a_stream(
    answer: dict[str, Any], name: str, kind: str | None, indent: int | None
) -> None:
    """The whole answer of a server that did not stream is read, in one line or in many."""
    got = auto(b"\xef\xbb\xbf\r\n" + json.dumps(answer, indent=indent).encode(), kind)
    assert (got.chunks, got.failure) == (["a"], None)
    assert got.decoder.dialect_name == name


def test_lines_of_json_without_a_content_type() -> None:
    """NDJSON is known by its first line, even when that is broken; each line is read as it comes."""
    lines = b'{"message":{"content":\n{"message":{"content":"a"}}\n'.replace(b":\n", b"}\n", 1)
    decoder = StreamDecoder.auto()
    assert decoder.feed(lines[:20]) == []
    assert decoder.feed(lines[20:]) == []
    assert decoder.feed(b'{"message":{"content":"b"},"done":false}\n') == ["a", "b"]
    assert (decoder.dialect_name, decoder.malformed) == ("ollama", 1)


def test_gzip_is_seen_in_single_bytes() -> None:
    """Compressed bytes nobody announced are named as what they are, wherever they are cut."""
    for make in (StreamDecoder.auto, StreamDecoder.openai_chat):
        decoder = make()
        assert decoder.feed(b"\x1f") == []
        with pytest.raises(ProviderError, match="gzip"):
            decoder.feed(b"\x8b")


def test_a_long_first_line_is_bounded() -> None:
    """JSON whose first line does not end is not collected without end."""
    decoder = StreamDecoder.auto()

    def feed_on() -> None:
        for _ in range(100):
            decoder.feed(b'{"a":"' + b"x" * 65536)

    with pytest.raises(ProviderError, match="huge document"):
        feed_on()


def test_decoders_by_name() -> None:
    """Each dialect has a decoder by its name; for any other the error lists those that there are."""
    for name in ("openai-chat", "openai-completions", "openai-responses", "anthropic", "gemini"):
        assert StreamDecoder.named(name).dialect_name == name
    decoder = StreamDecoder.named("ollama", "somebody")
    assert decoder.feed(b'{"message":{"content":"a"}}\n') == ["a"]
    assert decoder.dialect.provider == "somebody"
    assert StreamDecoder.named("gemini").dialect.provider == "gemini"
    with pytest.raises(UsageError, match=r"'cohere' .*openai-chat, openai-completions.*ollama"):
        StreamDecoder.named("cohere")
    with pytest.raises(UsageError, match="'cohere'"):
        StreamDecoder.auto(dialect="cohere")
