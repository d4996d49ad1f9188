"""The example `fastapi_chat` runs with one command, streams, stops, and shows true receipts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamguard_testing import RawClient, RunningEngine, ServerProcess, run_engine

from .driver import BOUND

MAIN = Path(__file__).parents[2] / "example_projects" / "fastapi_chat" / "main.py"
QUESTION = {"messages": [{"role": "user", "content": "a secret question"}]}


@pytest.fixture(scope="module")
def engine() -> Iterator[RunningEngine]:
    """An engine in the tests' own hands, fast enough for a whole answer."""
    with run_engine(interval=0.003) as running:
        yield running


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the receipts."""
    return tmp_path_factory.mktemp("receipts")


@pytest.fixture(scope="module")
def chat(engine: RunningEngine, ledger: Path) -> Iterator[ServerProcess]:
    """The example, started as its README says, against that engine."""
    with _started("--engine", engine.url, "--ledger", str(ledger)) as server:
        yield server


def _started(*arguments: str) -> ServerProcess:
    return ServerProcess(
        [sys.executable, str(MAIN), "--port", "{port}", "--window", "0.1", *arguments]
    )


def _mentions(folder: Path, words: bytes) -> bool:
    """True when a file of a folder holds some words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return any(words in path.read_bytes() for path in files)


async def _receipt(http: httpx.AsyncClient, stream_id: str) -> dict[str, Any]:
    """The receipt of a stream, once there is one: what the page does after an abort."""
    async with asyncio.timeout(BOUND):
        while True:
            answer = await http.get(f"/receipts/{stream_id}")
            if answer.status_code == 200 and answer.json()["sealed"]:
                found: dict[str, Any] = answer.json()
                return found
            await asyncio.sleep(0.01)


async def test_stop_is_seen_by_the_engine_and_on_the_receipt(
    engine: RunningEngine, chat: ServerProcess, ledger: Path
) -> None:
    """The reader aborts and stays away: the engine is let go, and the receipt is found by the id in the header."""
    client = await RawClient.open(chat.url, "POST", "/chat", QUESTION)
    await client.read_until(5)
    stream_id = client.headers["streamguard-stream-id"]
    client.leave()
    engine.wait_idle()
    request = engine.requests[-1]
    assert not request.ran_to_end
    async with httpx.AsyncClient(base_url=chat.url) as http:
        receipt = await _receipt(http, stream_id)
        listed = (await http.get("/receipts")).json()
        assert (await http.get("/receipts/nothing")).status_code == 404
    assert (receipt["cause"], receipt["model"], receipt["max_tokens"]) == (
        "CLIENT_DISCONNECT",
        "loopback",
        400,
    )
    assert 5 <= receipt["consumed"] <= receipt["produced"] < 400
    assert listed[0]["stream_id"] == stream_id
    assert not _mentions(ledger, b"secret question")


async def test_a_whole_answer_ends_explicitly(chat: ServerProcess) -> None:
    """An answer that is read to its end has `eos`, and a receipt that says COMPLETED."""
    async with httpx.AsyncClient(base_url=chat.url, timeout=20) as http:
        answer = await http.post("/chat", json=QUESTION)
        eos = json.loads(answer.text.rpartition("\ndata: ")[2])
        assert (eos["cause"], eos["finish"], eos["committed"]) == ("COMPLETED", "length", 400)
        receipt = await _receipt(http, answer.headers["streamguard-stream-id"])
    assert (receipt["consumed"], receipt["eos_delivered"]) == (400, True)


async def test_stop_is_the_readers_own_decision(chat: ServerProcess) -> None:
    """`/stop` ends a stream as USER_CANCEL with an explicit end; one that has ended stays as it is, others are 404."""
    async with (
        httpx.AsyncClient(base_url=chat.url, timeout=20) as http,
        http.stream("POST", "/chat", json=QUESTION) as answer,
    ):
        path = f"/streams/{answer.headers['streamguard-stream-id']}/stop"
        assert (await http.post(path)).json()["stopped"]
        assert '"cause":"USER_CANCEL"' in (await answer.aread()).decode()
        again = await http.post(path)
        assert again.status_code == 404 or not again.json()["stopped"]
        assert (await http.post("/streams/nothing/stop")).status_code == 404


async def test_the_statistics_count_what_has_ended(chat: ServerProcess) -> None:
    """What has ended since the start is counted by category, with what it came to."""
    async with httpx.AsyncClient(base_url=chat.url, timeout=20) as http:
        before = (await http.get("/statistics")).json()
        await http.post("/chat", json=QUESTION)
        after = (await http.get("/statistics")).json()
    assert after["ended"]["completed"] == before["ended"].get("completed", 0) + 1
    assert int(after["output"].split()[0]) >= 400
    assert (after["running"], after["chunks"]) == (0, 0)


async def test_nothing_comes_from_elsewhere_and_other_names_are_refused(
    chat: ServerProcess,
) -> None:
    """No content from other hosts; a page of another site cannot reach us by a name of its own."""
    async with httpx.AsyncClient(base_url=chat.url) as http:
        parts = [
            (await http.get(path)).text for path in ("/", "/chat.js", "/reading.js", "/style.css")
        ]
        refused = await http.post("/chat", json=QUESTION, headers={"host": "evil.example"})
        bad = await http.post("/chat", json={"messages": []})
    assert "streamguard-stream-id" in "".join(parts)
    assert "http://" not in "".join(parts)
    assert "https://" not in "".join(parts)
    assert (refused.status_code, bad.status_code) == (400, 422)


async def test_it_runs_without_anything(tmp_path: Path) -> None:
    """One command, no engine, no key: the loopback engine inside answers."""
    with _started("--ledger", str(tmp_path)) as server:
        async with await RawClient.open(server.url, "POST", "/chat", QUESTION) as client:
            assert len(await client.read_until(2)) == 2
        assert "loopback engine" in server.output()


def test_an_engine_that_is_not_there_is_said(tmp_path: Path) -> None:
    """A wrong address ends with what to check, not with a traceback."""
    command = [sys.executable, str(MAIN), "--port", "0", "--engine", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "check --engine, or name one with --model" in done.stderr
    assert "Traceback" not in done.stderr
