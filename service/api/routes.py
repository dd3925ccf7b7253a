"""Everything but chat: models, health and metrics."""

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.api.drain import Drain
from service.api.engine import Engine
from service.api.served_model import ServedModel

_READ = ["GET", "HEAD"]
"""Load balancers and monitors ask with HEAD; the server leaves the body out."""


def model_routes(model: ServedModel, engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/v1/models")

    def describe() -> dict[str, Any]:
        return {
            "id": model.id,
            "object": "model",
            "created": model.created,
            "owned_by": "smolserve",
            "max_model_len": engine.max_context_len,
            "context_length": model.context_len,
        }

    @router.api_route("", methods=_READ)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe()]}

    @router.api_route("/{model_id:path}", methods=_READ)
    async def get_model(model_id: str) -> dict[str, Any]:
        model.check_name(model_id)
        return describe()

    return router


def health_routes(engine: Engine, drain: Drain) -> APIRouter:
    router = APIRouter(prefix="/health")

    @router.api_route("/live", methods=_READ)
    async def get_liveness() -> dict[str, str]:
        return {"status": "live"}

    @router.api_route("/ready", methods=_READ)
    async def get_readiness(response: Response) -> dict[str, str]:
        if drain.has_begun:
            response.status_code = 404
            return {"status": "draining"}
        if not engine.is_ready:
            response.status_code = 503
            return {"status": "loading"}
        return {"status": "ready"}

    return router


def metrics_routes(registry: CollectorRegistry) -> APIRouter:
    router = APIRouter()

    @router.api_route("/metrics", methods=_READ)
    async def get_metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router
