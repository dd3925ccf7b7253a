"""OpenAI's request for a response, strictly; see `service.api.schemas`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from service.api.fields import Positive, Schema, Seed, TopK, only, unsupported
from service.api.responses.items import Id, InputItem, refuse_others, type_of
from service.errors import InvalidRequest

LOGPROBS = "message.output_text.logprobs"


class FunctionTool(Schema):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Annotated[None, only(["direct"])] = None
    async_: Annotated[None, only(False)] = Field(default=None, alias="async")  # noqa: FBT003 - the accepted value
    defer_loading: Annotated[None, only(False)] = None  # noqa: FBT003 - the accepted value
    output_schema: Annotated[None, only()] = None


class NamedFunction(Schema):
    type: Literal["function"]
    name: str


class AllowedTools(Schema):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1)]


def _choice_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "mode"
    kind = type_of(value)
    return kind if isinstance(kind, str) else None


ToolChoice = Annotated[
    Annotated[
        Annotated[Literal["none", "auto", "required"], Tag("mode")]
        | Annotated[NamedFunction, Tag("function")]
        | Annotated[AllowedTools, Tag("allowed_tools")],
        Discriminator(
            _choice_tag,
            custom_error_type="tool_choice",
            custom_error_message="must be none, auto, required or an object with a type",
        ),
    ],
    refuse_others("choices", ("function", "allowed_tools"), "name a function"),
]


class TextFormat(Schema):
    type: Literal["text"]


class JsonObjectFormat(Schema):
    type: Literal["json_object"]


class JsonSchemaFormat(Schema):
    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(Schema):
    format: (
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Discriminator("type")] | None
    ) = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(Schema):
    """There is no summariser: `auto` is content with none, a certain kind of summary is refused."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Annotated[None, only("auto")] = None
    generate_summary: Annotated[None, only("auto")] = None
    context: Annotated[None, only("auto")] = None
    mode: Annotated[None, only("standard")] = None


class ResponseStreamOptions(Schema):
    include_obfuscation: Annotated[None, only(False)] = None  # noqa: FBT003 - the accepted value


def _refuse_encrypted(value: object) -> object:
    if value == "reasoning.encrypted_content":
        raise unsupported(
            "reasoning.encrypted_content is not supported; reasoning items carry their text, so "
            "send them back as they are"
        )
    if isinstance(value, str) and value != LOGPROBS:
        raise unsupported(f"{value!r} is not supported; {LOGPROBS} is")
    return value


Include = Annotated[Literal["message.output_text.logprobs"], BeforeValidator(_refuse_encrypted)]
MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class ResponseRequest(Schema):
    model: str
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: Id | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None

    tools: (
        list[Annotated[FunctionTool, refuse_others("tools", ("function",), "send functions")]]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Positive | None = None
    """Of tools that run on the server; there are none here, so any limit is kept."""

    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    include: list[Include] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Annotated[None, only("disabled")] = None

    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None

    # Extensions, as chat completions have them.
    top_k: TopK | None = None
    min_p: float | None = None
    seed: Seed | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    thinking_budget: Positive | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # Known to OpenAI's clients and not offered here.
    access_programs: Annotated[None, only()] = None
    background_options: Annotated[None, only()] = None
    context_management: Annotated[None, only([])] = None
    conversation: Annotated[None, only()] = None
    image: Annotated[None, only()] = None
    moderation: Annotated[None, only()] = None
    prompt: Annotated[None, only()] = None
    prompt_cache_options: Annotated[None, only()] = None

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.include) or bool(self.top_logprobs)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.background and not self.is_stored:
            raise InvalidRequest(
                "A background response must be stored, or nobody could fetch it; leave store out.",
                param="background",
            )
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true.", param="stream_options")
        return self
