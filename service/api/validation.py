"""Request bodies to schemas; what Pydantic complains of becomes one error that names the field."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import structlog
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from service.errors import InvalidRequest

logger = structlog.stdlib.get_logger(__name__)

Schema = TypeVar("Schema", bound=BaseModel)

UNKNOWN_PARAMETER = "unknown_parameter"
UNSUPPORTED_PARAMETER = "unsupported_parameter"
_MAX_NAMED = 8
_LONG_NUMBER = re.compile(rb"[:,\[]\s*-?[0-9]{19}")
_UNKNOWN = "extra_forbidden"
"""What Pydantic calls a field that is not known."""


def parse_body(schema: type[Schema], body: bytes, *, ignore_unknown: bool = False) -> Schema:
    """Raises InvalidRequest; `param` is a path such as messages[2].content[0].type.

    With `ignore_unknown`, unknown fields leave a line in the log instead.
    """
    _refuse_long_integers(body)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    wrong = [item for item in errors if not (ignore_unknown and item["type"] == _UNKNOWN)]
    if wrong:
        raise _explain(wrong, body)
    document = from_json(body)
    logger.debug("unknown_fields_ignored", fields=[_path(item, document) for item in errors])
    return schema.model_validate_json(body, extra="ignore")


def _refuse_long_integers(body: bytes) -> None:
    """Whatever field takes any value, messages and records behind it have 64 bits for a number."""
    if not _LONG_NUMBER.search(body):
        return
    with suppress(ValueError):  # what is no JSON is told of elsewhere
        place = next(_long_integers(from_json(body), ""), None)
        if place is not None:
            raise InvalidRequest(f"{place}: an integer must fit into 64 bits", param=place)


def _long_integers(value: object, path: str) -> Iterator[str]:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield path
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _long_integers(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in cast("dict[str, object]", value).items():
            yield from _long_integers(item, f"{path}.{name}".removeprefix("."))


def _explain(errors: Sequence[ErrorDetails], body: bytes) -> InvalidRequest:
    first = next((item for item in errors if item["type"] == UNSUPPORTED_PARAMETER), errors[0])
    if first["type"] == "json_invalid":
        reason = first["msg"].removeprefix("Invalid JSON: ")
        return InvalidRequest(f"The body is not valid JSON: {reason}.", code="invalid_json")
    if first["loc"] == ():
        return InvalidRequest("The body must be a JSON object.", code="invalid_json")
    document = from_json(body)
    unknown = [_path(item, document) for item in errors if item["type"] == _UNKNOWN]
    if unknown and first["type"] != UNSUPPORTED_PARAMETER:
        named = ", ".join(unknown[:_MAX_NAMED])
        return InvalidRequest(
            f"Unknown field{'s' * (len(unknown) > 1)}: {named}.",
            param=unknown[0],
            code=UNKNOWN_PARAMETER,
        )
    path = _path(first, document)
    code = UNSUPPORTED_PARAMETER if first["type"] == UNSUPPORTED_PARAMETER else None
    if first["type"] == "missing":
        return InvalidRequest(f"{path} is required.", param=path, code="missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{path}: {message}", param=path, code=code)


def _path(error: ErrorDetails, document: object) -> str:
    """The error's location as a path into the document; Pydantic's union labels are not in it."""
    path = ""
    current: Any = document
    for part in error["loc"]:
        if isinstance(current, list) and isinstance(part, int):
            path += f"[{part}]"
            current = cast("list[object]", current)[part]
        elif isinstance(current, Mapping) and part in current:
            path += f".{part}"
            current = cast("Mapping[object, object]", current)[part]
    if error["type"] == "missing":
        path += f".{error['loc'][-1]}"
    return path.removeprefix(".")
