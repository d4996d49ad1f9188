"""The tally: counts a response from the bytes that pass, whatever they are, and never raises."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import random
import zlib
from typing import Any

import httpx
import pytest

from streamguard_core import AttemptOutcome
from streamguard_providers import encodings, tally
from streamguard_providers.asked import Asked
from streamguard_providers.encodings import inflate_for
from streamguard_providers.tally import Tally

from .decoding import FIXTURES, Decoded, cuts, decoder_for
from .wire import DONE, event, token

CHAT = Asked("/v1/chat/completions", generates=True)
OLLAMA = Asked("/api/chat", generates=True)
STREAM = {"content-type": "text/event-stream; charset=utf-8"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
ANSWER = (
    token("never ")
    + token("again")
    + token("", "stop")
    + event({"choices": [], "usage": USAGE})
    + DONE
)


def begun(asked: Asked = CHAT, headers: dict[str, str] | None = None, status: int = 200) -> Tally:
    """A tally of a response with those headers."""
    made = Tally(asked, "somebody")
    made.begin(httpx.Response(status, headers=STREAM if headers is None else headers))
    return made


def passed(made: Tally, data: bytes, how: str = "whole", *, whole: bool = True) -> int:
    """Let a body pass; returns the chunks that were told on the way."""
    return sum(made.take(piece) for piece in cuts(data, how)) + made.end(whole=whole)


def facts(made: Tally) -> tuple[object, ...]:
    """What a tally has found."""
    said = made.said
    return made.chunks, said and said.finish, made.usage, said and said.model, made.outcome


@pytest.mark.parametrize("how", ["whole", "bytes", "random"])
def test_counts_what_a_decoder_counts(how: str) -> None:
    """However the bytes are cut: chunks, finish, usage and model of every recorded stream."""
    for name in ("chat.sse", "choices.sse", "tools.sse", "chat.ndjson", "generate.ndjson"):
        path = FIXTURES / name
        data = path.read_bytes()
        lines = ".ndjson" in path.name
        made = begun(
            OLLAMA if lines else CHAT,
            {"content-type": "application/x-ndjson"} if lines else STREAM,
        )
        told = passed(made, data, how)
        expected = Decoded(decoder_for(path.name), [data])
        decoder = expected.decoder
        assert made.chunks == told == len(expected.chunks), path.name
        assert facts(made)[1:4] == (decoder.finish, decoder.usage, decoder.model), path.name


def test_a_part_is_decoded_after_it_was_handed_over() -> None:
    """The application gets its bytes first: what is in them is looked at when it asks for more."""
    made = begun()
    assert made.take(token("never")) == 0
    assert made.chunks == 0
    assert made.take(token("again")) == 1
    assert made.end(whole=False) == 1
    assert made.end(whole=True) == 0
    assert made.chunks == 2


@pytest.mark.parametrize(
    ("data", "whole", "outcome"),
    [
        (ANSWER, True, AttemptOutcome.COMPLETED),
        (ANSWER, False, AttemptOutcome.COMPLETED),
        (ANSWER[:-20], False, None),
        (token("never "), True, AttemptOutcome.TRUNCATED),
        (token("never ") + token("", "stop"), True, AttemptOutcome.COMPLETED),
        (event({"error": {"type": "server_error"}}), True, AttemptOutcome.FAILED),
    ],
)
def test_how_it_ended(data: bytes, whole: bool, outcome: AttemptOutcome | None) -> None:
    """The terminal marker decides, not the end of the bytes (G13)."""
    made = begun()
    passed(made, data, whole=whole)
    assert made.outcome is outcome


def test_a_document() -> None:
    """An answer that is no stream is counted at its end, and only there."""
    said = {
        "model": "m",
        "choices": [{"message": {"content": "never again"}, "finish_reason": "stop"}],
    }
    body = json.dumps(said | {"usage": USAGE}, indent=2).encode()
    made = begun(headers={"content-type": "application/json"})
    for piece in cuts(body, "random"):
        assert made.take(piece) == 0
    assert made.outcome is None
    assert made.end(whole=True) == 1
    assert facts(made)[1] == "stop"
    assert made.usage is not None
    assert made.usage.output.value == 2
    assert made.outcome is AttemptOutcome.COMPLETED


def test_a_document_that_is_an_error() -> None:
    """Inside a 200, too."""
    made = begun(headers={"content-type": "application/json"})
    passed(made, b'{"error": {"type": "overloaded_error", "message": "secret"}}')
    assert (made.outcome, made.error) == (AttemptOutcome.FAILED, "overloaded_error")


@pytest.mark.parametrize("asked", [CHAT, Asked("/v1/embeddings", generates=False)])
def test_a_refusal(asked: Asked) -> None:
    """An error status is a failure; its body gives the word, whatever was asked for."""
    made = begun(asked, {"content-type": "application/json"}, 429)
    assert made.outcome is AttemptOutcome.FAILED
    passed(made, b'{"error": {"code": "rate_limit_exceeded", "message": "secret"}}')
    assert made.error == "rate_limit_exceeded"


def test_what_is_not_looked_into() -> None:
    """Calls that generate nothing, dialects we do not know, and answers without content."""
    other = Asked("/v1/embeddings", generates=False)
    for made in (
        begun(other),
        begun(headers={"content-type": "application/vnd.amazon.eventstream"}),
        begun(Asked("/invoke", generates=True)),
        begun(Asked("/invoke", generates=True), {"content-type": "application/json"}),
        begun(status=204),
    ):
        assert passed(made, ANSWER) == 0
        assert facts(made) == (0, None, None, None, None)


class TestEncodings:
    """The content-encoding is undone for counting."""

    @staticmethod
    def encoded(encoding: str) -> bytes:
        """The answer, encoded."""
        if encoding == "gzip":
            return gzip.compress(ANSWER)
        if encoding == "deflate":
            return zlib.compress(ANSWER)
        if encoding == "raw deflate":
            raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            return raw.compress(ANSWER) + raw.flush()
        module: Any = pytest.importorskip("brotli" if encoding == "br" else "zstandard")
        return bytes(module.compress(ANSWER))

    @pytest.mark.parametrize("how", ["whole", "bytes", "random"])
    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "br", "zstd"])
    def test_is_undone(self, encoding: str, how: str) -> None:
        """However it is cut."""
        made = begun(headers={**STREAM, "content-encoding": encoding.rpartition(" ")[2].upper()})
        assert passed(made, self.encoded(encoding), how) == 2
        assert made.outcome is AttemptOutcome.COMPLETED

    def test_pieces_are_bounded(self) -> None:
        """A bomb is taken apart piece by piece."""
        bomb = gzip.compress(b"\0" * 10_000_000)
        inflate = inflate_for("gzip")
        assert inflate is not None
        sizes = [len(piece) for piece in inflate(bomb)]
        assert sum(sizes) == 10_000_000
        assert max(sizes) <= 64 * 1024

    def test_a_bomb_is_not_followed_for_ever(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """There is a limit to what a body may grow to."""
        monkeypatch.setattr(tally, "_MAX_INFLATED", 1_000_000)
        made = begun(headers={**STREAM, "content-encoding": "gzip"})
        passed(made, gzip.compress(b": keep\n" * 1_000_000))
        assert made.outcome is None
        assert "TooLarge" in caplog.text

    @pytest.mark.parametrize("encoding", ["compress", "gzip, gzip"])
    def test_one_that_is_not_known(self, encoding: str, caplog: pytest.LogCaptureFixture) -> None:
        """It is said once, and the response is not looked into."""
        made = begun(headers={**STREAM, "content-encoding": encoding})
        assert passed(made, ANSWER, "random") == 0
        assert made.outcome is None
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("encoding", ["br", "zstd"])
    def test_without_its_library(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody who has not installed it tells a server that it may send it."""

        def missing(name: str) -> Any:
            raise ImportError(name)

        monkeypatch.setattr(importlib, "import_module", missing)
        assert encodings.inflate_for(encoding) is None


class TestNothingIsRaised:
    """What cannot be decoded is the tally's problem alone."""

    @pytest.mark.parametrize(
        ("headers", "data"),
        [
            (STREAM, b"<html>secret</html>"),
            (STREAM, b"data: " + b"secret" * 1_000_000),
            ({**STREAM, "content-encoding": "gzip"}, b"secret"),
            (
                {"content-type": "application/json"},
                b"{" + b" " * (4 * 1024 * 1024) + b'"secret":1}',
            ),
        ],
        ids=["html", "endless", "no gzip", "huge"],
    )
    def test_said_once(
        self, headers: dict[str, str], data: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Logged once, without content; the rest is not looked into, and nothing is claimed of it."""
        made = begun(headers=headers)
        made.take(data)
        assert passed(made, ANSWER) == 0
        assert made.outcome is None
        assert made.chunks == 0
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "secret" not in caplog.text

    def test_what_was_counted_stays(self) -> None:
        """What came before is known all the same."""
        made = begun()
        made.take(token("never"))
        passed(made, b"data: " + b"x" * 5_000_000)
        assert made.chunks == 1
        assert made.outcome is None

    def test_too_much_nonsense(self) -> None:
        """Payloads that cannot be read say nothing of how the answer ended."""
        made = begun()
        passed(made, b"data: nonsense\n\n" * 100)
        assert made.outcome is None

    def test_random_bytes(self) -> None:
        """Whatever comes, in every kind of body."""
        chance = random.Random(5)
        kinds = ["text/event-stream", "application/x-ndjson", "application/json"]
        for turn in range(300):
            headers = {"content-type": kinds[turn % 3]}
            if turn % 2:
                headers["content-encoding"] = chance.choice(["gzip", "deflate", "identity"])
            made = begun(chance.choice([CHAT, OLLAMA]), headers, chance.choice([200, 400]))
            passed(made, chance.randbytes(chance.randrange(2000)), "random")
            assert made.chunks >= 0
