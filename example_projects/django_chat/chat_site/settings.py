"""Settings of the chat: SQLite, an admin, and StreamGuard in one line of MIDDLEWARE.

`main.py` says the rest in the environment: CHAT_ENGINE, CHAT_MODEL, CHAT_LEDGER, CHAT_DATABASE, CHAT_WINDOW.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
# What both chats have in common stands beside this example.
sys.path.append(str(HERE.parent))

ENGINE = os.environ.get("CHAT_ENGINE") or None
MODEL = os.environ.get("CHAT_MODEL") or None
RECEIPTS = Path(os.environ.get("CHAT_LEDGER", HERE / "receipts"))
WINDOW = float(os.environ.get("CHAT_WINDOW", "10"))
PAGE = HERE.parent / "chat_common" / "page"

# Who logs in does so anew after each start. A service has one that stays, and that no file in its repository holds.
SECRET_KEY = os.environ.get("CHAT_SECRET_KEY") or secrets.token_urlsafe(32)
# A page on another site must not be able to spend our tokens by a name that resolves to us.
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
DEBUG = False

ROOT_URLCONF = "chat_site.urls"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "streamguard_django",
]
MIDDLEWARE = [
    "streamguard_django.StreamGuardMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
STREAMGUARD = {
    "LEDGER": "chat_site.parts.make_ledger",
    "ON_RECEIPT": "chat_site.parts.ended",
    "DEADLINES": {"connect": 10, "first_token": 120, "idle": 60, "consumer_stall": 30},
    # There are no accounts: whoever knows a stream's id may read the rest of it.
    "RESUME": {"window": WINDOW, "owner": None},
    "EXCLUDE": [r"^/admin/", r"^/static/"],
}

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("CHAT_DATABASE", HERE / "chat.sqlite3"),
        # Receipts, logins and sessions are written by several threads.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [PAGE]
TEMPLATES = [
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
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
