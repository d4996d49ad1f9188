"""Property tests over whole lives of streams, with hostile producers and hostile consumers.

`HYPOTHESIS_LIVES=20000 pytest tests/properties` looks longer.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from streamguard_core import cancel

from .checks import check_all
from .lives import PULLED, Life, lives
from .living import live

LIVES = int(os.environ.get("HYPOTHESIS_LIVES", "1000"))


@settings(
    max_examples=LIVES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(life=lives)
@pytest.mark.filterwarnings("error")
def test_every_life_keeps_every_guarantee(life: Life) -> None:
    """Whatever producer, consumer and outside do, the stream ends once, in order, bounded, and true."""
    check_all(life, live(life))


def test_pulled_paths_have_no_task() -> None:
    """The paths that are called pulled are: under cancel they run without a task of their own."""
    for path in PULLED:
        life = Life(
            path=path,
            policy=cancel(),
            speculative=1,
            inflight=1,
            deadlines=None,
            words=("emit", "emit three"),
            deeds=(),
            closes=False,
            signals=(),
        )
        assert live(life).receipt.produced == 0
