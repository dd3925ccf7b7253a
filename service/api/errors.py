"""The one mapping of our exceptions to HTTP: status, body, headers."""

from http import HTTPStatus

import orjson
from starlette.responses import Response

from service.errors import (
    AuthenticationError,
    BodyTooLarge,
    DeadlineExceeded,
    EngineUnavailable,
    ForeignPage,
    InvalidRequest,
    ModelNotFound,
    ObjectNotFound,
    RequestError,
    SlowClient,
    SmolserveError,
    StorageError,
    TooManyRequests,
    UnsupportedMediaType,
)

_STATUS: dict[type[SmolserveError], int] = {
    InvalidRequest: 400,
    AuthenticationError: 401,
    ModelNotFound: 404,
    ObjectNotFound: 404,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    SlowClient: 408,
    ForeignPage: 403,
    TooManyRequests: 429,
    RequestError: 400,
    EngineUnavailable: 503,
    DeadlineExceeded: 504,
    StorageError: 507,
    SmolserveError: 500,
}
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_UNAVAILABLE_RETRY_SECONDS = 2


def status_of(error: SmolserveError) -> int:
    return next(_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS)


def render_error(error: SmolserveError) -> bytes:
    """The body, which is also what an error event carries after the first byte of a stream."""
    param = error.param if isinstance(error, RequestError) else None
    return _render(status_of(error), error.message, error.code, param)


def internal_error(request_id: str) -> SmolserveError:
    return SmolserveError(f"The server failed on this request; its log says why, at {request_id}.")


def error_response(error: SmolserveError) -> Response:
    response = Response(render_error(error), status_of(error), media_type="application/json")
    if isinstance(error, TooManyRequests):
        response.headers["retry-after"] = str(error.retry_after_seconds)
    elif isinstance(error, EngineUnavailable):
        response.headers["retry-after"] = str(_UNAVAILABLE_RETRY_SECONDS)
    elif isinstance(error, DeadlineExceeded):
        # Official clients repeat a 5xx by themselves, and this one would take as long again.
        response.headers["x-should-retry"] = "false"
    elif isinstance(error, SlowClient):
        response.headers["connection"] = "close"  # the rest of its body would follow
    elif isinstance(error, AuthenticationError):
        response.headers["www-authenticate"] = "Bearer"
    return response


def status_response(status: int, message: str) -> Response:
    """For what the router refuses by itself: 404, 405."""
    code = HTTPStatus(status).name.lower()
    return Response(_render(status, message, code, None), status, media_type="application/json")


def _render(status: int, message: str, code: str, param: str | None) -> bytes:
    fallback = (
        "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    )
    kind = _TYPES.get(status, fallback)
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
