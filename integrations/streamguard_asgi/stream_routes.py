"""What a reader may do to its stream besides reading it: the addresses below a mounted `Resume` or `Acknowledge`."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

from streamguard_asgi._starlette import Request, Response, Route, Router
from streamguard_core.answers import Answer, in_json, refused
from streamguard_core.keeping import Stopped
from streamguard_core.page import READER_NAME, reader_script
from streamguard_core.replay import ResumeError

if TYPE_CHECKING:
    from streamguard_asgi.acknowledge import Acknowledge
    from streamguard_asgi.resume import Resume


class Stoppable(Protocol):
    """What knows streams by their ids."""

    async def stop(self, stream_id: str, request: Request) -> Stopped:
        """End a stream because its reader wants to."""


def response_of(answer: Answer) -> Response:
    """What the core answers, as it is."""
    return Response(answer.body, answer.status, answer.headers)


def routes(streams: Stoppable, *more: Route) -> Router:
    """The addresses: stop, the reader for pages, and what else there is."""

    async def stop(request: Request) -> Response:
        return await _answered(streams.stop(request.path_params["stream_id"], request))

    async def reader(request: Request) -> Response:
        return Response(reader_script(), media_type="text/javascript")

    return Router(
        [
            Route("/{stream_id}/stop", stop, methods=["POST"]),
            Route(f"/{READER_NAME}", reader, methods=["GET"]),
            *more,
        ]
    )


def acknowledge_route(streams: Acknowledge) -> Route:
    """The address of acknowledgements. The whole of one stands in it: there is no body to bound, or to parse."""

    async def acknowledged(request: Request) -> Response:
        said = request.path_params
        return await _answered(streams.acknowledged(said["stream_id"], said["offset"], request))

    return Route("/{stream_id}/acknowledged/{offset}", acknowledged, methods=["POST"])


def receipt_route(streams: Resume) -> Route:
    """Where a reader asks how its stream ended."""

    async def receipt(request: Request) -> Response:
        return await _answered(streams.outcome(request.path_params["stream_id"], request))

    return Route("/{stream_id}/receipt", receipt, methods=["GET"])


async def _answered(asked: Awaitable[object]) -> Response:
    try:
        return response_of(in_json(await asked))
    except ResumeError as error:
        return response_of(refused(error))
