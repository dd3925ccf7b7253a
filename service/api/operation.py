"""What a module says of its own routes, for the OpenAPI document.

A module that has routes has `OPERATIONS`, and `build_application` gathers them. Pydantic models
describe the bodies, so that what is described is what is checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
MULTIPART = "multipart/form-data"
PLAIN_TEXT = "text/plain"
OPENMETRICS = "application/openmetrics-text"

GENERATING = (404, 429, 503, 504)
"""Errors of an operation that names a model and waits in the engine's queue."""


def _text_schema() -> Mapping[str, object]:
    return {"type": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer that is not an error; without a schema it is what its media type says."""

    status: int = 200
    description: str = "The answer."
    schema: type[BaseModel] | None = None
    media_type: str = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    name: str
    place: Literal["path", "query", "header"] = "path"
    schema: Mapping[str, object] = field(default_factory=_text_schema)
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method of a path. What all have in common is not said: keys, ids, the usual errors."""

    method: Literal["get", "post", "delete"]
    path: str
    """With {names} of its path parameters."""
    summary: str
    answers: tuple[Answer, ...]
    body: type[BaseModel] | None = None
    body_media_type: str = JSON
    is_body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    errors: tuple[int, ...] = ()
    """Beside those that every operation has, and those of every one with a body."""
    is_rate_limited: bool = False
    """Counts against its caller's limits, and tells of them."""
    is_open: bool = False
    """Answered without a key."""

    @property
    def name(self) -> str:
        """Its operationId."""
        words = self.path.strip("/").translate(str.maketrans("/.-", "___", "{}"))
        return f"{self.method}_{words}"
