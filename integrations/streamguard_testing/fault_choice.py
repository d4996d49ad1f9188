"""Which fault a request gets: its own or the engine's, and only as many times as was said."""

from __future__ import annotations

from typing import Final

from streamguard_testing.faults import FAULT_HEADER, Fault
from streamguard_testing.http1 import Request

_ID_HEADER: Final = "x-engine-request-id"
# A bound, not a promise: who chooses this many faults of their own has long forgotten the first.
_MOST_COUNTED: Final = 10_000


class FaultChoice:
    """Chooses the fault of each request, and counts those that go away after some times."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._used = 0
        self._own: dict[tuple[str, str | None], int] = {}

    @property
    def fault(self) -> Fault:
        """What goes wrong with requests that do not choose for themselves."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        self._used = 0

    def of(self, request: Request) -> Fault:
        """Return the fault of a request.

        A fault of its own is counted for requests that are alike: a client that tries again sends
        the same fault and the same id.

        Raises:
            ValueError: When it chooses what is no fault.
        """
        text = request.headers.get(FAULT_HEADER)
        if text is None:
            self._used += 1
            return self._fault if _holds(self._fault, self._used) else Fault()
        # How often the engine's own fault holds says nothing of this one.
        fault = Fault.from_json(text, self._fault.overridden({"times": None}))
        key = text, request.headers.get(_ID_HEADER)
        used = self._own.pop(key, 0) + 1
        if fault.times is not None:
            self._own[key] = used
            if len(self._own) > _MOST_COUNTED:
                del self._own[next(iter(self._own))]
        return fault if _holds(fault, used) else Fault()

    def forget(self) -> None:
        """Count from the beginning again."""
        self._used = 0
        self._own.clear()


def _holds(fault: Fault, used: int) -> bool:
    return fault.times is None or used <= fault.times
