"""Each hostile producer against each hostile consumer, by name, on every path and in every way to read."""

from __future__ import annotations

import pytest

from streamguard_core import cancel, drain, grace
from streamguard_core.testing import (
    Deed,
    leave,
    park,
    raise_error,
    read,
    read_batches,
    read_ready,
    second_reader,
)
from streamguard_core.testing.consumers import How

from .checks import check_all
from .lives import PULLED, PUSHED, Life
from .living import live

PRODUCERS: dict[str, tuple[str, ...]] = {
    "keeps its contract": ("emit three", "wait", "emit three"),
    "never awaits out": ("emit", "emit unawaited", "emit unawaited", "emit three"),
    "swallows cancellation": ("emit", "ignore cancel", "emit three", "hang", "emit"),
    "emits from a thread": ("emit from thread", "emit from thread", "emit"),
    "emits after return": ("emit", "emit late", "emit three"),
    "raises in finally": ("emit", "raise in finally", "emit three"),
    "yields nothing": ("emit nothing",),
    "yields nothing and hangs": ("emit nothing", "hang"),
    "yields 10 MB": ("emit", "big chunk", "emit"),
}
HOW: list[How] = ["break", "aclose", "cancel", "disconnected"]
CONSUMERS: dict[str, list[tuple[Deed, ...]]] = {
    "reads to EOS": [(read(),), (read_ready(),), (read_batches(),), (read_batches(beside=1),)],
    "reads after EOS": [
        (read(), read(), read_ready(), read_batches()),
        (read_ready(), read_ready(), read()),
        (read_batches(), read_batches(), read()),
        (read_batches(beside=1), read_batches(beside=1), read_ready()),
    ],
    "parks": [
        (read(1), park()),
        (read_ready(2, 1), park()),
        (read_batches(2, 1), park()),
        (read_batches(2, 2, beside=1), park()),
    ],
    "raises": [
        (read(1), raise_error()),
        (read_ready(2, 1), raise_error()),
        (read_batches(2, 1), raise_error()),
        (read_batches(2, 2, beside=1), raise_error()),
    ],
    "two readers": [
        (read(1), second_reader(), read()),
        (read_ready(2, 1), second_reader(), read_ready()),
        (read_batches(2, 1), second_reader(), read_batches()),
    ],
    **{
        f"leaves by {how}": [
            *[(read(steps), leave(how)) for steps in range(4)],
            *[(read_ready(2, steps), leave(how)) for steps in range(3)],
            *[(read_batches(2, steps), leave(how)) for steps in range(3)],
            *[(read_batches(2, steps, beside=1), leave(how)) for steps in range(1, 4)],
        ]
        for how in HOW
    },
}
# Which policy: a stream is pulled under cancel() alone, and the other two have their turn elsewhere.
POLICIES = {"own task": grace(3), "batches in a task": drain(3), "holding": grace(3, max_tokens=2)}


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("producer", PRODUCERS)
def test_a_hostile_producer_meets_a_hostile_consumer(producer: str, consumer: str) -> None:
    """However both behave, the stream ends once, in order, bounded, and with its true cause."""
    for path in PULLED + PUSHED:
        for deeds in CONSUMERS[consumer]:
            life = Life(
                path=path,
                policy=POLICIES.get(path, cancel()),
                speculative=2,
                inflight=2,
                deadlines=None,
                words=PRODUCERS[producer],
                deeds=deeds,
                closes=False,
                signals=(),
            )
            check_all(life, live(life))
