"""The streams whose readers acknowledge, as an adapter keeps them: found by name, for their owner, while it matters."""

from __future__ import annotations

import gc

import pytest

from streamguard_core import Cause, StreamSession, UsageError
from streamguard_core.acknowledging import ACKNOWLEDGE_HEADER, AcknowledgedStreams
from streamguard_core.replay import Refusal, ResumeError


async def begun(
    streams: AcknowledgedStreams, name: str = "s", owner: str = "ada", *, expected: bool = True
) -> StreamSession:
    """A stream of one chunk that was sent."""
    session = StreamSession(iter(["word"]), stream_id=name)
    streams.begin(session, owner, expected=expected, stall=None)
    async for batch in session.batches():
        session.sending(len(batch))
    return session


@pytest.mark.parametrize("announced", [None, "", "0", "1", "yes"])
def test_who_acknowledges(announced: str | None) -> None:
    """Who says so; or everybody, where it is required."""
    assert AcknowledgedStreams().wants(announced) is (announced in ("1", "yes"))
    assert AcknowledgedStreams(required=True).wants(announced)


async def test_a_stream_is_known_until_it_is_sealed_and_then_remembered() -> None:
    """Its name may stand alone or with its process, as in events' ids; after the seal the receipt answers."""
    streams = AcknowledgedStreams()
    session = await begun(streams)
    assert repr(streams) == "<AcknowledgedStreams 1 streams>"
    for name in ("s", "s.a1b2"):
        assert streams.acknowledge_of(name, "ada", "0").consumed == 0
    assert streams.acknowledge_of("s", "ada", "1").sealed
    assert streams.live == 0
    said = streams.acknowledge_of("s", "ada", "1")
    assert (said.counted, said.consumed, said.sealed) == (False, 1, True)
    stopped = streams.stop_of("s.a1b2", "ada")
    assert (stopped.stream_id, stopped.stopped, stopped.cause) == ("s", False, "COMPLETED")
    assert (await session.receipt()).consumed == 1


@pytest.mark.parametrize("offset", ["", "-1", "1.5", "x", "\u0663", "9" * 16])
async def test_an_offset_that_is_none(offset: str) -> None:
    """Only digits, and not too many of them, are a commit offset; nothing is looked up for anything else."""
    with pytest.raises(ResumeError) as refused:
        AcknowledgedStreams().acknowledge_of("s", "ada", offset)
    assert refused.value.refusal is Refusal.MALFORMED


async def test_stopping() -> None:
    """A live stream ends as its reader's wish."""
    streams = AcknowledgedStreams()
    session = StreamSession(iter(["word"]), stream_id="s")
    streams.begin(session, "ada", expected=True, stall=None)
    assert streams.stop_of("s", "ada").stopped
    assert (await session.receipt()).cause is Cause.USER_CANCEL


async def test_the_oldest_are_forgotten() -> None:
    """Of so many that have ended it is known what became of them, and of no more."""
    streams = AcknowledgedStreams(max_ended=2)
    for name in ("a", "b", "c"):
        await (await begun(streams, name)).aclose()
    assert streams.acknowledge_of("b", "ada", "1").sealed
    with pytest.raises(ResumeError) as refused:
        streams.acknowledge_of("a", "ada", "1")
    assert refused.value.refusal is Refusal.UNKNOWN
    with pytest.raises(UsageError, match="max_ended"):
        AcknowledgedStreams(max_ended=-1)


@pytest.mark.parametrize("sealed", [False, True])
async def test_only_its_owner(sealed: bool) -> None:
    """Neither a live stream nor one that has ended is anybody else's business."""
    streams = AcknowledgedStreams()
    session = await begun(streams)
    if sealed:
        await session.aclose()
    for owner in ("", "eve"):
        with pytest.raises(ResumeError) as refused:
            streams.stop_of("s", owner)
        assert refused.value.refusal is Refusal.NOT_YOURS
    assert streams.acknowledge_of("s", "ada", "1").consumed == (0 if sealed else 1)


async def test_two_streams_of_one_name() -> None:
    """The later one is meant from its beginning on, also when the earlier one ends after that."""
    streams = AcknowledgedStreams()
    first, second = await begun(streams), await begun(streams)
    await first.aclose()
    assert streams.live == 1
    assert streams.acknowledge_of("s", "ada", "1").consumed == 1
    assert (await second.receipt()).consumed == 1


async def test_a_stream_that_is_dropped_is_not_held() -> None:
    """Nothing here keeps a session alive: it is finalised, and known no longer."""
    streams = AcknowledgedStreams()
    session = StreamSession(iter(["word"]), stream_id="s")
    streams.begin(session, "", expected=False, stall=None)
    del session
    gc.collect()
    with pytest.raises(ResumeError):
        streams.stop_of("s", "")


async def test_what_a_reader_is_told() -> None:
    """How long it may collect, in milliseconds; nothing where it does not acknowledge."""
    streams = AcknowledgedStreams()
    for expected, told in ((True, {ACKNOWLEDGE_HEADER: "250"}), (False, {})):
        session = StreamSession(iter(["word"]))
        assert streams.begin(session, "", expected=expected, stall=1) == told
        await session.aclose()


@pytest.mark.parametrize("expected", [True, False])
async def test_a_stream_that_is_sealed_before_it_is_known_is_not_held(expected: bool) -> None:
    """A reader may leave while it is asked whose it is: what has ended by then is remembered, and not live for ever."""
    streams = AcknowledgedStreams()
    session = StreamSession(iter(["word"]), stream_id="s")
    session.cancel()
    await session.aclose()
    streams.begin(session, "ada", expected=expected, stall=None)
    assert streams.live == 0
    assert streams.stop_of("s", "ada").cause == "USER_CANCEL"
