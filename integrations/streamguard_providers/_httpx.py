"""The private corners of httpx, httpx2 and httpcore that are looked into; all are optional.

Everything else uses their public interfaces. What is read here has no public name: which connection
of the pool serves a request before its headers have come, whether bytes that were received still
wait in h11, and how a pool of ours dials. Where a version hides it elsewhere, the functions answer
None or False, and the callers fall back: before the headers of a reused connection the cutoff then
waits for the next byte (sync) or for the cancellation (async), and batches are smaller. The tests
hold this module against the installed versions.
"""

from __future__ import annotations

import contextlib
import importlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from streamguard_core import CutOffError
from streamguard_providers.errors import CutOffReadError

_WRAPPERS: Final = ("_stream", "_inner", "_httpcore_stream", "_connection")
_MAX_DEPTH: Final = 12
#: A chunk header of HTTP/1.1 and the first byte after it fit into this many bytes.
_HEADER: Final = 16


@dataclass(frozen=True, slots=True)
class Family:
    """One of the two libraries, httpx or httpx2, with our classes on top of it.

    Args:
        module: the library.
        cut_off: what a reader gets at the cutoff: a `CutOffError` that is the library's
            `ReadError`.
    """

    module: Any
    cut_off: type[CutOffError]


@cache
def family(name: str) -> Family:
    """The library of that name.

    Raises:
        ImportError: when it is not installed.
    """
    module = importlib.import_module(name)
    if issubclass(CutOffReadError, module.ReadError):
        return Family(module, CutOffReadError)
    cut_off = type(
        "CutOffReadError", (CutOffError, module.ReadError), {"__doc__": CutOffReadError.__doc__}
    )
    return Family(module, cut_off)


def family_of(request: object) -> Family:
    """The library a request was made with."""
    root = type(request).__module__.partition(".")[0]
    return family("httpx2" if root == "httpx2" else "httpx")


def connection_of(transport: object, request: object) -> Any:
    """The connection a pool has given to a request (httpcore's); None when it cannot be told."""
    for pool in _pools(transport):
        # A copy: other threads put requests in and take them out.
        for queued in list(getattr(pool, "_requests", ())):
            if getattr(queued, "request", None) is request:
                return _innermost(getattr(queued, "connection", None))
    return None


def transport_for(client: Any, request: Any) -> Any:
    """The transport a client will send a request through; None when it cannot be told."""
    choose = getattr(client, "_transport_for_url", None)
    return None if choose is None else choose(request.url)


def dial_with(transport: object, wrap: Callable[[Any], Any]) -> None:
    """Have a transport's pool open its connections through `wrap` of its own backend."""
    pool = getattr(transport, "_pool", None)
    backend = getattr(pool, "_network_backend", None)
    if pool is not None and backend is not None:
        pool._network_backend = wrap(backend)  # noqa: SLF001 - httpx passes no backend on


async def drop(transport: object, network: Any) -> None:
    """Close a network stream, and the connection of the pool's that it belongs to, if any.

    A connection whose call was cancelled before it was used would keep its place in the pool.
    """
    await network.aclose()
    for pool in _pools(transport):
        for connection in list(getattr(pool, "_connections", ())):
            if network_of(_innermost(connection)) is network:
                await connection.aclose()
                # Whoever waits for the place has to be told.
                await pool._close_connections(pool._assign_requests_to_connections())  # noqa: SLF001


def network_of(connection: object) -> Any:
    """The network stream of a connection; None when it cannot be told."""
    return getattr(connection, "_network_stream", None)


def connection_behind(response: Any) -> Any:
    """The HTTP/1.1 connection a response is read from; None when it cannot be told."""
    found = response.stream
    for _ in range(_MAX_DEPTH):
        if hasattr(found, "_h11_state"):
            return found
        found = next((getattr(found, name) for name in _WRAPPERS if hasattr(found, name)), None)
        if found is None:
            return None
    return None


def more_is_here(connection: object) -> bool:
    """Whether the next piece of the body, or its end, is here already: no need to wait for it."""
    buffer = getattr(getattr(connection, "_h11_state", None), "_receive_buffer", None)
    if buffer is None:
        return False
    waiting = len(buffer)
    # What is left may be the end of this chunk's frame only, or half of the next one's header.
    return waiting >= _HEADER or (waiting >= 5 and bytes(buffer).endswith(b"0\r\n\r\n"))


def shut_down(network: Any) -> None:
    """Close a network stream's connection at once, from any thread and without awaiting.

    The peer gets a FIN now, and a reset for whatever it still sends; a read of ours that waits,
    wakes. The file descriptor stays with its owner, who closes it when he wakes.
    """
    raw = network.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if isinstance(raw, socket.socket):
            # Not SSLSocket's own method: it would turn a running read into one of cipher text.
            socket.socket.shutdown(raw, socket.SHUT_RDWR)
        elif raw is not None:
            # asyncio and uvloop hand out stand-ins that can do little more than this.
            with raw.dup() as twin:
                twin.shutdown(socket.SHUT_RDWR)


def reset_stream(connection: Any, stream_id: int) -> bool:
    """Tell the peer of an HTTP/2 connection that one of its streams is not wanted any more.

    httpcore forgets a stream that is closed early without a word, and the peer goes on generating.
    The frame is only queued here: `flush` writes it.

    Returns:
        False when there is nothing to be written.
    """
    state = getattr(connection, "_h2_state", None)
    if state is None:
        return False
    try:
        state.reset_stream(stream_id, error_code=8)  # CANCEL
    except Exception:  # noqa: BLE001 - the stream is gone already, or h2 is not as we know it
        return False
    return True


def flush(connection: Any, request: Any) -> Any:
    """Write what is queued on an HTTP/2 connection; to be awaited where the connection is async."""
    return connection._write_outgoing_data(request)  # noqa: SLF001 - it takes the lock that writers share


def _pools(transport: Any) -> Iterator[Any]:
    """The pool of a transport, or those of the transports inside a guarded one."""
    inner = getattr(transport, "transports", None)
    for one in (transport,) if inner is None else inner:
        pool = getattr(one, "_pool", None)
        if pool is not None:
            yield pool


def _innermost(connection: Any) -> Any:
    """The connection that speaks the protocol, below those that dial or go through a proxy."""
    for _ in range(_MAX_DEPTH):
        if connection is None or hasattr(connection, "_network_stream"):
            return connection
        connection = getattr(connection, "_connection", None)
    return None
