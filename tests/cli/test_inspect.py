"""`streamguard inspect`: what a captured stream says, how it ended, and what is odd about it."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamguard_cli.app import app

CALL = {"index": 0, "id": "c", "function": {"name": "find", "arguments": '{"q":1}'}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def event(said: object) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> bytes:
    """A chunk of a chat completion."""
    choices = [{"index": 0, "delta": fields, "finish_reason": finish}]
    return event({"model": "test-1", "choices": choices})


BEGUN = delta(reasoning="Hm.") + delta(content="Grüße") + delta(tool_calls=[CALL])
WHOLE = BEGUN + delta("tool_calls") + event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"


def inspect(body: bytes, *options: str) -> Any:
    """Run the command on what comes through the standard input."""
    return CliRunner().invoke(app, ["inspect", "-", *options], input=body)


def told(body: bytes, *options: str) -> dict[str, Any]:
    """What it says as JSON."""
    said = json.loads(inspect(body, "--json", *options).stdout)
    assert isinstance(said, dict)
    return said


def test_a_whole_stream(tmp_path: Path) -> None:
    """Dialect, model, text, thoughts, tools, usage and state of a file; then it exits with 0."""
    path = tmp_path / "captured.sse"
    path.write_bytes(WHOLE)
    said = CliRunner().invoke(app, ["inspect", str(path)])
    assert said.exit_code == 0
    for line in (
        "State      completed",
        "Dialect    openai-chat",
        "Model      test-1",
        "Finish     tool_calls",
        "Usage      input 3, output 2",
        'Reported   {"prompt_tokens": 3, "completion_tokens": 2}',
        "Grüße",
        "Hm.",
        '  find {"q":1} (executable)',
    ):
        assert line in said.stdout.splitlines()
    assert "Anomalies" not in said.stdout


def test_as_json() -> None:
    """The same as one object, in ASCII."""
    said = told(WHOLE)
    assert (said["state"], said["complete"], said["dialect"]) == ("completed", True, "openai-chat")
    (choice,) = said["choices"]
    assert (choice["text"], choice["reasoning"], choice["finish"]) == ("Grüße", "Hm.", "tool_calls")
    assert (
        choice["tool_calls"][0] | {"executable": True, "obstacle": None} == choice["tool_calls"][0]
    )
    assert said["usage"]["output"]["value"] == 2
    assert (said["reported"], said["error"], said["anomalies"]) == (USAGE, None, [])
    assert inspect(WHOLE, "--json").stdout.isascii()


def test_a_truncated_stream() -> None:
    """One that breaks off says so, its calls are not executable, and it exits with 1."""
    said = inspect(BEGUN + b'data: {"cho')
    assert said.exit_code == 1
    lines = said.stdout.splitlines()
    assert "State      truncated" in lines
    assert '  find {"q":1} (not executable: interrupted)' in lines
    assert "  - it ends without its terminal marker" in lines
    assert "  - it breaks off within an event, which was dropped" in lines
    assert "Usage      unknown" in lines


def test_other_ends() -> None:
    """An error with what the provider wrote, a marker without a reason, and a blocked prompt."""
    failed = event({"error": {"type": "server_error", "message": "over\x1b[2Jloaded"}})
    said = inspect(BEGUN + failed)
    assert said.exit_code == 1
    assert "State      provider_error" in said.stdout
    assert "Message    over\N{REPLACEMENT CHARACTER}[2Jloaded" in said.stdout
    assert told(BEGUN + failed)["error"]["status"] == 500
    unconfirmed = inspect(delta(content="a") + b"data: [DONE]\n\n")
    assert unconfirmed.exit_code == 1
    assert "terminal marker, and no finish reason" in unconfirmed.stdout
    blocked = inspect(event({"promptFeedback": {"blockReason": "SAFETY"}}))
    assert (blocked.exit_code, "Blocked    SAFETY" in blocked.stdout) == (0, True)


def test_anomalies() -> None:
    """What an ordinary stream has not is listed."""
    odd = b": hi\n\nnope\x1b: x\n\ndata: {broken\n\n" + delta("stop", content="a").rstrip(b"\n")
    anomalies = "\n".join(told(odd)["anomalies"])
    for words in (
        "comments (keep-alives): 1",
        "no field of the standard: 1",
        "skipped: 1",
        "lacks its end",
        "no usage",
    ):
        assert words in anomalies
    assert "\x1b" not in inspect(odd).stdout
    nothing = told(b"just words\n")
    assert nothing["dialect"] is None
    assert "nothing in it is known to be of a response" in nothing["anomalies"]


def test_text_cannot_steer_the_terminal() -> None:
    """Control characters of the text, of names and arguments are not passed through; its lines are."""
    call = CALL | {"function": {"name": "f\x1b]0;x\x07", "arguments": '{"a":"\x9b2J"}'}}
    family = "\U0001f468\N{ZERO WIDTH JOINER}\U0001f469"
    body = delta(content=f"one\n\ttwo\x1b[31m\u202e{family}") + delta(tool_calls=[call])
    said = inspect(body).stdout
    assert not any(one in said for one in "\x1b\x07\x9b\u202e")
    assert "Text:\none\n" in said
    assert family in said


def test_a_huge_text_is_not_all_shown() -> None:
    """A terminal gets a beginning of it, and JSON the whole."""
    body = delta(content="x" * 30_000) + delta("stop")
    assert "[10000 more characters; --json has all]" in inspect(body).stdout
    assert len(told(body)["choices"][0]["text"]) == 30_000


def test_several_choices() -> None:
    """Each has its own text and reason."""
    choices = [
        {"index": i, "delta": {"content": t}, "finish_reason": "stop"} for i, t in enumerate("ab")
    ]
    said = inspect(event({"choices": choices})).stdout
    assert "Text:\na\n" in said
    assert "Text of choice 1:\nb\n" in said


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (b"", WHOLE),
        (b"Content-Encoding: gzip\r\n", gzip.compress(WHOLE)),
        (b"content-encoding: deflate\r\n", zlib.compress(WHOLE)),
        (b"content-encoding: gzip\r\n", WHOLE),  # curl --compressed has undone it
    ],
)
def test_a_capture_with_headers(encoding: bytes, body: bytes) -> None:
    """What `curl -i` writes is taken apart, over all its heads; compression is undone."""
    before = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2 307\r\nlocation: /\r\n\r\n"
    said = told(before + HEAD + encoding + b"\r\n" + body)
    assert (said["state"], said["status"], said["choices"][0]["text"]) == (
        "completed",
        200,
        "Grüße",
    )


def test_an_error_response() -> None:
    """A status that is none of success is an anomaly, and the document's error is shown."""
    head = b"HTTP/1.1 429 Too Many Requests\ncontent-type: application/json\n\n"
    said = told(head + json.dumps({"error": {"type": "rate_limit_error", "message": "m"}}).encode())
    assert (said["state"], said["error"]["type"]) == ("provider_error", "rate_limit_error")
    assert "the HTTP status is 429" in said["anomalies"]


def test_the_dialect_can_be_named() -> None:
    """A named dialect is not guessed, and one that there is not lists those there are."""
    assert told(WHOLE, "--dialect", "openai-completions")["dialect"] == "openai-completions"
    wrong = inspect(WHOLE, "--dialect", "openai")
    assert wrong.exit_code == 2
    for name in ("openai-chat", "openai-responses", "anthropic", "gemini", "ollama"):
        assert name in wrong.stderr


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "there is nothing in it"),
        (b" \r\n\n", "only blanks"),
        (HEAD + b"\r\n", "no body"),
        (b"HTTP/1.1 200 OK\r\nserver: x", "headers of a response that do not end"),
        (gzip.compress(WHOLE), "gzip -dc"),
        (HEAD + b"content-encoding: compress\r\n\r\n\x1f\x9d\x90\0\1\2", "compressed (compress)"),
        (b"\n<!doctype html><p>Sign in", "HTML"),
        (bytes(range(256)), "is no text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is no text"),
        (WHOLE.decode().encode("utf-16"), "UTF-16"),
    ],
)
def test_what_is_no_stream(body: bytes, words: str) -> None:
    """It is named as what it is, with what to do, and the exit code is 2."""
    said = inspect(body)
    assert said.exit_code == 2
    assert words in said.stderr
    assert said.stdout == ""


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file and a directory are one line, and the exit code is 2."""
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "directory")):
        said = CliRunner().invoke(app, ["inspect", str(path)])
        assert said.exit_code == 2
        assert said.stderr.startswith("Error: cannot read ")
        assert words in said.stderr


def test_a_compressed_body_that_breaks_off() -> None:
    """Half a gzip body is a truncated stream, and one that is corrupt says why it was read no further."""
    head = HEAD + b"content-encoding: gzip\r\n\r\n"
    packed = gzip.compress(WHOLE)
    assert told(head + packed[: len(packed) // 2])["state"] == "truncated"
    broken = told(head + packed[:10] + b"\xff" * 50)
    assert broken["state"] == "truncated"
    assert "reading it broke off: error" in broken["anomalies"]


def test_through_a_pipe() -> None:
    """The command reads a pipe, and no more of it than the stream: what follows may never end."""
    command = [sys.executable, "-m", "streamguard_cli", "inspect", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(WHOLE)
            while True:
                process.stdin.write(b": filler\n" * 1000)
        said = process.stdout.read()
        assert process.wait(60) == 0
    assert b"State      completed" in said


def test_without_its_extra() -> None:
    """Without httpx the other commands work, and this one says what to install."""
    code = "import sys; sys.modules['httpx'] = None; from streamguard_cli import main; main()"
    command = [sys.executable, "-c", code]
    done = subprocess.run([*command, "--help"], capture_output=True, timeout=60, check=True)
    assert b"inspect" in done.stdout
    said = subprocess.run(
        [*command, "inspect", "-"], input=WHOLE, capture_output=True, timeout=60, check=False
    )
    assert said.returncode == 2
    assert b'pip install "streamguard-llm[providers]"' in said.stderr
