"""Grammars for tool calls: text that is free until the model opens a call, and then bound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.core.request import Constraint
from service.grammar.forms import (
    JsonSchema,
    join_grammars,
    json_part,
    lark_part,
    name_grammar,
    quote,
)

MAX_PARALLEL_CALLS = 16
"""In one answer; a small model does not stop by itself."""

ANSWER = "answer_without_calls"

NO_ARGUMENTS: Mapping[str, object] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function that a model may call."""

    name: str
    parameters: JsonSchema | None = None
    """None takes no arguments."""
    strict: bool = False
    """Whether a schema with something unsupported is refused; else only that part is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSyntax:
    r"""How a model writes a call: `begin`, `head` with the name, the arguments, `tail`, `end`.

    The defaults are Hermes' and SmolLM3's XML dialect:

        <tool_call>\n{"name": "get", "arguments": {"id": 1}}\n</tool_call>
    """

    begin: str | int = "<tool_call>"
    """Opens a call; an int is the token of it, where the vocabulary has one
    (`Vocab.special_id`): text is never written with such tokens, nor the other way round."""
    head: str = '\n{"name": "{name}", "arguments": '
    """`{name}` stands for the function's name, as a JSON string has it between its quotes."""
    tail: str = "}\n"
    end: str | int = "</tool_call>"
    between: str = "\n"
    """Between two calls; may be empty."""


def constrain_calls(
    functions: Sequence[Function],
    syntax: CallSyntax,
    *,
    mode: Literal["auto", "required"],
    parallel: bool,
    begin_token: int | None = None,
    answer: str | None = None,
) -> Constraint:
    """Calls of `functions` only, with arguments that are valid against their schemas.

    `auto`: any text, then a call or none; `required`: a call at once, no text. A named function is
    `required` with that function alone. With `parallel` further calls may follow, up to
    MAX_PARALLEL_CALLS, and nothing else follows a call in any case. `begin_token` is as in
    Constraint. `answer` is a grammar that text without calls is held to. The grammar is not
    compiled yet: give it to `GrammarCompiler.check`, as all others.
    """
    start = "calls" if mode == "required" else "TEXT | opening rest"
    answers: list[dict[str, object]] = []
    if answer is not None and mode == "auto":
        start, answers = f"calls | @{ANSWER}", name_grammar(answer, ANSWER)
    between = quote(syntax.between) if syntax.between else ""
    repeated = f"({between} {_opening(syntax)} call){{0,{MAX_PARALLEL_CALLS - 1}}}"
    lines = [
        f"start: {start}",
        f"calls: {_opening(syntax)} rest",
        f"rest: call {repeated if parallel else ''}",
        f"call: {' | '.join(f'call_{index}' for index in range(len(functions)))}",
        *(_call_rule(index, function, syntax) for index, function in enumerate(functions)),
        *(_free_text(syntax) if start.startswith("TEXT") else ()),
    ]
    arguments = [
        json_part(
            f"arguments_{index}",
            NO_ARGUMENTS if function.parameters is None else function.parameters,
            lenient=not function.strict,
        )
        for index, function in enumerate(functions)
    ]
    return Constraint(
        grammar=join_grammars([lark_part("\n".join(lines)), *arguments, *answers]),
        begin_token=begin_token,
    )


def _free_text(syntax: CallSyntax) -> tuple[str, ...]:
    """Text ends lazily: at the first time that it says what opens a call."""
    text = "TEXT: /(?s:.*)/"
    if isinstance(syntax.begin, int):
        return (text, f"opening: TEXT {_opening(syntax)}")
    return (text, f"opening[lazy]: TEXT {_opening(syntax)}")


def _call_rule(index: int, function: Function, syntax: CallSyntax) -> str:
    head = syntax.head.replace("{name}", quote(function.name)[1:-1])
    tail = f"{quote(syntax.tail)} " if syntax.tail else ""
    return f"call_{index}: {quote(head)} @arguments_{index} {tail}{_marker(syntax.end)}"


def _opening(syntax: CallSyntax) -> str:
    return _marker(syntax.begin)


def _marker(marker: str | int) -> str:
    return f"<[{marker}]>" if isinstance(marker, int) else quote(marker)
