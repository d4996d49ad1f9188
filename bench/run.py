"""Everything in one run: in process, then through a real server.

python -m bench [--quick] [--json] [--no-valgrind]
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from bench import core
from bench.harness import Table, main


async def tables(*, quick: bool, valgrind: bool) -> AsyncIterator[Table]:
    """Every table of every benchmark."""
    async for table in core.tables(quick=quick, valgrind=valgrind):
        yield table
    try:
        from bench import asgi
    except ImportError as error:
        yield Table(f"Through a server: left out, {error}", "", ())
        return
    async for table in asgi.tables(quick=quick, valgrind=valgrind):
        yield table


if __name__ == "__main__":
    raise SystemExit(main(__doc__, tables))
