"""Fuzzes the decoders and dialects: random damage to real streams, for as long as you like.

    python tests/fuzz/streams.py [--seconds 60] [--seed N] [--only anthropic]

Every input is read twice, whole and in random pieces. What must hold: nothing is raised but the
documented errors, both readings say the same, neither takes long, and nothing keeps more memory than
the input is worth. A failure is printed with the seed and the input that shows it, and exits with 1.
"""

from __future__ import annotations

import argparse
import base64
import logging
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamguard_core import Chunk, ProducerError
from streamguard_providers import StreamDecoder

HERE: Final = Path(__file__).resolve()
CORPORA: Final = Path(os.environ.get("STREAMGUARD_CORPORA", HERE.parents[3] / "shared" / "corpora"))
FIXTURES: Final = HERE.parents[1] / "providers" / "fixtures"
DIALECTS: Final = (
    "openai-chat",
    "openai-completions",
    "openai-responses",
    "anthropic",
    "gemini",
    "ollama",
)
AUTO: Final = "auto"
"""Neither framing nor dialect is told."""
MAX_INPUT: Final = 64 * 1024
#: CPU seconds that 64 KiB may take; the slowest take a hundredth of it.
MAX_SECONDS: Final = 5.0
#: Bytes that reading an input may keep at its peak, per byte of it, and beside.
MEMORY: Final = (200, 1_000_000)
#: Words of the wire formats, which random bytes would never make.
WORDS: Final = (
    b"data: ", b"data:", b"event: ", b"event: error", b"id: ", b"retry: ", b"error: ", b": ", b"\n", b"\r", b"\r\n",
    b"\n\n", b"\xef\xbb\xbf", b"\0", b"[DONE]", b"{", b"}", b"[", b"]", b'"', b"\\", b",", b"null", b"true", b"-1",
    b"1e400", b"99999999999999999999", b'"\\ud83d"', b'{"error":{"message":"m","type":"t"}}', b'{"type":"error"}',
    b'"choices":[{"index":-1,"delta":{}}]', b'"usage":{}', b'"usage":null', b'"index":99999999', b'"tool_calls":[{}]',
    b'"type":"message_start"', b'"type":"content_block_delta"', b'"type":"response.completed"', b'"candidates":[{}]',
    b'"partialArgs":[{"jsonPath":"$.a[0].b","stringValue":"x"}]', b'"willContinue":true', b'"done":true',
    b"[" * 400, b'{"a":' * 400, b"\xff", b"\xe2\x80", b"\xc2\x85",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """What a stream said, in one way of feeding it."""

    chunks: str
    end: str

    def differs_from(self, other: Reading) -> str | None:
        """What is not the same in both; None when all is."""
        if self.end != other.end:
            return f"the ends differ: {self.end} and {other.end}"
        return None if self.chunks == other.chunks else "the chunks differ"


class Failure(Exception):
    """Something that must hold did not."""


def seeds() -> Mapping[str, list[bytes]]:
    """The streams that are damaged, by dialect: our own fixtures, and the recorded ones where they are."""
    found: dict[str, list[bytes]] = {}
    for folder in (FIXTURES, CORPORA / "streams"):
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.is_file() and path.stat().st_size <= MAX_INPUT:
                found.setdefault(_dialect(path), []).append(path.read_bytes())
    return found


def _dialect(path: Path) -> str:
    """What a file speaks, by its name; of our own fixtures most speak chat."""
    if path.suffix == ".ndjson":
        return "ollama"
    told = (name for name in DIALECTS if path.name.startswith((name, name.removeprefix("openai-"))))
    return next(told, "openai-chat")


def damaged(rng: random.Random, streams: Sequence[bytes]) -> bytes:
    """One of the streams with a few things wrong."""
    body = bytearray(rng.choice(streams))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at = rng.randint(0, len(body))
        match rng.randrange(7):
            case 0:
                body[at:at] = rng.choice(WORDS)
            case 1:
                body[at : at + rng.randint(1, 64)] = b""
            case 2 if at < len(body):
                body[at] = rng.randrange(256)
            case 3:
                piece = body[at : at + rng.randint(1, 2000)]
                body[at:at] = piece * rng.randint(1, 3)
            case 4:
                other = rng.choice(streams)
                begin = rng.randint(0, len(other))
                body[at:] = other[begin : begin + rng.randint(0, 4000)] + body[at:]
            case 5:
                del body[at:]
            case _:
                body = bytearray(body.replace(*rng.choice(_REPLACED)))
    return bytes(body[:MAX_INPUT])


_REPLACED: Final = (
    (b"\n", b"\r\n"), (b"\r\n", b"\n"), (b"\n", b"\r"), (b"data: ", b"data:"), (b'"', b'""'), (b"1", b"null"),
    (b'"index"', b'"Index"'), (b"[", b"[["), (b"{", b"{{"), (b"true", b"false"), (b": ", b":"), (b"e", b"\xc3\xa9"),
)  # fmt: skip


def pieces(rng: random.Random, body: bytes) -> Iterator[bytes]:
    """Cut anywhere: mostly small pieces, some of one byte, some large."""
    at, most = 0, rng.choice((1, 3, 20, 200, 5000))
    while at < len(body):
        size = rng.randint(1, most)
        yield body[at : at + size]
        at += size


def read(dialect: str, fed: Iterator[bytes]) -> Reading:
    """Read a stream to its end.

    Raises:
        Exception: whatever is not documented.
    """
    decoder = StreamDecoder.auto(dialect=dialect)
    said: list[str] = []
    end = "complete"
    try:
        for piece in fed:
            said += map(_plain, decoder.feed(piece))
        said += map(_plain, decoder.close())
        decoder.check()
    except ProducerError as error:
        end = type(error).__name__
    usage = decoder.usage
    return Reading(
        "".join(said),
        f"{end}, finish {decoder.finish}, usage {usage and usage.output}, malformed {decoder.malformed}",
    )


def _plain(chunk: object) -> str:
    if isinstance(chunk, Chunk):
        return f"\n<{chunk.kind} {chunk.choice} {chunk.data!r}>{chunk.text}\n"
    return str(chunk)


def attempt(dialect: str, rng: random.Random, body: bytes) -> None:
    """Read one input in both ways.

    Raises:
        Failure: when something that must hold does not.
    """
    begin = time.process_time()
    try:
        whole = read(dialect, iter([body]))
        cut = read(dialect, pieces(rng, body))
    except Exception as error:
        raise Failure(f"{type(error).__name__} was raised") from error
    if (taken := time.process_time() - begin) > MAX_SECONDS:
        raise Failure(f"it took {taken:.1f} s of CPU")
    if difference := whole.differs_from(cut):
        raise Failure(difference)


def memory(dialect: str, body: bytes) -> None:
    """Read one input while memory is watched, which is slow.

    Raises:
        Failure: when it keeps more than the input is worth.
    """
    tracemalloc.start()
    try:
        read(dialect, iter([body]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > MEMORY[0] * len(body) + MEMORY[1]:
        raise Failure(f"{peak:,} bytes were kept for {len(body):,} of input")


def fuzz(seconds: float, seed: int, only: str = "") -> tuple[int, str | None]:
    """Damage and read until the time is over; returns how many inputs, and the first failure."""
    found = {name: streams for name, streams in seeds().items() if only in name}
    if not found:
        return 0, f"there is no stream of {only!r} to begin with"
    names, count, until = sorted(found), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        rng = random.Random(f"{seed}/{count}")
        dialect = names[count % len(names)]
        body = damaged(rng, found[dialect])
        # A stream of one provider that is read as another's is garbage of a kind that happens.
        reader = rng.choice((dialect, dialect, dialect, AUTO, AUTO, rng.choice(names)))
        try:
            attempt(reader, rng, body)
            if count % 50 == 0:
                memory(reader, body)
        except Failure as failure:
            return count, _told(failure, reader, seed, count, body)
        count += 1
        if count % 200 == 0 and sys.stderr.isatty():
            sys.stderr.write(
                f"\r{count:,} inputs, {max(0.0, until - time.monotonic()):.0f} s left "
            )
    return count, None


def _told(failure: Failure, dialect: str, seed: int, count: int, body: bytes) -> str:
    cause = f" ({failure.__cause__})" if failure.__cause__ else ""
    return (
        f"{dialect}: {failure}{cause}; input {count} of seed {seed}, base64:\n"
        f"{base64.b64encode(body).decode()}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=None, help="a failure is repeated with its seed"
    )
    parser.add_argument(
        "--only", default="", metavar="DIALECT", help=f"one of {', '.join(DIALECTS)}"
    )
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    count, failure = fuzz(options.seconds, seed, options.only)
    print(f"{count:,} damaged streams, seed {seed}: {'no failure' if failure is None else failure}")
    return 0 if failure is None else 1


if __name__ == "__main__":
    # Whatever is skipped is warned of, thousands of times. A process's logging is nobody else's here.
    logging.getLogger("streamguard").setLevel(logging.CRITICAL)
    sys.exit(main())
