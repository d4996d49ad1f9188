"""The fuzzer itself: it begins with something, repeats what it found, and finds what is broken."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from streamguard_core import AnyChunk
from streamguard_providers import StreamDecoder


@pytest.fixture
def fuzzer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, as a module, with two small streams to begin with."""
    spec = importlib.util.spec_from_file_location(
        "fuzz_streams", Path(__file__).parent / "streams.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    chat = b'data: {"choices":[{"index":0,"delta":{"content":"hello"}}]}\n\ndata: [DONE]\n\n'
    lines = b'{"message":{"content":"hello"},"done":false}\n{"done":true,"done_reason":"stop"}\n'
    monkeypatch.setattr(module, "seeds", lambda: {"openai-chat": [chat], "ollama": [lines]})
    return module


def _few(monkeypatch: pytest.MonkeyPatch, fuzzer: ModuleType, inputs: int) -> None:
    """Let the time be over after so many inputs."""
    ticks = iter([0.0] * (inputs + 1))
    monkeypatch.setattr(fuzzer.time, "monotonic", lambda: next(ticks, 2.0))


def test_nothing_is_found_in_what_is_whole(
    monkeypatch: pytest.MonkeyPatch, fuzzer: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A few inputs of a given seed pass, and the command says how many there were."""
    _few(monkeypatch, fuzzer, 100)
    assert fuzzer.main(["--seconds", "1", "--seed", "7"]) == 0
    assert capsys.readouterr().out == "100 damaged streams, seed 7: no failure\n"


def _raises(self: StreamDecoder, data: bytes) -> list[AnyChunk]:
    raise IndexError("list index out of range")


def _counts(self: StreamDecoder, data: bytes) -> list[AnyChunk]:
    return ["piece "]


def _keeps(self: StreamDecoder, data: bytes) -> list[AnyChunk]:
    bytearray(30_000_000)
    return []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (_raises, "IndexError was raised (list index out of range)"),
        (_counts, "the chunks differ"),
        (_keeps, "bytes were kept for"),
    ],
)
def test_what_is_broken_is_found(
    monkeypatch: pytest.MonkeyPatch,
    fuzzer: ModuleType,
    capsys: pytest.CaptureFixture[str],
    broken: Callable[..., Any],
    words: str,
) -> None:
    """A decoder that raises, depends on the cuts or keeps too much is told with its input; exit code 1."""
    _few(monkeypatch, fuzzer, 100)
    monkeypatch.setattr(StreamDecoder, "feed", broken)
    assert fuzzer.main(["--seconds", "1", "--seed", "7"]) == 1
    said = capsys.readouterr().out
    assert words in said
    assert "of seed 7, base64:\n" in said


def test_slowness_is_found(monkeypatch: pytest.MonkeyPatch, fuzzer: ModuleType) -> None:
    """An input that takes longer than it may is a failure."""
    _few(monkeypatch, fuzzer, 10)
    monkeypatch.setattr(fuzzer, "MAX_SECONDS", -1.0)
    count, failure = fuzzer.fuzz(1, 7)
    assert count == 0
    assert "s of CPU" in failure


def test_a_dialect_that_is_not_there(
    fuzzer: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that nothing has is said so; that is no success."""
    assert fuzzer.main(["--only", "nobody"]) == 1
    assert "there is no stream of 'nobody' to begin with" in capsys.readouterr().out
