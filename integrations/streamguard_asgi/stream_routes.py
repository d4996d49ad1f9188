"""What a reader may do to its stream besides reading it: the addresses below the one `Resume` is mounted at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from streamguard_asgi._starlette import Request, Response, Route, Router
from streamguard_core.replay import ResumeError

if TYPE_CHECKING:
    from streamguard_asgi.resume import Resume


def refused(error: ResumeError) -> Response:
    """Say why: `{"error": ..., "detail": ...}`; never anything of a stream."""
    return in_json(error.said, error.refusal.status)


def in_json(said: object, status: int = 200) -> Response:
    """Answer with JSON that nobody keeps."""
    return Response(
        msgspec.json.encode(said),
        status,
        {"cache-control": "no-store"},
        media_type="application/json",
    )


def routes(resume: Resume) -> Router:
    """The addresses, for `resume`'s streams."""

    async def stop(request: Request) -> Response:
        try:
            return in_json(await resume.stop(request.path_params["stream_id"], request))
        except ResumeError as error:
            return refused(error)

    return Router([Route("/{stream_id}/stop", stop, methods=["POST"])])
