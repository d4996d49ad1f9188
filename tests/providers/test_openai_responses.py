"""The dialect of OpenAI's responses API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamguard_core import Chunk, ChunkKind, CountSource, TruncatedStream
from streamguard_providers import OpenAIResponses, ProviderError, StreamDecoder, ToolFragment

from .decoding import FIXTURES, Decoded
from .wire import DONE, event


def decoded(*events: bytes) -> Decoded:
    """Decode a stream."""
    return Decoded(StreamDecoder.openai_responses(), events)


def said(kind: str, **fields: Any) -> bytes:
    """An event; gateways leave out its name, and so do we."""
    return event({"type": f"response.{kind}", **fields})


def ended(status: str = "completed", **fields: Any) -> bytes:
    """The terminal event."""
    return said(status, response={"status": status, "model": "m", **fields})


def text(delta: str, part: int = 0) -> bytes:
    """A piece of text."""
    return said("output_text.delta", output_index=0, content_index=part, delta=delta)


def call(index: int, kind: str = "function_call", **fields: Any) -> bytes:
    """A call begins."""
    item = {"type": kind, "id": f"item_{index}", "call_id": f"call_{index}", **fields}
    return said("output_item.added", output_index=index, item=item)


def dialect(got: Decoded) -> OpenAIResponses:
    """The dialect that has read it."""
    found = got.decoder.dialect
    assert isinstance(found, OpenAIResponses)
    return found


def test_text_thoughts_tools_and_usage() -> None:
    """Each kind comes once, though whole texts follow their pieces and the end repeats it all."""
    got = decoded((FIXTURES / "responses.sse").read_bytes())
    assert got.text() == "Grüße 🌊 from the river"
    assert got.text(ChunkKind.REASONING) == "Look it up"
    assert got.tools() == [("call_1", "find", '{"river":"Elbe"}')]
    usage = got.decoder.usage
    assert usage is not None
    counts = (usage.input, usage.output, usage.reasoning, usage.cached_input)
    assert [count.value for count in counts] == [9, 12, 3, 4]
    assert usage.output.source is CountSource.PROVIDER_FINAL
    assert (got.decoder.finish, got.decoder.model) == ("completed", "gpt-test")
    assert got.failure is None


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
def test_an_incomplete_answer_says_why(reason: str) -> None:
    """An incomplete response is an end of the provider's own, with its reason and its usage."""
    usage = {"input_tokens": 1, "output_tokens": 2}
    got = decoded(
        text("half"),
        ended("incomplete", incomplete_details={"reason": reason}, usage=usage),
    )
    assert got.failure is None
    assert (got.decoder.finish, dialect(got).incomplete_reason) == ("incomplete", reason)
    assert got.decoder.reported == usage


@pytest.mark.parametrize(
    "failing",
    [
        event({"type": "error", "code": "server_error", "message": "m", "param": None}),
        event({"type": "error", "error": {"type": "server_error", "code": None, "message": "m"}}),
        b"event: error\n" + event({"code": "server_error", "message": "m"}),
        ended("failed", error={"code": "server_error", "message": "m"}),
        event({"error": {"code": "server_error", "message": "m"}}),
    ],
)
def test_errors_inside_a_200(failing: bytes) -> None:
    """An error, flat or nested, named or not, or a failed response, ends the stream as one."""
    got = decoded(text("so far"), failing, text("never"))
    assert got.chunks == ["so far"]
    assert isinstance(got.failure, ProviderError)
    assert "server_error" in {got.failure.type, got.failure.code}
    assert got.failure.status == 500
    assert got.failure.retryable
    assert got.failure.message == "m"
    assert got.decoder.finish is None


def test_the_first_error_counts_and_the_failed_response_has_the_usage() -> None:
    """What fails says so twice: as an error, then as a failed response."""
    flat = {"type": "error", "code": "rate_limit_exceeded", "message": "m"}
    failed = ended("failed", error={"code": "server_error"}, usage={"output_tokens": 3})
    got = decoded(event(flat) + failed)
    assert isinstance(got.failure, ProviderError)
    assert got.failure.code == "rate_limit_exceeded"
    assert got.decoder.usage is not None
    assert got.decoder.usage.output.value == 3


def test_a_cancelled_response_is_no_completion() -> None:
    """A background response that was cancelled ends as a failure, even without an error object."""
    got = decoded(text("a"), ended("cancelled"))
    assert isinstance(got.failure, ProviderError)
    assert got.failure.code == "cancelled"


@pytest.mark.parametrize("last", [b"", DONE, said("output_text.done", text="a", output_index=0)])
def test_without_its_terminal_event_it_is_truncated(last: bytes) -> None:
    """Some servers end without a terminal event: a gateway's [DONE] does not stand for it."""
    got = decoded(text("a"), last)
    assert isinstance(got.failure, TruncatedStream)
    assert got.decoder.usage is None


def test_wholes_stand_in_for_pieces_that_never_came() -> None:
    """Where a server sends no deltas, whole texts and arguments are taken, once."""
    item = {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": "{}"}
    got = decoded(
        said("output_text.done", output_index=0, content_index=0, text="whole"),
        text("piece", 1),
        said("output_text.done", output_index=0, content_index=1, text="piece"),
        said("refusal.done", output_index=0, content_index=2, refusal="no"),
        said("output_item.done", output_index=1, item=item),
        ended(),
    )
    assert got.text() == "wholepiece"
    assert got.text(ChunkKind.REFUSAL) == "no"
    assert got.tools() == [("call_1", "find", "{}")]


def test_calls_are_numbered_in_their_order() -> None:
    """Whatever their output index; pieces find their call by it, or by the item's id."""
    got = decoded(
        call(3, name="a"),
        call(5, name="b"),
        said("function_call_arguments.delta", output_index=5, delta='{"x":'),
        said("function_call_arguments.delta", output_index=3, delta="{}"),
        said("function_call_arguments.delta", output_index=5, delta="1}"),
        said("function_call_arguments.done", output_index=5, arguments='{"x":1}'),
        ended(),
    )
    assert got.tools() == [("call_3", "a", "{}"), ("call_5", "b", '{"x":1}')]
    fragments = [ToolFragment.of(c) for c in got.chunks if isinstance(c, Chunk)]
    assert [fragment.index for fragment in fragments] == [0, 1, 1, 0, 1]
    by_id = decoded(
        said("output_item.added", item={"type": "function_call", "id": "fc", "name": "a"}),
        said("function_call_arguments.delta", item_id="fc", delta="{}"),
    )
    assert by_id.tools() == [("fc", "a", "{}")]


@pytest.mark.parametrize(
    ("kind", "piece", "field"),
    [
        ("custom_tool_call", "custom_tool_call_input", "input"),
        ("mcp_call", "mcp_call_arguments", "arguments"),
        ("code_interpreter_call", "code_interpreter_call_code", "code"),
    ],
)
def test_calls_of_other_kinds_say_what_they_are(kind: str, piece: str, field: str) -> None:
    """A call that is no function's carries the provider's word, and its text comes once."""
    got = decoded(
        call(0, kind, name="t"),
        said(f"{piece}.delta", output_index=0, delta="half "),
        said(f"{piece}.delta", output_index=0, delta="done"),
        said(f"{piece}.done", output_index=0, **{field: "half done"}),
        ended(),
    )
    first = got.chunks[0]
    assert isinstance(first, Chunk)
    assert ToolFragment.of(first) == ToolFragment(index=0, id="call_0", name="t", kind=kind)
    assert got.tools() == [("call_0", "t", "half done")]


def test_events_nobody_knows_pass_by() -> None:
    """Keep-alives, unknown events and pictures say nothing, whatever their fields are."""
    got = decoded(
        event({"type": "keepalive", "sequence_number": 3}),
        said("invented", delta={"a": 1}, text=[1]),
        said("image_generation_call.partial_image", output_index=0, partial_image_b64="AAAA"),
        text("a"),
        ended(),
    )
    assert got.chunks == ["a"]
    assert got.decoder.malformed == 0


def test_an_odd_field_loses_no_token() -> None:
    """A payload with fields of unexpected types, or half a surrogate pair, is read all the same."""
    odd = {"type": "response.output_text.delta", "output_index": "x", "delta": "a"}
    half = b'data: {"type":"response.output_text.delta","delta":"\\ud83d b"}\n\n'
    end = {"type": "response.completed", "response": {"status": "completed", "model": 3}}
    got = decoded(event(odd), half, event(end | {"item": 4}))
    assert got.text() == "a\ufffd b"
    assert got.failure is None


def test_a_whole_response_in_place_of_a_stream() -> None:
    """A request without `stream` is answered with the response object: it is read as well."""
    body = {
        "object": "response",
        "status": "completed",
        "model": "m",
        "output": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "all of it"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        ],
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    got = decoded(json.dumps(body).encode())
    assert (got.text(), got.text(ChunkKind.REASONING)) == ("all of it", "hm")
    assert got.tools() == [("c", "f", "{}")]
    assert got.failure is None
    waiting = decoded(json.dumps(body | {"status": "queued", "output": []}).encode())
    assert isinstance(waiting.failure, TruncatedStream)
