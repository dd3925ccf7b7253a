"""`/v1/batches`: many requests in one file, answered when nobody else wants the slots."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from service.api.answers import AnswerModel
from service.api.body import read_body
from service.api.drain import Drain
from service.api.exchange import Exchange
from service.api.fields import Schema
from service.api.listing import list_parameters, read_cursor
from service.api.operation import Answer, Operation, Parameter
from service.api.validation import parse_body
from service.batches.batches import Batches
from service.batches.objects import Batch, Problem, Status, Usage

_READ = ["GET", "HEAD"]
_DEFAULT_LIMIT = 20
_MAX_LIMIT = 100
_HOUR_SECONDS = 3600

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class OutputExpiresAfter(Schema):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=_HOUR_SECONDS, le=30 * 24 * _HOUR_SECONDS)]


class BatchRequest(Schema):
    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    output_expires_after: OutputExpiresAfter | None = None


class BatchError(AnswerModel):
    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(AnswerModel):
    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(AnswerModel):
    total: int
    completed: int
    failed: int


class InputTokensDetails(AnswerModel):
    cached_tokens: int


class OutputTokensDetails(AnswerModel):
    reasoning_tokens: int


class BatchUsage(AnswerModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class BatchObject(AnswerModel):
    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    """What the first line asks for."""
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None


class BatchList(AnswerModel):
    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


_ID = Parameter(name="batch_id")

BATCH_OPERATIONS = (
    Operation(
        method="post",
        path="/v1/batches",
        summary="Runs the requests of a file",
        body=BatchRequest,
        answers=(Answer(schema=BatchObject),),
        errors=(404, 429, 503, 507),
    ),
    Operation(
        method="get",
        path="/v1/batches",
        summary="The key's own batches, newest first",
        parameters=list_parameters(default_limit=_DEFAULT_LIMIT, max_limit=_MAX_LIMIT),
        answers=(Answer(schema=BatchList),),
        errors=(400, 404, 507),
    ),
    Operation(
        method="get",
        path="/v1/batches/{batch_id}",
        summary="How far a batch is",
        parameters=(_ID,),
        answers=(Answer(schema=BatchObject),),
        errors=(404, 507),
    ),
    Operation(
        method="post",
        path="/v1/batches/{batch_id}/cancel",
        summary="Gives up what has not been answered",
        parameters=(_ID,),
        answers=(Answer(schema=BatchObject),),
        errors=(400, 404, 408, 413, 415, 507),
    ),
)


def batch_routes(batches: Batches, drain: Drain) -> APIRouter:
    """Another tenant's batch is a batch that there is not."""
    router = APIRouter(prefix="/v1/batches")

    @router.post("")
    async def create_batch(request: Request) -> BatchObject:
        drain.check()
        asked = parse_body(BatchRequest, await read_body(request.receive))
        expiry = asked.output_expires_after
        batch = await batches.create(
            Exchange.of(request.scope).tenant,
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            metadata=asked.metadata,
            output_seconds=expiry and expiry.seconds,
        )
        return describe(batch)

    @router.api_route("", methods=_READ)
    async def list_batches(request: Request) -> BatchList:
        cursor = read_cursor(
            request.query_params, default_limit=_DEFAULT_LIMIT, max_limit=_MAX_LIMIT
        )
        page = await batches.read_page(Exchange.of(request.scope).tenant, cursor)
        return BatchList(
            object="list",
            data=list(map(describe, page.items)),
            first_id=page.items[0].id if page.items else None,
            last_id=page.items[-1].id if page.items else None,
            has_more=page.has_more,
        )

    @router.api_route("/{batch_id}", methods=_READ)
    async def get_batch(request: Request, batch_id: str) -> BatchObject:
        return describe(await batches.get(Exchange.of(request.scope).tenant, batch_id))

    @router.post("/{batch_id}/cancel")
    async def cancel_batch(request: Request, batch_id: str) -> BatchObject:
        return describe(await batches.cancel(Exchange.of(request.scope).tenant, batch_id))

    return router


def describe(batch: Batch) -> BatchObject:
    return BatchObject(
        id=batch.id,
        object="batch",
        endpoint=batch.endpoint,
        model=batch.model,
        errors=_describe_problems(batch.problems),
        input_file_id=batch.input_file_id,
        completion_window="24h",
        status=batch.status,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_at,
        in_progress_at=batch.moments.get("in_progress"),
        expires_at=batch.expires_at,
        finalizing_at=batch.moments.get("finalizing"),
        completed_at=batch.moments.get("completed"),
        failed_at=batch.moments.get("failed"),
        expired_at=batch.moments.get("expired"),
        cancelling_at=batch.moments.get("cancelling"),
        cancelled_at=batch.moments.get("cancelled"),
        request_counts=RequestCounts(
            total=batch.num_lines, completed=batch.num_completed, failed=batch.num_failed
        ),
        usage=_describe_usage(batch.usage),
        metadata=batch.metadata,
    )


def _describe_problems(problems: tuple[Problem, ...]) -> BatchErrors | None:
    if not problems:
        return None
    data = [
        BatchError(
            code=problem.code, message=problem.message, line=problem.line, param=problem.param
        )
        for problem in problems
    ]
    return BatchErrors(object="list", data=data)


def _describe_usage(usage: Usage) -> BatchUsage:
    return BatchUsage(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning_tokens),
        total_tokens=usage.input_tokens + usage.output_tokens,
    )
