"""Tools for models whose format has none: they are told of them in the system message.

Calls and results are spelled as Hermes-like models spell them, so one parser and one grammar serve
all formats. docs/tools.md shows the prompt.
"""

from collections.abc import Sequence
from dataclasses import replace

from service.chat.messages import (
    Conversation,
    Message,
    Tool,
    dump_json,
    fold_tools,
    function_schema,
    normalize,
)

_HEAD = "You answer with the help of functions:\n<tools>\n"
_TAIL = (
    "</tools>\n\nTo call a function, write only its name and arguments:\n"
    '<tool_call>\n{"name": "NAME", "arguments": {"PARAMETER": "VALUE"}}\n</tool_call>\n\n'
    "The result of a call comes in <tool_response>; answer from it in plain words."
)


def tell_tools(conversation: Conversation) -> Conversation:
    """The conversation with its tools, calls and results as text; none are left in their fields.

    The tools stand behind the client's own instructions. Without tools nothing changes.
    """
    if not conversation.tools:
        return conversation
    messages = fold_tools(normalize(conversation.messages))
    prompt = describe_tools(conversation.tools)
    if messages and messages[0].role == "system":
        first, *others = messages
        head = replace(first, content=f"{first.content}\n\n{prompt}" if first.content else prompt)
    else:
        head, others = Message(role="system", content=prompt), messages
    return replace(conversation, tools=(), messages=[head, *others])


def describe_tools(tools: Sequence[Tool]) -> str:
    """What the model reads: a line of JSON for each function, and how to call one."""
    lines = [f"{dump_json(function_schema(tool)['function'])}\n" for tool in tools]
    return "".join([_HEAD, *lines, _TAIL])
