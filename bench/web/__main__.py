"""What the web adapters cost and save through a real server, side by side in one run.

python -m bench.web [--cost] [--overload] [--leaving] [--frozen] [--servers] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json

from bench.web import cost, frozen, leaving, overload, servers

PARTS = {
    "cost": cost,
    "overload": overload,
    "leaving": leaving,
    "frozen": frozen,
    "servers": servers,
}


async def _run(given: argparse.Namespace) -> None:
    wanted = [name for name in PARTS if getattr(given, name)] or list(PARTS)
    records = []
    for name in wanted:
        async for table in PARTS[name].tables(quick=given.quick):
            if given.json:
                records.append(table.to_record())
            else:
                print(table.show(), flush=True)
    if given.json:
        print(json.dumps(records, indent=1))


def main() -> int:
    """The command line: all parts, or those that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, part in PARTS.items():
        parser.add_argument(f"--{name}", action="store_true", help=(part.__doc__ or "").strip())
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of text")
    asyncio.run(_run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
