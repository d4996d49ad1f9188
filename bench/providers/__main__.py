"""What reading providers' streams costs, as ratios within one run.

python -m bench.providers [--quick] [--json]
"""

from __future__ import annotations

from bench.harness import main
from bench.providers.tables import tables

if __name__ == "__main__":
    raise SystemExit(main(__doc__, tables))
