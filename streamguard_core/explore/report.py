"""What an exploration found, as text for people and as plain data for machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from streamguard_core.explore.checks import GUARANTEES
from streamguard_core.explore.exploration import Exploration
from streamguard_core.explore.search import Violation

MOST_PRINTED: Final = 20


def as_text(exploration: Exploration) -> str:
    """A summary, every violation with its path, and a verdict as the last line."""
    return "\n".join(_lines(exploration))


def as_data(exploration: Exploration) -> dict[str, Any]:
    """Everything, as strings, numbers, lists and maps."""
    return {
        "bound": {**exploration.bound._asdict(), "sizes": list(exploration.bound.sizes)},
        "limits": msgspec.to_builtins(exploration.limits),
        "states": exploration.states,
        "transitions": exploration.transitions,
        "deepest": list(exploration.deepest),
        "seconds": round(exploration.seconds, 3),
        "checked": dict(GUARANTEES),
        "scenarios": [
            {
                "policy": each.scenario,
                "states": each.states,
                "transitions": each.transitions,
                "moved": each.moved,
                "complete": each.complete,
            }
            for each in exploration.scenarios
        ],
        "violations": [
            {**msgspec.to_builtins(each), "path": list(each.path)}
            for each in exploration.violations
        ],
        "complete": exploration.complete,
        "ok": exploration.ok,
    }


def _lines(exploration: Exploration) -> Iterator[str]:
    bound, limits = exploration.bound, exploration.limits
    yield (
        f"The protocol, driven through every interleaving: up to {bound.tokens} chunks of"
        f" {', '.join(str(size) for size in bound.sizes)} bytes and one that does not fit,"
    )
    yield (
        f"speculative_buffer_limit={limits.speculative_buffer_limit},"
        f" max_inflight_commits={limits.max_inflight_commits},"
        f" max_buffer_bytes={limits.max_buffer_bytes}; at most {bound.states:,} states of a policy"
    )
    yield f"checked: {', '.join(GUARANTEES)}"
    yield ""
    yield f"{'policy':36}{'states':>12}{'transitions':>14}{'deepest path':>14}{'violations':>12}"
    for each in exploration.scenarios:
        yield (
            f"{each.scenario:36}{each.states:>12,}{each.transitions:>14,}"
            f"{len(each.deepest):>14}{len(each.violations):>12}"
            f"{'' if each.complete else '  cut short'}"
        )
    yield ""
    for violation in exploration.violations[:MOST_PRINTED]:
        yield from _violation(violation)
    yield _verdict(exploration)


def _violation(violation: Violation) -> Iterator[str]:
    yield f"{violation.guarantee} is broken ({GUARANTEES[violation.guarantee]})"
    yield f"  {violation.text}"
    yield f"  policy {violation.scenario}, after {len(violation.path)} inputs:"
    for number, name in enumerate(violation.path, 1):
        yield f"    {number}. {name}"
    yield ""


def _verdict(exploration: Exploration) -> str:
    found = exploration.violations
    broken = ", ".join(name for name in GUARANTEES if any(name == v.guarantee for v in found))
    return (
        f"{exploration.states:,} states, {exploration.transitions:,} transitions,"
        f" deepest path {len(exploration.deepest)},"
        f" {len(found)} violations{f' of {broken}' if found else ''},"
        f"{'' if exploration.complete else ' cut short: what was not visited is not proved,'}"
        f" {exploration.seconds:.1f} s"
    )
