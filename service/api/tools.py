"""The tools of a chat request: their schemas, and what the fields about them come to together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from service.api.answer_form import JsonSchema
from service.api.fields import Schema, unsupported
from service.chat import messages as chat
from service.errors import InvalidRequest

MAX_TOOLS = 128
MAX_DESCRIPTION_LEN = 16 * 1024
MAX_PARAMETERS_LEN = 64 * 1024
"""Characters of one function's schema as the model reads it."""


def _refuse_other_kinds(kind: object) -> object:
    if isinstance(kind, str) and kind != "function":
        raise unsupported(f"tools of type {kind!r} are not supported; send functions")
    return kind


def _check_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    kind = parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise ValueError('must be the schema of an object, with "type": "object"')
    if len(chat.dump_json(parameters)) > MAX_PARAMETERS_LEN:
        raise ValueError(f"must not be longer than {MAX_PARAMETERS_LEN} characters")
    return parameters


FunctionKind = Annotated[
    Literal["function"],
    BeforeValidator(_refuse_other_kinds, json_schema_input_type=Literal["function"]),
]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(Schema):
    name: FunctionName
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_LEN)] | None = None
    parameters: Annotated[JsonSchema, AfterValidator(_check_parameters)] | None = None
    """A JSON schema; without one the function takes no arguments."""
    strict: bool | None = None


class FunctionTool(Schema):
    type: FunctionKind
    function: FunctionDefinition


class FunctionReference(Schema):
    name: FunctionName


class NamedTool(Schema):
    type: FunctionKind
    function: FunctionReference


class AllowedTools(Schema):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedToolChoice(Schema):
    """The model sees all tools, so the prompt stays cached, and calls only these."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _choice_tag(value: object) -> str | None:
    """What validates a tool choice; None for what is not one."""
    if isinstance(value, str):
        return "mode"
    if not isinstance(value, Mapping):
        return None
    kind = cast("Mapping[str, object]", value).get("type")
    return "allowed" if kind == "allowed_tools" else "named"


Tools = Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)]
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[NamedTool, Tag("named")]
    | Annotated[AllowedToolChoice, Tag("allowed")],
    Discriminator(
        _choice_tag,
        custom_error_type="tool_choice",
        custom_error_message='must be "none", "auto", "required" or an object that names functions',
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """What a request wants of its tools; there is at least one that may be called."""

    offered: Sequence[chat.Tool]
    """What the model is told of."""
    callable: Mapping[int, chat.Tool]
    """What it may call, by the index in the request."""
    must_call: bool
    parallel: bool | None
    """Whether there may be several calls; None leaves it to what the model was made for."""


def read_tool_use(
    tools: Sequence[FunctionTool], choice: "ToolChoice | None", *, parallel: bool | None
) -> ToolUse | None:
    """None where nothing is to be called; then the model is not told of tools either.

    Raises InvalidRequest for names that are there twice or not at all.
    """
    indices = _index_names(tools)
    if not tools and choice not in (None, "none", "auto"):
        raise InvalidRequest("tool_choice needs tools to choose from.", param="tool_choice")
    if not tools or choice == "none":
        return None
    offered = [read_tool(tool.function) for tool in tools]
    named = _names(choice)
    for name, path in named:
        if name not in indices:
            raise InvalidRequest(f"{path}: tools has no function {name!r}.", param=path)
    chosen = [indices[name] for name, _ in named] or range(len(offered))
    return ToolUse(
        offered=offered,
        callable={index: offered[index] for index in chosen},
        must_call=_must_call(choice),
        parallel=parallel,
    )


def read_tool(function: FunctionDefinition) -> chat.Tool:
    return chat.Tool(
        name=function.name,
        description=function.description,
        parameters=function.parameters,
        strict=function.strict,
    )


def _index_names(tools: Sequence[FunctionTool]) -> dict[str, int]:
    indices: dict[str, int] = {}
    for index, tool in enumerate(tools):
        name = tool.function.name
        if name in indices:
            path = f"tools[{index}].function.name"
            raise InvalidRequest(
                f"{path}: {name!r} is the name of tools[{indices[name]}] already.", param=path
            )
        indices[name] = index
    return indices


def _names(choice: object) -> list[tuple[str, str]]:
    """The functions that a choice names, each with its path."""
    match choice:
        case NamedTool():
            return [(choice.function.name, "tool_choice.function.name")]
        case AllowedToolChoice():
            path = "tool_choice.allowed_tools.tools"
            return [
                (tool.function.name, f"{path}[{index}].function.name")
                for index, tool in enumerate(choice.allowed_tools.tools)
            ]
        case _:
            return []


def _must_call(choice: object) -> bool:
    match choice:
        case AllowedToolChoice():
            return choice.allowed_tools.mode == "required"
        case NamedTool() | "required":
            return True
        case _:
            return False
