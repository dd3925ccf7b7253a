"""What a conversation consists of: messages, thoughts, calls and their results.

Items of an answer are items of the next request's input, as they are or by `item_reference`.
"""

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter

from service.api.fields import Schema, only, unsupported

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Id = Annotated[str, Field(min_length=1, max_length=128)]


def type_of(value: object) -> object:
    """None for what has none."""
    return cast("dict[str, object]", value).get("type") if isinstance(value, dict) else None


def refuse_others(what: str, supported: tuple[str, ...], advice: str) -> BeforeValidator:
    """Before a union says that no member of it fits."""

    def refuse(value: object) -> object:
        kind = type_of(value)
        if isinstance(kind, str) and kind not in supported:
            raise unsupported(f"{what} of type {kind!r} are not supported; {advice}")
        return value

    return BeforeValidator(refuse)


class InputText(Schema):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Annotated[None, only()] = None


class OutputText(Schema):
    type: Literal["output_text"]
    text: str
    annotations: Annotated[None, only([])] = None
    logprobs: list[Any] | None = None


class Refusal(Schema):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


class ReasoningText(Schema):
    type: Literal["reasoning_text"]
    text: str


class SummaryText(Schema):
    type: Literal["summary_text"]
    text: str


InputPart = Annotated[
    InputText, refuse_others("content parts", ("input_text",), "send text as input_text")
]
OutputPart = Annotated[
    Annotated[OutputText | Refusal | InputText, Discriminator("type")],
    refuse_others(
        "content parts", ("output_text", "refusal", "input_text"), "send text as output_text"
    ),
]


def _content_tag(value: object) -> str | None:
    return "text" if isinstance(value, str) else "parts" if isinstance(value, list) else None


_IS_CONTENT = Discriminator(
    _content_tag,
    custom_error_type="content_type",
    custom_error_message="must be a string or a list of content parts",
)
InputContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[InputPart], Tag("parts")], _IS_CONTENT
]
OutputContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[OutputPart], Tag("parts")], _IS_CONTENT
]


class InputMessage(Schema):
    type: Literal["message"] = "message"
    id: Id | None = None
    role: Literal["user", "system", "developer"]
    content: InputContent
    status: ItemStatus | None = None
    phase: Annotated[None, only()] = None


class OutputMessage(Schema):
    type: Literal["message"] = "message"
    id: Id | None = None
    role: Literal["assistant"]
    content: OutputContent
    status: ItemStatus | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class Reasoning(Schema):
    """`encrypted_content` is another service's; its text, which is ours, is in `content`."""

    type: Literal["reasoning"]
    id: Id | None = None
    summary: list[SummaryText] = Field(default_factory=list[SummaryText])
    content: list[ReasoningText] | None = None
    encrypted_content: Annotated[None, only()] = None
    status: ItemStatus | None = None


class FunctionCall(Schema):
    model_config = ConfigDict(validate_by_name=True)  # `async_` is what the SDK's model_dump writes

    type: Literal["function_call"]
    id: Id | None = None
    call_id: Id
    name: str
    arguments: str
    status: ItemStatus | None = None
    namespace: Annotated[None, only()] = None
    caller: Annotated[None, only({"type": "direct"})] = None
    async_: Annotated[None, only(False)] = Field(default=None, alias="async")  # noqa: FBT003 - the accepted value


class FunctionCallOutput(Schema):
    type: Literal["function_call_output"]
    id: Id | None = None
    call_id: Id
    output: InputContent
    status: ItemStatus | None = None
    name: str | None = None
    namespace: Annotated[None, only()] = None
    caller: Annotated[None, only({"type": "direct"})] = None


class ItemReference(Schema):
    type: Literal["item_reference"] = "item_reference"
    id: Id


_TYPES = ("message", "reasoning", "function_call", "function_call_output", "item_reference")


def _item_tag(value: object) -> str | None:
    """What validates an item; None for what is not one."""
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, object]", value)
    kind = fields.get("type") or ("message" if "role" in fields else "item_reference")
    if kind == "message":
        return "output_message" if fields.get("role") == "assistant" else "input_message"
    return kind if isinstance(kind, str) else None


_IS_ITEM = Discriminator(
    _item_tag,
    custom_error_type="item_type",
    custom_error_message=f"must be an object whose type is {', '.join(_TYPES)}",
)
_REFUSE_OTHER_ITEMS = refuse_others("items", _TYPES, "send messages, function calls and reasoning")

Item = Annotated[
    Annotated[InputMessage, Tag("input_message")]
    | Annotated[OutputMessage, Tag("output_message")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")],
    _IS_ITEM,
]
"""An item that says something itself."""

InputItem = Annotated[
    Annotated[
        Annotated[InputMessage, Tag("input_message")]
        | Annotated[OutputMessage, Tag("output_message")]
        | Annotated[Reasoning, Tag("reasoning")]
        | Annotated[FunctionCall, Tag("function_call")]
        | Annotated[FunctionCallOutput, Tag("function_call_output")]
        | Annotated[ItemReference, Tag("item_reference")],
        _IS_ITEM,
    ],
    _REFUSE_OTHER_ITEMS,
]

STORED_ITEM: TypeAdapter[Item] = TypeAdapter(Item)
