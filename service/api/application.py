"""The ASGI application, put together from what it is given."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from structlog.typing import FilteringBoundLogger

from service.api import chat, completions, embeddings, routes, sessions, tokenization
from service.api.batches import BATCH_OPERATIONS, batch_routes
from service.api.body import BodyMiddleware
from service.api.chat import ChatCompletions
from service.api.completions import Completions
from service.api.config import ApiConfig
from service.api.constraint import Grammars
from service.api.drain import Drain
from service.api.embeddings import Embeddings
from service.api.engine import Engine
from service.api.errors import status_response
from service.api.files import FILE_OPERATIONS, file_routes
from service.api.generator import Generator
from service.api.keys import ApiKeys
from service.api.middleware import ApiKeyMiddleware, ExchangeMiddleware, RateLimitMiddleware
from service.api.openapi import openapi_routes
from service.api.pages import PageMiddleware
from service.api.rate_limits import RATE_LIMIT_HEADERS, Accounts
from service.api.responses.routes import RESPONSE_OPERATIONS, response_routes
from service.api.routes import health_routes, metrics_routes, model_routes
from service.api.served_model import ServedModel
from service.api.sessions import session_routes
from service.api.tokenization import tokenization_routes
from service.batches.batches import Batches
from service.records.responses import ResponseRecords
from service.telemetry.callers import CallerUse
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracer

OPERATIONS = (
    *chat.OPERATIONS,
    *completions.OPERATIONS,
    *embeddings.OPERATIONS,
    *tokenization.OPERATIONS,
    *RESPONSE_OPERATIONS,
    *routes.OPERATIONS,
    *sessions.OPERATIONS,
    *FILE_OPERATIONS,
    *BATCH_OPERATIONS,
)
"""All that there is to describe; a route that is not among them fails a test."""

_EXPOSED_HEADERS = (
    "x-request-id",
    "x-session-id",
    "openai-processing-ms",
    "retry-after",
    *RATE_LIMIT_HEADERS,
)

_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}
"""FastAPI's own tells messages of exceptions, which may quote a prompt, and is no stage's."""


def build_application(  # noqa: PLR0913 - the API's composition root
    config: ApiConfig,
    *,
    keys: ApiKeys,
    model: ServedModel,
    engine: Engine,
    grammars: Grammars,
    batches: Batches,
    records: ResponseRecords,
    drain: Drain,
    metrics: Metrics,
    log: FilteringBoundLogger,
    tracer: Tracer | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """Starts nothing; the engine may still be loading. By `clock` limits are refilled."""
    accounts = Accounts(clock)
    metrics.count_callers(partial(_read_uses, keys, accounts))
    middleware = [
        Middleware(ExchangeMiddleware, log=log, metrics=metrics, tracer=tracer),
        Middleware(ApiKeyMiddleware, keys=keys),
        Middleware(
            RateLimitMiddleware,
            accounts=accounts,
            endpoints={
                (each.method.upper(), each.path) for each in OPERATIONS if each.is_rate_limited
            },
        ),
        Middleware(
            BodyMiddleware,
            max_bytes=config.max_body_bytes,
            silence_seconds=config.client_timeout_seconds,
        ),
    ]
    if not keys:
        middleware.insert(
            1, Middleware(PageMiddleware, hosts=config.hosts, origins=config.cors_origins)
        )
    if config.cors_origins:
        middleware.insert(0, _allow_origins(config.cors_origins))
    app = FastAPI(
        title="smolserve",
        openapi_url=None,  # `openapi_routes` knows of routes that are not FastAPI's, and of errors
        redirect_slashes=False,  # an unknown route is a 404, not a way to one
        middleware=middleware,
        telemetry=_NO_TELEMETRY,
        exception_handlers={HTTPException: _refuse},
    )
    generator = Generator(model, engine, grammars, limits=config.limits)
    chat_completions = ChatCompletions(config, model=model, generator=generator, drain=drain)
    text_completions = Completions(
        config, model=model, engine=engine, generator=generator, drain=drain
    )
    vectors = Embeddings(config, model=model, engine=engine, drain=drain)
    app.router.routes += [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/completions", text_completions, methods=["POST"]),
        Route("/v1/embeddings", vectors, methods=["POST"]),
        *tokenization_routes(model, engine),
    ]
    app.router.routes += response_routes(
        config, model=model, generator=generator, records=records, drain=drain, log=log
    )
    app.include_router(model_routes(model, engine))
    app.include_router(session_routes(model, engine))
    app.include_router(file_routes(batches, drain))
    app.include_router(batch_routes(batches, drain))
    app.include_router(health_routes(engine, drain))
    app.include_router(metrics_routes(metrics.registry))
    app.router.routes += openapi_routes(OPERATIONS, model_id=model.id, needs_key=bool(keys))
    return app


def _read_uses(keys: ApiKeys, accounts: Accounts) -> Mapping[str, CallerUse]:
    """Of those that have a name."""
    return {
        caller.name: CallerUse(
            num_requests=account.num_requests,
            num_refused=account.num_refused,
            num_tokens=account.num_tokens,
        )
        for caller in keys.callers
        if caller.name is not None and (account := accounts.find(caller.tenant, caller.limits))
    }


def _allow_origins(origins: Sequence[str]) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=_EXPOSED_HEADERS,
    )


async def _refuse(request: Request, error: Exception) -> Response:
    """What the router itself refuses, in the form of all errors."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"There is nothing at {request.url.path[:200]}."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.url.path} does not take {request.method}."
    else:
        message = str(error.detail)
    response = status_response(error.status_code, message)
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["allow"] = ", ".join(_list_methods(request))
    return response


def _list_methods(request: Request) -> list[str]:
    """Of all routes at a path; the router tells those of the first alone."""
    routes = iter_route_contexts(request.app.routes)
    here = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in here for method in route.methods or ()})
