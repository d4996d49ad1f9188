"""Reads responses to their end, with no client in between, and says what a chunk of them costs the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.request import urlopen

from bench.harness import Series

CONNECTIONS: Final = 16
TOGETHER: Final = {"a loop turn before every chunk": 1, "16 chunks arrive together": 16}


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


async def cpu_per_chunk(
    url: str,
    cases: Mapping[str, str],
    together: int,
    *,
    rounds: int,
    chunks: int,
) -> Series:
    """CPU nanoseconds of the server per chunk, in interleaved rounds.

    Args:
        url: of the server, which answers `/cpu`.
        cases: the paths, by name.
        together: how many chunks arrive together.
        rounds: how often each case is measured, once all were warmed up.
        chunks: of each response.

    Raises:
        RuntimeError: when a response was too short.
    """
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, path in cases.items():
            begin = _cpu(url)
            await _read_all(url, f"{path}?chunks={chunks}&together={together}", chunks)
            if number:  # the first round only warms up
                figures[name].append((_cpu(url) - begin) / (chunks * CONNECTIONS))
    return Series(figures)


def _cpu(url: str) -> int:
    """CPU time of the server so far, in nanoseconds. Nothing else may be counted there: it would be measured, too."""
    with urlopen(f"{url}/cpu") as answer:
        return int(answer.read())


async def _read_all(url: str, target: str, chunks: int) -> None:
    sizes = await asyncio.gather(*(read(url, target) for _ in range(CONNECTIONS)))
    if min(sizes) < chunks * len("token "):
        raise RuntimeError(f"{target} sent {min(sizes)} bytes; the run is void")
