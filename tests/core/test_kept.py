"""What is kept of a stream, and which streams: the parts that do not need an adapter to be seen."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from streamguard_core import StreamSession, UsageError
from streamguard_core.keeping import KeptStreams
from streamguard_core.kept import KeptStream
from streamguard_core.replay import Refusal, ResumeError


class Reader:
    """A connection."""

    def supersede(self) -> None:
        """Another one reads."""


def kept() -> KeptStream:
    """A stream that is kept."""
    return KeptStreams().keep_for(StreamSession(stream_id="s"), "ann", "/")


async def test_a_stream_is_read_on_its_own_loop() -> None:
    """A reader who was sent to another loop of the process is told so; no lock and no timer crosses loops."""
    stream = kept()

    def elsewhere() -> None:
        asyncio.run(stream.taken_over(0, 1.0, lambda form, opening: Reader()))

    with pytest.raises(ResumeError) as refused:
        await asyncio.to_thread(elsewhere)
    assert refused.value.refusal is Refusal.ELSEWHERE
    assert "another event loop" in refused.value.said["detail"]
    assert isinstance(await stream.taken_over(0, 1.0, lambda form, opening: Reader()), Reader)


async def test_a_reader_who_does_not_let_go() -> None:
    """The one who comes is told to try again, and the old one keeps the stream."""
    stream, old = kept(), Reader()
    stream.read_by(old)
    with pytest.raises(ResumeError) as refused:
        await stream.taken_over(0, 0.001, lambda form, opening: Reader())
    assert (refused.value.refusal, refused.value.refusal.status) == (Refusal.BUSY, 409)
    assert stream.reader is old


async def test_a_name_that_fits_in_no_event() -> None:
    """Said when the stream is to be kept, and nothing is."""
    streams = KeptStreams()
    with pytest.raises(UsageError, match="printable ASCII"):
        streams.keep_for(StreamSession(stream_id="na\xefve"), "", "/")
    assert repr(streams) == "<KeptStreams window=30s, 0 streams>"


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_has_a_status(refusal: Refusal) -> None:
    """None is a success, and none is the server's failure."""
    assert 400 <= refusal.status < 500


async def test_a_name_that_is_given_again_within_the_window() -> None:
    """Of two streams of one name the later is kept, and is forgotten when its own window is over."""
    streams = KeptStreams(window=30)

    async def read_to_its_end(owner: str) -> KeptStream:
        stream, reader = streams.keep_for(StreamSession(stream_id="s"), owner, "/"), Reader()
        stream.read_by(reader)
        stream.session.cancel()
        stream.left(reader)
        await asyncio.sleep(20)
        return stream

    await read_to_its_end("ann")
    later = await read_to_its_end("bob")
    assert streams.find_of("s", "", "bob") is later
    await asyncio.sleep(20)
    assert repr(streams) == "<KeptStreams window=30s, 0 streams>"


async def test_a_stream_that_is_forgotten_while_it_is_read() -> None:
    """It stays forgotten when its reader leaves: nothing of it is held, and no place of another is taken."""
    streams, reader = KeptStreams(max_ended=1), Reader()
    first, second = (streams.keep_for(StreamSession(stream_id=name), "", "/") for name in "ab")
    for stream in (first, second):
        stream.session.cancel()
        stream.ended()
        stream.read_by(reader)
    for stream in (first, second):
        stream.left(reader)
    assert streams.find_of("b", "", "") is second
    with pytest.raises(ResumeError):
        streams.find_of("a", "", "")
    await asyncio.sleep(31)
    second.forget()
    assert repr(streams) == "<KeptStreams window=30s, 0 streams>"


@pytest.mark.parametrize("kept", [True, False])
async def test_a_name_with_a_dot(kept: bool) -> None:
    """A reader stops its stream by the id that it was told, whatever an application has made that of."""
    streams, session = KeptStreams(), StreamSession(stream_id="chat.42")
    held = streams.keep_for(session, "", "/") if kept else streams.expect(session, "")
    assert streams.outcome_of("chat.42", "").live
    assert streams.stop_of(f"chat.42.{streams.place}", "").stopped
    assert held.session.cause is not None


def test_the_place_is_known_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first requests, which may come in two threads at once, make nothing of which the other had a part."""
    streams = KeptStreams()
    monkeypatch.delattr(secrets, "token_hex")
    assert streams.place
