"""The loopback engine: a real HTTP server that generates text, counts it, and misbehaves."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Callable
from typing import Final, Self, Unpack

from streamguard_testing import control, error_shapes, lookup, ollama_dialect, openai_dialect
from streamguard_testing.background import PATHS as BACKGROUND_PATHS
from streamguard_testing.background import Background, Nobody
from streamguard_testing.bodies import BadRequest, decode, encode
from streamguard_testing.connection import Connection, Response
from streamguard_testing.dialects import Ask, Dialect
from streamguard_testing.fault_choice import FaultChoice
from streamguard_testing.faults import Billing, Fault
from streamguard_testing.generation import Generation
from streamguard_testing.http1 import Request
from streamguard_testing.plans import Plan, plan
from streamguard_testing.records import EngineRequest, LiveRequest, RequestLog
from streamguard_testing.routes import PATHS, dialect_of
from streamguard_testing.settings import EngineOptions, EngineSettings

ID_HEADER: Final = "x-engine-request-id"
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class LoopbackEngine:
    """Speaks the providers' wire formats at a chosen pace and counts what it generates.

    Args:
        options: See `EngineSettings`.

    Raises:
        ValueError: When an option is impossible.

    Example:
        >>> import asyncio
        >>> async def main() -> str:
        ...     async with LoopbackEngine(tokens_per_second=50) as engine:
        ...         return engine.url
        >>> asyncio.run(main()).startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, **options: Unpack[EngineOptions]) -> None:
        self.settings = EngineSettings(**options)
        self._faults = FaultChoice(self.settings.fault)
        self.log = RequestLog(self.settings.max_records)
        self._background = Background(self.log.get, self.ended)
        self._generations: dict[str, Generation] = {}
        self._connections: set[Connection] = set()
        self._slots: asyncio.Semaphore | None = None
        self._server: asyncio.Server | None = None
        self._port = self.settings.port

    def __repr__(self) -> str:
        state = "not listening" if self._server is None else self.url
        return f"<{type(self).__name__} {state}, {len(self.log.all())} requests>"

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: When it listens already.
            OSError: When host and port cannot be listened on; the text says what to do.
        """
        if self._server is not None:
            raise RuntimeError(f"start() is not allowed twice: this engine listens on {self.url}")
        host, port = self.settings.host, self.settings.port
        if self.settings.slots is not None:
            self._slots = asyncio.Semaphore(self.settings.slots)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self),
                host,
                port,
                # "localhost" is two addresses, and port 0 would be another port on each.
                family=socket.AF_INET if host == "localhost" else socket.AF_UNSPEC,
            )
        except OSError as error:
            raise _cannot_listen(error, host, port) from error
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, let go of all connections, and return when nothing runs any more."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection in list(self._connections):
            connection.abort()
        for generation in list(self._generations.values()):
            generation.let_go()
        await self.log.wait_until(
            lambda: not self._connections and self._idle(), 10.0, "the connections to be closed"
        )
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ------------------------------------------------------------ what it knows

    @property
    def fault(self) -> Fault:
        """What goes wrong with requests that do not choose for themselves; may be replaced."""
        return self._faults.fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._faults.fault = fault

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL, for all clients but OpenAI's, which take `openai_url`."""
        host = self.settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI clients."""
        return f"{self.url}/v1"

    @property
    def requests(self) -> tuple[EngineRequest, ...]:
        """Records of all remembered requests as they are now, in order of arrival."""
        return tuple(live.snapshot() for live in self.log.all())

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def request(self, request_id: str) -> EngineRequest:
        """Return the record of one request as it is now.

        Raises:
            LookupError: When no such request is remembered.
        """
        live = self.log.get(request_id)
        if live is None:
            raise LookupError(f"the engine remembers no request {request_id!r}")
        return live.snapshot()

    def generated_after(self, request_id: str, instant: float) -> int:
        """Return how many tokens a request got after an instant of `time.monotonic()`.

        Raises:
            LookupError: When no such request is remembered.
        """
        return self.log.generated_after(request_id, instant)

    def reset(self) -> None:
        """Forget the requests that have ended, and how often faults were met.

        Requests that run are kept.
        """
        self._faults.forget()
        self.log.forget_ended()

    # ------------------------------------------------------------ waiting

    async def wait_until(self, predicate: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Wait until a predicate over this engine's records is true; it is asked at every change.

        Raises:
            TimeoutError: When it did not become true in time.
        """
        await self.log.wait_until(predicate, timeout, "a condition of the caller's")

    async def wait_idle(self, *, timeout: float = 10.0) -> None:
        """Wait until no request is running, and connections of readers who left are closed.

        Raises:
            TimeoutError: When something still runs.
        """
        await self.log.wait_until(self._idle, timeout, "the engine to be idle")

    async def request_ended(self, request_id: str, *, timeout: float = 10.0) -> EngineRequest:
        """Wait until a request (which may still have to arrive) has ended, and return its record.

        Raises:
            TimeoutError: When it did not arrive, or did not end, in time.
        """

        def ended() -> bool:
            live = self.log.get(request_id)
            return live is not None and live.settled

        await self.log.wait_until(ended, timeout, f"request {request_id!r} to end")
        return self.request(request_id)

    def _idle(self) -> bool:
        return all(live.settled for live in self.log.all())

    # ------------------------------------------------------------ what connections ask (`Host`)

    def opened(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many, or the engine is stopping."""
        if self._server is None or len(self._connections) >= self.settings.max_connections:
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self.log.changed()

    def ended(self, live: LiveRequest) -> None:
        """Take note that a generation is over."""
        self._generations.pop(live.id, None)
        self.log.ended(live)
        if self.settings.on_ended is not None:
            # Called by the loop, so that an observer that raises hurts nobody.
            asyncio.get_running_loop().call_soon(self.settings.on_ended, live.snapshot())

    def answer(self, request: Request, response: Response, opened_at: float) -> Generation | None:
        """Answer a request: at once, or by handing back a generation to be run."""
        path = request.url.path
        dialect = dialect_of(request.url)
        if dialect is not None and request.method == "POST":
            return self._generation(request, response, dialect, opened_at)
        status, body = self._answer_at_once(request, path)
        response.whole(status, "application/json", body)
        return None

    def _answer_at_once(self, request: Request, path: str) -> tuple[int, bytes]:
        if path.startswith(control.PREFIX):
            status, said = control.respond(self, request)
            return status, encode(said)
        if dialect_of(request.url) is not None:
            return 405, encode({"error": f"{path} is asked with POST"})
        if path == "/api/tags":
            return 200, ollama_dialect.tags(self.settings.models)
        if path == "/v1/models":
            return 200, openai_dialect.models(self.settings.models)
        if path == lookup.PATH:
            status, said = lookup.respond(self.log, request)
            return status, encode(said)
        found = self._background.respond(request.method, path)
        if found is not None:
            return found[0], encode(found[1])
        known = ", ".join(
            [*PATHS, *BACKGROUND_PATHS, lookup.PATH, "/api/tags", "/v1/models", control.PREFIX]
        )
        return 404, encode({"error": f"this engine answers {known}"})

    def _generation(
        self, request: Request, response: Response, dialect: Dialect, opened_at: float
    ) -> Generation | None:
        try:
            ask = dialect.ask(decode(request.body))
            fault = self._faults.of(request)
            error_shapes.check(fault, ask)
            planned = plan(ask, fault, self.settings)
            live = self._record(request, ask, planned, dialect, opened_at)
            live.bills_full = fault.billing is Billing.FULL
        except ValueError as error:
            body = dialect.error_body(400, str(error))
            response.whole(400, "application/json", body)
            return None
        response.belongs_to(live, fault.headers)
        # A request that is refused is refused at once, also one for the background.
        alone = ask.background and not ask.stream and fault.status is None
        generation = Generation(
            live=live,
            ask=ask,
            plan=planned,
            dialect=dialect,
            fault=fault,
            settings=self.settings,
            slots=self._slots,
            responder=Nobody() if alone else response,
        )
        self._generations[live.id] = generation
        if alone:
            said = self._background.start(generation)
            response.whole(200, "application/json", encode(said))
            return None
        if ask.background:
            self._background.keep(generation)
        return generation

    def _record(
        self, request: Request, ask: Ask, planned: Plan, dialect: Dialect, opened_at: float
    ) -> LiveRequest:
        wanted = request.headers.get(ID_HEADER)
        if wanted is not None and not _ID.fullmatch(wanted):
            raise BadRequest(f"{ID_HEADER} takes 1 to 64 letters, digits, dots and dashes")
        live = LiveRequest(
            id=self.log.free_id(wanted),
            dialect=dialect.name,
            model=ask.model,
            stream=ask.stream,
            prompt_tokens=self.settings.model.count(ask.prompt),
            max_tokens=ask.max_tokens,
            planned_tokens=planned.length,
            reason=planned.reason,
            connection_opened_at=opened_at,
            changed=self.log.changed,
        )
        self.log.add(live)
        return live


def _cannot_listen(error: OSError, host: str, port: int) -> OSError:
    if error.errno == errno.EADDRINUSE:
        todo = "it is in use; choose another port, or 0 for a free one"
    elif error.errno == errno.EACCES:
        todo = "it is not allowed; choose a port from 1024 on, or 0 for a free one"
    else:
        todo = f"{error.strerror or error}; check host and port"
    return OSError(error.errno, f"cannot listen on {host}:{port}: {todo}")
