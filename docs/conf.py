"""How Sphinx builds the manual: MyST pages, the furo theme, and tables drawn from the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

_init = (HERE.parent / "streamguard_core" / "__init__.py").read_text(encoding="utf-8")
_version = re.search(r'^__version__ = "([^"]+)"', _init, re.MULTILINE)

project = "StreamGuard"
author = "The StreamGuard authors"
copyright = "2026, The StreamGuard authors"  # noqa: A001 - the name that Sphinx asks for
release = _version[1] if _version else ""
version = release

extensions = ["myst_parser", "tables_from_code"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"StreamGuard {release}"
html_copy_source = False
html_show_sourcelink = False
