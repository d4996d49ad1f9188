"""For servers that speak ASGI: `uvicorn chat_site.asgi:application`."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat_site.settings")

from streamguard_django import get_guarded_asgi_application

application = get_guarded_asgi_application()
