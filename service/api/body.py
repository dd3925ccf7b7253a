"""A request's body, as far as it may be read."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.exchange import read_header
from service.errors import BodyTooLarge, InvalidRequest, SlowClient, UnsupportedMediaType

UPLOAD_PATHS = frozenset({"/v1/files"})
"""Take forms instead of JSON, and see to the size of a body themselves."""

_JSON = "application/json"
_FORM = "multipart/form-data"


class BodyMiddleware:
    """Lets through bodies of the form and size that are read here, as fast as they come.

    A browser sends JSON to another origin only after asking, so a page that somebody happens to
    read cannot put an open service to work.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, silence_seconds: float) -> None:
        """`silence_seconds` is how long a client may send nothing of a body that it owes."""
        self._app = app
        self._max_bytes = max_bytes
        self._silence_seconds = silence_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = scope["path"] in UPLOAD_PATHS
        if scope["method"] == "POST":
            _check_encoding(read_header(scope, b"content-encoding"))
            _check_type(scope, _FORM if is_upload else _JSON)
        if not is_upload:
            self._check_size(int(read_header(scope, b"content-length") or 0))
        num_bytes = 0
        is_complete = False

        async def receive_some() -> Message:
            nonlocal num_bytes, is_complete
            if is_complete:
                return await receive()
            message = await self._receive_in_time(receive)
            num_bytes += len(message.get("body", b""))
            if not is_upload:
                self._check_size(num_bytes)
            is_complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_some, send)

    async def _receive_in_time(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self._silence_seconds):
                return await receive()
        except TimeoutError:
            raise SlowClient(
                f"Nothing of the body came for {self._silence_seconds:g} seconds."
            ) from None

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise BodyTooLarge(f"The body is larger than the {self._max_bytes} bytes allowed here.")


async def read_body(receive: Receive) -> bytes:
    """Raises ClientDisconnect, and what the middleware above refuses."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _check_encoding(encoding: bytes | None) -> None:
    if encoding not in {None, b"", b"identity"}:
        raise InvalidRequest(
            "A compressed body is not read here; send it without Content-Encoding.",
            code="unsupported_encoding",
        )


def _check_type(scope: Scope, accepted: str) -> None:
    """A POST without a body needs no type, unless it comes from a page in a browser."""
    content_type = read_header(scope, b"content-type")
    if content_type is None:
        length = read_header(scope, b"content-length") or b"0"
        is_empty = length == b"0" and read_header(scope, b"transfer-encoding") is None
        if is_empty and read_header(scope, b"origin") is None:
            return
    given = (content_type or b"").partition(b";")[0].strip().lower().decode("latin-1")
    if given != accepted:
        said = f"it says {given[:100]!r}" if content_type else "there is none"
        raise UnsupportedMediaType(
            f"Content-Type must be {accepted}, and {said}.", param="Content-Type"
        )
