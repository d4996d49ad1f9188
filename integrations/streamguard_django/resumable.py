"""`resumable`: a view whose streams wait for their readers, who come back and miss nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import FileResponse, StreamingHttpResponse

from streamguard_core import UsageError
from streamguard_core.answers import HAS_EVERYTHING, refused
from streamguard_core.formats import Events
from streamguard_core.kept import KeptStream
from streamguard_core.replay import ResumeError, ResumePoint
from streamguard_django.conf import option
from streamguard_django.guarding import continued_by, loop_of, scope_of
from streamguard_django.loops import arun, run
from streamguard_django.response import GuardedStreamingHttpResponse, name_stream
from streamguard_django.resume import Resuming
from streamguard_django.scope import RequestScope
from streamguard_django.stream_views import response_of

View = Callable[..., Any]


def resumable(view: View) -> View:
    """Keep the streams of a view for readers who lose their connection, and continue them there.

    A request with `Last-Event-ID` is answered with the rest of the stream that it names, or with why not,
    and the view is not called. Only server-sent events can be resumed: whoever accepts something else gets
    a stream that ends with its connection. What is kept is this process's; see the setting `RESUME`.

    Args:
        view: sync or async; it returns a `GuardedStreamingHttpResponse`, or anything that is not streamed.
            A class-based view is given as `resumable(View.as_view())`.

    Raises:
        UsageError: when the view returns another streaming response, whose bytes cannot be numbered.

    Example:
        >>> @resumable
        ... async def chat(request):  # doctest: +SKIP
        ...     return GuardedStreamingHttpResponse(OllamaProducer(model="llama3", prompt="Why?"))
    """
    return _async_view(view) if iscoroutinefunction(view) else _sync_view(view)


def _async_view(view: View) -> View:
    @wraps(view)
    async def resumed(request: Any, *arguments: Any, **keywords: Any) -> Any:
        scope, resume = scope_of(request), option("RESUME")
        resuming = Resuming(resume, await resume.aowner_of(request))
        if said := _last_id(request):
            return await arun(_continued(scope, resuming, said), loop_of(request))
        with _opening(scope, resuming):
            return _checked(await view(request, *arguments, **keywords))

    return resumed


def _sync_view(view: View) -> View:
    @wraps(view)
    def resumed(request: Any, *arguments: Any, **keywords: Any) -> Any:
        scope, resume = scope_of(request), option("RESUME")
        resuming = Resuming(resume, resume.owner_of(request))
        if said := _last_id(request):
            return run(_continued(scope, resuming, said), loop_of(request))
        with _opening(scope, resuming):
            return _checked(view(request, *arguments, **keywords))

    return resumed


def _last_id(request: Any) -> str:
    """What a reader that comes back got last; empty for one that begins, and where nothing is read."""
    return "" if request.method == "HEAD" else request.headers.get("Last-Event-ID", "")


@contextmanager
def _opening(scope: RequestScope, resuming: Resuming) -> Iterator[None]:
    """What the view opens may be resumed."""
    scope.resuming = resuming
    try:
        yield
    finally:
        scope.resuming = None


def _checked(response: Any) -> Any:
    """What the view returned, if it can be."""
    numbered = isinstance(response, GuardedStreamingHttpResponse | FileResponse)
    if getattr(response, "streaming", False) and not numbered:
        response.close()
        raise UsageError(
            f"a resumable view returned a {type(response).__name__}, whose bytes cannot be numbered; return"
            " GuardedStreamingHttpResponse(iterator)"
        )
    return response


async def _continued(scope: RequestScope, resuming: Resuming, said: str) -> Any:
    """Go on with a stream that was begun on another connection; nothing new is generated. Runs on the stream's loop."""
    resume, owner = resuming
    try:
        point = ResumePoint.parse(said)
        if point.offset is None:
            return response_of(HAS_EVERYTHING)
        kept = resume.find_at(point, owner, scope.request.path)
        return await _taken_over(kept, point.offset, scope)
    except ResumeError as error:
        return response_of(refused(error))


async def _taken_over(kept: KeptStream, offset: int, scope: RequestScope) -> StreamingHttpResponse:
    content = await kept.taken_over(
        offset, option("CLOSE_TIMEOUT"), lambda *form: continued_by(kept, scope, *form)
    )
    scope.carry(content)
    response = StreamingHttpResponse(content, content_type=f"{Events.media_type}; charset=utf-8")
    name_stream(response, Events(), kept.session.stream_id, chosen=False)
    return response
