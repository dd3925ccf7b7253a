"""Work for a client that ends when the client leaves, at whatever stage it is."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from anyio import CancelScope
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from service.api.drain import Drain


@asynccontextmanager
async def attend(receive: Receive, drain: Drain) -> AsyncGenerator[None]:
    """Cancels the body, which the request's body must have been read before.

    Raises ClientDisconnect when the client left, and what the drain interrupts with.
    """
    scope = CancelScope()
    reason: Exception = ClientDisconnect()

    def interrupt(error: Exception) -> None:
        nonlocal reason
        reason = error
        scope.cancel()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with drain.running(interrupt):
        watcher = asyncio.create_task(watch())
        try:
            with scope:
                yield
        finally:
            watcher.cancel()
    if scope.cancelled_caught:
        raise reason
