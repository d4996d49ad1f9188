"""StreamGuard for Django: one line in MIDDLEWARE, and every stream of a project ends with its reader."""

import streamguard_django._django  # noqa: F401 - first: it says what to install
from streamguard_core import current_scope
from streamguard_django.signals import stream_opened, stream_sealed

__all__ = ["current_scope", "stream_opened", "stream_sealed"]
