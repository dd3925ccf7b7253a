"""OpenAI's chat completion request, strictly.

A field that is not known is refused by name. A field that is known but that this service cannot
honour is refused too, unless it says what would happen anyway (`n=1`, `logprobs=false`).
"""

from typing import Annotated, Any, Literal, cast

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from service.api.validation import UNSUPPORTED_PARAMETER
from service.errors import InvalidRequest

MAX_STOP_STRINGS = 4


def _unsupported(message: str) -> PydanticCustomError:
    return PydanticCustomError(UNSUPPORTED_PARAMETER, "{message}", {"message": message})


def _only(*accepted: object) -> BeforeValidator:
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
        raise _unsupported(f"values{allowed} are not supported by this server")

    return BeforeValidator(refuse_others)


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _refuse_other_parts(kind: object) -> object:
    if isinstance(kind, str) and kind != "text":
        raise _unsupported(f"content parts of type {kind!r} are not supported; send text")
    return kind


class TextPart(_Schema):
    type: Annotated[Literal["text"], BeforeValidator(_refuse_other_parts)]
    text: str


def _content_tag(value: object) -> str | None:
    return "text" if isinstance(value, str) else "parts" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Tag("parts")],
    Discriminator(
        _content_tag,
        custom_error_type="content_type",
        custom_error_message="must be a string or a list of content parts",
    ),
]


class FunctionCall(_Schema):
    name: str
    arguments: str


class ToolCall(_Schema):
    id: str
    type: Literal["function"]
    function: FunctionCall


class InstructionMessage(_Schema):
    role: Literal["system", "developer", "user"]
    content: Content | None
    name: str | None = None


class AssistantMessage(_Schema):
    """Has the fields that an SDK sends back when its response message is put into the history."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    refusal: Annotated[None, _only()] = None
    audio: Annotated[None, _only()] = None
    annotations: Annotated[None, _only([])] = None
    function_call: Annotated[None, _only()] = None


class ToolMessage(_Schema):
    role: Literal["tool"]
    content: Content | None
    tool_call_id: str
    name: str | None = None


_ROLE_TAGS = {
    "system": "instruction",
    "developer": "instruction",
    "user": "instruction",
    "assistant": "assistant",
    "tool": "tool",
}


def _role_tag(value: object) -> str | None:
    """What validates a message; None for what is not one."""
    if not isinstance(value, dict):
        return None
    role = cast("dict[str, object]", value).get("role")
    return _ROLE_TAGS.get(role) if isinstance(role, str) else None


Message = Annotated[
    Annotated[InstructionMessage, Tag("instruction")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[ToolMessage, Tag("tool")],
    Discriminator(
        _role_tag,
        custom_error_type="message_role",
        custom_error_message="must be an object whose role is system, developer, user, assistant "
        "or tool",
    ),
]


class StreamOptions(_Schema):
    include_usage: bool | None = None
    include_obfuscation: Annotated[None, _only(False)] = None  # noqa: FBT003 - the accepted value


def _list_stops(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_token_ids(biases: dict[str, float]) -> dict[str, float]:
    for token_id in biases:
        if not (token_id.isascii() and token_id.isdecimal()):
            raise ValueError(f"keys must be token ids, and {token_id!r} is not one")
    return biases


Bias = Annotated[float, Field(ge=-100, le=100)]
StopString = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(ge=1)]


class ChatCompletionRequest(_Schema):
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Annotated[dict[str, Bias], AfterValidator(_check_token_ids)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stop: Annotated[
        list[StopString] | None,
        Field(max_length=MAX_STOP_STRINGS),
        BeforeValidator(_list_stops),
    ] = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    thinking_budget: Positive | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None

    # What a client says about itself, and hints that this server meets without being told.
    user: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None

    # Known to OpenAI's clients and not offered here (yet).
    n: Annotated[None, _only(1)] = None
    store: Annotated[None, _only(False)] = None  # noqa: FBT003 - the accepted value
    verbosity: Annotated[None, _only("medium")] = None
    modalities: Annotated[None, _only(["text"])] = None
    logprobs: Annotated[None, _only(False)] = None  # noqa: FBT003 - the accepted value
    top_logprobs: Annotated[None, _only(0)] = None
    response_format: Annotated[None, _only({"type": "text"})] = None
    tools: Annotated[None, _only([])] = None
    tool_choice: Annotated[None, _only("none", "auto")] = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[None, _only([])] = None
    function_call: Annotated[None, _only("none", "auto")] = None
    audio: Annotated[None, _only()] = None
    moderation: Annotated[None, _only()] = None
    prediction: Annotated[None, _only()] = None
    prompt_cache_options: Annotated[None, _only()] = None
    web_search_options: Annotated[None, _only()] = None

    @model_validator(mode="after")
    def _agree_on_lengths(self) -> "ChatCompletionRequest":
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise InvalidRequest(
                "max_tokens contradicts max_completion_tokens; send one of them.",
                param="max_tokens",
            )
        limit = self.max_completion_tokens or self.max_tokens
        if limit is not None and self.min_tokens is not None and self.min_tokens > limit:
            raise InvalidRequest(
                f"min_tokens is more than the {limit} tokens asked for at most.", param="min_tokens"
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
        return self
