"""What can be done with a response that was made: read, cancel, delete, list its input."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from service.api.config import ApiConfig
from service.api.deadline import TIMEOUT_HEADER
from service.api.drain import Drain
from service.api.event_stream import EventStream
from service.api.exchange import Exchange
from service.api.generator import Generator
from service.api.operation import EVENT_STREAM, GENERATING, Answer, Operation, Parameter
from service.api.responses.answers import (
    DeletedResponse,
    InputItemList,
    ResponseEvent,
    ResponseObject,
)
from service.api.responses.background import Background, BackgroundRun
from service.api.responses.conversation import Conversations, write_body
from service.api.responses.creation import CreateResponse
from service.api.responses.following import follow
from service.api.responses.schemas import LOGPROBS, ResponseRequest
from service.api.served_model import ServedModel
from service.api.validation import UNKNOWN_PARAMETER, UNSUPPORTED_PARAMETER
from service.errors import InvalidRequest, ObjectNotFound
from service.records.responses import ResponseRecord, ResponseRecords

PATH = "/v1/responses"
DEFAULT_LIMIT = 20
MAX_LIMIT = 100


_ONE = PATH + "/{response_id}"
_ID = Parameter(name="response_id", description="As the response's id says it.")
_FLAG = {"enum": ["true", "false"], "default": "false"}
_INCLUDE = Parameter(
    name="include", place="query", schema={"const": LOGPROBS}, description="Is there in any case."
)

RESPONSE_OPERATIONS = (
    Operation(
        method="post",
        path=PATH,
        summary="An answer to items, at once, as events or in the background",
        body=ResponseRequest,
        answers=(
            Answer(schema=ResponseObject),
            Answer(schema=ResponseEvent, media_type=EVENT_STREAM),
        ),
        parameters=(TIMEOUT_HEADER,),
        errors=(*GENERATING, 507),
        is_rate_limited=True,
    ),
    Operation(
        method="get",
        path=_ONE,
        summary="A stored response, or what there is of one in the background",
        parameters=(
            _ID,
            Parameter(name="stream", place="query", schema=_FLAG),
            Parameter(
                name="starting_after", place="query", schema={"type": "integer", "minimum": -1}
            ),
            Parameter(name="include_obfuscation", place="query", schema={"const": "false"}),
            _INCLUDE,
        ),
        answers=(
            Answer(schema=ResponseObject),
            Answer(schema=ResponseEvent, media_type=EVENT_STREAM),
        ),
        errors=(400, 404, 507),
    ),
    Operation(
        method="delete",
        path=_ONE,
        summary="Forgets a response",
        parameters=(_ID,),
        answers=(Answer(schema=DeletedResponse),),
        errors=(404, 507),
    ),
    Operation(
        method="post",
        path=f"{_ONE}/cancel",
        summary="Ends a response in the background",
        parameters=(_ID,),
        answers=(Answer(schema=ResponseObject),),
        errors=(400, 404, 507),
    ),
    Operation(
        method="get",
        path=f"{_ONE}/input_items",
        summary="The items that the request gave, newest first",
        parameters=(
            _ID,
            Parameter(
                name="limit",
                place="query",
                schema={
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_LIMIT,
                    "default": DEFAULT_LIMIT,
                },
            ),
            Parameter(name="order", place="query", schema={"enum": ["asc", "desc"]}),
            Parameter(name="after", place="query", description="The last id of the page before."),
            _INCLUDE,
        ),
        answers=(Answer(schema=InputItemList),),
        errors=(400, 404, 507),
    ),
)


def response_routes(
    config: ApiConfig,
    *,
    model: ServedModel,
    generator: Generator,
    records: ResponseRecords,
    drain: Drain,
    log: FilteringBoundLogger,
) -> list[Route]:
    conversations = Conversations(records, log)
    background = Background(conversations, drain, log)
    create = CreateResponse(
        config,
        model=model,
        generator=generator,
        conversations=conversations,
        background=background,
        drain=drain,
    )
    kept = _Kept(records, background)
    return [
        Route(PATH, create, methods=["POST"]),
        Route(_ONE, _GetResponse(kept, config.keepalive_seconds), methods=["GET"]),
        Route(_ONE, kept.delete, methods=["DELETE"]),
        Route(f"{_ONE}/cancel", kept.cancel, methods=["POST"]),
        Route(f"{_ONE}/input_items", kept.list_input, methods=["GET"]),
    ]


class _Kept:
    """Responses that are stored or still being made. Raises ObjectNotFound for any other."""

    def __init__(self, records: ResponseRecords, background: Background) -> None:
        self._records = records
        self._background = background

    def find_run(self, scope: Scope) -> BackgroundRun | None:
        return self._background.find(_id_of(scope), Exchange.of(scope).tenant)

    async def find_record(self, scope: Scope) -> ResponseRecord:
        response_id = _id_of(scope)
        record = await self._records.get(response_id, Exchange.of(scope).tenant)
        if record is None:
            raise _not_found(response_id)
        return record

    async def read(self, scope: Scope) -> dict[str, Any]:
        run = self.find_run(scope)
        return run.body() if run is not None else write_body(await self.find_record(scope))

    async def cancel(self, request: Request) -> Response:
        """Of one that has ended, whatever it ended as, it is the answer as well."""
        run = self.find_run(request.scope)
        if run is not None:
            await run.cancel()
        body = await self.read(request.scope)
        if not body["background"]:
            raise InvalidRequest(
                "Only a response that was asked for with background=true can be cancelled; leave "
                "the connection to end another.",
                param="response_id",
            )
        return _json(body)

    async def delete(self, request: Request) -> Response:
        """Ends it first, if it is still being made."""
        scope = request.scope
        run = self.find_run(scope)
        if run is not None:
            await run.cancel()
        response_id = _id_of(scope)
        is_deleted = await self._records.delete(response_id, Exchange.of(scope).tenant)
        if run is not None:
            self._background.forget(response_id)
        elif not is_deleted:
            raise _not_found(response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    async def list_input(self, request: Request) -> Response:
        query = request.query_params
        _check_query(query, {"limit", "order", "after", "include", "include[]"})
        record = await self.find_record(request.scope)
        items = [orjson.loads(item.body) for item in record.input]
        if _read_choice(query, "order", ("desc", "asc")) == "desc":
            items.reverse()
        limit = _read_number(query, "limit", DEFAULT_LIMIT, at_least=1, at_most=MAX_LIMIT)
        rest = _skip(items, query.get("after"))
        page = rest[:limit]
        return _json(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(rest) > limit,
            }
        )


class _GetResponse:
    """An ASGI application, since it may answer with a stream."""

    def __init__(self, kept: _Kept, keepalive_seconds: float) -> None:
        self._kept = kept
        self._keepalive_seconds = keepalive_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = QueryParams(scope["query_string"])
        _check_query(
            query,
            {"stream", "starting_after", "include", "include[]", "include_obfuscation"},
        )
        if _read_choice(query, "include_obfuscation", ("false", "true")) == "true":
            raise _unsupported("include_obfuscation", "only false is supported")
        if _read_choice(query, "stream", ("false", "true")) == "false":
            await _json(await self._kept.read(scope))(scope, receive, send)
            return
        run = self._kept.find_run(scope)
        if run is None or not run.is_streamed:
            await self._kept.read(scope)
            raise _unsupported(
                "stream",
                "only a response that was made with background=true and stream=true can be "
                "followed, while it is made and shortly after; fetch it without stream",
            )
        after = _read_number(query, "starting_after", -1, at_least=-1)
        await follow(
            run,
            EventStream(send),
            receive,
            after=after,
            keepalive_seconds=self._keepalive_seconds,
        )


def _id_of(scope: Scope) -> str:
    return scope["path_params"]["response_id"]


def _json(body: Mapping[str, object]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")


def _skip(items: list[dict[str, Any]], after: str | None) -> list[dict[str, Any]]:
    if after is None:
        return items
    for index, item in enumerate(items):
        if item["id"] == after:
            return items[index + 1 :]
    raise InvalidRequest(f"after: there is no item {after[:100]!r} in the input.", param="after")


def _check_query(query: QueryParams, known: Iterable[str]) -> None:
    """Raises InvalidRequest for what is not known, and for includes that are not there."""
    for name, value in query.multi_items():
        if name not in known:
            raise InvalidRequest(f"Unknown field: {name}.", param=name, code=UNKNOWN_PARAMETER)
        if name.startswith("include") and "_" not in name and value != LOGPROBS:
            raise _unsupported("include", f"only {LOGPROBS} is supported")


def _read_choice(query: QueryParams, name: str, choices: tuple[str, ...]) -> str:
    """The first is the default."""
    value = query.get(name, choices[0])
    if value not in choices:
        raise InvalidRequest(f"{name} must be {' or '.join(choices)}.", param=name)
    return value


def _read_number(
    query: QueryParams, name: str, default: int, *, at_least: int, at_most: int = 2**31
) -> int:
    try:
        number = int(query.get(name, default))
    except ValueError:
        number = at_least - 1
    if not at_least <= number <= at_most:
        raise InvalidRequest(f"{name} must be between {at_least} and {at_most}.", param=name)
    return number


def _unsupported(param: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {reason}.", param=param, code=UNSUPPORTED_PARAMETER)


def _not_found(response_id: str) -> ObjectNotFound:
    return ObjectNotFound(
        f"There is no response {response_id[:100]!r}: it was not stored, was deleted, or expired.",
        param="response_id",
    )
