"""A request for a response as the chat completion that answers it."""

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.api.exchange import mint
from service.api.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    InputText,
    Item,
    OutputMessage,
    OutputText,
    Reasoning,
    Refusal,
)
from service.api.responses.schemas import (
    AllowedTools,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedFunction,
    ResponseRequest,
)
from service.api.schemas import ChatCompletionRequest
from service.api.validation import parse_body
from service.errors import InvalidRequest

_SAME_NAME = (
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "thinking_budget", "chat_template_kwargs",
    "parallel_tool_calls", "service_tier", "metadata", "user", "safety_identifier",
    "prompt_cache_key", "prompt_cache_retention", "top_logprobs",
)  # fmt: skip
_RENAMED = (
    ("response_format.json_schema.schema", "text.format.schema"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("reasoning_effort", "reasoning.effort"),
    ("max_completion_tokens", "max_output_tokens"),
    ("verbosity", "text.verbosity"),
    ("messages", "input"),
)
"""Fields of a chat completion, and what they are called here."""


def write_item(item: Item) -> dict[str, object]:
    """The item as it is kept and listed: in its full form, with an id."""
    match item:
        case InputMessage():
            return {
                "type": "message",
                "id": item.id or f"msg_{mint()}",
                "role": item.role,
                "content": _write_parts(item.content, kind="input_text"),
                "status": "completed",
            }
        case OutputMessage():
            return {
                "type": "message",
                "id": item.id or f"msg_{mint()}",
                "role": "assistant",
                "content": _write_parts(item.content, kind="output_text"),
                "status": item.status or "completed",
                **({"phase": item.phase} if item.phase else {}),
            }
        case Reasoning():
            return {
                "type": "reasoning",
                "id": item.id or f"rs_{mint()}",
                "summary": [part.model_dump() for part in item.summary],
                "content": [part.model_dump() for part in item.content or ()],
            }
        case FunctionCall():
            return {
                "type": "function_call",
                "id": item.id or f"fc_{mint()}",
                "call_id": item.call_id,
                "name": item.name,
                "arguments": item.arguments,
                "status": item.status or "completed",
            }
        case FunctionCallOutput():
            output = item.output
            return {
                "type": "function_call_output",
                "id": item.id or f"fco_{mint()}",
                "call_id": item.call_id,
                "output": output
                if isinstance(output, str)
                else _write_parts(output, kind="input_text"),
                "status": item.status or "completed",
            }


def _write_parts(
    content: str | Iterable[InputText | OutputText | Refusal], *, kind: str
) -> list[dict[str, object]]:
    if isinstance(content, str):
        return [_write_text(content, kind)]
    return [
        {"type": "refusal", "refusal": part.refusal}
        if isinstance(part, Refusal)
        else _write_text(part.text, kind)
        for part in content
    ]


def _write_text(text: str, kind: str) -> dict[str, object]:
    rest: dict[str, object] = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {"type": kind, "text": text} | rest


def translate(request: ResponseRequest, conversation: Sequence[Item]) -> ChatCompletionRequest:
    """`conversation` is all that was said, the request's own input last.

    Raises InvalidRequest, with the names that the fields have in a request for a response.
    """
    _check_calls(conversation)
    fields = {name: getattr(request, name) for name in _SAME_NAME}
    fields |= {
        "messages": [*_instruct(request), *write_messages(conversation)],
        "max_completion_tokens": request.max_output_tokens,
        "reasoning_effort": request.reasoning.effort if request.reasoning else None,
        "verbosity": request.text.verbosity if request.text else None,
        "response_format": _write_format(request),
        "tools": _write_tools(request),
        "tool_choice": _write_choice(request),
        "logprobs": True if request.wants_logprobs else None,
    }
    body = {name: value for name, value in fields.items() if value is not None}
    with renaming():
        # The standard library's takes integers of any size, to be refused by name.
        return parse_body(ChatCompletionRequest, json.dumps(body).encode())


@contextmanager
def renaming() -> Generator[None]:
    """What is wrong with the chat completion is told in the words of the request behind it."""
    try:
        yield
    except InvalidRequest as error:
        param = error.param
        if param is not None:
            error.param = rename(param)
            if error.message.startswith(param):
                error.message = error.param + error.message.removeprefix(param)
                error.args = (error.message,)
        raise


def rename(param: str) -> str:
    """`tools[0].function.name` is `tools[0].name` here."""
    for name, here in _RENAMED:
        if param == name or param.startswith((f"{name}.", f"{name}[")):
            return "input" if here == "input" else here + param.removeprefix(name)
    if param.startswith("tool"):
        return param.replace(".function.", ".").replace(".allowed_tools.", ".")
    return param


def _instruct(request: ResponseRequest) -> list[dict[str, object]]:
    text = request.instructions
    return [{"role": "system", "content": text}] if text else []


def _write_format(request: ResponseRequest) -> dict[str, object] | None:
    match request.text.format if request.text else None:
        case JsonSchemaFormat() as asked:
            schema = asked.model_dump(by_alias=True, exclude_none=True, exclude={"type"})
            return {"type": "json_schema", "json_schema": schema}
        case JsonObjectFormat():
            return {"type": "json_object"}
        case _:
            return None


def _write_tools(request: ResponseRequest) -> list[dict[str, object]] | None:
    if not request.tools:
        return None
    functions = [tool.model_dump(exclude_none=True, exclude={"type"}) for tool in request.tools]
    return [{"type": "function", "function": function} for function in functions]


def _write_choice(request: ResponseRequest) -> object:
    match request.tool_choice:
        case NamedFunction(name=name):
            return {"type": "function", "function": {"name": name}}
        case AllowedTools(mode=mode, tools=tools):
            named = [{"type": "function", "function": {"name": tool.name}} for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
        case choice:
            return choice


def _check_calls(conversation: Iterable[Item]) -> None:
    """A result whose call is missing is a lost chain, which no model should have to guess at."""
    calls: set[str] = set()
    for item in conversation:
        if isinstance(item, FunctionCall):
            calls.add(item.call_id)
        elif isinstance(item, FunctionCallOutput) and item.call_id not in calls:
            raise InvalidRequest(
                f"There is no function call {item.call_id!r} before its output; send the call as "
                "well, or the previous_response_id of the response that made it.",
                param="input",
            )


@dataclass(slots=True, kw_only=True)
class _Turn:
    """What the assistant said between two messages of others: a thought, then text, then calls."""

    reasoning: list[str] = field(default_factory=list[str])
    content: list[dict[str, object]] | None = None
    calls: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def takes(self, item: Item) -> bool:
        """Whether the item may stand behind what the turn has."""
        match item:
            case Reasoning():
                return self.content is None and not self.calls
            case OutputMessage():
                return self.content is None and not self.calls
            case _:
                return isinstance(item, FunctionCall)

    def add(self, item: Item) -> None:
        match item:
            case Reasoning():
                texts = item.content or item.summary
                self.reasoning += [part.text for part in texts]
            case OutputMessage(content=content):
                self.content = [_text(content)] if isinstance(content, str) else _texts(content)
            case FunctionCall():
                function = {"name": item.name, "arguments": item.arguments}
                self.calls.append({"id": item.call_id, "type": "function", "function": function})
            case _:
                raise AssertionError(item)

    def message(self) -> dict[str, object]:
        message: dict[str, object] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = "\n".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.calls
        return message


def write_messages(conversation: Iterable[Item]) -> Iterator[dict[str, object]]:
    """Chat messages; what an assistant said in one go is one of them."""
    turn: _Turn | None = None
    for item in conversation:
        is_said = isinstance(item, Reasoning | OutputMessage | FunctionCall)
        if turn is not None and not (is_said and turn.takes(item)):
            yield turn.message()
            turn = None
        if is_said:
            turn = turn or _Turn()
            turn.add(item)
        else:
            yield _write_message(item)
    if turn is not None:
        yield turn.message()


def _write_message(item: InputMessage | FunctionCallOutput) -> dict[str, object]:
    if isinstance(item, InputMessage):
        return {"role": item.role, "content": _write_content(item.content)}
    output = _write_content(item.output)
    return {"role": "tool", "tool_call_id": item.call_id, "content": output}


def _write_content(content: str | Iterable[InputText]) -> object:
    return content if isinstance(content, str) else _texts(content)


def _texts(parts: Iterable[InputText | OutputText | Refusal]) -> list[dict[str, object]]:
    return [_text(part.text) for part in parts]


def _text(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}
