"""A conversation as the chat package sees it, and the rewritings that every rendering shares."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

from service.errors import InvalidRequest

Role = Literal["system", "developer", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the assistant made."""

    id: str
    name: str
    arguments: str
    """JSON text, as the client sent it; it may be invalid."""

    def parsed_arguments(self) -> object:
        """The arguments as a value; text that is not JSON stays text, none is an empty object."""
        return parse_json(self.arguments) if self.arguments.strip() else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: Mapping[str, object] | None = None
    """JSON schema."""
    strict: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message; content parts are joined already (`join_parts`), null content is empty."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""
    """The thought before the content, where the client sent one back (`reasoning_content`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a request asks a format to render."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    enable_thinking: bool | None = None
    """None leaves it to the system message and the format's default."""
    continue_final_message: bool = False
    """The prompt ends inside the last message, which must be an assistant's."""
    template_kwargs: Mapping[str, object] = field(default_factory=dict[str, object])
    today: date | None = None
    """None keeps dates out of the prompt, so that its head stays cached over midnight."""
    open_thought: bool = False
    """Whether the prompt opens the thought itself. A thinking budget needs it: it counts from the
    first generated token, and a model that did not think must not be told to stop. So does what
    binds the text behind the thought."""


def join_parts(texts: Iterable[str]) -> str:
    """The content of a message that came as text parts: a part is a paragraph of its own."""
    return "\n".join(texts)


def check_conversation(conversation: Conversation) -> None:
    """Raises InvalidRequest for what no format can render."""
    messages = conversation.messages
    if not messages:
        raise InvalidRequest("messages must have at least one message.", param="messages")
    if not conversation.continue_final_message:
        return
    final = messages[-1]
    if final.role != "assistant" or final.tool_calls:
        raise InvalidRequest(
            "continue_final_message needs an assistant message without tool_calls at the end of "
            f"messages; the last one is of role {final.role}"
            f"{' and has tool_calls' if final.tool_calls else ''}.",
            param="continue_final_message",
        )


def normalize(messages: Iterable[Message]) -> list[Message]:
    """Messages as models know them, nothing lost.

    `developer` is the newer name of `system`. A speaker's name goes in front of what was said.
    Results of tools are linked to their calls, see `link_tool_results`.
    """
    return link_tool_results([_say_name(_rename_developer(message)) for message in messages])


def _rename_developer(message: Message) -> Message:
    return replace(message, role="system") if message.role == "developer" else message


def _say_name(message: Message) -> Message:
    if message.role == "tool" or not message.name:
        return message
    return replace(message, name=None, content=f"{message.name}: {message.content}")


def link_tool_results(messages: Sequence[Message]) -> list[Message]:
    """Puts each run of tool results in the order of their calls, and gives each its call's name.

    Models tell parallel results apart by order; clients by id. A result whose id is unknown keeps
    its place behind the known ones.
    """
    linked: list[Message] = []
    calls: dict[str, tuple[int, str]] = {}
    results: list[Message] = []
    for message in messages:
        if message.role == "tool":
            results.append(message)
            continue
        linked += _order_results(results, calls)
        results = []
        linked.append(message)
        for call in message.tool_calls:
            calls[call.id] = (len(calls), call.name)
    return linked + _order_results(results, calls)


def _order_results(
    results: Iterable[Message], calls: Mapping[str, tuple[int, str]]
) -> list[Message]:
    unknown = (len(calls), "")
    placed = [(calls.get(result.tool_call_id or "", unknown), result) for result in results]
    placed.sort(key=lambda pair: pair[0][0])
    return [replace(result, name=result.name or name or None) for (_, name), result in placed]


def function_schema(tool: Tool) -> dict[str, object]:
    """The tool as OpenAI spells it, without what the client left out."""
    function: dict[str, object] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = dict(tool.parameters)
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def parse_json(text: str) -> object:
    """The value that the text spells; text that is not JSON stays text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def call_text(call: ToolCall) -> str:
    """The JSON between `<tool_call>` tags; arguments keep their spelling, for the prefix cache."""
    parsed = call.parsed_arguments()
    arguments = json.dumps(parsed) if isinstance(parsed, str) else call.arguments.strip() or "{}"
    return f'{{"name": {dump_json(call.name)}, "arguments": {arguments}}}'


def result_text(result: Message, num_calls: int) -> str:
    """What stands between `<tool_response>` tags.

    The content alone where it is clear what it answers. With several calls, or
    none before it, it says its name (or its id, where it has no name).
    """
    if num_calls == 1 or not (result.name or result.tool_call_id):
        return result.content
    labels = {"name": result.name} if result.name else {"tool_call_id": result.tool_call_id}
    return dump_json({**labels, "content": parse_json(result.content)})


def fold_tools(messages: Sequence[Message]) -> list[Message]:
    """Tool calls and results written into contents, for formats that have no place for them."""
    folded: list[Message] = []
    num_calls = 0
    for message in messages:
        if message.role == "tool":
            response = f"<tool_response>\n{result_text(message, num_calls)}\n</tool_response>"
            folded.append(Message(role="user", content=response))
            continue
        num_calls = len(message.tool_calls)
        calls = [f"<tool_call>\n{call_text(call)}\n</tool_call>" for call in message.tool_calls]
        content = "\n".join([message.content] * bool(message.content) + calls)
        folded.append(replace(message, content=content, tool_calls=()))
    return folded


def fold_reasoning(messages: Iterable[Message]) -> list[Message]:
    """Thoughts written in front of contents, for formats that have no place for them."""
    return [
        replace(
            message, reasoning="", content=f"{thought_text(message.reasoning)}{message.content}"
        )
        if message.reasoning
        else message
        for message in messages
    ]


def thought_text(reasoning: str) -> str:
    """A thought as it stands in front of a content."""
    return f"<think>\n{reasoning}\n</think>\n"


def dump_json(value: object) -> str:
    """JSON as models were trained on it: spaces after separators, no escapes for other scripts."""
    return json.dumps(value, ensure_ascii=False)
