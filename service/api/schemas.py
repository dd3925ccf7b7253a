"""OpenAI's chat completion request, strictly.

A field that is not known is refused by name. A field that is known but that this service cannot
honour is refused too, unless it says what would happen anyway (`store=false`).
"""

from functools import cached_property
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from service.api.answer_form import (
    AnswerForm,
    ResponseFormat,
    StructuredOutputs,
    read_answer_form,
)
from service.api.fields import GenerationFields, Positive, Schema, only, unsupported
from service.api.tools import FunctionKind, ToolChoice, Tools, ToolUse, read_tool_use
from service.errors import InvalidRequest


def _refuse_other_parts(kind: object) -> object:
    if isinstance(kind, str) and kind != "text":
        raise unsupported(f"content parts of type {kind!r} are not supported; send text")
    return kind


class TextPart(Schema):
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


class FunctionCall(Schema):
    name: str
    arguments: str
    parsed_arguments: Any = None
    """What SDKs made of `arguments`, which say it already."""


class ToolCall(Schema):
    id: str
    type: FunctionKind
    function: FunctionCall
    index: int | None = None
    """Left by SDKs that put a call together from a stream; the order says it already."""


class InstructionMessage(Schema):
    role: Literal["system", "developer", "user"]
    content: Content | None
    name: str | None = None


class AssistantMessage(Schema):
    """Has the fields that an SDK sends back when its response message is put into the history."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    refusal: Annotated[None, only()] = None
    audio: Annotated[None, only()] = None
    annotations: Annotated[None, only([])] = None
    parsed: Any = None
    """What SDKs made of `content`, which says it already."""
    function_call: Annotated[None, only()] = None


class ToolMessage(Schema):
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


MAX_TOP_LOGPROBS = 20
NotTrue = Literal[False] | None
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]

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


class Prediction(Schema):
    """Text that the answer is expected to repeat; where it does, several tokens come in a step."""

    type: Literal["content"]
    content: Content


def _refuse_storing(value: object) -> object:
    if value is True:
        raise unsupported("chat answers are not kept here; leave it out, or use /v1/responses")
    if value is not None and value is not False:
        raise ValueError("must be false or null")
    return None


class ChatCompletionRequest(GenerationFields):
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]

    max_completion_tokens: Positive | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    thinking_budget: Positive | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None

    # What a client says about itself, and hints that this server meets without being told.
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    prediction: Prediction | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None

    # Known to OpenAI's clients and not offered here (yet).
    store: Annotated[None, BeforeValidator(_refuse_storing, json_schema_input_type=NotTrue)] = None
    modalities: Annotated[None, only(["text"])] = None
    functions: Annotated[None, only([])] = None
    function_call: Annotated[None, only("none", "auto")] = None
    audio: Annotated[None, only()] = None
    moderation: Annotated[None, only()] = None
    prompt_cache_options: Annotated[None, only()] = None
    web_search_options: Annotated[None, only()] = None

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @cached_property
    def tool_use(self) -> ToolUse | None:
        """What is to become of the tools; None where there are none to call."""
        return read_tool_use(self.tools or (), self.tool_choice, parallel=self.parallel_tool_calls)

    @model_validator(mode="after")
    def _agree_on_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
        return self

    @model_validator(mode="after")
    def _agree_on_one_limit(self) -> Self:
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise InvalidRequest(
                "max_tokens contradicts max_completion_tokens; send one of them.",
                param="max_tokens",
            )
        return self

    @cached_property
    def answer_form(self) -> AnswerForm | None:
        """What an answer that is no call must look like; None where it may be any text."""
        return read_answer_form(self.response_format, self.structured_outputs)

    @model_validator(mode="after")
    def _check_answer_form(self) -> Self:
        _ = self.answer_form
        return self

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        _ = self.tool_use
        return self

    @model_validator(mode="after")
    def _check_results(self) -> Self:
        """Every result answers a call that stands before it."""
        calls: set[str] = set()
        for index, message in enumerate(self.messages):
            if isinstance(message, AssistantMessage):
                calls.update(call.id for call in message.tool_calls or ())
            elif isinstance(message, ToolMessage) and message.tool_call_id not in calls:
                path = f"messages[{index}].tool_call_id"
                raise InvalidRequest(
                    f"{path}: no assistant message before it has a tool call of id "
                    f"{message.tool_call_id[:100]!r}.",
                    param=path,
                )
        return self
