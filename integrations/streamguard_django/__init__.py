"""StreamGuard for Django: one line in MIDDLEWARE, and every stream of a project ends with its reader."""

import streamguard_django._django  # noqa: F401 - first: it says what to install
from streamguard_core import current_scope
from streamguard_core.formats import STREAM_ID_HEADER
from streamguard_django.asgi import GuardedApplication, get_guarded_asgi_application
from streamguard_django.deploys import install_shutdown
from streamguard_django.middleware import StreamGuardMiddleware
from streamguard_django.response import GuardedStreamingHttpResponse
from streamguard_django.resumable import resumable
from streamguard_django.scope import RequestScope
from streamguard_django.signals import stream_opened, stream_sealed

__all__ = [
    "STREAM_ID_HEADER",
    "GuardedApplication",
    "GuardedStreamingHttpResponse",
    "RequestScope",
    "StreamGuardMiddleware",
    "current_scope",
    "get_guarded_asgi_application",
    "install_shutdown",
    "resumable",
    "stream_opened",
    "stream_sealed",
]
