"""Requests that this process makes itself, through the whole application as if over HTTP.

Whose they are stands in the ASGI scope, where nothing that comes over a socket can write.
"""

import asyncio
from typing import cast

from starlette.types import ASGIApp, Message, Scope

from service.api.exchange import PRIORITY_KEY
from service.api.middleware import TENANT_KEY
from service.batches.results import Answer
from service.batches.runner import Call


class InternalCaller:
    """Answers a batch's lines."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, call: Call) -> Answer:
        exchange = _Recorder(call.body)
        await self._app(_scope_of(call), exchange.receive, exchange.send)
        return exchange.answer()


class _Recorder:
    """A client that waits for the whole answer and never leaves."""

    def __init__(self, body: bytes) -> None:
        self._requests: list[Message] = [{"type": "http.request", "body": body}]
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    async def receive(self) -> Message:
        if not self._requests:
            await asyncio.Event().wait()
        return self._requests.pop()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = dict(cast("list[tuple[bytes, bytes]]", message["headers"]))
        else:
            self._body += message.get("body", b"")

    def answer(self) -> Answer:
        retry_after = self._headers.get(b"retry-after")
        return Answer(
            status=self._status,
            request_id=self._headers[b"x-request-id"].decode(),
            body=bytes(self._body),
            retry_after_seconds=None if retry_after is None else float(retry_after),
        )


def _scope_of(call: Call) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": call.endpoint,
        "raw_path": call.endpoint.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(call.body)),
        ],
        "client": None,
        "server": None,
        TENANT_KEY: call.tenant,
        PRIORITY_KEY: call.priority,
    }
