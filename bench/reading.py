"""Reads one response to its end, with no client in between whose own cost would be measured."""

from __future__ import annotations

import asyncio


async def read(url: str, target: str) -> int:
    """Ask a server at `url` for `target` and read to the end; returns how many bytes came."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    size = 0
    while data := await reader.read(1 << 16):
        size += len(data)
    writer.close()
    return size
