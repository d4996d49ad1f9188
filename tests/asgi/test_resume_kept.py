"""What is kept of a stream for its reader to come back to: which streams, how much, until when."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from streamguard_asgi import GuardedResponse, Resume, StreamGuardMiddleware, guard_stream
from streamguard_core import StreamSession, UsageError, cancel, grace

from ..adapters.resuming import ids, tokens  # noqa: TID252 - one rig for all adapters
from .driver import Engine, Server, eos, eventually
from .resuming import Rig


async def test_the_window() -> None:
    """Who does not come back in time leaves nothing behind of what was kept for him."""
    rig = Rig(Resume(window=0.02))
    await rig.broken_off()
    assert repr(rig.resume) == "<Resume window=0.02s, 1 streams>"
    await eventually(lambda: repr(rig.resume) == "<Resume window=0.02s, 0 streams>")


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
    rig.app = rig.app.app
    last = await rig.broken_off()
    rig.engines[0].make(1)
    rig.engines[0].finish()
    assert tokens((await rig.get(last).run()).text) == ["token4 "]


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
    assert ids(server.text)[-1] == f"mine.{resume.place}:2"
    engine.finish()
    again = await Server(
        app("unused"), headers=[(b"last-event-id", ids(server.text)[-1].encode())]
    ).run()
    assert eos(again)["committed"] == 2
    with pytest.raises(UsageError, match="printable ASCII"):
        await Server(app("na\xefve")).run()


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
