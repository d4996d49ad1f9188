"""StreamGuard for ASGI: a middleware, a decorator, a response and WebSockets, for FastAPI, Starlette and plain ASGI."""

from streamguard_asgi.acknowledge import Acknowledge
from streamguard_asgi.guard import guard_stream
from streamguard_asgi.middleware import StreamGuardMiddleware
from streamguard_asgi.options import SessionOptions, StreamOptions
from streamguard_asgi.owned import Owner
from streamguard_asgi.request import OnReceipt, RequestGuard
from streamguard_asgi.response import GuardedResponse
from streamguard_asgi.resume import Resume
from streamguard_asgi.socket_guard import SocketGuard
from streamguard_asgi.websocket import stream_websocket
from streamguard_core import current_scope
from streamguard_core.acknowledging import ACKNOWLEDGE_HEADER, Acknowledged
from streamguard_core.formats import STREAM_ID_HEADER, End
from streamguard_core.keeping import Stopped
from streamguard_core.outcome import Outcome
from streamguard_core.replay import ResumeError
from streamguard_core.sse import encode_event

__all__ = [
    "ACKNOWLEDGE_HEADER",
    "STREAM_ID_HEADER",
    "Acknowledge",
    "Acknowledged",
    "End",
    "GuardedResponse",
    "OnReceipt",
    "Outcome",
    "Owner",
    "RequestGuard",
    "Resume",
    "ResumeError",
    "SessionOptions",
    "SocketGuard",
    "Stopped",
    "StreamGuardMiddleware",
    "StreamOptions",
    "current_scope",
    "encode_event",
    "guard_stream",
    "stream_websocket",
]
