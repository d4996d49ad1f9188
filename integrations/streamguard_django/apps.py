"""The Django app: checks are registered and the mirror of receipts is connected when it is ready."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register


class StreamGuardConfig(AppConfig):
    """`INSTALLED_APPS += ["streamguard_django"]`; the label is `streamguard`."""

    name = "streamguard_django"
    label = "streamguard"
    verbose_name = "StreamGuard"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, and connect the mirror of receipts."""
        from streamguard_django.checks import (  # noqa: PLC0415
            check_asgi,
            check_middleware,
            check_resume,
            check_settings,
        )
        from streamguard_django.mirror import Mirror  # noqa: PLC0415 - models are loaded now
        from streamguard_django.signals import stream_sealed  # noqa: PLC0415

        register(check_settings, Tags.compatibility)
        register(check_middleware, Tags.compatibility)
        register(check_resume, Tags.compatibility)
        register(check_asgi, Tags.compatibility, deploy=True)
        self.mirror = Mirror()
        stream_sealed.connect(self.mirror.receive, dispatch_uid="streamguard_django.mirror")
