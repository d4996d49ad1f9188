"""Resuming by `Last-Event-ID`: who may, from where, until when, and what everybody else is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from streamguard_asgi import (
    GuardedResponse,
    Resume,
    StreamGuardMiddleware,
    guard_stream,
)
from streamguard_core import Cause, Receipt, StreamSession, UsageError, cancel, grace
from streamguard_core.replay import ResumePoint

from .driver import Engine, Server, eos, eventually


class Rig:
    """A resumable endpoint over an engine, and what became of its streams."""

    def __init__(self, resume: Resume | None = None, **options: Any) -> None:
        self.resume = resume or Resume()
        self.engines: list[Engine] = []
        self.receipts: list[Receipt] = []
        self.tokens = 3
        app = FastAPI()
        app.mount("/streams", self.resume)
        for path in ("/", "/other"):
            app.get(path)(guard_stream(resume=self.resume, **options)(self.chat))
        self.app = StreamGuardMiddleware(app, on_receipt=self.receipts.append)

    async def chat(self) -> Any:
        """The endpoint."""
        self.engines.append(Engine(self.tokens))
        return self.engines[-1].stream()

    def get(self, last_id: object = None, path: str = "/", **headers: str) -> Server:
        """A request of a reader."""
        wire = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        if last_id is not None:
            wire.append((b"last-event-id", str(last_id).encode()))
        return Server(self.app, path, headers=wire)

    async def post(self, path: str, **headers: str) -> tuple[int, Any]:
        """What a request below the mount is answered with."""
        wire = [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ]
        server = await Server(self.app, path, method="POST", headers=wire).run()
        return server.status, json.loads(server.text)

    async def broken_off(self, tokens: int = 3, **headers: str) -> str:
        """Read so many tokens and lose the connection; the last id."""
        async with self.get(**headers) as server:
            await server.events_sent(tokens)
            server.leave()
            await server.ended()
        return ids(server)[-1]


def ids(server: Server) -> list[str]:
    """The ids that were sent."""
    return [line[4:] for line in server.text.split("\n") if line.startswith("id: ")]


def texts(server: Server) -> list[str]:
    """The text of each event."""
    return [data for name, data in server.events if name == "message"]


def moved(last_id: str, **changes: Any) -> ResumePoint:
    """Another point than the one a reader was given."""
    return ResumePoint(
        **({name: getattr(ResumePoint.parse(last_id), name) for name in FIELDS} | changes)
    )


FIELDS = ("stream_id", "place", "offset")


async def test_the_first_bytes_say_where_to_resume() -> None:
    """A reader that loses its connection before the first token does not pay for a second answer."""
    rig = Rig(Resume(retry=2.5))
    rig.tokens = 0
    async with rig.get() as server:
        await server.until(lambda: bool(server.bodies))
        server.leave()
        await server.ended()
    assert server.bodies[0].endswith(b":0\nretry: 2500\n\n")
    rig.engines[0].make(1)
    rig.engines[0].finish()
    again = await rig.get(ids(server)[-1]).run()
    assert (texts(again), len(rig.engines)) == (["token1 "], 1)


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
async def test_what_was_missed_is_sent_again(offset: int) -> None:
    """From whatever event the reader got last: no gap, no repeat, the same ids, one receipt."""
    rig = Rig()
    last = await rig.broken_off()
    rig.engines[0].make(2)
    async with rig.get(moved(last, offset=offset)) as again:
        await again.events_sent(5 - offset)
        rig.engines[0].finish()
        await again.ended()
    assert texts(again) == [f"token{number} " for number in range(offset + 1, 6)]
    assert ids(again)[1:-1] == [str(moved(last, offset=number)) for number in range(offset + 1, 6)]
    assert eos(again)["cause"] == "COMPLETED"
    assert [(receipt.cause, receipt.consumed) for receipt in rig.receipts] == [(Cause.COMPLETED, 5)]
    assert len(rig.engines) == 1


async def test_a_stream_that_ended_meanwhile() -> None:
    """It is replayed to its end, as often as the reader asks within the window, and says how it ended."""
    rig = Rig()
    last = await rig.broken_off()
    rig.engines[0].make(2)
    rig.engines[0].finish()
    await eventually(lambda: rig.receipts)
    for _ in range(2):
        again = await rig.get(last).run()
        assert again.status == 200
        assert texts(again) == ["token4 ", "token5 "]
        assert eos(again)["cause"] == "COMPLETED"
    (receipt,) = rig.receipts
    assert receipt.client_left_early


async def test_a_stream_that_failed_meanwhile() -> None:
    """The failure is told in `eos`, not as a status: the answer had begun."""

    async def failing() -> AsyncIterator[str]:
        yield "a"
        await gate.wait()
        raise RuntimeError("provider")

    gate, resume = asyncio.Event(), Resume()
    app = StreamGuardMiddleware(GuardedResponse(failing(), resume=resume))
    async with Server(app) as server:
        await server.events_sent(1)
        server.leave()
        await server.ended()
    gate.set()
    again = await Server(app, headers=[(b"last-event-id", ids(server)[-1].encode())]).run()
    assert (again.status, texts(again)) == (200, [])
    assert (eos(again)["cause"], eos(again)["error"]) == ("PRODUCER_ERROR", "The model failed.")


async def test_who_has_everything_is_told_to_stop_asking() -> None:
    """An EventSource reconnects after the end, too; 204 is what keeps it from doing so for ever."""
    rig = Rig()
    async with rig.get() as server:
        await server.events_sent(3)
        rig.engines[0].finish()
        await server.ended()
    assert ids(server)[-1].endswith(":end")
    again = await rig.get(ids(server)[-1]).run()
    assert (again.status, again.text, len(rig.engines)) == (204, "", 1)


async def test_the_newest_connection_has_the_stream() -> None:
    """The old one is ended, also when its `send` is stuck, and its request's end does not touch the stream."""
    rig = Rig()
    async with rig.get() as old:
        await old.events_sent(3)
        old.stall()
        rig.engines[0].make(1)
        await eventually(lambda: old.senders)
        async with rig.get(ids(old)[2]) as new:
            await new.events_sent(2)
            old.leave()
            await old.ended()
            await asyncio.sleep(0)
            rig.engines[0].make(1)
            rig.engines[0].finish()
            await new.ended()
    assert texts(new) == ["token3 ", "token4 ", "token5 "]
    assert [receipt.cause for receipt in rig.receipts] == [Cause.COMPLETED]


async def test_the_old_connection_is_told() -> None:
    """One that is still read learns that it was superseded, and not to come back."""
    rig = Rig()
    async with rig.get() as old:
        await old.events_sent(3)
        async with rig.get(ids(old)[-1]) as new:
            await old.ended()
            assert old.complete
            assert old.events[-1] == ("superseded", "{}")
            assert ids(old)[-1].endswith(":end")
            rig.engines[0].finish()
            await new.ended()
    assert eos(new)["committed"] == 3


async def test_many_connections_at_once() -> None:
    """Whoever comes last has the stream, and it alone."""
    rig = Rig()
    last = await rig.broken_off()
    readers = [rig.get(last) for _ in range(5)]
    for reader in readers:
        await reader.__aenter__()
    await eventually(
        lambda: sum(bool(reader.sent) and not reader.complete for reader in readers) == 1
    )
    rig.engines[0].make(1)
    rig.engines[0].finish()
    for reader in readers:
        await reader.ended()
        await reader.__aexit__()
    assert [texts(reader) for reader in readers if texts(reader)] == [["token4 "]]


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"stream_id": "another"}, 404, "unknown"),
        ({"place": "0000"}, 421, "elsewhere"),
        ({"offset": 4}, 409, "beyond"),
        ({"offset": 10**14}, 409, "beyond"),
        (None, 400, "malformed"),
    ],
)
async def test_a_bad_id_is_refused(change: dict[str, Any] | None, status: int, error: str) -> None:
    """Each with its own answer, nothing of any stream, no call to a provider, and the stream goes on waiting."""
    rig = Rig()
    last = await rig.broken_off()
    refused = await rig.get("7" if change is None else moved(last, **change)).run()
    said = json.loads(refused.text)
    assert (refused.status, said["error"]) == (status, error)
    assert "token" not in refused.text
    assert len(rig.engines) == 1
    rig.engines[0].finish()
    assert eos(await rig.get(last).run())["cause"] == "COMPLETED"


async def test_what_fell_out_of_the_buffer() -> None:
    """A reader that missed more than is kept is told so; one that did not goes on."""
    rig = Rig(Resume(max_bytes=len("token1 ") * 2))
    last = await rig.broken_off()
    refused = await rig.get(moved(last, offset=0)).run()
    assert (refused.status, json.loads(refused.text)["error"]) == (410, "dropped")
    rig.engines[0].finish()
    assert texts(await rig.get(moved(last, offset=1)).run()) == ["token2 ", "token3 "]


async def test_a_refused_reader_ends_nobody() -> None:
    """A wrong offset does not take the stream from who reads it."""
    rig = Rig()
    async with rig.get() as server:
        await server.events_sent(3)
        refused = await rig.get(moved(ids(server)[-1], offset=9)).run()
        assert refused.status == 409
        rig.engines[0].make(1)
        rig.engines[0].finish()
        await server.ended()
    assert len(texts(server)) == 4


async def test_only_the_owner_may() -> None:
    """Another user with the right id gets neither the text nor the stop button."""

    async def owner(request: Any) -> str:
        user: str = request.headers["x-user"]
        return user

    rig = Rig(Resume(owner=owner))
    last = await rig.broken_off(x_user="ann")
    refused = await rig.get(last, x_user="bob").run()
    assert (refused.status, json.loads(refused.text)["error"]) == (403, "not_yours")
    path = f"/streams/{ResumePoint.parse(last).stream_id}/stop"
    assert (await rig.post(path, x_user="bob"))[0] == 403
    rig.engines[0].finish()
    assert eos(await rig.get(last, x_user="ann").run())["cause"] == "COMPLETED"


async def test_a_stream_belongs_to_its_address() -> None:
    """An address with weaker rules does not give out what another has opened."""
    rig = Rig()
    last = await rig.broken_off()
    refused = await rig.get(last, "/other").run()
    assert (refused.status, json.loads(refused.text)["error"]) == (403, "not_yours")


@pytest.mark.parametrize("answer", [None, 7])
async def test_an_owner_that_is_no_text(answer: Any) -> None:
    """A function that cannot say whose a request is opens nothing; the stream is closed, with a receipt of its own."""
    rig = Rig(Resume(owner=lambda request: answer))
    server = rig.get()
    with pytest.raises(UsageError, match="owner returned"):
        await server.run()
    assert [receipt.produced for receipt in rig.receipts] == [0]


async def test_stopping() -> None:
    """The stop button ends the stream as its reader's wish; stale wishes say what has become of it."""
    rig = Rig()
    async with rig.get() as server:
        await server.events_sent(3)
        path = f"/streams/{server.headers['streamguard-stream-id']}/stop"
        status, said = await rig.post(path)
        assert (status, said["stopped"], said["cause"]) == (200, True, "USER_CANCEL")
        await server.ended()
    assert eos(server)["cause"] == "USER_CANCEL"
    assert "error" not in eos(server)
    status, said = await rig.post(path)
    assert (status, said["stopped"], said["cause"]) == (200, False, "USER_CANCEL")
    assert [receipt.cause for receipt in rig.receipts] == [Cause.USER_CANCEL]


async def test_a_stale_stop() -> None:
    """Of a stream that has ended: ignored. Of one that is unknown, or another process's: refused."""
    rig = Rig()
    last = await rig.broken_off()
    rig.engines[0].finish()
    await eventually(lambda: rig.receipts)
    name = last.rpartition(":")[0]
    status, said = await rig.post(f"/streams/{name}/stop")
    assert (status, said["stopped"], said["cause"]) == (200, False, "COMPLETED")
    assert (await rig.post("/streams/older/stop"))[1]["error"] == "unknown"
    assert (await rig.post(f"/streams/{ResumePoint.parse(last).stream_id}.0/stop"))[0] == 421
    assert [receipt.cause for receipt in rig.receipts] == [Cause.COMPLETED]


async def test_stopping_while_the_reader_is_away() -> None:
    """The wish comes over a connection of its own: nobody needs to read the stream."""
    rig = Rig()
    last = await rig.broken_off()
    assert (await rig.post(f"/streams/{last.rpartition(':')[0]}/stop"))[1]["stopped"]
    await eventually(lambda: rig.receipts)
    assert rig.engines[0].closed
    assert eos(await rig.get(last).run())["cause"] == "USER_CANCEL"


async def test_the_window() -> None:
    """Who does not come back in time leaves nothing behind: neither a stream nor what was kept for it."""
    rig = Rig(Resume(window=0.02))
    last = await rig.broken_off()
    await eventually(lambda: rig.receipts)
    assert rig.engines[0].closed
    assert rig.receipts[0].policy == "grace(0.02s)"
    await eventually(lambda: repr(rig.resume) == "<Resume window=0.02s, 0 streams>")
    assert (await rig.get(last).run()).status == 404


async def test_only_so_many_ended_streams_are_kept() -> None:
    """The oldest go first; live ones stay."""
    rig = Rig(Resume(max_ended=1))
    lasts = [await rig.broken_off() for _ in range(3)]
    for engine in rig.engines[:2]:
        engine.finish()
    await eventually(lambda: len(rig.receipts) == 2)
    assert [(await rig.get(last).run()).status for last in lasts[:2]] == [404, 200]
    rig.engines[2].finish()
    assert eos(await rig.get(lasts[2]).run())["cause"] == "COMPLETED"


async def test_lines_and_text_are_not_resumed() -> None:
    """They have no ids: their reader's leaving ends the stream, as without `resume`."""
    rig = Rig()
    async with rig.get(accept="application/x-ndjson") as server:
        await server.until(lambda: "token3" in server.text)
        server.leave()
        await server.ended()
    await eventually(lambda: rig.receipts)
    assert (rig.receipts[0].cause, rig.receipts[0].policy) == (Cause.CLIENT_DISCONNECT, "cancel")


async def test_bytes_cannot_be_numbered() -> None:
    """What is framed already would be lost or repeated: said at once, not at the first reconnect."""
    resume = Resume()

    async def framed() -> AsyncIterator[bytes]:
        yield b"data: a\n\n"

    app = StreamGuardMiddleware(GuardedResponse(framed(), resume=resume))
    with pytest.raises(UsageError, match="cannot be numbered"):
        await Server(app).run()

    @guard_stream(resume=resume)
    async def endpoint() -> Any:
        return StreamingResponse(framed())

    api = FastAPI()
    api.get("/")(endpoint)
    with pytest.raises(UsageError, match="StreamingResponse"):
        await Server(StreamGuardMiddleware(api)).run()


@pytest.mark.parametrize("policy", [cancel, cancel(), lambda: None])
def test_a_policy_that_does_not_wait(policy: Any) -> None:
    """Together with `resume` it is a contradiction, which is said where it is written."""
    with pytest.raises(UsageError, match="does not wait"):
        guard_stream(resume=Resume(), on_disconnect=policy)(lambda: None)
    with pytest.raises(UsageError, match="does not wait"):
        GuardedResponse(None, resume=Resume(), on_disconnect=policy)


async def test_a_grace_of_ones_own() -> None:
    """Its bounds hold while the reader is away."""
    rig = Rig(on_disconnect=grace(30, max_tokens=2))
    await rig.broken_off()
    rig.engines[0].make(5)
    await eventually(lambda: rig.receipts)
    assert (rig.receipts[0].produced, rig.receipts[0].policy) == (5, "grace(30s,max_tokens=2)")


async def test_without_the_middleware() -> None:
    """The response watches for its reader itself, and the stream outlives it all the same."""
    rig = Rig()
    rig.app = rig.app.app  # type: ignore[assignment]
    last = await rig.broken_off()
    rig.engines[0].make(1)
    rig.engines[0].finish()
    assert texts(await rig.get(last).run()) == ["token4 "]


async def test_a_session_of_ones_own() -> None:
    """Built by the endpoint under `grace`, it is kept like any other; an id that fits in no event is refused."""
    resume, engine = Resume(), Engine(2)

    def app(stream_id: str) -> Any:
        def build(*asgi: Any) -> Any:
            session = StreamSession(engine.stream(), stream_id=stream_id, on_disconnect=grace(5))
            return GuardedResponse(session, resume=resume)(*asgi)

        return build

    async with Server(app("mine")) as server:
        await server.events_sent(2)
        server.leave()
        await server.ended()
    assert ids(server)[-1] == f"mine.{resume.place}:2"
    engine.finish()
    again = await Server(
        app("unused"), headers=[(b"last-event-id", ids(server)[-1].encode())]
    ).run()
    assert eos(again)["committed"] == 2
    with pytest.raises(UsageError, match="printable ASCII"):
        await Server(app("na\xefve")).run()


async def test_another_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork has the object and none of the streams: its readers are told to come to the right process."""
    rig = Rig()
    last = await rig.broken_off()
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: -1)
        refused = await rig.get(last).run()
    assert (refused.status, json.loads(refused.text)["error"]) == (421, "elsewhere")
    assert "sticky" in refused.text
    rig.engines[0].finish()


@pytest.mark.parametrize(
    "options", [{"retry": -1}, {"max_ended": -1}, {"window": -1}, {"max_bytes": 0}]
)
def test_bounds(options: dict[str, Any]) -> None:
    """What is out of range is said when it is written."""
    with pytest.raises(UsageError):
        Resume(**options)


async def test_head_keeps_nothing() -> None:
    """A HEAD request opens no stream that could be resumed."""
    rig = Rig()
    server = Server(rig.app, method="HEAD")
    await server.run()
    assert repr(rig.resume).endswith(" 0 streams>")
