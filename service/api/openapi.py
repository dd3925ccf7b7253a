"""`GET /openapi.json`: the operations as an OpenAPI document."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service import __version__
from service.api.operation import EVENT_STREAM, JSON, Answer, Operation, Parameter
from service.api.rate_limits import RATE_LIMIT_HEADERS

_COMMON_ERRORS = (431, 500)
_BODY_ERRORS = (400, 408, 413, 415)
_RETRY_LATER = frozenset({429, 503})
_BEARER = "bearer"

_CLIENT_IDS = (
    Parameter(
        name="X-Request-Id",
        place="header",
        description="Names the request in answers and logs; minted where it is missing or insane.",
    ),
    Parameter(
        name="X-Session-Id",
        place="header",
        description="Names the session that the request belongs to.",
    ),
)
_ANSWER_HEADERS = {
    "X-Request-Id": {"type": "string"},
    "X-Session-Id": {"type": "string"},
    "openai-processing-ms": {"type": "integer", "minimum": 0},
}
_RATE_LIMIT_HEADERS = {
    name: {"type": "string", "pattern": r"^(\d+h)?(\d+m)?(\d+(\.\d+)?(s|ms))$"}
    if "reset" in name
    else {"type": "integer", "minimum": 0}
    for name in RATE_LIMIT_HEADERS
}
"""Where limits are set."""
_RETRY_AFTER = {"Retry-After": {"type": "integer", "minimum": 1}}
_WWW_AUTHENTICATE = {"WWW-Authenticate": {"type": "string", "const": "Bearer"}}


class ErrorDetail(BaseModel):
    message: str
    type: Literal[
        "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
    ]
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """What every failure is told as; after the first byte of a stream it is an event."""

    error: ErrorDetail


OPENAPI = Operation(
    method="get",
    path="/openapi.json",
    summary="This description",
    answers=(Answer(description="An OpenAPI 3.1 document."),),
)


def openapi_routes(
    operations: Sequence[Operation], *, model_id: str, needs_key: bool
) -> list[Route]:
    """Made once, at start; `needs_key` is whether keys are set."""
    document = orjson.dumps(
        describe([*operations, OPENAPI], model_id=model_id, needs_key=needs_key)
    )

    async def get_document(_request: Request) -> Response:
        return Response(document, media_type=JSON)

    return [Route(OPENAPI.path, get_document, methods=["GET"])]


def describe(operations: Sequence[Operation], *, model_id: str, needs_key: bool) -> dict[str, Any]:
    models = {ErrorBody, *_models(operations)}
    references, schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda model: model.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    writer = _Writer({model: reference for (model, _), reference in references.items()})
    paths: dict[str, dict[str, object]] = {}
    for operation in operations:
        guarded = needs_key and not operation.is_open
        described = writer.describe(operation, guarded=guarded)
        paths.setdefault(operation.path, {})[operation.method] = described
    components: dict[str, object] = {"schemas": _name_model(schemas["$defs"], model_id)}
    if needs_key:
        components["securitySchemes"] = {_BEARER: {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smolserve",
            "version": __version__,
            "description": "An OpenAI-compatible service for one small model.",
        },
        "paths": paths,
        "components": components,
    }


def _name_model(schemas: dict[str, Any], model_id: str) -> dict[str, Any]:
    """Whatever a schema calls its model is the one that is served."""
    for schema in schemas.values():
        match schema.get("properties"):
            case {"model": {"type": "string"} as described}:
                described["const"] = model_id
            case {"model": {"anyOf": [{"type": "string"} as described, {"type": "null"}]}}:
                described["const"] = model_id
            case _:
                pass
    return schemas


def _models(operations: Iterable[Operation]) -> Iterator[type[BaseModel]]:
    for operation in operations:
        if operation.body is not None:
            yield operation.body
        yield from (answer.schema for answer in operation.answers if answer.schema is not None)


class _Writer:
    """Knows under which names the models stand in the document."""

    def __init__(self, references: Mapping[Any, dict[str, Any]]) -> None:
        self._references = references

    def describe(self, operation: Operation, *, guarded: bool) -> dict[str, object]:
        errors = _list_errors(operation, guarded=guarded)
        headers = _ANSWER_HEADERS | (_RATE_LIMIT_HEADERS if operation.is_rate_limited else {})
        described: dict[str, object] = {
            "operationId": operation.name,
            "summary": operation.summary,
            "security": [{_BEARER: []}] if guarded else [],
            "parameters": list(map(_write_parameter, (*operation.parameters, *_CLIENT_IDS))),
            "responses": self._write_answers(operation.answers, headers)
            | {str(status): self._write_error(status, headers) for status in errors},
        }
        if operation.body is not None:
            schema = self._references[operation.body]
            described["requestBody"] = {
                "required": operation.is_body_required,
                "content": {operation.body_media_type: {"schema": schema}},
            }
        return described

    def _write_answers(
        self, answers: Iterable[Answer], headers: Mapping[str, object]
    ) -> dict[str, object]:
        """Answers of one status are one in several forms."""
        written: dict[str, Any] = {}
        for answer in answers:
            fresh = {
                "description": answer.description,
                "headers": _write_headers(headers),
                "content": {},
            }
            same_status = written.setdefault(str(answer.status), fresh)
            same_status["content"][answer.media_type] = self._write_form(answer)
        return written

    def _write_form(self, answer: Answer) -> dict[str, object]:
        schema = self._references[answer.schema] if answer.schema else {}
        return {
            "schema": self._write_event(schema) if answer.media_type == EVENT_STREAM else schema
        }

    def _write_event(self, schema: dict[str, Any]) -> dict[str, object]:
        """Of each event; OpenAPI 3.1 does not say so, but it is what all make of it."""
        text = {
            "type": "string",
            "contentMediaType": JSON,
            "contentSchema": {"anyOf": [schema, self._references[ErrorBody]]},
        }
        properties = {"event": {"type": "string"}, "data": {"anyOf": [{"const": "[DONE]"}, text]}}
        return {"type": "object", "properties": properties, "required": ["data"]}

    def _write_error(self, status: int, headers: Mapping[str, object]) -> dict[str, object]:
        if status in _RETRY_LATER:
            headers = {**headers, **_RETRY_AFTER}
        if status == HTTPStatus.UNAUTHORIZED:
            headers = {**headers, **_WWW_AUTHENTICATE}
        return {
            "description": HTTPStatus(status).phrase,
            "headers": _write_headers(headers),
            "content": {JSON: {"schema": self._references[ErrorBody]}},
        }


def _list_errors(operation: Operation, *, guarded: bool) -> list[int]:
    statuses = {*operation.errors, *_COMMON_ERRORS}
    if operation.body is not None:
        statuses.update(_BODY_ERRORS)
    statuses.add(HTTPStatus.UNAUTHORIZED if guarded else HTTPStatus.FORBIDDEN)
    return sorted(statuses)


def _write_parameter(parameter: Parameter) -> dict[str, object]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _write_headers(schemas: Mapping[str, object]) -> dict[str, object]:
    return {name: {"schema": schema} for name, schema in schemas.items()}
