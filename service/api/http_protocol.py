"""HTTP on a connection: what a client may send before there is a request, and how slowly."""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from service.api.errors import status_response
from service.api.middleware import SECURITY_HEADERS

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers, and of anything else that the parser has to keep."""

_TOO_LARGE = f"The request's line and headers are larger than {MAX_HEAD_BYTES} bytes."
_TOO_SLOW = "The request's headers did not come in time."
_TOO_MANY = "There are too many connections; try again soon."
_RETRY_SOON = (b"retry-after", b"1")
_SECONDS_TO_BE_REFUSED = 1.0
"""For one connection too many to send what it is refused for."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's keeps a head of any size, and waits for it for ever."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_seconds: float,
        max_connections: int,
    ) -> None:
        """`head_seconds`: how long a head may take, or a body that is read for nobody."""
        super().__init__(config, server_state, app_state, _loop)
        self._head_seconds = head_seconds
        self._max_connections = max_connections
        self._is_one_too_many = False
        self._deadline: asyncio.TimerHandle | None = None
        self._is_too_large = False
        self._is_in_head = False
        self._is_in_body = False
        self._has_finished = False
        self._num_head_bytes = 0
        self._num_kept_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._is_one_too_many = len(self.connections) > self._max_connections
        if self._is_one_too_many:
            self._head_seconds = min(self._head_seconds, _SECONDS_TO_BE_REFUSED)
        self._expect_more()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_one_too_many:  # told now, because a close over unread bytes takes words along
            self._expect_nothing()
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, _TOO_MANY, _RETRY_SOON)
            return
        self._has_finished = False
        super().data_received(data)
        if self.transport.is_closing():
            self._expect_nothing()
            return
        if self._has_finished:
            self._num_kept_bytes = 0
            return
        self._num_kept_bytes += len(data)
        if self._num_kept_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)
        elif not self._is_in_body and self._deadline is None:
            self._expect_more()  # blank lines, at which uvicorn stops waiting for a request

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, or not valid, or more than a callback bears; and closes."""
        if self._is_too_large:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._num_head_bytes = 0
        self._expect_more()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_finished = True
        self._is_in_head = False
        self._is_in_body = True
        self._expect_nothing()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_finished = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_finished = True
        self._is_in_body = False
        if not self._is_response_running():  # it was read for nobody
            self._expect_more()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_in_body and not self.transport.is_closing():
            self._expect_more()

    def _count_head(self, num_bytes: int) -> None:
        """What it raises makes the parser fail, and that ends in `send_400_response`."""
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self._is_too_large = True
            raise ValueError(_TOO_LARGE)

    def _expect_more(self) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(self._head_seconds, self._give_up)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if self._is_response_running():  # it has its own end; what waits is the next request
            self._expect_more()
        elif self._is_in_head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, _TOO_SLOW)
        else:
            self.transport.close()

    def _is_response_running(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison] - None at first

    def _refuse(self, status: HTTPStatus, message: str, *more: tuple[bytes, bytes]) -> None:
        response = status_response(status, message)
        given = (*self.server_state.default_headers, *response.raw_headers)
        headers = [*given, *SECURITY_HEADERS, *more]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        head = b"".join([STATUS_LINE[status], *lines, b"connection: close\r\n\r\n"])
        self.transport.write(head + bytes(response.body))
        self.transport.close()
