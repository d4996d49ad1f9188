"""Fails, where the framework is missing, with the line that installs it."""

from __future__ import annotations

from streamguard_django.supported import INSTALL

try:
    import asgiref.sync
    import django.http
except ImportError as error:
    raise ImportError(f"streamguard_django needs django: {INSTALL}") from error

__all__ = ["asgiref", "django"]
