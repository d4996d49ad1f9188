"""`streamguard engine`: starts, says where, serves, tells of endings, and goes on Ctrl-C."""

from __future__ import annotations

import signal
import sys

import httpx
import pytest
from typer.testing import CliRunner

from streamguard_cli.app import app
from streamguard_testing import ServerProcess, run_engine

COMMAND = [sys.executable, "-u", "-m", "streamguard_cli", "engine", "--port", "{port}"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_interrupted(number: signal.Signals) -> None:
    """It prints its URL and two lines to try, tells of each ending, and ends cleanly."""
    with ServerProcess([*COMMAND, "--interval", "0.005"]) as server:
        body = {"model": "m", "prompt": "a secret", "options": {"num_predict": 5}}
        response = httpx.post(f"{server.url}/api/generate", json=body)
        assert response.text.count("\n") == 6
        body["options"] = {"num_predict": 10_000}
        with httpx.stream("POST", f"{server.url}/api/generate", json=body) as stream:
            next(stream.iter_lines())
        while httpx.get(f"{server.url}/_engine/health").json()["running"]:
            pass
        server.send_signal(number)
        assert server.wait() == 0
        said = server.output()
    assert f"The loopback engine listens on {server.url}" in said
    assert [line.split()[:3] for line in said.splitlines() if "curl" in line] == [
        ["curl", "-N", f"{server.url}/api/chat"],
        ["curl", "-N", f"{server.url}/v1/chat/completions"],
    ]
    assert "request-1 ollama.generate: 5 of 5 tokens\n" in said
    assert "of 10000 tokens, the reader left (" in said
    assert "), 0 generated after that\n" in said
    assert "Stopped after 2 requests and " in said
    assert "secret" not in said
    assert "Traceback" not in said


def test_options_reach_the_engine() -> None:
    """Seed, length and fault of the command line are those of the engine."""
    options = ["--interval", "0", "--seed", "3", "--answer-tokens", "4", "--slots", "2"]
    fault = ["--fault", '{"usage": "never"}', "--burst", "2", "--first-token-delay", "0.01"]
    body = {"model": "m", "prompt": "x", "stream": False}
    with ServerProcess([*COMMAND, *options, *fault]) as server:
        said = httpx.post(f"{server.url}/api/generate", json=body).json()
    with run_engine(seed=3, answer_tokens=4) as engine:
        wanted = httpx.post(f"{engine.url}/api/generate", json=body).json()
    assert said["response"] == wanted["response"]
    assert "eval_count" in wanted
    assert "eval_count" not in said


def test_a_fault_that_ends_the_response_is_told() -> None:
    """An ending that is neither completion nor a reader's leaving is named."""
    with ServerProcess([*COMMAND, "--fault", '{"cut_after": 1}']) as server:
        httpx.post(f"{server.url}/api/generate", json={"model": "m", "prompt": "x"})
        server.send_signal(signal.SIGINT)
        server.wait()
        assert "request-1 ollama.generate: 1 of 128 tokens, cut\n" in server.output()


def test_other_machines_get_in_only_with_a_warning() -> None:
    """A host that others can reach must be named, and is warned about; loopback is not."""
    for host, warned in (("0.0.0.0", True), ("127.0.0.2", False)):
        with ServerProcess([*COMMAND, "--host", host], host=host) as server:
            server.send_signal(signal.SIGINT)
            server.wait()
            assert ("Warning: 0.0.0.0 lets other machines in" in server.output()) is warned


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens-per-second", "-1"], "--tokens-per-second must be greater than 0"),
        (["--tokens-per-second", "5", "--interval", "1"], "--tokens-per-second or interval"),
        (["--first-token-delay", "-1"], "--first-token-delay must be 0 or more"),
        (["--slots", "0"], "slots must be 1 or more"),
        (["--port", "70000"], "port must be from 0 to 65535"),
        (["--fault", "cut"], "a fault is a JSON object"),
        (["--fault", '{"explode": 1}'], "no such fault: explode"),
    ],
)
def test_bad_options(arguments: list[str], message: str) -> None:
    """Options that make no sense are usage errors that name the option as it is typed."""
    said = CliRunner().invoke(app, ["engine", *arguments], env={"COLUMNS": "200"})
    assert said.exit_code == 2
    assert message in said.output


def test_port_in_use() -> None:
    """A port that is taken is one clear line, and no traceback."""
    with run_engine() as engine:
        said = CliRunner().invoke(app, ["engine", "--port", str(engine.port)])
    assert said.exit_code == 1
    assert said.stderr == (
        f"Error: cannot listen on 127.0.0.1:{engine.port}:"
        " it is in use; choose another port, or 0 for a free one\n"
    )
