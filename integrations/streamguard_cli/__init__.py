"""The `streamguard` command."""

from streamguard_cli.app import main

__all__ = ["main"]
