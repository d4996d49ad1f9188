"""TLS: the cutoff reaches through it, and no cipher text is taken for an answer."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from streamguard_core import CutOffError, Scope, use_scope
from streamguard_providers import GuardedAsyncTransport, GuardedTransport
from streamguard_providers.sync_calls import SyncCall

from .scripted_server import OK, Answer, chunked, head, scripted
from .test_async_transport import ask as ask_async
from .test_sync_transport import Worker
from .test_sync_transport import ask as ask_sync
from .waiting import outcome, until


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context, on a certificate made for this run."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = Path(tmp_path_factory.mktemp("tls")) / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=str(path))


@pytest.mark.parametrize("phase", ["headers", "body"])
async def test_async(library: Any, contexts: Any, phase: str) -> None:
    """Before the headers and in the body, a connection under TLS is closed at once."""
    server_tls, client_tls = contexts
    answer = Answer() if phase == "headers" else Answer(head() + chunked(b"one"))
    async with scripted(Answer(OK, then="next"), answer, ssl=server_tls) as server:
        transport = GuardedAsyncTransport(verify=client_tls)
        async with library.AsyncClient(transport=transport, timeout=None) as client:
            url = f"https://localhost:{server.port}"
            scope, parts = Scope(), list[bytes]()
            with use_scope(scope):
                await client.get(url)
                server.received.clear()
                task = asyncio.create_task(outcome(ask_async(client, url, parts)))
            await (server.received.wait() if phase == "headers" else until(lambda: parts))
            scope.disconnected()
            assert isinstance(await task, CutOffError)
            await server.left()
            assert server.connections == 1


@pytest.mark.parametrize("phase", ["headers", "body"])
async def test_sync(library: Any, contexts: Any, phase: str) -> None:
    """The same for threads, to which nothing is handed over that came after the cutoff."""
    server_tls, client_tls = contexts
    answer = Answer() if phase == "headers" else Answer(head() + chunked(b"one"))
    async with scripted(Answer(OK, then="next"), answer, ssl=server_tls) as server:
        with library.Client(transport=GuardedTransport(verify=client_tls), timeout=None) as client:
            url = f"https://localhost:{server.port}"
            scope, parts = Scope(), list[bytes]()
            await Worker(scope, lambda: client.get(url)).ended()
            server.received.clear()
            worker = Worker(scope, lambda: ask_sync(client, url, parts))
            await (server.received.wait() if phase == "headers" else until(lambda: parts))
            scope.disconnected()
            await server.left()
            assert isinstance(await worker.ended(), CutOffError)
            assert parts == ([] if phase == "headers" else [b"one"])
            assert server.connections == 1


def test_the_second_handle_is_let_go_when_the_handshake_ends_at_the_cutoff() -> None:
    """A handshake that succeeds in the instant of the cutoff leaves no handle to its socket open."""

    class Dialled:
        def __init__(self, raw: socket.socket) -> None:
            self.get_extra_info = {"socket": raw}.get

    ours, theirs = socket.socketpair()
    with ours, theirs:
        call = SyncCall(CutOffError)
        trace = call.tracer()
        trace("connection.connect_tcp.complete", {"return_value": Dialled(ours)})
        trace("connection.start_tls.started", {})
        assert call._network is not None
        twin = call._network.raw
        call.cut()
        with pytest.raises(CutOffError):
            trace("connection.start_tls.complete", {"return_value": Dialled(ours)})
        assert twin.fileno() == -1
