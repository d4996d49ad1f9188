"""What a guarded chain costs, as differences within one run.

python -m bench.langchain [--quick] [--json]
"""

from __future__ import annotations

from bench.harness import main
from bench.langchain.tables import tables

if __name__ == "__main__":
    raise SystemExit(main(__doc__, tables))
