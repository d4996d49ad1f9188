"""The reader for pages, as the file that is served to them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

READER_NAME: Final = "reader.js"


@cache
def reader_script() -> bytes:
    """An ES module that reads a guarded stream in a browser: resumes, acknowledges, stops."""
    return (files("streamguard_core") / READER_NAME).read_bytes()
