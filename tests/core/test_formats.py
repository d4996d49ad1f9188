"""How a stream looks: the reader's choice, lines of JSON, text, and what each says about the end."""

from __future__ import annotations

import json

import pytest

from streamguard_core import AnyChunk, Category, Cause, Chunk, ChunkKind
from streamguard_core.formats import (
    STREAM_ID_HEADER,
    End,
    Events,
    Format,
    Lines,
    Raw,
    Text,
    choose,
    form_of,
    id_header,
    messages,
)

BATCH: list[AnyChunk] = [
    "never ",
    "",
    Chunk("ag\xe4in"),
    Chunk("hm", kind=ChunkKind.REASONING),
    b"!\n",
]


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("*/*", Events),
        ("", Events),
        ("text/event-stream", Events),
        ("application/json", Events),
        ("application/x-ndjson", Lines),
        ("application/jsonl; q=0.9, text/plain; q=0.5", Lines),
        ("TEXT/PLAIN", Text),
        ("text/plain;q=0.2, text/event-stream;q=0.8", Events),
        ("text/plain; charset=utf-8; q=0.2, application/x-ndjson; q=0.8", Lines),
        ("application/x-ndjson;q=0, */*", Events),
        ("text/plain;q=nonsense, application/x-ndjson", Lines),
        ("text/html, application/xhtml+xml, */*;q=0.8", Events),
    ],
)
def test_the_reader_chooses(accept: str, chosen: type[Format]) -> None:
    """The best of what the reader accepts and we have; events where it does not care."""
    assert type(choose(accept)) is chosen


@pytest.mark.parametrize(
    ("media_type", "form"),
    [
        ("text/event-stream", Events),
        ("Text/Event-Stream; charset=utf-8", Events),
        ("application/x-ndjson", Lines),
        ("application/jsonl", Lines),
        ("text/plain; charset=utf-8", Text),
        ("audio/mpeg", Raw),
    ],
)
def test_an_application_may_name_the_format(media_type: str, form: type[Format]) -> None:
    """By its media type, with or without parameters; bytes of any other are passed on."""
    assert type(form_of(media_type)) is form


def test_named_events_may_be_numbered() -> None:
    """From the first id on, as for events that the reader chose."""
    assert form_of("text/event-stream", 0).encode(["a"]) == b"id: 1\ndata: a\n\n"


@pytest.mark.parametrize("stream_id", [None, "a\nb", "\xe4"])
def test_only_a_printable_name_stands_in_a_header(stream_id: str | None) -> None:
    """An id is what an application chose: in a header it must not end that, nor be unreadable."""
    assert id_header(stream_id) == {}
    assert id_header("id-1") == {STREAM_ID_HEADER: "id-1"}


def test_events_with_ids_are_numbered_by_commit_offset() -> None:
    """The id of an event is how many chunks were committed up to it, empty ones too."""
    form = Events(first_id=0)
    wire = form.encode(["a", ""]) + form.encode(["b"])
    assert wire == b"id: 1\ndata: a\n\nid: 3\ndata: b\n\n"


def test_a_prefix_names_the_stream_in_every_id() -> None:
    """With it a reader can say of which stream it has how much, also that it has all."""
    form = Events(4, "id-1.ab:")
    assert form.encode(["a"]) == b"id: id-1.ab:5\ndata: a\n\n"
    end = form.end(End.of(Cause.COMPLETED, None, 5, "id-1"))
    assert end.startswith(b"event: eos\nid: id-1.ab:end\ndata: {")


def test_lines_are_json() -> None:
    """Every line is an object; kind and choice only where they say something."""
    *lines, raw = Lines().encode(BATCH).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"text": "never "},
        {"text": "ag\xe4in"},
        {"text": "hm", "kind": "reasoning"},
    ]
    assert raw == b"!"
    assert json.loads(Lines().encode([Chunk("x\ud83d", choice=2)])) == {"text": "x?", "choice": 2}


def test_messages_hold_what_is_alike_and_stands_together() -> None:
    """One text runs on over chunks; calls, data and bytes stay what they are."""
    tool = Chunk("{}", kind=ChunkKind.TOOL)
    batch: list[AnyChunk] = [
        "a",
        "",
        Chunk("b"),
        Chunk("c", choice=1),
        tool,
        tool,
        b'{"raw":1}\n',
        b"",
    ]
    assert [json.loads(message) for message in messages(batch)] == [
        {"text": "ab"},
        {"text": "c", "choice": 1},
        {"text": "{}", "kind": "tool"},
        {"text": "{}", "kind": "tool"},
        {"raw": 1},
    ]
    assert messages([]) == messages(["", Chunk("")]) == []


def test_text_is_the_answer_alone() -> None:
    """Reasoning and tools are not shown where they could not be told apart."""
    assert Text().encode(BATCH) == "never ag\xe4in!\n".encode()


@pytest.mark.parametrize("form", [Events(), Lines()])
def test_the_end_says_everything(form: Format) -> None:
    """Cause, finish, committed and stream id are in the end, and no error where there was none."""
    wire = form.end(End.of(Cause.COMPLETED, "stop", 3, "id-1"))
    assert wire is not None
    said = json.loads(wire.decode().removeprefix("event: eos\ndata: "))
    assert said.get("eos", said) == {
        "cause": "COMPLETED",
        "category": "completed",
        "finish": "stop",
        "committed": 3,
        "stream_id": "id-1",
    }


@pytest.mark.parametrize("cause", list(Cause))
def test_no_clean_end_after_a_failure(cause: Cause) -> None:
    """Completion and the reader's own choice end cleanly; everything else says `error`, or breaks off."""
    clean = cause.category in (Category.COMPLETED, Category.USER)
    end = End.of(cause, None, 0, "id")
    assert (b'"error":' in Events().end(end)) is not clean
    assert (b'"error":' in Lines().end(end)) is not clean
    for form in (Text(), Raw()):
        assert (form.end(end) is None) is not clean
