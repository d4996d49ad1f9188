"""The pool on HTTP/2: streams of one connection, of which the cutoff ends one."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest

from streamguard_providers import ProviderPool

from .makers import openai_producer
from .recorder import Recorder, produce
from .test_http2 import H2Server
from .test_tls import contexts
from .waiting import until
from .wire import DONE, token

__all__ = ["contexts"]


async def test_calls_share_a_connection(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Producers at the same time are streams of one connection; one that is cut off is reset alone."""
    server_tls, client_tls = contexts
    server_tls.set_alpn_protocols(["h2"])
    # As the operating system would, if it trusted the certificate.
    monkeypatch.setattr(
        importlib.import_module("streamguard_providers.pools"), "tls", lambda **_: client_tls
    )
    protocol = H2Server()
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol, "127.0.0.1", 0, ssl=server_tls
    )
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        async with ProviderPool(http2=True) as pool:

            def start(name: str) -> tuple[Recorder, asyncio.Task[Any]]:
                report = Recorder()
                producer = openai_producer(f"{url}/{name}", pool=pool)
                return report, asyncio.create_task(produce(producer, report))

            first, reading = start("first")
            await until(lambda: len(protocol.streams) == 1)
            second, other = start("second")
            await until(lambda: len(protocol.streams) == 2)
            assert protocol.connections == 1
            paths = {name: f"/{name}/v1/chat/completions" for name in ("first", "second")}
            protocol.send(paths["first"], token("a"))
            await until(lambda: first.chunks)
            first.cut()
            await until(lambda: protocol.resets == [protocol.streams[paths["first"]]])
            assert await reading == ["a"]
            protocol.send(paths["second"], token("b", "stop") + DONE, end=True)
            assert await other == ["b"]
            assert second.attempts[0].status == 200
    finally:
        server.close()
        if protocol._transport is not None:
            protocol._transport.close()
