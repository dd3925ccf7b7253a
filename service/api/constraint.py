"""What the text of an answer is held to, from the fields of its request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from service.api.schemas import ChatCompletionRequest
from service.api.served_model import ServedModel
from service.api.tools import ToolUse
from service.api.validation import UNSUPPORTED_PARAMETER
from service.chat import messages as chat
from service.chat.parser import CALL_TAG, END_CALL_TAG, OutputParser
from service.chat.prompt import Vocabulary
from service.chat.thinking import end_of_thought
from service.core.request import Constraint
from service.errors import InvalidRequest
from service.grammar.complaint import Origin
from service.grammar.forms import JsonSchema, after_thought, json_schema
from service.grammar.tools import NO_ARGUMENTS, CallSyntax, Function, constrain_calls

_COMBINING = frozenset(
    {
        *("allOf", "anyOf", "oneOf", "not", "if", "$ref", "dependentSchemas"),
        *("patternProperties", "unevaluatedProperties"),
    }
)


class Grammars(Protocol):
    """What this module asks of `service.grammar.compiler.GrammarCompiler`."""

    async def check(self, grammar: str, origins: Sequence[Origin], /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """A grammar, and the parts of the request that it was made from."""

    grammar: str
    origins: Sequence[Origin]


async def constrain(
    request: ChatCompletionRequest, model: ServedModel, parser: OutputParser, grammars: Grammars
) -> Constraint | None:
    """`parser` is a new one for the answer: it knows whether a thought is open at its start.

    Raises InvalidRequest for what does not compile, or cannot be told from the thought before it.
    """
    use = request.tool_use
    if use is None or _has_other_calls(request):
        return None
    form = _bind_calls(use, model.vocab, native=model.format.native_tools)
    begin_token = _find_begin(model.vocab, parser)
    grammar = form.grammar if begin_token is None else after_thought(form.grammar)
    await _check(_Form(grammar=grammar, origins=form.origins), grammars)
    return Constraint(grammar=grammar, begin_token=begin_token)


async def _check(form: _Form, grammars: Grammars) -> None:
    """One of several schemas is named by trying each: the compiler's words may not tell."""
    try:
        await grammars.check(form.grammar, form.origins)
    except InvalidRequest:
        for origin in form.origins if len(form.origins) > 1 else ():
            await grammars.check(json_schema(cast("JsonSchema", origin.schema)), [origin])
        raise


def _has_other_calls(request: ChatCompletionRequest) -> bool:
    """Whether the model is told, through its template, of functions that are not in `tools`."""
    use, kwargs = request.tool_use, request.chat_template_kwargs or {}
    return use is not None and not use.must_call and bool(kwargs.get("xml_tools"))


def _find_begin(vocab: Vocabulary, parser: OutputParser) -> int | None:
    if not parser.in_thought:
        return None
    token = end_of_thought(vocab)
    if token is None:
        raise InvalidRequest(
            "This model has no token that ends a thought, so what comes after it cannot be held to "
            "a form; turn thinking off (reasoning_effort none).",
            param="reasoning_effort",
            code=UNSUPPORTED_PARAMETER,
        )
    return token


def _bind_calls(use: ToolUse, vocab: Vocabulary, *, native: bool) -> _Form:
    """Several calls where the request or, if it is silent, the model's own format knows them."""
    functions = [_read_function(tool) for tool in use.callable.values()]
    constraint = constrain_calls(
        functions,
        CallSyntax(begin=_marker(vocab, CALL_TAG), end=_marker(vocab, END_CALL_TAG)),
        mode="required" if use.must_call else "auto",
        parallel=native if use.parallel is None else use.parallel,
    )
    origins = [
        Origin(param=f"tools[{index}].function.parameters", schema=function.parameters)
        for index, function in zip(use.callable, functions, strict=True)
    ]
    return _Form(grammar=constraint.grammar, origins=origins)


def _marker(vocab: Vocabulary, tag: str) -> str | int:
    token = vocab.special_id(tag)
    return tag if token is None else token


def _read_function(tool: chat.Tool) -> Function:
    """Arguments are an object, whatever else the schema leaves open."""
    given = NO_ARGUMENTS if tool.parameters is None else tool.parameters
    schema = _close({**given, "type": "object"})
    return Function(name=tool.name, parameters=schema, strict=bool(tool.strict))


def _close(schema: Mapping[str, object]) -> dict[str, object]:
    """The schema without properties that it does not list, where it does not say that there are.

    A small model makes up properties as long as it may. What is combined with other schemas, which
    may list more, stays as it is.
    """
    closed = dict(schema)
    if _COMBINING.intersection(schema):
        return closed
    if isinstance(schema.get("properties"), dict):
        listed = cast("dict[str, object]", schema["properties"])
        closed["properties"] = {name: _close_value(value) for name, value in listed.items()}
        closed.setdefault("additionalProperties", False)
    if "items" in schema:
        closed["items"] = _close_value(schema["items"])
    return closed


def _close_value(value: object) -> object:
    return _close(cast("Mapping[str, object]", value)) if isinstance(value, dict) else value
