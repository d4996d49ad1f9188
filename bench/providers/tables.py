"""The tables: events, typed chunks, growth with size, memory under bytes that never end."""

from __future__ import annotations

import importlib.util
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Final

from bench.harness import Bar, Row, Run, Table, measure
from bench.providers import peers, plain
from bench.providers.streams import Stream, one_event, stream
from streamguard_providers import EventTooLarge, SSEDecoder, StreamDecoder

SIZE: Final = 1_000_000
DIALECTS: Final = ("openai-chat", "openai-responses", "anthropic", "gemini", "ollama")
SPLIT, TYPED, OURS = "bytes.split only", "split + msgspec typed", "streamguard"
_DECODERS: Final[Mapping[str, Callable[[], StreamDecoder]]] = {
    "openai-chat": StreamDecoder.openai_chat,
    "openai-responses": StreamDecoder.openai_responses,
    "anthropic": StreamDecoder.anthropic,
    "gemini": StreamDecoder.gemini,
    "ollama": StreamDecoder.ollama,
}
#: What reads typed chunks, who has to be installed for it, and how many times faster ours has to be.
_PEERS: Final[
    Mapping[str, tuple[tuple[str, str, Callable[[Stream], peers.Read], float | None], ...]]
] = {
    "openai-chat": (
        ("openai SDK", "openai", peers.openai_chat, 20),
        ("litellm on the openai SDK", "litellm", peers.litellm, 100),
    ),
    "openai-responses": (("openai SDK", "openai", peers.openai_responses, 20),),
    "anthropic": (("anthropic SDK", "anthropic", peers.anthropic, 3),),
    "gemini": (("google-genai SDK", "google.genai", peers.gemini, None),),
    "ollama": (("ollama SDK", "ollama", peers.ollama, 3),),
}


async def tables(*, quick: bool, valgrind: bool) -> AsyncIterator[Table]:
    """Every table of this benchmark; instructions are not counted here."""
    size, rounds = (SIZE // 5, 3) if quick else (SIZE, 7)
    for dialect in DIALECTS:
        read = stream(dialect, size)
        for feed in ("block", "pieces"):
            pieces: list[bytes] = getattr(read, feed)()
            if dialect != "ollama":
                yield await _events(read, feed, pieces, rounds)
            yield await _typed(read, feed, pieces, rounds)
    yield _growth(quick=quick)
    yield _endless()


async def _events(read: Stream, feed: str, pieces: list[bytes], rounds: int) -> Table:
    cases: dict[str, Run] = {
        SPLIT: _run(partial(plain.events, pieces, read.separator)),
        OURS: _run(partial(_sse, pieces)),
    }
    if importlib.util.find_spec("httpx_sse"):
        cases["httpx-sse"] = _run(partial(peers.httpx_sse(read), pieces))
    series = await measure(cases, rounds, 1e-3)
    crlf = read.separator != b"\n\n"
    bars = {OURS: Bar(3.0 if crlf else 2.0, "of split")}
    return Table(_title("Events", read, feed), "us/event", series.rows(SPLIT, bars))


async def _typed(read: Stream, feed: str, pieces: list[bytes], rounds: int) -> Table:
    make = _DECODERS[read.dialect]
    cases: dict[str, Run] = {
        TYPED: _run(partial(plain.typed, pieces, read.separator, read.dialect)),
        OURS: _run(partial(_chunks, make, pieces, read.events)),
    }
    there = [
        peer for peer in _PEERS[read.dialect] if importlib.util.find_spec(peer[1].partition(".")[0])
    ]
    for name, _, contender, _ in there:
        cases[name] = _run(partial(_events_of, contender(read), pieces, read.events))
    series = await measure(cases, rounds, 1e-3)
    rows = [*series.rows(TYPED, {OURS: Bar(3.0, "of split + msgspec")})]
    rows += [
        series.compare(OURS, name, f"streamguard against {name}", 1 / times)
        for name, _, _, times in there
        if times is not None
    ]
    missing = [peer[0] for peer in _PEERS[read.dialect] if peer not in there]
    note = f"left out, not installed: {', '.join(missing)}" if missing else ""
    return Table(_title("Typed chunks", read, feed), "us/event", tuple(rows), note)


def _title(what: str, read: Stream, feed: str) -> str:
    fed = "in blocks of 64 KiB" if feed == "block" else "in pieces of 100 to 1,400 bytes"
    source = "recorded" if read.recorded else "our own events: no corpora beside the checkout"
    return f"{what}, {read.dialect} {fed} ({source})"


def _run(read: Callable[[], int]) -> Run:
    async def run() -> int:
        return read()

    return run


def _sse(pieces: list[bytes]) -> int:
    decoder, count = SSEDecoder(), 0
    for piece in pieces:
        count += len(decoder.feed(piece))
    return count + len(decoder.close())


def _chunks(make: Callable[[], StreamDecoder], pieces: list[bytes], events: int) -> int:
    """Everything the dialect has to say; the figure is per event on the wire, as for all others."""
    decoder, chunks = make(), 0
    for piece in pieces:
        chunks += len(decoder.feed(piece))
    chunks += len(decoder.close())
    decoder.check()
    assert chunks > events / 2, "the stream was not read to its end"
    assert decoder.dialect.malformed == 0, "the stream has payloads that were skipped"
    return events


def _events_of(read: peers.Read, pieces: list[bytes], events: int) -> int:
    chunks = read(pieces)
    assert chunks > events / 2, "the stream was not read to its end"
    return events


def _growth(*, quick: bool) -> Table:
    """How much longer an event of twice the size takes."""
    most = 2 if quick else 8
    rows = []
    for label, line in (("one data line", None), ("data lines of 64 bytes", 64)):
        before: float | None = None
        for quarters in (1, 2, 4, 8, 16, 32)[: 4 if quick else 6]:
            figure = statistics.median(
                _timed(quarters << 18, line) for _ in range(3 if quick else 5)
            )
            name = f"{label}, {quarters / 4:g} MiB"
            ratio: float | None = None if before is None else figure / before
            rows.append(Row(name, figure * 1e3, ratio, bar=Bar(2.3) if ratio else None))
            before = figure
    return Table(
        f"One event of up to {most} MiB in pieces of 100 bytes, against half of it",
        "ms",
        tuple(rows),
    )


def _timed(size: int, line: int | None) -> float:
    body = one_event(size, line)
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    decoder = SSEDecoder(max_event_bytes=2 * len(body))
    begin = time.process_time()
    events = sum(len(decoder.feed(piece)) for piece in pieces)
    taken = time.process_time() - begin
    assert events == 1
    return taken


def _endless() -> Table:
    """How much memory bytes that never end can fill, in multiples of the largest event allowed."""
    limit, piece = 1 << 20, b"x" * 4096
    kinds = {
        "an endless data line": (b"data: ", piece),
        "an endless comment": (b": ", piece),
        "an endless unknown field": (b"unknown: ", piece),
        "data lines without an end": (b"", b"data: " + piece + b"\n"),
    }
    rows = []
    for name, (start, more) in kinds.items():
        tracemalloc.start()
        decoder = SSEDecoder(max_event_bytes=limit)
        try:
            decoder.feed(start)
            for _ in range(4 * limit // len(more)):
                decoder.feed(more)
        except EventTooLarge:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append(Row(name, peak / 1024, peak / limit, bar=Bar(3.0)))
    return Table(
        "Peak memory under 4 MiB that never end, against a limit of 1 MiB", "KiB", tuple(rows)
    )
