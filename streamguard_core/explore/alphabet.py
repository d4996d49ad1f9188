"""Every input there is: all that may happen to a stream."""

from __future__ import annotations

from streamguard_core.explore.consuming import consumer
from streamguard_core.explore.deciding import AUTHORITIES, authority, deadlines, driver
from streamguard_core.explore.inputs import Bound, Input
from streamguard_core.explore.producing import chunk, gate, producer
from streamguard_core.limits import Limits


def alphabet(bound: Bound, limits: Limits) -> tuple[Input, ...]:
    """All inputs of a stream with these limits."""
    sizes = (*bound.sizes, limits.max_buffer_bytes + 1)
    return (
        *(one for size in sizes for one in chunk(size, bound)),
        *producer(),
        *gate(bound),
        *consumer(bound),
        *(authority(name, cause, bound) for name, cause in AUTHORITIES.items()),
        *deadlines(),
        *driver(),
    )
