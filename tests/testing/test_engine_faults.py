"""Every fault of the engine does what it says, on the wire and in the counts."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest

from streamguard_testing import (
    Cut,
    Ending,
    Fault,
    LoopbackEngine,
    NGramModel,
    RawClient,
    State,
    Usage,
)

Ask = Callable[..., Awaitable[RawClient]]
Read = Callable[[bytes], list[Any]]
PATHS = ["/api/chat", "/api/generate", "/v1/chat/completions"]


def _terminal(frames: list[Any]) -> bool:
    """Tell whether a dialect's terminal marker is there."""
    return bool(frames) and (frames[-1] == "[DONE]" or bool(frames[-1].get("done")))


async def _rest(client: RawClient) -> bytes:
    """Read to the end, however the connection ends."""
    parts: list[bytes] = []
    try:
        while data := await client.read_some():
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


async def test_first_token_delay(ask: Ask) -> None:
    """The first token comes after the delay; the OpenAI dialect has its headers out before."""
    async with LoopbackEngine() as engine:
        for path in PATHS:
            fault = Fault(first_token_delay=0.05)
            client = await ask(engine, path[-4:], path=path, tokens=2, fault=fault)
            await client.read_to_end()
            record = engine.request(path[-4:])
            assert record.started_at is not None
            assert record.first_token_at is not None
            assert record.first_byte_at is not None
            assert record.first_token_at - record.started_at >= 0.05
            early = record.first_byte_at < record.first_token_at
            assert early is path.startswith("/v1")


async def test_a_request_chooses_to_think_less(ask: Ask) -> None:
    """The delay of a request replaces that of the engine."""
    async with LoopbackEngine(first_token_delay=60.0) as engine:
        client = await ask(engine, tokens=2, fault=Fault(first_token_delay=0.0))
        assert len(await client.read_until(3)) == 3


@pytest.mark.parametrize("path", PATHS)
async def test_header_delay(ask: Ask, path: str) -> None:
    """No byte comes, not even a header, before the delay is over."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, path=path, tokens=2, fault=Fault(header_delay=0.05))
        await client.read_to_end()
        record = engine.request("it")
        assert record.first_byte_at is not None
        assert record.first_byte_at - record.received_at >= 0.05


@pytest.mark.parametrize("path", PATHS)
async def test_stall(ask: Ask, objects: Read, path: str) -> None:
    """After so many tokens nothing comes any more, until the reader leaves."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, path=path, fault=Fault(stall_after=3))
        events = await client.read_until(4 if path.startswith("/v1") else 3)
        assert not _terminal(objects("\n".join(events).encode()))
        assert engine.request("it").state is State.GENERATING
        client.leave()
        record = await engine.request_ended("it")
        assert (record.generated, record.ending) == (3, Ending.ABANDONED)


@pytest.mark.parametrize(("path", "status"), [("/api/chat", 0), ("/v1/chat/completions", 200)])
async def test_stall_before_the_first_token(ask: Ask, path: str, status: int) -> None:
    """Stalling after no token at all: Ollama's headers never come, the others' do."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, path=path, fault=Fault(stall_after=0))
        if status:
            assert await client.read_head() == status
        await engine.wait_until(
            lambda: bool(engine.requests) and engine.request("it").state is State.THINKING
        )
        client.leave()
        record = await engine.request_ended("it")
        assert record.generated == 0
        assert (record.first_byte_at is None) is not status


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("path", PATHS)
async def test_cut(ask: Ask, objects: Read, path: str, after: int, cut: Cut) -> None:
    """The response ends without its terminal marker: in good HTTP, broken off, or by a reset."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, path=path, fault=Fault(cut_after=after, cut=cut))
        frames = objects(await _rest(client))
        assert client.complete is (cut is Cut.CLEAN)
        assert not _terminal(frames)
        opening = 1 if path.startswith("/v1") and after else 0
        assert len(frames) == after + opening
        record = await engine.request_ended("it")
        assert (record.generated, record.ending) == (after, Ending.CUT)
        assert record.left_by is None


async def test_cut_as_httpx_sees_it() -> None:
    """Httpx takes the clean cut for a success, and raises at the other two."""
    async with LoopbackEngine() as engine, httpx.AsyncClient() as http:
        body = {"model": "m", "prompt": "x"}
        url = f"{engine.url}/api/generate"
        fine = await http.post(url, json=body, headers=Fault(cut_after=3).to_header())
        assert len(fine.text.splitlines()) == 3
        for cut, error in ((Cut.ABRUPT, httpx.RemoteProtocolError), (Cut.RESET, httpx.ReadError)):
            with pytest.raises(error):
                await http.post(url, json=body, headers=Fault(cut_after=3, cut=cut).to_header())


@pytest.mark.parametrize("path", PATHS)
async def test_error_inside_a_200(ask: Ask, objects: Read, path: str) -> None:
    """After so many tokens an error frame comes, and the response ends without its marker."""
    async with LoopbackEngine() as engine:
        fault = Fault(error_after=2, error_message="out of memory")
        client = await ask(engine, path=path, fault=fault)
        frames = objects(await client.read_to_end())
        assert client.status == 200
        assert client.complete
        error = frames[-1]["error"]
        assert (error["message"] if path.startswith("/v1") else error) == "out of memory"
        record = await engine.request_ended("it")
        assert (record.generated, record.ending) == (2, Ending.FAILED)


async def test_error_inside_a_200_as_the_openai_client_sees_it() -> None:
    """OpenAI's own client raises at the error frame, after the tokens before it."""
    async with (
        LoopbackEngine(fault=Fault(error_after=2)) as engine,
        openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x", max_retries=0) as sdk,
    ):
        stream = await sdk.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        texts = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
        assert "".join(text or "" for text in texts) == "".join(NGramModel().generate(2))
        with pytest.raises(openai.APIError, match="told to fail"):
            await anext(stream)


async def test_error_without_a_stream(ask: Ask) -> None:
    """Without a stream the error is a status, since no 200 is out yet."""
    async with LoopbackEngine() as engine:
        client = await ask(engine, stream=False, fault=Fault(error_after=2))
        assert await client.read_head() == 500
        record = await engine.request_ended("it")
        assert (record.generated, record.ending) == (2, Ending.FAILED)


@pytest.mark.parametrize("path", PATHS)
async def test_status(ask: Ask, path: str) -> None:
    """An error status comes instead of tokens, in the dialect's words."""
    async with LoopbackEngine() as engine:
        fault = Fault(status=429, retry_after=7, error_message="slow down")
        client = await ask(engine, path=path, fault=fault)
        body = await client.read_to_end()
        assert (client.status, client.headers["retry-after"]) == (429, "7")
        assert b"slow down" in body
        record = await engine.request_ended("it")
        assert (record.generated, record.ending) == (0, Ending.REFUSED)
        assert not record.ran_to_end


async def test_retries_are_requests_of_their_own() -> None:
    """Each attempt of a client that retries has its own record, named after the first."""
    async with (
        LoopbackEngine(fault=Fault(status=500, retry_after=0)) as engine,
        openai.AsyncOpenAI(base_url=engine.openai_url, api_key="x", max_retries=1) as sdk,
    ):
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "hi"}],
                extra_headers={"x-engine-request-id": "it"},
            )
        assert [record.id for record in engine.requests] == ["it", "it.2"]


@pytest.mark.parametrize(("path", "idle"), [(PATHS[0], b"\n"), (PATHS[2], b": keep-alive\n\n")])
async def test_trickle_after_done(ask: Ask, objects: Read, path: str, idle: bytes) -> None:
    """After the terminal marker the connection stays open, and says nothing over and over."""
    async with LoopbackEngine() as engine:
        fault = Fault(trickle_after_done=True, trickle_interval=0.005)
        client = await ask(engine, path=path, tokens=3, fault=fault)
        body = b""
        while body.count(idle) < (3 if path.startswith("/v1") else 7):
            body += await client.read_some()
        assert _terminal(objects(body))
        assert not client.complete
        assert engine.request("it").state is State.TRICKLING
        client.leave()
        record = await engine.request_ended("it")
        assert (record.ending, record.ran_to_end) == (Ending.COMPLETED, True)
        assert record.noticed_at is not None


async def test_a_trickle_holds_no_slot(ask: Ask) -> None:
    """A request that only trickles does not keep others waiting."""
    async with LoopbackEngine(slots=1) as engine:
        first = await ask(engine, "first", tokens=2, fault=Fault(trickle_after_done=True))
        await first.read_until(3)
        second = await ask(engine, "second", tokens=2)
        assert len(await second.read_until(3)) == 3


@pytest.mark.parametrize("path", PATHS)
async def test_usage_never(ask: Ask, objects: Read, path: str) -> None:
    """The terminal marker comes, but no counters."""
    async with LoopbackEngine() as engine:
        fault = Fault(usage=Usage.NEVER)
        options = {"stream_options": {"include_usage": True}}
        client = await ask(engine, path=path, tokens=3, fault=fault, **options)
        frames = objects(await client.read_to_end())
        assert _terminal(frames)
        assert not [
            f for f in frames if isinstance(f, dict) and (f.get("usage") or "eval_count" in f)
        ]


@pytest.mark.parametrize("path", PATHS)
async def test_usage_late(ask: Ask, objects: Read, path: str) -> None:
    """The counters come a while after the last token, and after the finish where that is apart."""
    async with LoopbackEngine() as engine:
        fault = Fault(usage=Usage.LATE, usage_delay=0.05)
        options = {"stream_options": {"include_usage": True}}
        client = await ask(engine, path=path, tokens=3, fault=fault, **options)
        openai_like = path.startswith("/v1")
        early = await client.read_until(5 if openai_like else 3)
        assert (b'finish_reason":"length' in early[-1].encode()) is openai_like
        last = engine.request("it").last_token_at
        late = objects(await client.read_to_end())
        assert last is not None
        assert time.monotonic() - last >= 0.05
        assert late[0]["usage"]["completion_tokens"] == 3 if openai_like else late[0]["eval_count"]


async def test_a_break_beyond_the_end_does_nothing(ask: Ask, objects: Read) -> None:
    """A fault after more tokens than there are never happens; one after the last token does."""
    async with LoopbackEngine() as engine:
        whole = await ask(engine, "whole", tokens=3, fault=Fault(cut_after=4))
        assert _terminal(objects(await whole.read_to_end()))
        cut = await ask(engine, "cut", tokens=3, fault=Fault(cut_after=3))
        assert not _terminal(objects(await cut.read_to_end()))


async def test_bad_fault_header_is_refused() -> None:
    """A fault that does not exist is a 400 which names those that do."""
    async with LoopbackEngine() as engine, httpx.AsyncClient() as http:
        response = await http.post(
            f"{engine.url}/api/generate",
            json={"model": "m", "prompt": "x"},
            headers={"x-streamguard-fault": '{"explode": true}'},
        )
        assert response.status_code == 400
        assert "no such fault: explode" in response.json()["error"]


async def test_the_servers_fault_may_be_replaced(ask: Ask) -> None:
    """What goes wrong by default can be chosen while the engine runs."""
    async with LoopbackEngine() as engine:
        engine.fault = Fault(status=503)
        first = await ask(engine, "first")
        assert await first.read_head() == 503
        engine.fault = Fault()
        second = await ask(engine, "second", tokens=2)
        assert await second.read_head() == 200
