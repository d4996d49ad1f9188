"""The example `langchain_pipeline`, run as a user runs it: options, failures, and readers that leave."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from streamguard_testing import RunningEngine, run_engine

from .pipelines import QUESTION, Done, run, running, whole

pytest.importorskip("langchain_core")

TOKENS = 80
"""Of the answers of the example's own engines."""
LEAD = 40
"""Tokens that come at once, before an engine stays silent for as long as a test likes."""
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def silent_engine() -> Any:
    """An engine whose reader is in the middle of its answer."""
    return run_engine(lead=LEAD, interval=600)


def at(engine: RunningEngine) -> tuple[str, str]:
    """The options that lead to an engine."""
    return "--base-url", engine.openai_url


@contextmanager
def answers_with(status: int, body: bytes = b"") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that always answers the same: where it is, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", asked
        finally:
            server.shutdown()
            serving.join()


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--enable-guardrails",),
        ("--monitor-performance",),
        ("--model", "mine"),
        ("--temperature", "0.5"),
        ("--enable-guardrails", "--block", "zebra crossing", "--monitor-performance"),
    ],
    ids=" ".join,
)
def test_options(options: tuple[str, ...]) -> None:
    """With any option the whole answer comes on stdout and nothing else; metrics and receipt on stderr."""
    done = run(QUESTION, *options)
    assert done.code == 0, done.said
    assert done.text == whole(TOKENS)
    assert done.causes == ["COMPLETED"]
    model = "mine" if "mine" in options else "loopback"
    assert done.attempts == [f"first first-engine {model}: completed"]
    assert done.under("output") == [f"{TOKENS} tokens (source: provider_final)"]
    assert QUESTION not in done.said
    check_metrics(done, live="--monitor-performance" in options)
    check_lines(done.answer)


def check_metrics(done: Done, *, live: bool) -> None:
    """Live lines before the summary if they were asked for; each line has all figures."""
    lines = done.said.splitlines()
    (end,) = (number for number, line in enumerate(lines) if line.startswith("Metrics"))
    shown = [line for line in lines[:end] if line.startswith("  [")]
    assert bool(shown) is live
    for line in (*shown, lines[end]):
        for figure in ("tokens/s", "first token", "between tokens", "quality"):
            assert f" {figure}" in line
        assert " - " not in line


def check_lines(answer: str) -> None:
    """No line is longer than a terminal's, and none ends in a space."""
    lines = answer.split("\n")
    assert len(lines) > 3
    assert all(len(line) <= 80 and line == line.strip() for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", "3"], "3 is no number from 0 to 2"),
        (["--temperature", "nan"], "nan is no number from 0 to 2"),
        (["--base-url", "localhost"], "localhost is no address; give http://HOST:PORT"),
        (["--base-url", "http://h:x"], "is no address; give http://HOST:PORT"),
        (["--simulate-failures", "--base-url", "http://h"], "cannot be told to"),
        (["--block", "word"], "give --enable-guardrails with it"),
        (["--model", " "], "it is empty, or cannot be printed"),
        ([""], "the question cannot be sent"),
        (["x" * 4_001], "the question cannot be sent"),
        (["bell\a"], "the question cannot be sent: Value error, it has control characters"),
        (["--enable-guardrails", "I am a@b.example"], "guardrail 'e-mail'"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_makes_no_sense_is_refused(options: list[str], words: str) -> None:
    """With 2, in a line that says why, without a traceback, a receipt, or what was asked."""
    done = run(*options)
    assert (done.code, done.answer) == (2, "")
    assert words in done.said
    assert not {"Traceback", "Receipt", "a@b.example", "xxxxx"} & set(done.said.split())
    assert "a@b.example" not in done.said
    assert "xxxx" not in done.said


def test_what_is_sent() -> None:
    """The question, the model, the temperature and a cap arrive at the engine."""
    with answers_with(400) as (url, asked):
        done = run(QUESTION, "--temperature", "0.25", "--base-url", url, "--model", "mine")
    assert done.code == 1
    assert [cause.split()[0] for cause in done.causes] == ["PRODUCER_ERROR"]
    (body,) = asked
    assert (body["model"], body["temperature"]) == ("mine", 0.25)
    assert body["max_tokens"] > 0
    assert body["messages"][-1] == {"role": "user", "content": QUESTION}


# -- guardrails ------------------------------------------------------------------------------------


def test_a_guardrail_cuts_the_stream_off() -> None:
    """Nothing of the forbidden phrase is shown, what was before it is, and the engine's connection is closed."""
    with silent_engine() as engine:
        phrase = "ASKED the miller"
        done = run(*at(engine), "--enable-guardrails", "--block", phrase)
        engine.wait_idle()
        (request,) = engine.requests
    assert done.code == 1
    assert done.causes == [f"GUARDRAIL by POLICY: rule {phrase!r}"]
    assert whole(TOKENS).startswith(done.text)
    assert done.text.endswith("Children")
    assert (done.under("connection"), request.ran_to_end) == (["confirmed"], False)


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_simulated_failures() -> None:
    """Seven streams, each with its receipt: resumed, rerouted, kept, partial, refused by breakers, healed."""
    done = run(QUESTION, "--simulate-failures")
    assert done.code == 0, done.said
    assert [cause.split()[0] for cause in done.causes] == [
        *["COMPLETED"] * 4,
        "TRUNCATED",
        "PRODUCER_ERROR",
        "COMPLETED",
    ]
    rounds = done.said.split("\nRound ")[1:]
    assert len(rounds) == 7
    assert "resume second-engine loopback: completed" in rounds[1]
    assert "fallback second-engine loopback: completed" in rounds[2]
    assert "the breaker of the first engine is open" in rounds[2]
    assert "the kept answer stood in" in rounds[3]
    assert "kept answer stood in" not in rounds[1]
    assert "loopback: completed" not in rounds[3] + rounds[4]
    assert "its breaker is open" in rounds[5]
    assert "attempt " not in rounds[5]
    assert "first-engine loopback: completed" in rounds[6]
    # Whatever was behind it, whoever read the first four and the last has read the whole answer.
    assert done.text.count(whole(TOKENS)) == 5


@pytest.mark.parametrize("path", ["", "/v1"], ids=["ollama", "openai"])
def test_another_engine(path: str) -> None:
    """Any engine at an address is asked for its first model, and answers."""
    with run_engine(answer_tokens=30, models=("tiny",)) as engine:
        done = run("--base-url", engine.url + path)
    assert (done.code, done.text, done.causes) == (0, whole(30), ["COMPLETED"])
    assert done.attempts == [f"first {'openai' if path else 'ollama'} tiny: completed"]


@pytest.mark.parametrize("path", ["", "/v1"], ids=["ollama", "openai"])
def test_an_engine_that_dies(path: str) -> None:
    """In the middle of an answer: what came is a part, the receipt says so, and the program ends with 1."""
    with ExitStack() as life:
        engine = life.enter_context(silent_engine())
        with running("--base-url", engine.url + path, "--model", "m") as program:
            program.read_until(lambda text: len(text) > 40)
            life.close()
            done = program.rest()
    assert done.code == 1
    assert [cause.split()[0] for cause in done.causes] == ["TRUNCATED"]
    assert whole(LEAD).startswith(done.text)
    assert not done.crashed


def test_an_engine_that_is_not_there() -> None:
    """Where a model is to be looked up it is said at once; otherwise on a receipt."""
    nowhere = ("--base-url", "http://127.0.0.1:1")
    done = run(*nowhere)
    assert (done.code, done.answer) == (1, "")
    assert "check --base-url, or name one with --model" in done.said
    done = run(*nowhere, "--model", "m")
    assert (done.code, done.answer) == (1, "")
    assert done.causes[0].startswith("PRODUCER_ERROR by PRODUCER")
    assert not done.crashed


def test_an_engine_that_has_nothing_to_say() -> None:
    """An answer that comes to its end without any text is a failure, and not kept."""
    chunk = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    body = b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(chunk).encode()
    with answers_with(200, body) as (url, asked):
        done = run("--base-url", url, "--model", "m")
    assert (done.code, done.answer, len(asked)) == (1, "", 1)
    assert "the chain ended with EmptyAnswer" in done.said
    assert "COMPLETED" not in done.causes[0]


# -- readers that leave ----------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(
    ("number", "code", "cause"),
    [
        (signal.SIGINT, 130, "USER_CANCEL by CONSUMER: Ctrl-C"),
        (signal.SIGTERM, 143, "SHUTDOWN by SERVER: SIGTERM"),
    ],
)
def test_a_signal_in_mid_stream(number: int, code: int, cause: str) -> None:
    """It ends the stream with its receipt, and the engine, in the middle of its answer, has lost its reader."""
    with silent_engine() as engine:
        with running(*at(engine)) as program:
            program.read_until(lambda text: len(text) > 40)
            program.signal(number)
            done = program.rest()
        engine.wait_idle()
        (request,) = engine.requests
    assert (done.code, done.causes) == (code, [cause])
    assert done.answer.endswith("\n")
    assert whole(LEAD).startswith(done.text)
    assert done.under("connection") == ["confirmed"]
    assert request.generated <= LEAD
    assert not request.ran_to_end
    assert not done.crashed


@posix
def test_a_signal_before_the_first_token() -> None:
    """The same as long as nothing has come: one attempt, which was cut, and no further call."""
    with run_engine(first_token_delay=600) as engine:
        with running(*at(engine)) as program:
            engine.wait_until(lambda requests: len(requests) == 1, timeout=60)
            program.signal(signal.SIGINT)
            done = program.rest()
        engine.wait_idle()
        assert [request.generated for request in engine.requests] == [0]
    assert (done.code, done.answer) == (130, "")
    assert done.causes == ["USER_CANCEL by CONSUMER: Ctrl-C"]
    assert done.attempts == ["first openai loopback: cut"]


@posix
def test_a_signal_between_rounds() -> None:
    """Whoever stops the first of the simulated failures does not see the second."""
    with running("--simulate-failures") as program:
        program.read_until(bool)
        program.signal(signal.SIGINT)
        done = program.rest()
    assert done.code == 130
    assert done.causes == ["USER_CANCEL by CONSUMER: Ctrl-C"]
    assert "Round 2" not in done.said


@posix
@pytest.mark.parametrize("options", [(), ("--monitor-performance",)], ids=" ".join)
def test_a_reader_that_leaves(options: tuple[str, ...]) -> None:
    """Nobody reads stdout any more: the stream ends at the next word, and nothing complains at the exit."""
    with run_engine(interval=0.05, answer_tokens=10_000) as engine:
        with running(*at(engine), *options) as program:
            program.read_until(lambda text: len(text) > 20)
            program.leave()
            done = program.rest()
        engine.wait_idle()
        (request,) = engine.requests
    assert done.code == 1
    assert done.causes == ["CLIENT_DISCONNECT by CONSUMER: nobody reads the answer any more"]
    assert not request.ran_to_end
    assert not done.crashed
    assert "BrokenPipeError" not in done.said
