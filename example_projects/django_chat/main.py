"""A small chat in Django: streams answers, stops when the reader does, and keeps a receipt of each in its admin.

    python main.py [--wsgi] [--port 8000] [--engine URL] [--model NAME] [--ledger DIR] [--database FILE]
                   [--window SECONDS]

Without --engine a loopback engine answers: no key, no download. An address that ends in /v1 is
taken to be OpenAI-compatible (the key is read from OPENAI_API_KEY), any other to be Ollama.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from chat_common.engine import engine_there  # noqa: E402
from chat_common.options import listen, options  # noqa: E402

ADMIN = "demo"
THREADS = 16
"""Under WSGI each answer takes one while it is read."""


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = options("A small chat in Django whose streams are governed.", HERE / "receipts")
    parser.add_argument(
        "--database", type=Path, default=HERE / "chat.sqlite3", metavar="FILE", help="of Django"
    )
    parser.add_argument(
        "--wsgi", action="store_true", help="serve with gunicorn's threads instead of uvicorn"
    )
    return parser.parse_args()


def configure(asked: argparse.Namespace) -> None:
    """Tell the settings what the command line says, and begin Django."""
    told = {
        "CHAT_LEDGER": str(asked.ledger.absolute()),
        "CHAT_DATABASE": str(asked.database.absolute()),
        "CHAT_WINDOW": str(asked.window),
        "DJANGO_SETTINGS_MODULE": "chat_site.settings",
    }
    if asked.engine is not None:
        engine = engine_there(asked.engine, asked.model)
        told |= {"CHAT_ENGINE": engine.url, "CHAT_MODEL": engine.model}
    elif asked.model is not None:
        told["CHAT_MODEL"] = asked.model
    os.environ.update(told)
    import django  # noqa: PLC0415 - it reads the environment

    django.setup()


def prepare() -> str:
    """Make the tables, see that the ledger can be written, and return the admin's password."""
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415 - Django has begun
    from django.core.management import CommandError, call_command  # noqa: PLC0415
    from django.db import DatabaseError, connections  # noqa: PLC0415

    try:
        call_command("migrate", verbosity=0)
        # What a kill has cut off is CRASHED in the ledger, now that it is open; the table has it from there.
        call_command("streamguard_mirror", stdout=io.StringIO())
        password = let_demo_in()
    except DatabaseError as error:
        sys.exit(f"main.py: {error} ({os.environ['CHAT_DATABASE']}); check --database")
    except (CommandError, ImproperlyConfigured) as error:
        sys.exit(f"main.py: {error}")
    connections.close_all()  # before anything forks
    return password


def let_demo_in() -> str:
    """Make the user who may look at receipts, and nothing else; returns a new password."""
    from django.contrib.auth.models import Permission, User  # noqa: PLC0415 - Django has begun

    password = secrets.token_urlsafe(9)
    demo, _ = User.objects.get_or_create(username=ADMIN)
    demo.is_staff = True
    demo.set_password(password)
    demo.save()
    demo.user_permissions.set(Permission.objects.filter(codename="view_streamreceipt"))
    return password


def serve_asgi(listener: socket.socket) -> None:
    """Serve with uvicorn until Ctrl-C."""
    import uvicorn  # noqa: PLC0415 - the other way needs none

    config = uvicorn.Config(
        "chat_site.asgi:application", log_level="warning", timeout_graceful_shutdown=5
    )
    # uvicorn raises the signal again when it has shut down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def serve_wsgi(listener: socket.socket) -> None:
    """Serve with gunicorn's threads, which show when a reader leaves, until Ctrl-C."""
    try:
        from gunicorn.app.base import BaseApplication  # noqa: PLC0415 - the other way needs none
    except ImportError:
        sys.exit("main.py: --wsgi needs gunicorn: pip install gunicorn")
    given = {
        "bind": f"fd://{listener.detach()}",
        "worker_class": "gthread",
        "threads": THREADS,
        "graceful_timeout": 5,
        "loglevel": "warning",
        "control_socket_disable": True,
        # Ctrl-C reaches all of them. For gunicorn that means to drop what runs; here it means to end it in order.
        "when_ready": lambda _: signal.signal(signal.SIGINT, _as_sigterm),
        "post_worker_init": lambda _: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }

    class Chat(BaseApplication):  # type: ignore[misc]
        """As gunicorn's manual has it."""

        def load_config(self) -> None:
            for name, value in given.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            from chat_site.wsgi import application  # noqa: PLC0415 - in the worker

            return application

    Chat().run()


def _as_sigterm(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve the chat on 127.0.0.1 until Ctrl-C."""
    asked = parse()
    with listen(asked.port) as listener:
        configure(asked)
        password = prepare()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        who = f"{asked.engine} ({os.environ['CHAT_MODEL']})" if asked.engine else "loopback engine"
        print(f"The chat is at {url}, under {'WSGI' if asked.wsgi else 'ASGI'}")
        print(f"Its receipts are at {url}/admin/ (user {ADMIN}, password {password})")
        print(
            f"Answers come from {who}; receipts go to {asked.ledger}, Django's to {asked.database}"
        )
        print("Ctrl-C ends it.", flush=True)
        (serve_wsgi if asked.wsgi else serve_asgi)(listener)


if __name__ == "__main__":
    main()
