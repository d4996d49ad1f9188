"""What StreamGuard costs, as ratios within one run: in process, then through a real server."""

from __future__ import annotations

from bench.harness import main
from bench.run import tables

if __name__ == "__main__":
    raise SystemExit(main(__doc__, tables))
