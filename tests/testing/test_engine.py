"""The engine as a server: its life, its control API, its bounds, and its run in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from streamguard_testing import (
    Ending,
    EngineRequest,
    Fault,
    LoopbackEngine,
    NGramModel,
    RawClient,
    State,
    run_engine,
)
from streamguard_testing.records import LiveRequest, RequestLog

Ask = Callable[..., Awaitable[RawClient]]
PROMPT = {"model": "m", "prompt": "x"}


# -------------------------------------------------------------------- life


async def test_stopping_lets_go_of_everybody(ask: Ask) -> None:
    """Stopping ends what runs, in every phase, and closes every connection."""
    async with LoopbackEngine(slots=1, interval=0.01) as engine:
        streaming = await ask(engine, "streaming")
        await streaming.read_until(1)
        await ask(engine, "queued")
        await engine.wait_until(lambda: len(engine.requests) == 2)
    assert {record.ending for record in engine.requests} == {Ending.STOPPED}
    assert {record.left_by for record in engine.requests} == {None}
    assert engine.open_connections == 0
    await streaming.read_to_end()
    assert streaming.truncated


async def test_an_engine_can_be_started_again() -> None:
    """A stopped engine can be started again, and remembers what it did; stopping twice is fine."""
    engine = LoopbackEngine()
    for _ in range(2):
        async with engine, httpx.AsyncClient() as http:
            await http.post(f"{engine.url}/api/generate", json=PROMPT)
        await engine.stop()
    assert len(engine.requests) == 2


async def test_starting_twice_is_an_error() -> None:
    """An engine that listens cannot be started."""
    async with LoopbackEngine() as engine:
        with pytest.raises(RuntimeError, match="not allowed twice"):
            await engine.start()
        assert repr(engine) == f"<LoopbackEngine {engine.url}, 0 requests>"


async def test_a_port_in_use_is_an_error_that_says_so() -> None:
    """Two engines cannot have the same port; the text says what to do."""
    async with LoopbackEngine() as engine:
        other = LoopbackEngine(port=engine.port)
        with pytest.raises(OSError, match=rf"127.0.0.1:{engine.port}: it is in use; choose"):
            await other.start()


async def test_urls() -> None:
    """An address of IPv6 stands in brackets; OpenAI clients have a base of their own."""
    async with LoopbackEngine(host="localhost") as engine:
        assert engine.url == f"http://localhost:{engine.port}"
        assert engine.openai_url == f"{engine.url}/v1"
    assert LoopbackEngine(host="::1", port=80).url == "http://[::1]:80"


async def test_observer_hears_of_every_ending(ask: Ask) -> None:
    """The observer gets the record of each request that ended; one that raises hurts nobody."""
    heard: list[EngineRequest] = []
    complaints: list[dict[str, Any]] = []

    def observe(record: EngineRequest) -> None:
        heard.append(record)
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    async with LoopbackEngine(on_ended=observe) as engine:
        for request_id in ("one", "two"):
            client = await ask(engine, request_id, tokens=2)
            await client.read_to_end()
            await engine.request_ended(request_id)
    assert [record.id for record in heard] == ["one", "two"]
    assert {record.state for record in heard} == {State.ENDED}
    assert len(complaints) == 2


async def test_waiting_is_bounded(ask: Ask) -> None:
    """What does not come true in time is an error that says what was waited for."""
    async with LoopbackEngine(first_token_delay=60.0) as engine:
        await ask(engine)
        with pytest.raises(TimeoutError, match=r"for request 'other' to end; .*: it thinking"):
            await engine.request_ended("other", timeout=0.05)
        with pytest.raises(TimeoutError, match="engine to be idle"):
            await engine.wait_idle(timeout=0.01)
        with pytest.raises(TimeoutError, match="condition of the caller's"):
            await engine.wait_until(lambda: False, timeout=0.01)


async def test_a_predicate_that_raises_ends_the_wait(ask: Ask) -> None:
    """An error in a predicate goes to whoever waits, not to the engine."""
    async with LoopbackEngine() as engine:
        waiting = asyncio.ensure_future(
            engine.wait_until(lambda: bool(engine.requests) and 1 / 0 > 0)
        )
        client = await ask(engine, tokens=2)
        with pytest.raises(ZeroDivisionError):
            await waiting
        assert len(await client.read_until(3)) == 3


async def test_unknown_requests() -> None:
    """Asking for a request that is not remembered is an error that names it."""
    async with LoopbackEngine() as engine:
        with pytest.raises(LookupError, match="no request 'it'"):
            engine.request("it")
        with pytest.raises(LookupError, match="no request 'it'"):
            engine.generated_after("it", 0.0)


async def test_reset_forgets_what_has_ended(ask: Ask) -> None:
    """Resetting forgets ended requests and keeps those that run."""
    async with LoopbackEngine() as engine:
        await ask(engine, "running", fault=Fault(stall_after=1))
        client = await ask(engine, "over", tokens=2)
        await client.read_to_end()
        await engine.request_ended("over")
        engine.reset()
        assert [record.id for record in engine.requests] == ["running"]


# -------------------------------------------------------------------- bounds


async def test_records_are_bounded() -> None:
    """The oldest ended requests are forgotten when there are too many."""
    async with LoopbackEngine(max_records=3) as engine, httpx.AsyncClient() as http:
        for number in range(6):
            headers = {"x-engine-request-id": f"r{number}"}
            await http.post(f"{engine.url}/api/generate", json=PROMPT, headers=headers)
        assert [record.id for record in engine.requests] == ["r3", "r4", "r5"]


def test_instants_are_bounded() -> None:
    """The oldest ended requests are forgotten as well when they hold too many instants."""
    log = RequestLog(max_records=100, max_instants=10)
    for number in range(4):
        live = LiveRequest(
            id=f"r{number}",
            dialect="ollama.chat",
            model="m",
            stream=True,
            prompt_tokens=1,
            max_tokens=4,
            planned_tokens=4,
            connection_opened_at=0.0,
            changed=log.changed,
        )
        log.add(live)
        live.count(4)
        live.end(Ending.COMPLETED)
        log.ended(live)
    assert [live.id for live in log.all()] == ["r2", "r3"]


async def test_connections_are_bounded(ask: Ask) -> None:
    """A connection too many is refused; the others are not touched."""
    async with LoopbackEngine(max_connections=1, interval=0.01) as engine:
        first = await ask(engine, "first", tokens=5)
        await first.read_until(1)
        second = await ask(engine, "second")
        assert await second.read_head() == 503
        assert len(await first.read_until(5)) == 5


async def test_a_client_that_sends_without_end_is_dropped(ask: Ask) -> None:
    """While an answer is on its way, only so much more is taken in."""
    async with LoopbackEngine(max_body_bytes=1000, first_token_delay=60.0) as engine:
        body = b'{"model": "m", "prompt": "x"}' + b" " * 900
        head = f"POST /api/generate HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        _, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        writer.write(head + body)
        await engine.wait_until(lambda: len(engine.requests) == 1)
        writer.write(b"x" * 2000)
        await engine.wait_until(lambda: engine.open_connections == 0)
        writer.close()
        assert engine.requests[0].generated == 0


async def test_a_model_that_fails_hurts_its_own_request_only(ask: Ask) -> None:
    """An error of ours ends one request, closes its connection, and is reported to the loop."""

    class Broken(NGramModel):
        def tokens(self, seed: int = 0) -> Iterator[str]:
            yield "one"
            raise ZeroDivisionError

    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    async with LoopbackEngine(model=Broken()) as engine:
        client = await ask(engine)
        await client.read_to_end()
        assert client.truncated
        record = await engine.request_ended("it")
        assert (record.generated, record.ending) == (1, Ending.STOPPED)
        assert [type(complaint["exception"]) for complaint in complaints] == [ZeroDivisionError]


async def test_what_is_no_http_is_refused() -> None:
    """Something that is no HTTP gets a 400, and the connection is closed."""
    async with LoopbackEngine() as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        writer.write(b"hello\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        writer.close()


# -------------------------------------------------------------------- HTTP


async def test_connections_are_kept_alive() -> None:
    """Requests one after the other, streamed or not, good or bad, share one connection."""
    limits = httpx.Limits(max_connections=1)
    async with LoopbackEngine() as engine, httpx.AsyncClient(limits=limits) as http:
        for body, status in ((PROMPT, 200), ({}, 400), (PROMPT | {"stream": False}, 200)):
            response = await http.post(f"{engine.url}/api/generate", json=body)
            assert response.status_code == status
        opened = {record.connection_opened_at for record in engine.requests}
        assert (len(opened), engine.open_connections) == (1, 1)


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Two requests sent at once get their answers one after the other."""
    async with LoopbackEngine() as engine:
        body = b'{"model":"m","prompt":"x","options":{"num_predict":2}}'
        one = b"POST /api/generate HTTP/1.1\r\ncontent-length: %d\r\n" % len(body)
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        writer.write(one + b"x-engine-request-id: a\r\n\r\n" + body)
        writer.write(one + b"x-engine-request-id: b\r\nconnection: close\r\n\r\n" + body)
        answer = await reader.read()
        assert answer.index(b"request-id: a") < answer.index(b"request-id: b")
        assert answer.count(b'"done":true') == 2
        assert [record.generated for record in engine.requests] == [2, 2]
        writer.close()


async def test_http_1_0_gets_no_chunks() -> None:
    """A reader of HTTP/1.0 gets the stream up to the end of the connection."""
    async with LoopbackEngine() as engine:
        body = b'{"model":"m","prompt":"x","options":{"num_predict":2}}'
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        writer.write(b"POST /api/generate HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)
        head, _, lines = (await reader.read()).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head
        assert lines.count(b"\n") == 3
        writer.close()


async def test_expect_continue() -> None:
    """A client that waits before it sends its body is told to go on."""
    async with LoopbackEngine() as engine:
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.port)
        head = b"POST /api/generate HTTP/1.1\r\nexpect: 100-continue\r\nconnection: close\r\n"
        writer.write(head + b"content-length: 27\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b'{"model":"m","prompt":"xy"}')
        assert (await reader.read()).count(b"\n") > 100
        writer.close()


# -------------------------------------------------------------------- control API


async def test_control_api_tells_what_was_counted(ask: Ask) -> None:
    """Another process learns the same numbers over HTTP, also those after an instant of its own."""
    async with LoopbackEngine() as engine, httpx.AsyncClient(base_url=engine.url) as http:
        client = await ask(engine, tokens=7)
        await client.read_to_end()
        record = await engine.request_ended("it")
        assert (await http.get("/_engine/requests")).json() == [record.as_dict()]
        params = {"after": str(record.first_token_at)}
        said = (await http.get("/_engine/requests/it", params=params)).json()
        assert said["generated_after"] == engine.generated_after("it", record.first_token_at or 0)
        assert (said["generated"], said["ending"]) == (7, "completed")
        before = time.monotonic()
        health = (await http.get("/_engine/health")).json()
        assert before <= health.pop("now") <= time.monotonic()
        assert health == {"status": "ok", "open_connections": 2, "requests": 1, "running": 0}
        assert (await http.post("/_engine/reset")).json() == {"forgotten": 1, "running": 0}
        assert (await http.get("/_engine/requests")).json() == []


async def test_control_api_sets_the_fault() -> None:
    """Another process can choose what goes wrong by default; an empty object is nothing."""
    async with LoopbackEngine() as engine, httpx.AsyncClient(base_url=engine.url) as http:
        said = (await http.post("/_engine/fault", json={"status": 503})).json()
        assert said["status"] == 503
        assert (await http.post("/api/generate", json=PROMPT)).status_code == 503
        await http.post("/_engine/fault", json={})
        assert (await http.post("/api/generate", json=PROMPT)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/_engine/", 404),
        ("GET", "/_engine/health/x", 404),
        ("GET", "/_engine/requests/unknown", 404),
        ("GET", "/_engine/requests?after=now", 400),
        ("GET", "/_engine/reset", 405),
        ("POST", "/_engine/requests", 405),
        ("POST", "/_engine/fault", 400),
    ],
)
async def test_control_api_refuses(method: str, path: str, status: int) -> None:
    """What the control API does not know is refused with a text that says what it knows."""
    async with LoopbackEngine() as engine, httpx.AsyncClient(base_url=engine.url) as http:
        response = await http.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]


async def test_ids_are_chosen_or_given() -> None:
    """The id of a request is its caller's, or the engine's; both come back in a header."""
    async with LoopbackEngine() as engine, httpx.AsyncClient(base_url=engine.url) as http:
        for wanted, given in (({}, "request-1"), ({"x-engine-request-id": "mine"}, "mine")):
            response = await http.post("/api/generate", json=PROMPT, headers=wanted)
            assert response.headers["x-engine-request-id"] == given
        bad = {"x-engine-request-id": "a/b"}
        response = await http.post("/api/generate", json=PROMPT, headers=bad)
        assert response.status_code == 400


async def test_no_prompt_is_remembered(ask: Ask) -> None:
    """Records count the prompt and do not hold it."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, tokens=1, prompt="secret", path="/api/generate")
        await client.read_to_end()
        record = await engine.request_ended("it")
        assert record.prompt_tokens == 1
        assert "secret" not in repr(record) + repr(engine) + repr(engine.log.get("it"))


# -------------------------------------------------------------------- in a thread


def test_in_a_thread() -> None:
    """A test without an event loop runs the engine in a thread and asks it the same questions."""
    with run_engine(interval=0.002) as engine:
        body = PROMPT | {"options": {"num_predict": 500}}
        headers = {"x-engine-request-id": "it"}
        url = f"{engine.url}/api/generate"
        with httpx.stream("POST", url, json=body, headers=headers) as response:
            lines = response.iter_lines()
            next(lines)
            engine.wait_until(lambda records: records[0].generated >= 3)
            left_at = time.monotonic()
        record = engine.request_ended("it")
        assert (record.ending, record.generated_after_noticed) == (Ending.ABANDONED, 0)
        assert engine.generated_after("it", left_at) <= 10
        assert list(engine.requests) == [engine.request("it")]
        engine.set_fault(Fault(status=500))
        assert httpx.post(engine.openai_url + "/chat/completions", json={}).status_code == 400
        assert httpx.post(url, json=PROMPT).status_code == 500
        engine.wait_idle()
        engine.reset()
        assert list(engine.requests) == []
        assert engine.open_connections in {0, 1}
        assert repr(engine) == f"<RunningEngine {engine.url}>"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", engine.port))
    assert not [t for t in threading.enumerate() if t.name == "loopback-engine"]


def test_a_thread_that_cannot_listen_says_so() -> None:
    """The caller gets the error of an engine that could not start."""
    with run_engine() as engine:
        again = run_engine(port=engine.port)
        with pytest.raises(OSError, match="it is in use"):
            again.__enter__()
