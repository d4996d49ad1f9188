"""gunicorn's configuration for workers that are forked from a process that has loaded the project."""

from __future__ import annotations

from typing import Any

from streamguard_django import install_shutdown

preload_app = True


def post_worker_init(worker: Any) -> None:
    """In the worker, behind gunicorn's own handlers."""
    install_shutdown()
