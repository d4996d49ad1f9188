#!/usr/bin/env python
"""Django's commands for the chat: `python manage.py streamguard_report`, `streamguard_verify` and all others."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django.core.management import execute_from_command_line


def main() -> None:
    """Run a command."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat_site.settings")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
