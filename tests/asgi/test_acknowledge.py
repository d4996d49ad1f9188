"""Readers that acknowledge: exact counts, stalls that no `send` shows, and every wrong word answered harmlessly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from streamguard_asgi import Acknowledge, GuardedResponse, Resume, guard_stream
from streamguard_core import Cause, UsageError
from streamguard_core.testing import run

from .acknowledging import Rig, name_of
from .driver import Server, causes, eos, eventually

STALL = 10.0


async def test_consumed_is_what_the_reader_says() -> None:
    """The server's `send` has taken all of it; the receipt has what the reader got, once it has said so."""
    rig = Rig()
    async with rig.get() as server:
        await server.events_sent(3)
        assert await rig.acknowledged(server, 2) == (
            200,
            {"stream_id": name_of(server), "counted": True, "consumed": 2, "sealed": False},
        )
        rig.engines[0].finish()
        await server.ended()
    assert eos(server)["committed"] == 3
    assert rig.receipts == []
    await rig.acknowledged(server, 3)
    await eventually(lambda: rig.receipts)
    receipt = rig.receipts[0]
    assert (receipt.cause, receipt.committed, receipt.consumed) == (Cause.COMPLETED, 3, 3)


def test_eos_and_the_response_wait_for_nothing() -> None:
    """A reader that goes silent after the last chunk gets its EOS at once (G6), and the response is over."""
    rig = Rig(consumer_stall=STALL)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with rig.get() as server:
            await server.events_sent(3)
            await rig.acknowledged(server, 1)
            rig.engines[0].finish()
            await server.ended()
            assert loop.time() == 0
            assert eos(server)["cause"] == "COMPLETED"
            await asyncio.sleep(1.9)
            assert rig.receipts == []
            await asyncio.sleep(0.2)
        assert [(receipt.cause, receipt.consumed) for receipt in rig.receipts] == [
            (Cause.COMPLETED, 1)
        ]

    run(main())


def test_a_frozen_reader_is_seen_though_no_send_blocks() -> None:
    """It is cut off as stalled at its deadline; the provider is let go, and the reader told, should it wake up."""
    rig = Rig(consumer_stall=STALL)

    async def main() -> None:
        async with rig.get() as server:
            await server.events_sent(3)
            await rig.acknowledged(server, 3)
            for _ in range(10):
                await asyncio.sleep(1)
                rig.engines[0].make()
            await server.ended()
            # A second until the first chunk that it owes, and its time from there.
            assert asyncio.get_running_loop().time() == pytest.approx(1 + STALL)
        assert eos(server)["cause"] == "CONSUMER_STALLED"

    run(main())
    receipt = rig.receipts[0]
    assert (receipt.cause, receipt.consumed) == (Cause.CONSUMER_STALLED, 3)
    assert rig.engines[0].closed


@pytest.mark.parametrize(
    ("required", "announced", "cut"),
    [
        (False, "1", True),
        (True, None, True),
        (True, "0", True),
        (False, None, False),
        (False, "0", False),
    ],
)
def test_a_reader_that_never_begins(required: bool, announced: str | None, cut: bool) -> None:
    """Cut off if it said that it would, or has to; else it is a reader as always, and its transport's word is taken."""
    rig = Rig(Acknowledge(required=required), consumer_stall=STALL)

    async def main() -> None:
        async with rig.get(announced=announced) as server:
            await server.events_sent(3)
            assert ("streamguard-acknowledge" in server.headers) is cut
            await asyncio.sleep(60)
            assert bool(rig.receipts) is cut
            rig.engines[0].finish()
            await server.ended()

    run(main())
    cause = Cause.CONSUMER_STALLED if cut else Cause.COMPLETED
    assert [(receipt.cause, receipt.consumed) for receipt in rig.receipts] == [
        (cause, 0 if cut else 3)
    ]


@pytest.mark.parametrize(("stall", "delay"), [(None, "1000"), (60, "1000"), (2, "500")])
async def test_the_reader_is_told_how_long_it_may_collect(stall: float | None, delay: str) -> None:
    """In milliseconds, by the header that it asked with; its events have the numbers that it acknowledges."""
    rig = Rig(consumer_stall=stall)
    async with rig.get() as server:
        await server.events_sent(3)
        assert server.headers["streamguard-acknowledge"] == delay
        assert [line for line in server.text.split("\n") if line.startswith("id")] == [
            "id: 1",
            "id: 2",
            "id: 3",
        ]
        server.leave()
        await server.ended()


async def test_wrong_words_change_nothing() -> None:
    """Duplicate, older, malformed, beyond, unknown: each has its answer, and the count stays as it is."""
    rig = Rig()
    async with rig.get() as server:
        await server.events_sent(3)
        assert (await rig.acknowledged(server, 2))[1]["counted"]
        for old in (2, 1, 0):
            status, said = await rig.acknowledged(server, old)
            assert (status, said["counted"], said["consumed"]) == (200, False, 2)
        for malformed in ("-1", "1.5", "x", "%D9%A3", "9" * 16, "2:3"):
            assert (await rig.acknowledged(server, malformed))[1]["error"] == "malformed"
        for beyond in (4, 10**14):
            status, said = await rig.acknowledged(server, beyond)
            assert (status, said["error"]) == (409, "beyond")
        assert (await rig.post("/streams/other/acknowledged/1"))[1]["error"] == "unknown"
        assert (await rig.acknowledged(server, 2))[1]["consumed"] == 2
        server.leave()
        await server.ended()
    assert [receipt.consumed for receipt in rig.receipts] == [2]
    status, said = await rig.acknowledged(server, 3)
    assert (status, said["counted"], said["consumed"], said["sealed"]) == (200, False, 2, True)
    assert [receipt.consumed for receipt in rig.receipts] == [2]


async def test_somebody_elses_stream() -> None:
    """Only its owner acknowledges or stops a stream; nobody else learns anything of it."""
    rig = Rig(Acknowledge(owner=lambda request: request.headers.get("x-user", "")))
    async with rig.get(x_user="ada") as server:
        await server.events_sent(3)
        for path in ("acknowledged/3", "stop"):
            for headers in ({}, {"x_user": "eve"}):
                status, said = await rig.post(f"/streams/{name_of(server)}/{path}", **headers)
                assert (status, said["error"]) == (403, "not_yours")
        assert (await rig.acknowledged(server, 3, x_user="ada"))[1]["consumed"] == 3
        assert (await rig.post(f"/streams/{name_of(server)}/stop", x_user="ada"))[1]["stopped"]
        await server.ended()
    await eventually(lambda: rig.receipts)
    assert causes(rig.receipts) == [Cause.USER_CANCEL]


async def test_nobody_said_so() -> None:
    """Acknowledgements of a reader that did not announce them are refused; it can stop its stream all the same."""
    rig = Rig()
    async with rig.get(announced=None) as server:
        await server.events_sent(3)
        assert (await rig.acknowledged(server, 3))[1]["error"] == "unexpected"
        assert (await rig.post(f"/streams/{name_of(server)}/stop"))[1]["stopped"]
        await server.ended()
    assert causes(rig.receipts) == [Cause.USER_CANCEL]


async def test_an_owner_that_raises() -> None:
    """There is no stream then, and the provider is not called: the failure is the application's."""

    def owner(_: Any) -> str:
        raise KeyError("secret")

    rig = Rig(Acknowledge(owner=owner))
    with pytest.raises(KeyError):
        await rig.get().run()
    assert causes(rig.receipts) == [Cause.CONSUMER_ERROR]
    assert not rig.engines[0].started


async def test_a_chunk_without_text_is_owed_by_nobody() -> None:
    """An empty chunk has no event: a reader that has all events has everything."""

    async def words() -> Any:
        for word in ("a", "", "b", ""):
            yield word

    rig = Rig(chat=words)
    async with rig.get() as server:
        await server.ended()
    assert (await rig.acknowledged(server, 3))[1]["consumed"] == 4
    await eventually(lambda: rig.receipts)
    assert rig.receipts[0].consumed == rig.receipts[0].committed == 4


async def test_eos_says_the_finish_before_the_receipt_is_there() -> None:
    """What the provider said at its end is known without the receipt, which waits."""

    async def words(request: Request) -> Any:
        yield "a"
        request.state.streamguard.sessions[0].finish("length")

    rig = Rig(chat=words)
    async with rig.get() as server:
        await server.ended()
    assert (eos(server)["finish"], rig.receipts) == ("length", [])
    await rig.acknowledged(server, 1)
    await eventually(lambda: rig.receipts)
    assert rig.receipts[0].finish == "length"


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/plain"])
async def test_formats_without_numbers(accept: str) -> None:
    """Lines and text cannot be acknowledged: their readers are readers as always, also where it is required."""
    rig = Rig(Acknowledge(required=True), consumer_stall=STALL)
    async with rig.get(accept=accept) as server:
        await eventually(lambda: rig.engines and rig.engines[0].generated == 3)
        rig.engines[0].finish()
        await server.ended()
    assert "streamguard-acknowledge" not in server.headers
    assert [receipt.consumed for receipt in rig.receipts] == [3]


async def test_a_streaming_response_cannot_be_numbered() -> None:
    """The endpoint is told so, as for resume."""

    async def words() -> Any:
        yield "a"

    @guard_stream(acknowledge=Acknowledge())
    async def endpoint() -> StreamingResponse:
        return StreamingResponse(words())

    with pytest.raises(UsageError, match=r"acknowledge=.*cannot be numbered"):
        await endpoint()


async def test_a_response_of_its_own() -> None:
    """`GuardedResponse(acknowledge=...)` takes them without the decorator, and without the middleware."""
    acknowledge = Acknowledge()
    rig = Rig(acknowledge)

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await GuardedResponse(await rig.chat(), acknowledge=acknowledge)(scope, receive, send)

    async with Server(stream, headers=[(b"streamguard-acknowledge", b"1")]) as server:
        await server.events_sent(3)
        assert (await rig.acknowledged(server, 3))[1]["consumed"] == 3
        rig.engines[0].finish()
        await server.ended()


async def test_the_reader_for_pages_is_served() -> None:
    """Below the mount of either object, as a module."""
    for app in (Acknowledge(), Resume()):
        server = await Server(app, "/reader.js").run()
        assert server.status == 200
        assert server.headers["content-type"].startswith("text/javascript")
        assert "export function read(" in server.text
