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
from service.grammar.closing import close
from service.grammar.complaint import Origin
from service.grammar.forms import (
    JsonSchema,
    after_thought,
    choice,
    context_free,
    is_gbnf,
    json_schema,
    regex,
)
from service.grammar.tools import NO_ARGUMENTS, CallSyntax, Function, constrain_calls


class Grammars(Protocol):
    """What this module asks of `service.grammar.compiler.GrammarCompiler`."""

    async def check(self, grammar: str, origins: Sequence[Origin], /) -> None: ...
    async def convert(self, gbnf: str, param: str, /) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """A grammar, and the parts of the request that it was made from."""

    grammar: str
    origins: Sequence[Origin]


def is_constrained(request: ChatCompletionRequest) -> bool:
    """Whether there may be a grammar to compile."""
    return request.answer_form is not None or request.tool_use is not None


async def constrain(
    request: ChatCompletionRequest, model: ServedModel, parser: OutputParser, grammars: Grammars
) -> Constraint | None:
    """`parser` is a new one for the answer: it knows whether a thought is open at its start.

    Raises InvalidRequest for what does not compile, or cannot be told from the thought before it.
    """
    answer = await _read_answer(request, grammars)
    use = request.tool_use
    if use is None or _has_other_calls(request):
        form = answer
    else:
        form = _bind_calls(use, model.vocab, native=model.format.native_tools, answer=answer)
    if form is None:
        return None
    begin_token = _find_begin(model.vocab, parser)
    grammar = form.grammar if begin_token is None else after_thought(form.grammar)
    await _check(_Form(grammar=grammar, origins=form.origins), grammars)
    return Constraint(grammar=grammar, begin_token=begin_token)


async def _check(form: _Form, grammars: Grammars) -> None:
    """One of several schemas is named by trying each: the compiler's words may not tell."""
    try:
        await grammars.check(form.grammar, form.origins)
    except InvalidRequest:
        schemas = [origin for origin in form.origins if origin.schema is not None]
        for origin in schemas if len(form.origins) > 1 else ():
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


async def _read_answer(request: ChatCompletionRequest, grammars: Grammars) -> _Form | None:
    """What an answer that is not a call is held to."""
    wanted = request.answer_form
    if wanted is None:
        return None
    value, origin = wanted.value, Origin(param=wanted.param)
    if isinstance(value, Mapping):
        grammar = json_schema(close(value))
        origin = Origin(param=wanted.param, schema=value)
    elif isinstance(value, list):
        grammar = choice(value)
    elif wanted.is_regex:
        grammar = regex(value)
    elif is_gbnf(value):
        grammar = context_free(await grammars.convert(value, wanted.param))
    else:
        grammar = context_free(value)
    return _Form(grammar=grammar, origins=[origin])


def _bind_calls(use: ToolUse, vocab: Vocabulary, *, native: bool, answer: _Form | None) -> _Form:
    """Several calls where the request or, if it is silent, the model's own format knows them."""
    functions = [_read_function(tool) for tool in use.callable.values()]
    constraint = constrain_calls(
        functions,
        CallSyntax(begin=_marker(vocab, CALL_TAG), end=_marker(vocab, END_CALL_TAG)),
        mode="required" if use.must_call else "auto",
        parallel=native if use.parallel is None else use.parallel,
        answer=None if answer is None else answer.grammar,
    )
    origins = [
        *(() if answer is None or use.must_call else answer.origins),
        *_list_origins(use, functions),
    ]
    return _Form(grammar=constraint.grammar, origins=origins)


def _list_origins(use: ToolUse, functions: Sequence[Function]) -> list[Origin]:
    return [
        Origin(param=f"tools[{index}].function.parameters", schema=function.parameters)
        for index, function in zip(use.callable, functions, strict=True)
    ]


def _marker(vocab: Vocabulary, tag: str) -> str | int:
    token = vocab.special_id(tag)
    return tag if token is None else token


def _read_function(tool: chat.Tool) -> Function:
    """Arguments are an object, whatever else the schema leaves open."""
    given = NO_ARGUMENTS if tool.parameters is None else tool.parameters
    schema = close({**given, "type": "object"})
    return Function(name=tool.name, parameters=schema, strict=bool(tool.strict))
