"""Whether a stream is still wanted: what producers ask before they make a further call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamguard_core import AnyChunk, Report, StreamSession, cancel, drain, grace
from streamguard_core.testing import run, settled


class Asking:
    """A producer that asks its report, before and after the reader has left."""

    def __init__(self) -> None:
        self.report: Any = None

    async def stream(self, *, report: Report) -> AsyncIterator[list[AnyChunk]]:
        self.report = report
        yield ["a"]
        yield ["b"]


@pytest.mark.parametrize("policy", [cancel(), grace(60.0), drain(60.0)], ids=str)
def test_nobody_is_called_for_a_reader_who_left(policy: Any) -> None:
    """While its reader is there a stream is wanted; after a disconnect it is not, whatever the policy reads on for."""

    async def main() -> None:
        producer = Asking()
        session = StreamSession(producer, on_disconnect=policy)
        chunks = session.__aiter__()
        assert await anext(chunks) == "a"
        assert producer.report.wanted()
        assert session.wanted()
        session.disconnected()
        assert not producer.report.wanted()
        assert not session.wanted()
        await settled()
        await chunks.aclose()
        await session.shutdown()

    run(main())


def test_a_reader_who_comes_back_wants_it_again() -> None:
    """Under `grace` a reader who is back makes the stream wanted."""

    async def main() -> None:
        session = StreamSession(Asking(), on_disconnect=grace(60.0))
        chunks = session.__aiter__()
        await anext(chunks)
        session.disconnected()
        session.reconnected()
        assert session.wanted()
        await chunks.aclose()
        await session.shutdown()

    run(main())
