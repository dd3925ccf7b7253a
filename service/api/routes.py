"""Everything but chat: models, health and metrics."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.api.answers import AnswerModel
from service.api.drain import Drain
from service.api.engine import Engine
from service.api.operation import OPENMETRICS, PLAIN_TEXT, Answer, Operation, Parameter
from service.api.served_model import ServedModel

_READ = ["GET", "HEAD"]
"""Load balancers and monitors ask with HEAD; the server leaves the body out."""


class Capabilities(AnswerModel):
    tools: Literal["native", "prompted"]
    """Whether the model was made for tools, or is told of them in the system message."""
    reasoning: bool
    """Whether it can think before it answers."""
    structured_output: Literal[True]
    vision: Literal[False]


class ModelCard(AnswerModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    """Tokens that prompt and output may have together here."""
    context_length: int
    """Tokens that the model was made for."""
    capabilities: Capabilities


class ModelList(AnswerModel):
    object: Literal["list"]
    data: list[ModelCard]


class Health(AnswerModel):
    status: Literal["live", "ready", "loading", "draining"]


OPERATIONS = (
    Operation(
        method="get",
        path="/v1/models",
        summary="The one model that is served here",
        answers=(Answer(schema=ModelList),),
    ),
    Operation(
        method="get",
        path="/v1/models/{model_id}",
        summary="What a model can do",
        parameters=(Parameter(name="model_id"),),
        answers=(Answer(schema=ModelCard),),
        errors=(404,),
    ),
    Operation(
        method="get",
        path="/health/live",
        summary="Whether the process answers",
        answers=(Answer(schema=Health),),
        is_open=True,
    ),
    Operation(
        method="get",
        path="/health/ready",
        summary="Whether requests should be sent here",
        answers=(
            Answer(schema=Health, description="Ready."),
            Answer(schema=Health, description="Draining.", status=404),
            Answer(schema=Health, description="Loading.", status=503),
        ),
    ),
    Operation(
        method="get",
        path="/metrics",
        summary="Metrics for Prometheus",
        answers=(Answer(media_type=PLAIN_TEXT), Answer(media_type=OPENMETRICS)),
    ),
)


def model_routes(model: ServedModel, engine: Engine) -> APIRouter:
    router = APIRouter(prefix="/v1/models")

    def describe() -> ModelCard:
        return ModelCard(
            id=model.id,
            object="model",
            created=model.created,
            owned_by="smolserve",
            max_model_len=engine.max_context_len,
            context_length=model.context_len,
            capabilities=Capabilities(
                tools="native" if model.format.native_tools else "prompted",
                reasoning=model.format.supports_thinking,
                structured_output=True,
                vision=False,
            ),
        )

    @router.api_route("", methods=_READ)
    async def list_models() -> ModelList:
        return ModelList(object="list", data=[describe()])

    @router.api_route("/{model_id:path}", methods=_READ)
    async def get_model(model_id: str) -> ModelCard:
        model.check_name(model_id)
        return describe()

    return router


def health_routes(engine: Engine, drain: Drain) -> APIRouter:
    router = APIRouter(prefix="/health")

    @router.api_route("/live", methods=_READ)
    async def get_liveness() -> Health:
        return Health(status="live")

    @router.api_route("/ready", methods=_READ)
    async def get_readiness(response: Response) -> Health:
        if drain.has_begun:
            response.status_code = 404
            return Health(status="draining")
        if not engine.is_ready:
            response.status_code = 503
            return Health(status="loading")
        return Health(status="ready")

    return router


def metrics_routes(registry: CollectorRegistry) -> APIRouter:
    router = APIRouter()

    @router.api_route("/metrics", methods=_READ)
    async def get_metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return router
