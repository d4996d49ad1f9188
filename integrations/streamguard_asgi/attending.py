"""Sees a delivery through to its end, in a task of its own, whoever cancels the task of its host meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from streamguard_asgi._starlette import Send
from streamguard_asgi.delivery import Delivery
from streamguard_asgi.request import RequestGuard
from streamguard_asgi.shielding import finish


async def deliver(
    delivery: Delivery,
    running: Coroutine[Any, Any, None],
    guard: RequestGuard,
    send: Send | None = None,
) -> None:
    """Run a delivery, whose cleanup no host can interrupt so; it is a member of `guard` until it has ended.

    Args:
        delivery: what is run.
        running: its life.
        guard: of its request or connection.
        send: the server's, where `guard` does not have it: a connection whose reader takes nothing is broken off.
    """
    guard.add(delivery)
    try:
        sending = asyncio.get_running_loop().create_task(running)
        try:
            await asyncio.wait([sending, delivery.given_up], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            delivery.host_cancelled(error)
            await finish(sending, guard.close_timeout)
            raise
        if sending.done():
            sending.result()
        else:
            # It is stuck in an iterator, and goes on by itself.
            await delivery.end_alone()
    finally:
        guard.discard(delivery)
        if delivery.stalled:
            guard.abort(send)
