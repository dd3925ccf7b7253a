"""`/v1/files`: what batches read and write."""

from collections.abc import AsyncIterator, Mapping
from typing import BinaryIO, Literal
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from service.api.answers import AnswerModel
from service.api.drain import Drain
from service.api.exchange import Exchange
from service.api.forms import FormReader
from service.api.listing import list_parameters, read_cursor, read_number
from service.api.operation import MULTIPART, Answer, Operation, Parameter
from service.api.validation import UNKNOWN_PARAMETER, UNSUPPORTED_PARAMETER
from service.batches.batches import Batches
from service.batches.files import Upload
from service.batches.objects import StoredFile
from service.errors import InvalidRequest

_READ = ["GET", "HEAD"]
_MAX_LIMIT = 10_000
_PIECE_BYTES = 1 << 18
_JSON_LINES = "application/jsonl"
_MIN_SECONDS = 3600
_MAX_SECONDS = 30 * 24 * 3600
_MAX_NAME_LEN = 255
_ANCHOR = "expires_after[anchor]"
_SECONDS = "expires_after[seconds]"
_FIELDS = frozenset({"purpose", _ANCHOR, _SECONDS})


class FileUpload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: bytes
    purpose: Literal["batch"]
    expires_after_anchor: Literal["created_at"] | None = Field(default=None, alias=_ANCHOR)
    expires_after_seconds: int | None = Field(
        default=None, alias=_SECONDS, ge=_MIN_SECONDS, le=_MAX_SECONDS
    )


class FileObject(AnswerModel):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]


class FileList(AnswerModel):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(AnswerModel):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


_ID = Parameter(name="file_id")

FILE_OPERATIONS = (
    Operation(
        method="post",
        path="/v1/files",
        summary="Uploads the input of a batch",
        body=FileUpload,
        body_media_type=MULTIPART,
        answers=(Answer(schema=FileObject),),
        errors=(503, 507),
    ),
    Operation(
        method="get",
        path="/v1/files",
        summary="The key's own files, newest first",
        parameters=(
            *list_parameters(default_limit=_MAX_LIMIT, max_limit=_MAX_LIMIT),
            Parameter(name="order", place="query", schema={"enum": ["asc", "desc"]}),
            Parameter(name="purpose", place="query", description="Only files that are for this."),
        ),
        answers=(Answer(schema=FileList),),
        errors=(400, 404, 507),
    ),
    Operation(
        method="get",
        path="/v1/files/{file_id}",
        summary="What is known of a file",
        parameters=(_ID,),
        answers=(Answer(schema=FileObject),),
        errors=(404, 507),
    ),
    Operation(
        method="delete",
        path="/v1/files/{file_id}",
        summary="Deletes a file",
        parameters=(_ID,),
        answers=(Answer(schema=DeletedFile),),
        errors=(400, 404, 507),
    ),
    Operation(
        method="get",
        path="/v1/files/{file_id}/content",
        summary="A file's bytes",
        parameters=(_ID,),
        answers=(Answer(media_type=_JSON_LINES),),
        errors=(404, 507),
    ),
)


def file_routes(batches: Batches, drain: Drain) -> APIRouter:
    """Another tenant's file is a file that there is not."""
    router = APIRouter(prefix="/v1/files")

    @router.post("")
    async def upload_file(request: Request) -> FileObject:
        drain.check()
        tenant = Exchange.of(request.scope).tenant
        files = batches.files
        async with files.receive(tenant) as upload:
            form = await _read_form(request, upload)
            seconds = _check_fields(form.fields)
            name = (form.file_name or "upload")[:_MAX_NAME_LEN]
            return describe(await files.keep(upload, tenant=tenant, name=name, seconds=seconds))

    @router.api_route("", methods=_READ)
    async def list_files(request: Request) -> FileList:
        query = request.query_params
        others = frozenset({"order", "purpose"})
        cursor = read_cursor(query, default_limit=_MAX_LIMIT, max_limit=_MAX_LIMIT, others=others)
        tenant = Exchange.of(request.scope).tenant
        page = await batches.files.read_page(tenant, cursor, query.get("purpose"))
        return FileList(
            object="list",
            data=list(map(describe, page.items)),
            first_id=page.items[0].id if page.items else None,
            last_id=page.items[-1].id if page.items else None,
            has_more=page.has_more,
        )

    @router.api_route("/{file_id}", methods=_READ)
    async def get_file(request: Request, file_id: str) -> FileObject:
        return describe(await batches.files.get(Exchange.of(request.scope).tenant, file_id))

    @router.delete("/{file_id}")
    async def delete_file(request: Request, file_id: str) -> DeletedFile:
        await batches.files.delete(Exchange.of(request.scope).tenant, file_id)
        return DeletedFile(id=file_id, object="file", deleted=True)

    @router.api_route("/{file_id}/content", methods=_READ)
    async def get_content(request: Request, file_id: str) -> Response:
        file = await batches.files.get(Exchange.of(request.scope).tenant, file_id)
        content = await batches.files.open_content(file)
        return StreamingResponse(_read_pieces(content), headers=_headers_of(file))

    return router


def describe(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        object="file",
        bytes=file.num_bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.name,
        purpose=file.purpose,
        status="processed",
    )


async def _read_form(request: Request, upload: Upload) -> FormReader:
    """The file goes to `upload` as it comes; its purpose may stand behind it."""
    form = FormReader(request.headers.get("content-type", ""))
    async for piece in request.stream():
        await upload.write(form.feed(piece))
    form.finish()
    return form


def _check_fields(fields: Mapping[str, str]) -> int | None:
    """Seconds that the file is kept, where the client says so. Raises InvalidRequest."""
    unknown = fields.keys() - _FIELDS
    if unknown:
        name = min(unknown)[:100]
        raise InvalidRequest(f"Unknown field: {name}.", param=name, code=UNKNOWN_PARAMETER)
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest(
            "purpose is required.", param="purpose", code="missing_required_parameter"
        )
    if purpose != "batch":
        raise InvalidRequest(
            f"purpose: {purpose[:100]!r} is not supported by this server; batch is.",
            param="purpose",
            code=UNSUPPORTED_PARAMETER,
        )
    return _read_expiry(fields)


def _read_expiry(fields: Mapping[str, str]) -> int | None:
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(f"{_ANCHOR} must be created_at.", param="expires_after.anchor")
    number = read_number(seconds or "")
    if number is None or not _MIN_SECONDS <= number <= _MAX_SECONDS:
        raise InvalidRequest(
            f"{_SECONDS} must be between {_MIN_SECONDS} and {_MAX_SECONDS}.",
            param="expires_after.seconds",
        )
    return number


async def _read_pieces(content: BinaryIO) -> AsyncIterator[bytes]:
    with content:
        while piece := await to_thread.run_sync(content.read, _PIECE_BYTES):
            yield piece


def _headers_of(file: StoredFile) -> Mapping[str, str]:
    """A browser saves it, whatever it is called."""
    return {
        "content-type": _JSON_LINES,
        "content-length": str(file.num_bytes),
        "content-disposition": f"attachment; filename*=utf-8''{quote(file.name, safe='')}",
    }
