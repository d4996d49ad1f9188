"""The receipts of a block, and what is asserted of one, in words that say what is wrong."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.http import StreamingHttpResponse

from streamguard_core import Cause, CloseState, StreamSession
from streamguard_django import GuardedStreamingHttpResponse, stream_sealed
from streamguard_django.testing import assert_ended, collect_receipts

from .project import WSGIServer, project
from .receipts import receipt_of


def words() -> Iterator[str]:
    """A producer."""
    yield "one "
    yield "two "


def _view(request: Any) -> Any:
    return StreamingHttpResponse(words())


def test_the_receipts_of_a_block_are_collected() -> None:
    """Those of this block only, in the order of their ends."""
    with project(_view) as made:
        WSGIServer(made.wsgi()).read_to_end()
        with collect_receipts() as receipts:
            left = WSGIServer(made.wsgi())
            left.read()
            WSGIServer(made.wsgi()).read_to_end()
            left.leave()
            assert receipts.settle() == list(receipts)
        WSGIServer(made.wsgi()).read_to_end()
    assert [one.cause for one in receipts] == [Cause.COMPLETED, Cause.CLIENT_DISCONNECT]
    assert (len(receipts), receipts[1:]) == (2, [receipts[1]])
    assert f"{receipts[0].stream_id} COMPLETED" in repr(receipts)


def test_the_receipt_of_a_session_that_tells_nobody_is_found() -> None:
    """A view may build its session itself, without the observers of its request."""

    async def later() -> AsyncIterator[str]:
        yield "one"

    def view(request: Any) -> Any:
        return GuardedStreamingHttpResponse(StreamSession(later()))

    with project(view) as made, collect_receipts() as receipts:
        WSGIServer(made.wsgi()).read_to_end()
        assert receipts.only().cause is Cause.COMPLETED


def test_a_receipt_that_comes_later_is_waited_for() -> None:
    """One that another thread seals, while the test waits."""
    receipt = receipt_of("late")
    with collect_receipts() as receipts:
        late = threading.Thread(target=lambda: stream_sealed.send(None, receipt=receipt))
        late.start()
        assert receipts.only() is receipt
        late.join()


def test_a_stream_that_does_not_end_is_named() -> None:
    """Who forgets to read or leave is told which stream still runs."""
    with project(_view) as made, collect_receipts(timeout=0.01) as receipts:
        server = WSGIServer(made.wsgi())
        server.read()
        with pytest.raises(AssertionError, match=r"1 of 1 streams have not ended") as raised:
            receipts.only()
        server.leave()
        assert receipts.only().stream_id in str(raised.value)


def test_too_few_and_too_many_are_said() -> None:
    """None at all asks after the middleware; two are both named."""
    with collect_receipts(timeout=0.01) as receipts:
        with pytest.raises(AssertionError, match=r"0 receipts, not 1, .*MIDDLEWARE"):
            receipts.only()
        for name in ("a", "b"):
            stream_sealed.send(None, receipt=receipt_of(name))
        with pytest.raises(AssertionError, match="2 did: a CLIENT_DISCONNECT, b CLIENT_DISCONNECT"):
            receipts.only()


def test_what_is_asserted_of_a_receipt() -> None:
    """Cause, an end that is confirmed, and how much was made: each is said when it is wrong."""
    receipt = receipt_of("s1", produced=9)
    assert_ended(receipt, Cause.CLIENT_DISCONNECT, at_most=9)
    with pytest.raises(AssertionError, match="stream s1: it ended as CLIENT_DISCONNECT, not as"):
        assert_ended(receipt, Cause.COMPLETED)
    with pytest.raises(AssertionError, match="s1: 9 chunks were produced, and 8 were allowed"):
        assert_ended(receipt, Cause.CLIENT_DISCONNECT, at_most=8)
    unconfirmed = receipt_of("s2", close=CloseState.UNCONFIRMED, detail="the reader left")
    with pytest.raises(AssertionError, match=r"had not by the close deadline\. .*reader left; 9"):
        assert_ended(unconfirmed, Cause.CLIENT_DISCONNECT)
