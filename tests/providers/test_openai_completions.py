"""The dialect of OpenAI's text completions."""

from __future__ import annotations

from typing import Any

from streamguard_core import Chunk, TruncatedStream
from streamguard_providers import OpenAICompletions, StreamDecoder

from .decoding import FIXTURES, Decoded
from .wire import DONE, event


def decoded(*events: bytes) -> Decoded:
    """Decode a stream."""
    return Decoded(StreamDecoder.openai_completions(), events)


def choice(text: str, index: int = 0, finish: str | None = None, **fields: Any) -> bytes:
    """An event with a piece of one choice."""
    said = {"index": index, "text": text, "finish_reason": finish}
    return event({"object": "text_completion", "choices": [said | fields]})


def test_text_finish_and_usage() -> None:
    """Text is plain, and finish, model and usage are as in chat completions."""
    got = decoded((FIXTURES / "completions.sse").read_bytes())
    assert got.chunks == ["Grüße", " from the", " river", "."]
    usage = got.decoder.usage
    assert usage is not None
    assert (usage.input.value, usage.output.value) == (3, 5)
    assert (got.decoder.finish, got.decoder.model) == ("stop", "base-test")
    assert got.failure is None


def test_choices_are_kept_apart() -> None:
    """Texts of several choices interleave; the response is whole when each has its reason."""
    events = [choice("a"), choice("b", 1, "length"), choice("c", finish="stop")]
    got = decoded(*events)
    assert got.chunks == ["a", Chunk("b", choice=1), "c"]
    assert got.decoder.dialect.complete
    assert isinstance(got.decoder.dialect, OpenAICompletions)
    assert got.decoder.dialect.finishes == {0: "stop", 1: "length"}
    assert isinstance(decoded(*events[:2]).failure, TruncatedStream)


def test_a_delta_beside_the_text_adds_nothing() -> None:
    """Some servers repeat the text in a delta, or end with an empty one."""
    got = decoded(
        choice("once", delta={"content": "once"}),
        event({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
        DONE,
    )
    assert got.chunks == ["once"]
    assert got.failure is None


def test_an_odd_field_loses_no_text() -> None:
    """A field of an unexpected type costs neither the text nor the reason."""
    got = decoded(choice("still here", finish="stop", index_="x", logprobs=3), DONE)
    odd = decoded(event({"model": 7, "choices": [{"text": "still here"}]}), DONE)
    assert got.chunks == odd.chunks == ["still here"]


def test_a_whole_answer_in_place_of_a_stream() -> None:
    """A server that ignores `stream` answers with one document."""
    got = decoded(choice("all of it", finish="stop").removeprefix(b"data: "))
    assert got.chunks == ["all of it"]
    assert got.failure is None
