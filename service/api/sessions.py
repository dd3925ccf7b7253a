"""`/v1/sessions`: a tenant's conversations, and the way to be forgotten."""

from collections.abc import Mapping
from typing import Literal

from fastapi import APIRouter, Request

from service.api.answers import AnswerModel
from service.api.engine import Engine
from service.api.exchange import Exchange
from service.api.operation import Answer, Operation, Parameter
from service.api.served_model import ServedModel
from service.errors import InvalidRequest, ObjectNotFound
from service.runtime.sessions import Session

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


class SessionObject(AnswerModel):
    id: str
    object: Literal["session"]
    created_at: int
    """Seconds since the epoch."""
    last_used_at: int
    model: str
    num_requests: int
    """Answers asked for in it since the service started."""
    num_running: int
    num_tokens: int
    """Prompt and answer of its latest request."""


class SessionList(AnswerModel):
    object: Literal["list"]
    data: list[SessionObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedSession(AnswerModel):
    id: str
    object: Literal["session.deleted"]
    deleted: Literal[True]


_ID = Parameter(name="session_id", description="As an answer's X-Session-Id says it.")
_LIMIT = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}

OPERATIONS = (
    Operation(
        method="get",
        path="/v1/sessions",
        summary="The key's own sessions, newest first",
        parameters=(
            Parameter(name="limit", place="query", schema=_LIMIT),
            Parameter(name="after", place="query", description="The last id of the page before."),
        ),
        answers=(Answer(schema=SessionList),),
        errors=(400, 404),
    ),
    Operation(
        method="get",
        path="/v1/sessions/{session_id}",
        summary="What is known of a session",
        parameters=(_ID,),
        answers=(Answer(schema=SessionObject),),
        errors=(404,),
    ),
    Operation(
        method="delete",
        path="/v1/sessions/{session_id}",
        summary="Frees everything that was computed in a session",
        parameters=(_ID,),
        answers=(Answer(schema=DeletedSession),),
        errors=(404, 503),
    ),
)


def session_routes(model: ServedModel, engine: Engine) -> APIRouter:
    """Another tenant's session is a session that there is not, in every way."""
    router = APIRouter(prefix="/v1/sessions")

    def describe(session: Session) -> SessionObject:
        return SessionObject(
            id=session.id,
            object="session",
            created_at=int(session.created),
            last_used_at=int(session.last_used),
            model=model.id,
            num_requests=session.num_requests,
            num_running=session.num_running,
            num_tokens=session.num_tokens,
        )

    @router.api_route("", methods=["GET", "HEAD"])
    async def list_sessions(request: Request) -> SessionList:
        limit, after = _read_limit(request.query_params), request.query_params.get("after")
        tenant = Exchange.of(request.scope).tenant
        if after is not None and engine.sessions.get(tenant, after) is None:
            raise _not_found(after, param="after")
        found = engine.sessions.list_newest(tenant, limit=limit + 1, after=after)
        page = [describe(session) for session in found[:limit]]
        return SessionList(
            object="list",
            data=page,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=len(found) > limit,
        )

    @router.api_route("/{session_id}", methods=["GET", "HEAD"])
    async def get_session(request: Request, session_id: str) -> SessionObject:
        session = engine.sessions.get(Exchange.of(request.scope).tenant, session_id)
        if session is None:
            raise _not_found(session_id)
        return describe(session)

    @router.delete("/{session_id}")
    async def delete_session(request: Request, session_id: str) -> DeletedSession:
        tenant = Exchange.of(request.scope).tenant
        if await engine.forget_session(tenant, session_id) is None:
            raise _not_found(session_id)
        return DeletedSession(id=session_id, object="session.deleted", deleted=True)

    return router


def _read_limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:4]) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be between 1 and {MAX_LIMIT}.", param="limit")
    return int(text)


def _not_found(session_id: str, *, param: str | None = None) -> ObjectNotFound:
    return ObjectNotFound(f"There is no session {session_id[:100]!r}.", param=param)
