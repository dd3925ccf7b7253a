"""Pure ASGI layers around the routes; BaseHTTPMiddleware would hide disconnects and cost a task."""

from collections.abc import Collection, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from service.api.errors import error_response, internal_error
from service.api.exchange import Exchange, read_header
from service.api.keys import ApiKeys, Caller
from service.api.rate_limits import Accounts, Permit
from service.errors import EngineError, SmolserveError
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Served, Tracer

TENANT_KEY = "smolserve.tenant"
"""In the ASGI scope of a request that this process makes itself: whom it is for."""

OPEN_PATHS = frozenset({"/health/live"})
"""Answered without a key: a probe has none, and liveness tells nothing."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Answers are for programs: a browser that is shown one runs, frames, embeds and keeps nothing."""

_QUIET_PATHS = frozenset({"/health/live", "/health/ready", "/metrics"})
_CLIENT_LEFT = 499
_TRACE_HEADERS = ("traceparent", "tracestate")


class ExchangeMiddleware:
    """Gives each request its ids and its log line, and each exception its response."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        log: FilteringBoundLogger,
        metrics: Metrics,
        tracer: Tracer | None = None,
    ) -> None:
        self._app = app
        self._log = log
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = self._open(scope)

        async def send_with_ids(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                _add_headers(message, exchange)
            await send(message)

        try:
            await self._app(scope, receive, send_with_ids)
        except ClientDisconnect:
            exchange.facts["client_left"] = True
        except SmolserveError as error:
            self._count(error)
            exchange.facts["error"] = error.code
            if exchange.status is None:
                await error_response(error)(scope, receive, send_with_ids)
        except Exception:  # noqa: BLE001 - the top of a request; what is left is our fault
            self._log.exception("request failed", request_id=exchange.request_id)
            exchange.facts["error"] = SmolserveError.code
            if exchange.status is None:
                error = internal_error(exchange.request_id)
                await error_response(error)(scope, receive, send_with_ids)
        finally:
            self._write_line(scope, exchange)
            if exchange.trace is not None:
                exchange.trace.end(_describe(scope, exchange))

    def _open(self, scope: Scope) -> Exchange:
        exchange = Exchange.open(scope)
        if self._tracer is not None and scope["path"] not in _QUIET_PATHS:
            exchange.trace = self._tracer.begin(_read_carrier(scope), exchange.started_at)
            exchange.facts["trace_id"] = exchange.trace.trace_id
        return exchange

    def _count(self, error: SmolserveError) -> None:
        if not isinstance(error, EngineError) or error.code == "engine_unavailable":
            self._metrics.request_rejected(error.code)

    def _write_line(self, scope: Scope, exchange: Exchange) -> None:
        write = self._log.debug if scope["path"] in _QUIET_PATHS else self._log.info
        write(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=_CLIENT_LEFT if exchange.status is None else exchange.status,
            request_id=exchange.request_id,
            duration_ms=exchange.elapsed_ms(),
            **exchange.facts,
        )


class ApiKeyMiddleware:
    """Asks every route but liveness for a key, where keys are set."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            exchange = Exchange.of(scope)
            exchange.caller = self._identify(scope)
            if exchange.caller.name is not None:
                exchange.facts["caller"] = exchange.caller.name
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope) -> Caller:
        """Raises AuthenticationError."""
        if TENANT_KEY in scope:
            return self._keys.find_caller(scope[TENANT_KEY])
        return self._keys.authenticate(read_header(scope, b"authorization"))


class RateLimitMiddleware:
    """Holds callers to their limits before anything of a request but its head is read.

    What this process asks itself is nobody's request: batches have limits of their own.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        accounts: Accounts,
        endpoints: Collection[tuple[str, str]],
    ) -> None:
        """`endpoints` are the methods and paths that are limited."""
        self._app = app
        self._accounts = accounts
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if TENANT_KEY in scope or not self._is_limited(scope):
            await self._app(scope, receive, send)
            return
        exchange = Exchange.of(scope)
        account = self._accounts.find(exchange.tenant, exchange.caller.limits)
        permit = exchange.permit = Permit(account)
        permit.admit()
        with permit.held():
            await self._app(scope, receive, send)

    def _is_limited(self, scope: Scope) -> bool:
        return scope["type"] == "http" and (scope["method"], scope["path"]) in self._endpoints


def _read_carrier(scope: Scope) -> dict[str, str]:
    """The headers by which a client names the trace that its request is part of."""
    found = {name: read_header(scope, name.encode()) for name in _TRACE_HEADERS}
    return {name: value.decode("latin-1") for name, value in found.items() if value is not None}


def _describe(scope: Scope, exchange: Exchange) -> Served:
    return Served(
        method=scope["method"],
        path=scope["path"],
        route=_find_route(scope),
        status=exchange.status,
        request_id=exchange.request_id,
        is_internal=TENANT_KEY in scope,
        facts=exchange.facts,
    )


def _find_route(scope: Scope) -> str | None:
    """The path with its parameters' names; FastAPI tells a route's own for some of them only."""
    if "endpoint" not in scope:
        return None
    path: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        before, _, after = path.rpartition(str(value))
        path = f"{before}{{{name}}}{after}"
    return path


def _add_headers(message: MutableMapping[str, Any], exchange: Exchange) -> None:
    given = message.get("headers", ())
    names = {name for name, _ in given}
    message["headers"] = [
        *given,
        *(header for header in SECURITY_HEADERS if header[0] not in names),
        (b"x-request-id", exchange.request_id.encode()),
        (b"x-session-id", exchange.session_id.encode()),
        (b"openai-processing-ms", str(exchange.elapsed_ms()).encode()),
        *exchange.permit.headers(),
    ]
