"""A reader of server-sent events on a raw socket, which keeps what a browser's EventSource would keep."""

from __future__ import annotations

import json
from typing import Any

from streamguard_testing import Leave, RawClient


class SSEReader:
    """What was read of one stream, over as many connections as it takes.

    Args:
        url: of the server.
        path: of the endpoint.
        headers: sent with each request.
    """

    def __init__(self, url: str, path: str = "/", headers: dict[str, str] | None = None) -> None:
        self._url, self._path, self._headers = url, path, headers or {}
        self._client: RawClient | None = None
        self._rest = b""
        self.status = 0
        self.last_id = ""
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.named: dict[str, str] = {}

    @property
    def text(self) -> str:
        """The answer, as far as it has come."""
        return "".join(self.texts)

    @property
    def eos(self) -> Any:
        """The data of `eos`, if it has come."""
        return json.loads(self.named["eos"]) if "eos" in self.named else None

    async def connect(self, last_id: str | None = None) -> int:
        """Begin, or go on where the last connection was broken off."""
        said = self.last_id if last_id is None else last_id
        headers = self._headers | ({"last-event-id": said} if said else {})
        self._client = await RawClient.open(self._url, "GET", self._path, headers=headers)
        self._rest = b""
        self.status = await self._client.read_head()
        return self.status

    async def read(self, events: int) -> bool:
        """Read on until so many events with text were read in all; True when the end was met before."""
        assert self._client is not None
        while len(self.texts) < events and not {"eos", "superseded"} & self.named.keys():
            block, end, rest = self._rest.partition(b"\n\n")
            if end:
                self._rest = rest
                self._take(block.decode())
            elif data := await self._client.read_some():
                self._rest += data
            else:
                return True
        return "eos" in self.named

    async def stop(self) -> bytes:
        """Press the stop button, over a connection of its own; what the server says."""
        path = f"/streams/{self.last_id.rpartition(':')[0]}/stop"
        async with await RawClient.open(self._url, "POST", path, b"") as client:
            assert await client.read_head() == 200
            return await client.read_some()

    def leave(self, how: Leave = Leave.CLOSE) -> None:
        """Break the connection off; what has not been read of it is lost."""
        assert self._client is not None
        self._client.leave(how)

    def _take(self, block: str) -> None:
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            fields.setdefault(name, []).append(value)
        if "id" in fields:
            self.last_id = fields["id"][-1]
        if "data" in fields:
            data, name = "\n".join(fields["data"]), fields.get("event", ["message"])[-1]
            if name == "message":
                self.texts.append(data)
                self.ids.append(self.last_id)
            else:
                self.named[name] = data
