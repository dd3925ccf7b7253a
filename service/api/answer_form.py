"""What a request wants its answer to look like: OpenAI's `response_format`, vLLM's extension."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Discriminator, Field, Tag

from service.api.fields import Schema, unsupported
from service.errors import InvalidRequest

OPTIONS = "x-guidance"
"""llguidance's own keyword, whose options are this service's to choose."""


def _refuse_options(schema: dict[str, Any]) -> dict[str, Any]:
    if OPTIONS in schema:
        raise unsupported(f"the keyword {OPTIONS!r} is not supported")
    return schema


JsonSchema = Annotated[dict[str, Any], AfterValidator(_refuse_options)]
Text = Annotated[str, Field(min_length=1)]


class TextFormat(Schema):
    type: Literal["text"]


class JsonObjectFormat(Schema):
    type: Literal["json_object"]


class NamedSchema(Schema):
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    body: Annotated[JsonSchema | None, Field(alias="schema")] = None
    """Without one any JSON object will do."""
    strict: bool | None = None
    """Of no effect: an answer is valid in either case."""


class JsonSchemaFormat(Schema):
    type: Literal["json_schema"]
    json_schema: NamedSchema


def _format_tag(value: object) -> str | None:
    """What validates a response format; None for what is not one."""
    kind = cast("Mapping[str, object]", value).get("type") if isinstance(value, Mapping) else None
    return kind if kind in ("text", "json_object", "json_schema") else None


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("text")]
    | Annotated[JsonObjectFormat, Tag("json_object")]
    | Annotated[JsonSchemaFormat, Tag("json_schema")],
    Discriminator(
        _format_tag,
        custom_error_type="response_format",
        custom_error_message="must be an object whose type is text, json_object or json_schema",
    ),
]


class StructuredOutputs(Schema):
    """Exactly one of them; vLLM's names."""

    body: Annotated[JsonSchema | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Text | None = None
    choice: Annotated[list[Text], Field(min_length=1)] | None = None
    grammar: Text | None = None
    """Lark, or GBNF where it has `::=`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """A JSON schema, a pattern, texts to choose from or a grammar."""

    param: str
    value: Mapping[str, object] | str | list[str]
    is_regex: bool = False


_ANY_OBJECT: Mapping[str, object] = {"type": "object"}


def read_answer_form(
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
    structured: StructuredOutputs | None,
) -> AnswerForm | None:
    """Raises InvalidRequest where they ask for several forms, or for none in an extension."""
    form = _read_format(response_format)
    if structured is None:
        return form
    if form is not None:
        raise InvalidRequest(
            "structured_outputs contradicts response_format; send one of them.",
            param="structured_outputs",
        )
    return _read_structured(structured)


def _read_format(
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None,
) -> AnswerForm | None:
    match response_format:
        case JsonObjectFormat():
            return AnswerForm(param="response_format", value=_ANY_OBJECT)
        case JsonSchemaFormat(json_schema=named):
            schema = _ANY_OBJECT if named.body is None else named.body
            return AnswerForm(param="response_format.json_schema.schema", value=schema)
        case _:
            return None


def _read_structured(structured: StructuredOutputs) -> AnswerForm:
    forms = {
        "json": structured.body,
        "json_object": _ANY_OBJECT if structured.json_object else None,
        "regex": structured.regex,
        "choice": structured.choice,
        "grammar": structured.grammar,
    }
    asked = [(name, value) for name, value in forms.items() if value is not None]
    if len(asked) != 1:
        raise InvalidRequest(
            f"structured_outputs needs exactly one of {', '.join(forms)}.",
            param="structured_outputs",
        )
    name, value = asked[0]
    return AnswerForm(param=f"structured_outputs.{name}", value=value, is_regex=name == "regex")
