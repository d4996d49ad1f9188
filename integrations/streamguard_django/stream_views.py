"""What a reader may do to its stream besides reading it: the views of the addresses in `urls`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpResponse
from django.views.decorators.http import require_POST, require_safe

from streamguard_core.answers import Answer, in_json, refused
from streamguard_core.page import reader_script
from streamguard_core.replay import ResumeError
from streamguard_django.conf import option
from streamguard_django.guarding import loop_of
from streamguard_django.loops import run
from streamguard_django.resume import Resume


@require_POST
def stop(request: Any, stream_id: str) -> HttpResponse:
    """End a stream now, because its reader wants to.

    The project's `CsrfViewMiddleware` guards it as it guards any other form.

    Args:
        request: says who wants it.
        stream_id: of the stream, as its response's header `streamguard-stream-id` says; or what stands
            before the colon in the ids of its events, which names the process as well.
    """
    return _answered(request, lambda resume, owner: resume.stop_of(stream_id, owner))


@require_safe
def reader_js(request: Any) -> HttpResponse:
    """The reader for pages, `import { read } from "/streams/reader.js"`: comes back, and stops.

    Args:
        request: a GET.
    """
    return HttpResponse(reader_script(), content_type="text/javascript")


@require_safe
def receipt(request: Any, stream_id: str) -> HttpResponse:
    """Say how a stream ended, or that it goes on; as long as it is kept.

    Args:
        request: says who asks.
        stream_id: as for `stop`.
    """
    return _answered(request, lambda resume, owner: resume.outcome_of(stream_id, owner))


def response_of(answer: Answer) -> HttpResponse:
    """What the core answers, as it is."""
    return HttpResponse(answer.body, status=answer.status, headers=answer.headers)


def _answered(request: Any, ask: Callable[[Resume, str], object]) -> HttpResponse:
    """What `ask` says of the streams that are kept here, asked where they live."""
    resume: Resume = option("RESUME")
    owner = resume.owner_of(request)

    async def asked() -> object:
        return ask(resume, owner)

    try:
        return response_of(in_json(run(asked(), loop_of(request))))
    except ResumeError as error:
        return response_of(refused(error))
