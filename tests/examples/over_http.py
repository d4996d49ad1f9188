"""What every example chat does, asked over HTTP: it streams, stops, and shows true receipts."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from streamguard_testing import Fault, RawClient, RunningEngine, ServerProcess, run_engine

from .sites import Site, receipts_in

BOUND = 10.0
"""Longest wait for a receipt, in seconds."""
SPOKEN = 40
"""Tokens after which an engine that has a reader to lose says nothing more."""
QUESTION = {"messages": [{"role": "user", "content": "a secret question"}]}


async def receipt_of(http: httpx.AsyncClient, stream_id: str) -> dict[str, Any]:
    """The receipt of a stream, once there is one: what the page does after an abort."""
    async with asyncio.timeout(BOUND):
        while True:
            answer = await http.get(f"/receipts/{stream_id}")
            if answer.status_code == 200 and answer.json()["sealed"]:
                found: dict[str, Any] = answer.json()
                return found
            await asyncio.sleep(0.01)


def mentions(folder: Path, words: bytes) -> bool:
    """True when a file below a folder holds some words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return any(words in path.read_bytes() for path in files)


class ChatOverHTTP:
    """Tests of one site, for its own test file to inherit."""

    site: ClassVar[Site]

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[RunningEngine]:
        """An engine in the tests' own hands, fast enough for a whole answer."""
        with run_engine(interval=0.003) as running:
            yield running

    @pytest.fixture
    def silent(self, engine: RunningEngine) -> Iterator[RunningEngine]:
        """The engine, which comes to no end by itself: a test takes the time that it needs."""
        engine.set_fault(Fault(stall_after=SPOKEN))
        yield engine
        engine.set_fault(Fault())

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Where the chat keeps what it keeps."""
        return tmp_path_factory.mktemp("chat")

    @pytest.fixture(scope="class")
    @classmethod
    def chat(cls, engine: RunningEngine, folder: Path) -> Iterator[ServerProcess]:
        """The example, started as its README says, against that engine."""
        with cls.site.serve(folder, "--engine", engine.url) as server:
            yield server

    async def test_leaving_is_seen_by_the_engine_and_on_the_receipt(
        self, silent: RunningEngine, chat: ServerProcess, folder: Path
    ) -> None:
        """The reader aborts and stays away: the engine is let go, and the receipt is found by the id in the header."""
        client = await RawClient.open(chat.url, "POST", "/chat", QUESTION)
        await client.read_until(10)
        stream_id = client.headers["streamguard-stream-id"]
        client.leave()
        silent.wait_idle()
        request = silent.requests[-1]
        assert not request.ran_to_end
        async with httpx.AsyncClient(base_url=chat.url) as http:
            receipt = await receipt_of(http, stream_id)
            listed = (await http.get("/receipts")).json()
            assert (await http.get("/receipts/nothing")).status_code == 404
        assert (receipt["cause"], receipt["model"], receipt["max_tokens"]) == (
            "CLIENT_DISCONNECT",
            "loopback",
            400,
        )
        assert 1 <= receipt["consumed"] <= receipt["produced"] <= SPOKEN
        assert receipt["tags"]["route"] == "chat"
        assert listed[0]["stream_id"] == stream_id
        assert not mentions(folder, b"secret question")
        assert "secret question" not in chat.output()

    async def test_a_whole_answer_ends_explicitly(self, chat: ServerProcess) -> None:
        """An answer that is read to its end has `eos`, and a receipt that says COMPLETED."""
        async with httpx.AsyncClient(base_url=chat.url, timeout=20) as http:
            answer = await http.post("/chat", json=QUESTION)
            eos = json.loads(answer.text.rpartition("\ndata: ")[2])
            assert (eos["cause"], eos["finish"], eos["committed"]) == ("COMPLETED", "length", 400)
            receipt = await receipt_of(http, answer.headers["streamguard-stream-id"])
        assert (receipt["consumed"], receipt["eos_delivered"]) == (400, True)

    @pytest.mark.usefixtures("silent")
    async def test_stop_is_the_readers_own_decision(self, chat: ServerProcess) -> None:
        """`/stop` ends a stream as USER_CANCEL with an explicit end; what has ended stays as it is."""
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

    async def test_the_statistics_count_what_has_ended(self, chat: ServerProcess) -> None:
        """What has ended since the start is counted by category, with what it came to."""
        async with httpx.AsyncClient(base_url=chat.url, timeout=20) as http:
            before = (await http.get("/statistics")).json()
            answer = await http.post("/chat", json=QUESTION)
            await receipt_of(http, answer.headers["streamguard-stream-id"])
            async with asyncio.timeout(BOUND):
                while True:
                    after = (await http.get("/statistics")).json()
                    if after["ended"] != before["ended"]:
                        break
                    await asyncio.sleep(0.01)
        assert after["ended"]["completed"] == before["ended"].get("completed", 0) + 1
        assert int(after["output"].split()[0]) >= 400
        assert (after["running"], after["chunks"]) == (0, 0)

    async def test_nothing_comes_from_elsewhere_and_other_names_are_refused(
        self, chat: ServerProcess
    ) -> None:
        """No content from other hosts; a page of another site cannot reach us by a name of its own."""
        async with httpx.AsyncClient(base_url=chat.url) as http:
            parts = [
                (await http.get(path)).text
                for path in ("/", "/chat.js", "/reading.js", "/streams/reader.js", "/style.css")
            ]
            refused = await http.post("/chat", json=QUESTION, headers={"host": "evil.example"})
        assert "streamguard-stream-id" in "".join(parts)
        assert "http://" not in "".join(parts)
        assert "https://" not in "".join(parts)
        assert refused.status_code == 400

    async def test_it_runs_without_anything(self, tmp_path: Path) -> None:
        """One command, no engine, no key: the loopback engine inside answers."""
        with self.site.serve(tmp_path) as server:
            async with await RawClient.open(server.url, "POST", "/chat", QUESTION) as client:
                assert len(await client.read_until(2)) == 2
            assert "loopback engine" in server.output()

    def test_an_engine_that_is_not_there_is_said(self) -> None:
        """A wrong address ends with what to check, not with a traceback."""
        said = self.refused("--engine", "http://127.0.0.1:9")
        assert "check --engine, or name one with --model" in said

    def test_a_ledger_that_cannot_be_written_is_said(self, tmp_path: Path) -> None:
        """Before anything is served, and in words."""
        receipts_in(tmp_path).write_text("a file")
        assert "cannot open a ledger for writing" in self.refused(
            "--ledger", str(receipts_in(tmp_path))
        )

    @pytest.mark.parametrize("window", ["0", "-1", "nan", "inf", "x"])
    def test_a_window_that_is_none_is_said(self, window: str) -> None:
        """How long to wait is a positive number of seconds."""
        assert "--window" in self.refused("--window", window, code=2)

    def refused(self, *arguments: str, code: int = 1) -> str:
        """What it says when it does not start: no traceback."""
        command = self.site.command("--port", "0", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        return done.stderr
