"""Recorded streams of every dialect, and those derived from them, through `open_stream`: all of it is read.

Nobody tells which dialect a body is written in. The recordings are no part of the project; without
them these tests are skipped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pytest

from streamguard_providers import SSEDecoder, StreamDecoder, open_stream
from streamguard_providers.encodings import inflate_for
from streamguard_providers.results import End, EndState, StreamAccumulator, ToolCall

from .decoding import CORPORA, cuts

FEEDS = ("whole", "bytes", "random", "seams")
#: Where a cut hurts most: within CRLF, before LF, within a code point.
SEAM = re.compile(rb"(?<=\r)|(?=\n)|(?<=[\xc2-\xf4])|(?<=[\xe0-\xf4][\x80-\xbf])")
#: Byte by byte, the large recordings say nothing that the small ones do not.
LARGE = 16_000
FAR = 7
COUNTED = ("input", "output", "cache_read", "cache_write", "reasoning")

pytestmark = pytest.mark.skipif(
    not (CORPORA / "streams.jsonl").exists(), reason="the shared corpora are not here"
)


def recordings() -> list[dict[str, Any]]:
    """The recorded streams and the derived ones; none where they are absent."""
    found: list[dict[str, Any]] = []
    for name in ("streams.jsonl", "derived.jsonl"):
        path = CORPORA / name
        if path.exists():
            found += [json.loads(line) for line in path.read_text("ascii").splitlines()]
    return found


DIALECTS = sorted({record["provider"] for record in recordings()})


@cache
def bodies(file: str, encoding: str | None) -> tuple[bytes, ...]:
    """The bodies in a file: some recorders have joined the answers of several requests."""
    data = (CORPORA / file).read_bytes()
    if encoding is not None:
        return (data,)
    named = re.finditer(rb"^event: response\.created\r?$", data, re.MULTILINE)
    starts = [found.start() for found in named][1:]
    return tuple(data[a:b] for a, b in itertools.pairwise([0, *starts, len(data)]))


def pieces(data: bytes, how: str, encoding: str | None) -> Iterator[bytes]:
    """The body in pieces, its encoding undone as a transport does it."""
    if how == "seams":
        places = [0, *(found.start() for found in SEAM.finditer(data)), len(data)]
        cut: Iterator[bytes] = (data[a:b] for a, b in itertools.pairwise(places))
    elif how == "bytes" and len(data) > LARGE:
        cut = (data[at : at + FAR] for at in range(0, len(data), FAR))
    else:
        cut = cuts(data, how)
    return undone(cut, encoding)


def undone(cut: Iterable[bytes], encoding: str | None) -> Iterator[bytes]:
    """Pieces of a body as a transport hands them over."""
    inflate = None if encoding is None else inflate_for(encoding)
    for piece in cut:
        yield from [piece] if inflate is None else inflate(piece)


class Read:
    """What one recording was read as."""

    def __init__(self, record: dict[str, Any], how: str, dialect: str) -> None:
        encoding = record.get("content_encoding")
        kind = record["content_type"] if how != "random" else None
        self.output = StreamAccumulator()
        self.items: list[Any] = []
        for data in bodies(record["file"], encoding):
            stream = open_stream(pieces(data, how, encoding), dialect, kind)
            *chunks, end = list(stream)
            assert not any(isinstance(chunk, End) for chunk in chunks)
            assert isinstance(end, End)
            self.output.extend(chunks)  # type: ignore[arg-type]
            self.end: End = end
            self.decoder: StreamDecoder = stream.decoder


def arguments(call: ToolCall) -> object:
    """The arguments of a call, parsed; None where they cannot be."""
    try:
        return json.loads(call.arguments)
    except ValueError:
        return None


def calls(read: Read, choice: int, dialect: str) -> list[tuple[object, ...]]:
    """The calls of a choice; of responses, only those of functions are in the recordings' list."""
    return [
        (call.id, call.name, arguments(call))
        for call in read.output.tool_calls()
        if call.choice == choice and (call.kind is None or dialect != "openai-responses")
    ]


def wanted_calls(expect: dict[str, Any]) -> list[tuple[object, ...]]:
    """The calls that a recording has."""
    return [(call["id"], call["name"], call["arguments"]) for call in expect["tool_calls"]]


def of_choice(read: Read, choice: int, dialect: str) -> dict[str, object]:
    """All that belongs to one choice."""
    output = read.output
    return {
        "text": output.text(choice),
        "reasoning": output.reasoning(choice),
        "refusal": output.refusal(choice),
        "finish": read.end.finishes.get(choice),
        "tools": calls(read, choice, dialect),
    }


def wanted_of_choice(expect: dict[str, Any]) -> dict[str, object]:
    """The same, of the recording."""
    finish = expect["finish_reason"]
    return {
        "text": expect["text"],
        "reasoning": expect["reasoning"],
        "refusal": expect.get("refusal") or "",
        # Gemini has numbers where it was asked for them; a reason is a text here.
        "finish": None if finish is None else str(finish),
        "tools": wanted_calls(expect),
    }


def counts(read: Read) -> dict[str, int | None]:
    """The usage, normalised."""
    usage = read.end.usage
    return {
        "input": usage.input.value,
        "output": usage.output.value,
        "cache_read": usage.cached_input.value,
        "cache_write": usage.cache_write.value,
        "reasoning": usage.reasoning.value,
    }


def wanted_counts(expect: dict[str, Any], dialect: str) -> dict[str, int | None]:
    """The same, of the recording."""
    told = dict(expect["usage_norm"] or {})
    if dialect == "anthropic" and expect["finish_reason"] is None:
        told["output"] = None  # the recording has the placeholder of the message's start there
    return {name: told.get(name) for name in COUNTED}


def facts(read: Read, dialect: str) -> dict[str | int, object]:
    """All that a recording tells, as it was read."""
    end, error = read.end, read.end.error
    return {
        0: of_choice(read, 0, dialect),
        "choices": set(read.output.choices) - {0},
        "reported": end.usage.reported,
        "counts": counts(read),
        "error": None if error is None else error.message,
        "complete": end.complete,
        "malformed": end.malformed,
        "blocked": getattr(read.decoder.dialect, "blocked", None) if dialect == "gemini" else None,
    }


def wanted(record: dict[str, Any]) -> dict[str | int, object]:
    """All that a recording tells."""
    expect, dialect = record["expect"], record["provider"]
    error, blocked = expect["error"], expect.get("block_reason")
    others = [choice["index"] for choice in expect.get("choices", []) if choice["index"]]
    message = error.get("message") if isinstance(error, dict) else error
    return {
        0: wanted_of_choice(expect),
        "choices": set(others),
        "reported": expect["usage_reported"],
        "counts": wanted_counts(expect, dialect),
        "error": message,
        # A blocked prompt is an end; what failed after its finish reason is no whole answer.
        "complete": (expect["complete"] or blocked is not None) and error is None,
        "malformed": expect["malformed"] or 0,
        "blocked": blocked,
    }


def differences(record: dict[str, Any], how: str, dialect: str) -> dict[str | int, object]:
    """What was read otherwise than it was meant."""
    read = Read(record, how, dialect)
    got, meant = facts(read, record["provider"]), wanted(record)
    for choice in record["expect"].get("choices", []):
        index = choice["index"]
        got[index] = of_choice(read, index, record["provider"])
        meant[index] = wanted_of_choice(choice)
    return {name: (got[name], meant[name]) for name in meant if got[name] != meant[name]}


@pytest.mark.parametrize("how", FEEDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_recording_is_read_as_it_was_meant(dialect: str, how: str) -> None:
    """Text, thoughts, tools, choices, finish, usage, errors, ends: in four feeds, by `auto`."""
    found = {
        record["id"]: differences(record, how, "auto")
        for record in recordings()
        if record["provider"] == dialect
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_recording_is_read_by_its_own_dialect(dialect: str) -> None:
    """The same for who names the dialect."""
    found = {
        record["id"]: differences(record, "random", dialect)
        for record in recordings()
        if record["provider"] == dialect
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def state_of(record: dict[str, Any]) -> EndState:
    """The end state that follows from what a recording tells."""
    expect, dialect = record["expect"], record["provider"]
    if expect["error"] is not None:
        return EndState.PROVIDER_ERROR
    if "block_reason" in expect:
        return EndState.BLOCKED
    if expect["finish_reason"] == "refusal":
        return EndState.REFUSED
    if expect["complete"]:
        return EndState.COMPLETED
    # [DONE] is the marker of these two dialects only; in others it is a gateway's.
    marked = expect.get("done_sentinel") and dialect in {"openai-chat", "openai-completions"}
    return EndState.COMPLETED_UNCONFIRMED if marked else EndState.TRUNCATED


@pytest.mark.parametrize("how", ["whole", "seams"])
def test_every_recording_ends_in_its_state(how: str) -> None:
    """Exactly one state follows for each, and figures are final where the provider has ended it."""
    wrong = {}
    for record in recordings():
        read = Read(record, how, record["provider"])
        end = read.end
        ended = end.finish is not None or read.decoder.dialect.done
        known = any(getattr(end.usage, name).known for name in ("input", "output"))
        got = (end.state, end.usage_partial, end.dialect)
        if got != (state_of(record), known and not ended, record["provider"]):
            wrong[record["id"]] = got
    assert len(recordings()) >= 268
    assert wrong == {}


def strict_events(data: bytes) -> tuple[int, str, int, bool]:
    """Number and digest of the events as the standard has them, comments, and a [DONE] among them."""
    decoder = SSEDecoder(strict=True)
    events = [event for piece in cuts(data, "random") for event in decoder.feed(piece)]
    events += decoder.close()
    digest = hashlib.sha256()
    for event in events:
        row = [event.type, event.text, event.id.decode("utf-8", "replace")]
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
        digest.update(line.encode())
    done = any(event.data.strip() == b"[DONE]" for event in events)
    return len(events), digest.hexdigest(), decoder.comments, done


def test_every_recording_is_cut_into_its_events() -> None:
    """Number and digest of the events, comments and [DONE], under the standard."""
    wrong = {}
    for record in recordings():
        sse = record.get("sse")
        if not sse:
            continue
        raw = (CORPORA / record["file"]).read_bytes()
        data = b"".join(undone([raw], record.get("content_encoding")))
        number, digest, commented, done = strict_events(data)
        expect = record["expect"]
        # One that is flushed is not in the events of the standard; one of a gateway of Gemini's is
        # not in the recording's facts.
        told = "eof" not in record and record["provider"] != "gemini"
        sentinel = done if told else expect["done_sentinel"]
        got = (number, digest, commented, sentinel)
        if got != (sse["events"], sse["digest"], expect["comments"], expect["done_sentinel"]):
            wrong[record["id"]] = got
    assert wrong == {}


def test_other_recordings_are_cut_into_their_events() -> None:
    """Event streams of no dialect of ours: number and digest of the events."""
    wrong = {}
    for line in (CORPORA / "generic.jsonl").read_text("ascii").splitlines():
        record = json.loads(line)
        number, digest, _, _ = strict_events((CORPORA / record["file"]).read_bytes())
        if (number, digest) != (record["sse"]["events"], record["sse"]["digest"]):
            wrong[record["id"]] = (number, digest)
    assert wrong == {}
