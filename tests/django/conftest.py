"""A Django project for the tests of the adapter, and its rig; no help from the garbage collector."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from ..adapters.resuming import OpenRig  # noqa: TID252 - one rig for all adapters

pytest.importorskip("django")

from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="for-tests-only",
        DEBUG=False,
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
            "django.contrib.admin",
            "streamguard_django",
        ],
        MIDDLEWARE=["streamguard_django.StreamGuardMiddleware"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        STATIC_URL="static/",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        STREAMGUARD={},
    )

    import django

    django.setup()


@pytest.fixture(autouse=True)
def no_collector(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test shows, it shows with the cyclic garbage collector disabled."""
    gc.disable()
    yield
    gc.enable()
    if request.node.get_closest_marker("filterwarnings") is not None:
        gc.collect()  # what is to be ignored is collected while it is ignored


@pytest.fixture
def called() -> Iterator[list[int]]:
    """A server's handler of SIGTERM, set before the project is loaded: the signals that it got."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    from streamguard_django.deploys import deploys

    deploys.forget()
    yield numbers
    deploys.forget()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(params=["view", "sync_view", "view-guarded", "sync_view-guarded"])
def open_rig(request: pytest.FixtureRequest) -> OpenRig:
    """A resumable view, async or not, in Django's own application or in the guarded one."""
    from .resuming import resumed

    view, _, guarded = request.param.partition("-")
    return partial(resumed, view, guarded=bool(guarded))
