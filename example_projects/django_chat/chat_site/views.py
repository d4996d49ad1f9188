"""The views of the chat. They are sync, and the same under ASGI and WSGI."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from chat_common.engine import MAX_TOKENS
from chat_common.figures import newest_receipts
from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.exceptions import SuspiciousFileOperation
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST, require_safe

from chat_site.conversation import conversation
from chat_site.parts import engine, statistics
from streamguard_django import GuardedStreamingHttpResponse, resumable
from streamguard_ledger import read_receipt

View = Callable[..., HttpResponseBase]


def json_only(view: View) -> View:
    """For views without a cookie's authority: JSON needs no token.

    A page of another site cannot send it here, because its browser asks us first (CORS).
    """

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **keywords: Any) -> HttpResponseBase:
        if request.content_type != "application/json":
            return JsonResponse({"detail": "the body is to be application/json"}, status=415)
        return view(request, *args, **keywords)

    exempt: View = csrf_exempt(checked)
    return exempt


@require_POST
@json_only
@resumable
def chat(request: HttpRequest) -> HttpResponseBase:
    """Stream an answer. The call is made when the response is read, and closed when the reader leaves."""
    try:
        messages = conversation(request.body)
    except ValueError as error:
        return JsonResponse({"detail": str(error)}, status=400)
    asked = engine()
    response = GuardedStreamingHttpResponse(
        asked.ask(messages), model=asked.model, max_tokens=MAX_TOKENS, tags={"route": "chat"}
    )
    statistics.began(request.streamguard.sessions[-1])
    return response


@require_GET
def counted(request: HttpRequest) -> HttpResponseBase:
    """What runs now, and what has ended since this process started."""
    return JsonResponse(statistics.now())


@require_GET
def who_answers(request: HttpRequest) -> HttpResponseBase:
    """Who answers."""
    server = "Django under ASGI" if request.streamguard.asgi else "Django under WSGI"
    admin = reverse("admin:streamguard_streamreceipt_changelist")
    return JsonResponse(engine().described(server, admin))


@require_GET
def receipts(request: HttpRequest) -> HttpResponseBase:
    """The latest receipts, newest first."""
    return JsonResponse(newest_receipts(settings.RECEIPTS), safe=False)


@require_GET
def receipt(request: HttpRequest, stream_id: str) -> HttpResponseBase:
    """One receipt; `sealed` is false as long as the stream is open."""
    found = read_receipt(settings.RECEIPTS, stream_id)
    if found is None:
        return JsonResponse({"detail": "no such stream"}, status=404)
    return JsonResponse(found)


@require_safe
def file(request: HttpRequest, path: str) -> HttpResponseBase:
    """A file of the page, or of the admin. A service leaves these to its web server.

    Raises:
        Http404: when there is none.
    """
    try:
        found = finders.find(path)
    except SuspiciousFileOperation:
        found = None
    if not found or not Path(found).is_file():
        raise Http404
    kind = mimetypes.guess_type(found)[0]
    return HttpResponse(Path(found).read_bytes(), content_type=kind)
