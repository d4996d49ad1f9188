"""Tests of the values: causes, chunks, limits, clocks, statistics, and what counts as a producer."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time
from functools import partial
from typing import Any

import pytest

from streamguard_core import (
    Category,
    Cause,
    Chunk,
    ChunkKind,
    Deadlines,
    LedgerError,
    Limits,
    LoopClock,
    Party,
    Producer,
    ProducerError,
    PullProducer,
    Signal,
    Statistics,
    StreamGuardError,
    SystemClock,
    TruncatedStream,
    UsageError,
    size_of,
    text_of,
)
from streamguard_core.causes import MAX_DETAIL, shorten
from streamguard_core.chunks import buffer_size
from streamguard_core.clock import SYSTEM_CLOCK, clock_of
from streamguard_core.limits import to_ns
from streamguard_core.producers import Drive, call_if_lazy, classify
from streamguard_core.testing import (
    ScriptedProducer,
    ScriptedPull,
    jumping_loop,
    scripted_blocking,
    scripted_iterator,
)

PARTIES = {
    Category.COMPLETED: None,
    Category.USER: Party.CONSUMER,
    Category.CONSUMER: Party.CONSUMER,
    Category.SHUTDOWN: Party.SERVER,
    Category.OPERATOR: Party.APPLICATION,
    Category.TIMEOUT: Party.CLOCK,
    Category.POLICY: Party.POLICY,
    Category.PRODUCER: Party.PRODUCER,
    Category.SYSTEM: Party.SERVER,
}


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_category_and_a_party(cause: Cause) -> None:
    """Completion is nobody's; everything else has somebody behind it (G14, regression 9)."""
    assert cause.party is PARTIES[cause.category]
    assert (cause.party is None) == (cause is Cause.COMPLETED)


def test_every_category_is_used() -> None:
    """The set of categories is closed, and none is there for nothing."""
    assert {cause.category for cause in Cause} == set(Category) == set(PARTIES)


def test_a_signal_knows_its_category() -> None:
    """The category follows from the cause."""
    assert Signal(Cause.BUDGET, Party.POLICY, "", 0).category is Category.POLICY


def test_details_are_one_short_line() -> None:
    """A receipt is no place for bodies: long texts are cut, line breaks become spaces."""
    assert shorten("  a\n b\t c ") == "a b c"
    assert len(shorten("x" * MAX_DETAIL)) == MAX_DETAIL
    assert shorten("x" * (MAX_DETAIL + 1)) == "x" * (MAX_DETAIL - 3) + "..."


def test_sizes_are_utf8_bytes() -> None:
    """Of text, text plus data, and raw bytes; half a surrogate pair is a size as well."""
    assert [size_of(chunk) for chunk in ("", "abc", "ä", "🙂", "\ud83d")] == [0, 3, 2, 4, 3]
    assert size_of(Chunk("ä", data=b"123")) == 5
    assert size_of(b"1234") == 4
    assert buffer_size("abc") == 3
    assert buffer_size(object()) == 0


def test_the_text_of_a_chunk() -> None:
    """A str is its own text; raw bytes have none that we understand."""
    assert [text_of(chunk) for chunk in ("a", Chunk("b"), b"c")] == ["a", "b", ""]
    assert str(Chunk("b", ChunkKind.REASONING)) == "b"


def test_a_chunk_with_content_is_true() -> None:
    """Text or data is content; kind and choice alone are not."""
    assert not Chunk()
    assert not Chunk(kind=ChunkKind.TOOL, choice=1)
    assert Chunk("a")
    assert Chunk(data=b"a")
    assert len(Chunk("ab", data=b"c")) == 3


def test_chunks_and_causes_survive_copying_and_pickling() -> None:
    """There is no sentinel whose identity matters (regression 24)."""
    for value in (Chunk("a", data=b"b"), Cause.COMPLETED, Party.CONSUMER, Category.USER):
        assert copy.deepcopy(value) == value
        assert pickle.loads(pickle.dumps(value)) == value
    assert len({Chunk("a"), Chunk("a"), Chunk("b")}) == 2


def test_limits_and_deadlines_have_defaults() -> None:
    """The bounds of the contract, and no deadline on a live stream."""
    assert (Limits().speculative_buffer_limit, Limits().max_inflight_commits) == (8, 16)
    assert Limits().max_buffer_bytes == 1 << 20
    assert not Deadlines().timed
    assert not Deadlines(close=1, finalisation=1).timed
    for name in ("connect", "first_token", "idle", "total", "consumer_stall"):
        assert Deadlines(**{name: 1}).timed


def test_seconds_become_nanoseconds_once() -> None:
    """Rounded, not cut."""
    assert to_ns(1.5) == 1_500_000_000
    assert to_ns(0.1 + 0.2) == 300_000_000


def test_clocks_tell_the_machines_time() -> None:
    """Monotonic nanoseconds and wall microseconds."""
    clock = SystemClock()
    before = clock.monotonic_ns()
    assert clock.monotonic_ns() >= before
    assert abs(clock.wall_us() - time.time() * 1e6) < 60e6


def test_a_virtual_loop_gives_its_own_time() -> None:
    """A loop whose time is virtual is asked; one on the machine's clock is not worth asking."""
    loop = jumping_loop()
    clock = clock_of(loop)
    assert isinstance(clock, LoopClock)
    loop._now = 2.5
    assert clock.monotonic_ns() == 2_500_000_000
    loop.close()
    real = asyncio.SelectorEventLoop()
    assert clock_of(real).monotonic_ns is SYSTEM_CLOCK.monotonic_ns
    real.close()


def test_uvloop_is_on_the_machines_clock() -> None:
    """Its timers run on the same clock."""
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    assert clock_of(loop).monotonic_ns is SYSTEM_CLOCK.monotonic_ns
    loop.close()


def test_statistics_have_derived_numbers() -> None:
    """What waits in each buffer follows from the counters."""
    statistics = Statistics(
        stream_id="s",
        state="streaming",
        producer="running",
        consumer="reading",
        cause=None,
        produced=9,
        committed=5,
        consumed=2,
        late=0,
        buffered_bytes=0,
    )
    assert (statistics.speculative, statistics.inflight) == (4, 3)


def test_errors_form_one_family() -> None:
    """Everything raised on purpose can be caught by one name."""
    for kind in (UsageError, ProducerError, TruncatedStream, LedgerError):
        assert issubclass(kind, StreamGuardError)
    assert issubclass(TruncatedStream, ProducerError)
    assert LedgerError("full").receipt is None


def _words() -> Any:
    yield "a"


@pytest.mark.parametrize(
    ("producer", "drive"),
    [
        (ScriptedProducer(), Drive.RUN),
        (ScriptedPull(), Drive.BATCHES),
        (scripted_iterator(), Drive.ASYNC),
        (["a"], Drive.SYNC),
        (_words(), Drive.SYNC),
        (lambda: None, Drive.FACTORY),
    ],
)
def test_producers_are_recognised_by_their_shape(producer: object, drive: Drive) -> None:
    """Each kind is driven in its way."""
    assert classify(producer) is drive


def test_lazy_callables_are_called_and_others_are_not() -> None:
    """Calling a generator function runs nothing; any other callable may call the provider."""
    assert classify(call_if_lazy(_words)) is Drive.SYNC
    assert classify(call_if_lazy(partial(_words))) is Drive.SYNC
    assert classify(call_if_lazy(scripted_iterator)) is Drive.ASYNC
    assert classify(call_if_lazy(partial(scripted_blocking))) is Drive.FACTORY
    made: partial[list[str]] = partial(list)
    assert call_if_lazy(made) is made


def test_the_contracts_can_be_asked_for() -> None:
    """`isinstance` with the protocols tells a producer of ours."""
    assert isinstance(ScriptedProducer(), Producer)
    assert isinstance(ScriptedPull(), PullProducer)
    assert not isinstance(object(), Producer)
