"""The reader for pages, as adapters serve it; what it does is shown in a browser (`tests/examples`)."""

from __future__ import annotations

from streamguard_core.page import READER_NAME, reader_script


def test_the_reader_is_one_module_of_its_own() -> None:
    """It exports `read`, and fetches nothing from elsewhere."""
    script = reader_script().decode()
    assert READER_NAME == "reader.js"
    assert "export function read(" in script
    assert "http://" not in script
    assert "https://" not in script
    assert not [line for line in script.splitlines() if line.startswith("import ")]
