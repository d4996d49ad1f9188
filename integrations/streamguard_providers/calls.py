"""One HTTP call under governance: who is told of it, what is known of it, and its cutoff."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from streamguard_core import Attempt, Cause, CutOffError, Report, Scope
from streamguard_providers._httpx import connection_of, network_of, shut_down

#: Set in a request's extensions by our own producers: they report for themselves.
REPORTED: Final = "streamguard.reported"

_DIALLED: Final = ("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")


class Call:
    """What the two kinds of calls, async and sync, have in common. Implements `Governed`.

    A call belongs to a session's report, or to a scope. At the cutoff it closes its connection in
    the same step, whatever the application is doing with it; it is over when its body was read,
    closed or cut off, and is then reported as one attempt.

    Invariant: what is shut down is this call's connection: the call is over, or has forgotten it,
    before a pool may give it to another one.
    Invariant: nobody is called while the lock is held.

    Args:
        cut_off: the error a reader gets at the cutoff.
        provider: who is called.
        model: which model is asked for.
        clock: nanoseconds of a monotonic clock.
    """

    def __init__(
        self,
        cut_off: type[CutOffError],
        *,
        provider: str | None = None,
        model: str | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._error = cut_off
        self._clock = clock
        self._lock = threading.Lock()
        self._asked = False
        self._spends = True
        """It may cost something, and so is an attempt."""
        self._report: Report | None = None
        self._leave: Callable[[], object] | None = None
        self.connected = False
        self._watched = False
        """True once the transport tells what it does: then a connection that stood was seen."""
        self._transport: Any = None
        self._connection: Any = None
        self._network: Any = None
        """What is shut down at the cutoff; None while there is nothing, or others share it."""
        self._stream_id: int | None = None
        """The stream's number on a shared HTTP/2 connection."""
        self.dialled: Any = None
        """The network stream opened for this call."""
        self._held: Any = None
        """The network stream of a connection that is this call's alone, until it is given back."""
        self._started_ns = clock()
        self.provider = provider
        self.model = model
        self.request_id: str | None = None
        self.status: int | None = None
        self.bytes_received = 0
        self.was_cut = False
        self.over = False

    def __repr__(self) -> str:
        state = "cut off" if self.was_cut else "over" if self.over else "running"
        return f"<{type(self).__name__} {state}, status {self.status}, {self.bytes_received} bytes>"

    # -- whom it belongs to ------------------------------------------------------------------------

    def join(self, scope: Scope) -> None:
        """Report to the scope's session, or be a member of the scope where it has none."""
        if scope.session is not None:
            self.report_to(scope.session)
        else:
            self._leave = lambda: scope.discard(self)
            scope.add(self)

    def report_to(self, report: Report) -> None:
        """Report to `report` and be cut off with it; at once if its cutoff has passed."""
        self._report = report
        self._leave = report.on_close(self.cut)

    def disconnected(self, detail: str = "") -> None:
        """The reader is gone: nobody else wants this call, so that is its end."""
        self.cut()

    def terminate(self, cause: Cause, detail: str = "") -> None:
        """End now."""
        self.cut()

    # -- its end -----------------------------------------------------------------------------------

    def cut(self) -> None:
        """Close the connection now. May be called from any thread, at any time, more than once."""
        with self._lock:
            if self.was_cut or self.over:
                return
            self.was_cut = True
            self._close_network()
        self._interrupt()
        self.finish()

    def give_up(self) -> None:
        """Leave before the provider has ended, of our own accord."""
        self._depart()
        self.cut()

    def finish(self, failure: BaseException | None = None, *, whole: bool = False) -> bool:
        """The call is over, one way or the other: report it, once, and leave.

        Args:
            failure: what ended it, if something was raised.
            whole: whether the body was read to its end.

        Returns:
            False when it was over before.
        """
        with self._lock:
            if self.over:
                return False
            self.over = True
        # A session that cuts us off goes through its list: what it has called it need not forget.
        if self._report is None or not self.was_cut:
            self._depart()
        if self._report is not None and self._asked and self._spends:
            self._report.attempt(self.attempt())
        return True

    def received(self, part: bytes) -> None:
        """The application gets this part of the body next."""
        self.bytes_received += len(part)

    def attempt(self) -> Attempt:
        """What is known of this call, for the receipt."""
        return Attempt(
            provider=self.provider,
            model=self.model,
            request_id=self.request_id,
            status=self.status,
            started_ns=self._started_ns,
            closed_ns=self._clock(),
            bytes_received=self.bytes_received,
            cut=self.was_cut,
            connected=self.connected or (False if self._watched else None),
        )

    def later(self, seconds: float, callback: Callable[[], None]) -> Callable[[], object]:
        """Call something in so many seconds; returns what takes that back."""
        raise AssertionError("provided by the two kinds of calls")

    def cut_off(self) -> CutOffError:
        """The error for whoever goes on reading after the cutoff."""
        return self._error(
            "StreamGuard cut this call off and closed its connection: its reader is gone, or its"
            " stream was ended; do not retry"
        )

    def _depart(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def _interrupt(self) -> None:
        """Wake whoever waits in this call."""

    def _close_network(self) -> None:
        network, self._network = self._network, None
        if network is not None:
            with contextlib.suppress(Exception):  # a stream of another make may not know its socket
                shut_down(network)

    # -- what httpcore tells -----------------------------------------------------------------------

    def begin(self, transport: object) -> None:
        """The request goes out now, through `transport`."""
        self._asked = True
        self._transport = transport

    def answered(self, response: Any) -> None:
        """The response's headers are here."""
        self.status = response.status_code
        headers = response.headers
        # OpenRouter's is the id by which it can be asked later what the call has used.
        self.request_id = headers.get("x-generation-id") or headers.get("x-request-id")
        with self._lock:
            self._stream_id = response.extensions.get("stream_id", self._stream_id)
            if self._stream_id is None and not self.over:
                self._network = response.extensions.get("network_stream")
        self._stand()

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """An event of httpcore's `trace` extension.

        Raises:
            CutOffError: when the cutoff came while there was nothing to close yet.
        """
        self._watched = True
        prefix, _, name = event.partition(".")
        dialled = prefix == "connection" and name in _DIALLED
        sending = name == "send_request_headers.started"
        with self._lock:
            if dialled:
                self._network = self.dialled = self._held = info["return_value"]
            elif sending:
                self._connection = connection_of(self._transport, info["request"])
                self._sending(prefix == "http2", info)
            elif name == "response_closed.complete":
                self._held = None
            elif prefix == "http2" or name == "response_closed.started":
                # Shared with others, or about to be given back.
                self._network = None
            if self.was_cut:
                self._close_network()
        if self.was_cut and (dialled or sending):
            # Nothing was sent yet. Later events come while the connection is being closed.
            raise self.cut_off()
        if sending:
            self._stand()

    def _sending(self, shared: bool, info: dict[str, Any]) -> None:
        """The request is about to be written on a connection, new or from the pool."""
        if shared:
            self._network = self._held = None
            self._stream_id = info["stream_id"]
        else:
            # Through a proxy's tunnel the first request is the proxy's: the dialled one stays.
            self._network = self._held = network_of(self._connection) or self._network

    def _stand(self) -> None:
        """The connection stands: the request can be written."""
        if not self.connected:
            self.connected = True
            if self._report is not None:
                self._report.connected()
