"""The reader for pages in a real browser: what it reads, acknowledges, comes back to, stops and refuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from streamguard_testing import ServerProcess

from .conftest import BOUND

APP = Path(__file__).with_name("reader_app.py")
READ = """async ([path, options, most, stop]) => {
  const { read } = await import("/streams/reader.js");
  const tries = [];
  const reader = read(path, { ...options, lost: (count) => tries.push(count) });
  window.reader = reader;
  const events = [];
  let problem = null;
  try {
    for await (const event of reader) {
      events.push(event.data);
      if (events.length === most) { if (stop) reader.stop(); else break; }
    }
  } catch (error) { problem = { name: error.name, kind: error.kind, status: error.status, detail: error.detail }; }
  return { events, end: reader.end, streamId: reader.streamId, place: reader.place, tries, problem };
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """The application, as a process."""
    pytest.importorskip("uvicorn")
    with ServerProcess([sys.executable, str(APP), "{port}"]) as process:
        yield process


@pytest.fixture
def reading(page: Any, server: ServerProcess) -> Any:
    """A page that is of the application."""
    page.goto(server.url)
    return page


def read(page: Any, path: str, most: int = 0, *, stop: bool = False, **options: Any) -> Any:
    """Read in the page; `most` events, and then leave, or stop."""
    return page.evaluate(READ, [path, {"streams": "/streams"} | options, most, stop])


def receipt_of(server: ServerProcess, stream_id: str) -> dict[str, Any]:
    """Wait for it."""
    end = monotonic() + BOUND
    while not (found := httpx.get(f"{server.url}/receipts/{stream_id}").json()):
        assert monotonic() < end, "no receipt came"
    said: dict[str, Any] = found
    return said


def words(count: int) -> list[str]:
    """What the application streams."""
    return [f"{number} " for number in range(count)]


def test_it_reads_to_the_end_and_acknowledges_everything(
    reading: Any, server: ServerProcess
) -> None:
    """All events, the end, and a receipt that counts what the page has."""
    said = read(reading, "/words?count=150&pace=0.01")
    assert said["events"] == words(150)
    assert (said["end"]["cause"], said["end"]["committed"], said["problem"]) == (
        "COMPLETED",
        150,
        None,
    )
    assert receipt_of(server, said["streamId"]) == {"cause": "COMPLETED", "consumed": 150}
    assert reading.complaints == []


def test_a_page_that_freezes_is_cut_off(reading: Any, server: ServerProcess) -> None:
    """It stops asking for events, its connection stays: what it had is what it had said."""
    stream_id = reading.evaluate(
        """async () => {
          const { read } = await import("/streams/reader.js");
          window.reader = read("/bounded?count=100000&pace=0.01", { streams: "/streams" });
          window.events = window.reader[Symbol.asyncIterator]();
          for (let count = 0; count < 10; count++) await window.events.next();
          return window.reader.streamId;
        }"""
    )
    said = receipt_of(server, stream_id)
    assert said["cause"] == "CONSUMER_STALLED"
    # The tenth was handed over and not asked past.
    assert said["consumed"] in range(1, 10)


def test_a_reader_that_does_not_acknowledge(reading: Any, server: ServerProcess) -> None:
    """It is a reader as always."""
    said = read(reading, "/words?count=20&pace=0.1", acknowledge=False)
    assert said["end"]["cause"] == "COMPLETED"
    assert receipt_of(server, said["streamId"])["consumed"] == 20


def test_it_comes_back_and_misses_nothing(reading: Any, server: ServerProcess) -> None:
    """A connection that breaks is taken up where it was; the count goes on over both."""
    said = read(reading, "/kept?count=60&pace=0.01&break=20")
    assert said["events"] == words(60)
    assert said["tries"] == [1]
    assert said["end"]["cause"] == "COMPLETED"
    assert said["place"]["id"].startswith(said["streamId"])
    assert receipt_of(server, said["streamId"]) == {"cause": "COMPLETED", "consumed": 60}


def test_another_page_goes_on(reading: Any, server: ServerProcess) -> None:
    """What a page keeps of its place is enough for the next one to go on with the stream; the older one is told."""
    first = reading.evaluate(
        """async () => {
          const { read } = await import("/streams/reader.js");
          window.reader = read("/kept?count=400&pace=0.01", { streams: "/streams" });
          window.events = window.reader[Symbol.asyncIterator]();
          for (let count = 0; count < 10; count++) await window.events.next();
          return { id: window.reader.place.id, streamId: window.reader.streamId };
        }"""
    )
    said = read(reading, "/kept", place={"id": first["id"]})
    assert said["streamId"] == first["streamId"]
    assert said["events"] == words(400)[int(first["id"].rpartition(":")[2]) :]
    kind = reading.evaluate(
        "async () => { try { for (;;) { if ((await window.events.next()).done) return null; } }"
        " catch (error) { return error.kind; } }"
    )
    assert kind == "superseded"
    done = read(reading, "/kept", place=said["place"])
    assert (done["events"], done["end"]) == ([], {})


def test_stop_is_authority_and_leaving_is_not(reading: Any, server: ServerProcess) -> None:
    """`stop()` ends the stream as its reader's wish, with an end; `break` leaves."""
    said = read(reading, "/words?count=100000&pace=0.01", 10, stop=True)
    assert said["end"]["cause"] == "USER_CANCEL"
    receipt = receipt_of(server, said["streamId"])
    assert receipt == {"cause": "USER_CANCEL", "consumed": said["end"]["committed"]}
    left = read(reading, "/words?count=100000&pace=0.01", 10)
    assert left["end"] is None
    assert receipt_of(server, left["streamId"])["cause"] == "CLIENT_DISCONNECT"


def test_what_is_refused_is_said(reading: Any, server: ServerProcess) -> None:
    """A status, and the server's words if it has some; no server; a stream that cannot be continued."""
    problem = read(reading, "/nothing")["problem"]
    assert (problem["name"], problem["kind"], problem["status"]) == ("ReadError", "refused", 404)
    problem = read(reading, "/kept", place={"id": "unknown.0:3"})["problem"]
    assert (problem["kind"], problem["status"]) == ("refused", 421)
    assert "another process" in problem["detail"]
    assert read(reading, "http://127.0.0.1:9/")["problem"]["kind"] == "unreachable"
    assert read(reading, "/words?count=50&pace=0.01&break=10")["problem"]["kind"] == "lost"


def test_its_signal_ends_it(reading: Any, server: ServerProcess) -> None:
    """A reader that leaves: no end, no error."""
    said = reading.evaluate(
        """async () => {
          const { read } = await import("/streams/reader.js");
          const aborter = new AbortController();
          const reader = read("/words?count=100000&pace=0.01", { streams: "/streams", signal: aborter.signal });
          let count = 0;
          for await (const event of reader) if (++count === 5) aborter.abort();
          return { end: reader.end, streamId: reader.streamId };
        }"""
    )
    assert said["end"] is None
    assert receipt_of(server, said["streamId"])["cause"] == "CLIENT_DISCONNECT"
