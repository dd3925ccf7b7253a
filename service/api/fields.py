"""Fields that every request for generated text has, and the strict base of all requests."""

from typing import Annotated, Any, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.api.validation import UNSUPPORTED_PARAMETER
from service.core.request import FIRST_PRIORITY, LAST_PRIORITY
from service.errors import InvalidRequest

MAX_STOP_STRINGS = 4
MAX_CHOICES = 128
MAX_INT = 2**31 - 1
"""What counts tokens fits any integer behind the API."""


def unsupported(message: str) -> PydanticCustomError:
    return PydanticCustomError(UNSUPPORTED_PARAMETER, "{message}", {"message": message})


def only(*accepted: object) -> BeforeValidator:
    """Accepts what asks for nothing: null and the given values."""

    def refuse_others(value: object) -> object:
        if value is None or any(
            value == no_op and type(value) is type(no_op) for no_op in accepted
        ):
            return None
        allowed = (
            f" other than {' and '.join(orjson.dumps(no_op).decode() for no_op in accepted)}"
            if accepted
            else ""
        )
        raise unsupported(f"values{allowed} are not supported by this server")

    described = WithJsonSchema({"enum": [None, *accepted]})
    return BeforeValidator(refuse_others, json_schema_input_type=Annotated[Any, described])


class Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class StreamOptions(Schema):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Of no effect: no chunk is padded here."""


def _list_stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_token_ids(biases: dict[str, float]) -> dict[str, float]:
    for token_id in biases:
        if not (token_id.isascii() and token_id.isdecimal()):
            raise ValueError(f"keys must be token ids, and {token_id!r} is not one")
    return biases


Bias = Annotated[float, Field(ge=-100, le=100)]
StopString = Annotated[str, Field(min_length=1)]
Stops = Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)]
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]
TopK = Annotated[int, Field(ge=-1, le=MAX_INT)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class GenerationFields(Schema):
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Seed | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: (
        Annotated[
            dict[str, Bias],
            AfterValidator(_check_token_ids),
            Field(json_schema_extra={"propertyNames": {"pattern": "^[0-9]+$"}}),
        ]
        | None
    ) = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    max_tokens: Positive | None = None
    stop: Annotated[
        Stops | None,
        BeforeValidator(_list_stops, json_schema_input_type=StopString | Stops | None),
    ] = None

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    priority: Annotated[int, Field(ge=FIRST_PRIORITY, le=LAST_PRIORITY)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @model_validator(mode="after")
    def _agree(self) -> Self:
        limit = self.token_limit
        if limit is not None and self.min_tokens is not None and self.min_tokens > limit:
            raise InvalidRequest(
                f"min_tokens is more than the {limit} tokens asked for at most.", param="min_tokens"
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
        return self
