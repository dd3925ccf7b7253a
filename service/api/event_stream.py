"""Server-sent events over ASGI, in as few layers as there can be."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.types import Send

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_COMMENT = b": keep-alive\n\n"


class EventStream:
    """Sends the head with the first event, so that what fails before it is a plain error.

    A client that reads slowly holds `write` up; nothing is buffered here.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turn = asyncio.Lock()
        self._is_silent = True
        self.has_started = False

    async def write(self, events: bytes) -> None:
        async with self._turn:
            await self._write(events, more=True)

    async def finish(self, events: bytes) -> None:
        """Writes the last events and ends the response."""
        async with self._turn:
            await self._write(events, more=False)

    @asynccontextmanager
    async def kept_alive(self, interval_seconds: float) -> AsyncGenerator[None]:
        """Breaks silences of one to two intervals with a comment."""
        task = asyncio.create_task(self._keep_alive(interval_seconds))
        try:
            yield
        finally:
            task.cancel()

    async def _keep_alive(self, interval_seconds: float) -> None:
        while True:
            await asyncio.sleep(interval_seconds)
            if self._is_silent and not self._turn.locked():
                await self.write(_COMMENT)
            self._is_silent = True

    async def _write(self, events: bytes, *, more: bool) -> None:
        self._is_silent = False
        if not self.has_started:
            self.has_started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._send({"type": "http.response.body", "body": events, "more_body": more})
