"""A request's body, as far as it may be read."""

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from service.api.exchange import read_header
from service.errors import BodyTooLarge, InvalidRequest


async def read_body(scope: Scope, receive: Receive, *, max_bytes: int) -> bytes:
    """Raises BodyTooLarge, before asking for it where it says its size; or ClientDisconnect."""
    _check_encoding(read_header(scope, b"content-encoding"))
    _check_size(int(read_header(scope, b"content-length") or 0), max_bytes)
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        _check_size(len(body), max_bytes)
        more = message.get("more_body", False)
    return bytes(body)


def _check_size(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise BodyTooLarge(f"The body is larger than the {max_bytes} bytes allowed here.")


def _check_encoding(encoding: bytes | None) -> None:
    if encoding not in {None, b"", b"identity"}:
        raise InvalidRequest(
            "A compressed body is not read here; send it without Content-Encoding.",
            code="unsupported_encoding",
        )
