"""`StreamReader`: reads a stream that StreamGuard serves, from Python: comes back, acknowledges, stops."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec

from streamguard_core import StreamGuardError, UsageError
from streamguard_core.acknowledging import ACKNOWLEDGE_HEADER
from streamguard_core.formats import STREAM_ID_HEADER
from streamguard_providers._httpx import family_of
from streamguard_providers.acknowledger import Acknowledger
from streamguard_providers.sse import SSEDecoder
from streamguard_providers.sse_event import SSEEvent

_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 5.0
_LAST_WORD: Final = 2.0
"""How long the last acknowledgement may take when the reading is over, in seconds."""
_NO_CONTENT: Final = 204


class ReadFailure(StrEnum):
    """What can be wrong with reading."""

    REFUSED = "refused"
    """The server answered with something else than a stream."""
    UNREACHABLE = "unreachable"
    """No connection stood."""
    LOST = "lost"
    """The connection broke before the end, and the stream could not be taken up again in time."""
    SUPERSEDED = "superseded"
    """Another reader has the stream now."""


class StreamReadError(StreamGuardError):
    """A stream could not be read to its end.

    Args:
        failure: what is wrong.
        text: the same in words.
        status: the server's, where it refused.
        detail: the server's own words, where it has some.
    """

    def __init__(
        self,
        failure: ReadFailure,
        text: str,
        *,
        status: int | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(text)
        self.failure = failure
        self.status = status
        self.detail = detail


class StreamReader:
    """One reader of a stream of server-sent events that is served by StreamGuard.

    It is an async context manager and an async iterator of events; asking for the next one says that the one
    before was taken, which is what it acknowledges. The connection and all that it needs are closed when the
    block is left.

    Args:
        client: an `httpx.AsyncClient` (or httpx2's), which stays the caller's.
        url: of the endpoint.
        json: sent as the body, by POST; without it the request is a GET.
        headers: further ones, also of acknowledgements and of the stop.
        streams: where the server has mounted `Acknowledge` or `Resume`; without it nothing is acknowledged, and
            stopping is leaving.
        acknowledge: False for a reader that does not.
        last_event_id: where to go on, of a stream that another reader has begun.
        patience: how long to keep trying to come back, in seconds.
        silence: longest time without any byte, keep-alives included, before a connection counts as lost, in seconds.

    Example:
        >>> import httpx
        >>> async def chat(prompt: str) -> str:
        ...     async with httpx.AsyncClient(base_url="http://127.0.0.1:8000") as client:
        ...         async with StreamReader(client, "/chat", json={"prompt": prompt}, streams="/streams") as reader:
        ...             text = "".join([event.text async for event in reader])
        ...         return f"{text} ({reader.end['cause']})"
    """

    def __init__(
        self,
        client: Any,
        url: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        streams: str | None = None,
        acknowledge: bool = True,
        last_event_id: str | None = None,
        patience: float = 30.0,
        silence: float = 60.0,
    ) -> None:
        self._client = client
        self._url = url
        self._json = json
        self._headers = dict(headers or {})
        self._streams = None if streams is None else streams.rstrip("/")
        self._announces = acknowledge and streams is not None
        self._patience = patience
        self._silence = silence
        self._httpx = family_of(client).module
        self._acknowledger = Acknowledger(self._tell)
        self._reading: AsyncGenerator[SSEEvent, None] | None = None
        self._retry: float | None = None
        self.last_event_id = last_event_id
        """Where another reader could go on; None where the stream cannot be resumed."""
        self.stream_id: str | None = None
        """Names the stream; None before it was answered."""
        self.end: dict[str, Any] | None = None
        """How the stream ended: the data of `eos`; empty where it had ended and everything was read before."""

    async def __aenter__(self) -> Self:
        self._reading = self._connections()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reading is not None:
            await self._reading.aclose()
        await self._acknowledger.aclose(_LAST_WORD)

    def __aiter__(self) -> AsyncIterator[SSEEvent]:
        """The events, but for `eos`.

        Raises:
            StreamReadError: when the stream cannot be read to its end.
            UsageError: outside of `async with`.
        """
        if self._reading is None:
            raise UsageError("a StreamReader was iterated outside of its block; use `async with`")
        return self._reading

    async def stop(self) -> bool:
        """End the stream as its reader's wish (`USER_CANCEL`); what is iterated gets to its end then.

        Returns:
            Whether the server was told; if not, leave.
        """
        if self._streams is None or self.stream_id is None:
            return False
        await self._acknowledger.flush(_LAST_WORD)
        try:
            response = await self._client.post(self._address("stop"), headers=self._headers)
        except self._httpx.TransportError:
            return False
        return bool(response.is_success)

    # -- connections -------------------------------------------------------------------------------

    async def _connections(self) -> AsyncGenerator[SSEEvent, None]:
        """One after the other, until the stream has ended."""
        lost_at: float | None = None
        tries = 0
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async with contextlib.aclosing(self._connection()) as connection:
                    async for event in connection:
                        lost_at, tries = None, 0
                        yield event
            except self._httpx.TransportError as error:
                self._give_up_unless_resumable(error)
            if self.end is not None:
                return
            self._give_up_unless_resumable(None)
            lost_at = clock() if lost_at is None else lost_at
            if clock() - lost_at > self._patience:
                raise StreamReadError(ReadFailure.LOST, "the connection was lost before the end")
            wait = min(_LONGEST_WAIT, (self._retry or _FIRST_WAIT) * 2**tries)
            tries += 1
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - so that not all come back at once

    def _give_up_unless_resumable(self, error: Exception | None) -> None:
        if self.last_event_id is not None:
            return
        if self.stream_id is None:
            raise StreamReadError(
                ReadFailure.UNREACHABLE, "the server cannot be reached"
            ) from error
        raise StreamReadError(
            ReadFailure.LOST,
            "the connection was lost before the end, and the stream cannot be resumed",
        ) from error

    async def _connection(self) -> AsyncGenerator[SSEEvent, None]:
        timeout = self._httpx.Timeout(10.0, read=self._silence)
        method = "GET" if self._json is None else "POST"
        request = {"headers": self._request_headers(), "timeout": timeout, "json": self._json}
        async with self._client.stream(method, self._url, **request) as response:
            await self._answered(response)
            if self.end is None:
                decoder = SSEDecoder(strict=True)
                async for data in response.aiter_bytes():
                    for event in decoder.feed(data):
                        over = self._is_over(event)
                        self._note(decoder, event.id)
                        if over:
                            return
                        yield event
                        self._acknowledger.has(_offset(event.id))
                    # The response begins with an id that has no data.
                    self._note(decoder, decoder.last_event_id)

    def _request_headers(self) -> dict[str, str]:
        headers = {"accept": "text/event-stream"} | self._headers
        if self._announces:
            headers[ACKNOWLEDGE_HEADER] = "1"
        if self.last_event_id is not None:
            headers["last-event-id"] = self.last_event_id
        return headers

    async def _answered(self, response: Any) -> None:
        """What a response says before its events.

        Raises:
            StreamReadError: when it is no stream.
        """
        if response.status_code == _NO_CONTENT and self.last_event_id is not None:
            self.end = {}
            return
        self.stream_id = response.headers.get(STREAM_ID_HEADER, self.stream_id)
        if STREAM_ID_HEADER not in response.headers:
            await response.aread()
            raise StreamReadError(
                ReadFailure.REFUSED,
                f"the server refused the stream (status {response.status_code})",
                status=response.status_code,
                detail=_detail(response.content),
            )
        self._acknowledger.asked(response.headers.get(ACKNOWLEDGE_HEADER))

    def _is_over(self, event: SSEEvent) -> bool:
        if event.type == "superseded":
            raise StreamReadError(ReadFailure.SUPERSEDED, "another reader has this stream now")
        if event.type != "eos":
            return False
        self.end = msgspec.json.decode(event.data)
        self._acknowledger.has(self.end["committed"], now=True)
        return True

    def _note(self, decoder: SSEDecoder, last_id: bytes) -> None:
        """Keep where to go on: only an id that names its stream can be resumed from."""
        if decoder.retry is not None:
            self._retry = decoder.retry / 1000
        if b":" in last_id:
            self.last_event_id = last_id.decode("utf-8", "replace")

    # -- acknowledging -----------------------------------------------------------------------------

    async def _tell(self, offset: int) -> bool:
        """Acknowledge once; False when the server does not take it.

        Raises:
            OSError: when it cannot be reached.
        """
        try:
            response = await self._client.post(
                self._address(f"acknowledged/{offset}"), headers=self._headers
            )
        except self._httpx.TransportError as error:
            raise ConnectionError("not acknowledged") from error
        return bool(response.is_success)

    def _address(self, what: str) -> str:
        return f"{self._streams}/{quote(self.stream_id or '', safe='')}/{what}"


def _offset(event_id: bytes) -> int:
    """The commit offset in the id of an event: the number behind the stream's name."""
    number = event_id.rpartition(b":")[2]
    return int(number) if number.isdigit() else 0


def _detail(content: bytes) -> str | None:
    with contextlib.suppress(msgspec.DecodeError):
        said = msgspec.json.decode(content)
        if isinstance(said, dict) and isinstance(said.get("detail"), str):
            return str(said["detail"])
    return None
