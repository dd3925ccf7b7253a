"""Short ways to say what a test is about."""

from collections.abc import Iterable
from itertools import count

from service.chat.messages import Conversation, Message, ToolCall
from service.chat.parser import (
    ContentText,
    Parsed,
    ReasoningText,
    TaggedParser,
    Tags,
    ToolCallArguments,
    ToolCallStart,
)
from service.chat.prompt import prompt_text


def user(content="Hi", **fields):
    return Message(role="user", content=content, **fields)


def system(content, **fields):
    return Message(role="system", content=content, **fields)


def assistant(content="", **fields):
    return Message(role="assistant", content=content, **fields)


def call(name="weather", arguments='{"city": "Bern"}', call_id="call_1"):
    return ToolCall(id=call_id, name=name, arguments=arguments)


def result(content="sunny", call_id="call_1", **fields):
    return Message(role="tool", content=content, tool_call_id=call_id, **fields)


def chat(*messages, **fields):
    return Conversation(messages=messages, **fields)


def render(chat_format, *messages, **fields):
    return prompt_text(chat_format.render(chat(*messages, **fields)))


def counting_ids():
    numbers = count()
    return lambda: f"id{next(numbers)}"


def parse(chunks: Iterable[str], **tags) -> list[Parsed]:
    parser = TaggedParser(Tags(**({"thinking": True, "tool_calls": True} | tags)), counting_ids())
    parsed = [item for chunk in chunks for item in parser.feed(chunk, 1)]
    return join(parsed + parser.finish())


def join(parsed: Iterable[Parsed]) -> list[Parsed]:
    """What a client has after it put the deltas together."""
    joined: list[Parsed] = []
    for item in parsed:
        last = joined[-1] if joined else None
        if type(last) is not type(item) or isinstance(item, ToolCallStart):
            joined.append(item)
        elif isinstance(item, ToolCallArguments):
            assert isinstance(last, ToolCallArguments)
            joined[-1] = ToolCallArguments(item.index, last.text + item.text)
        else:
            assert isinstance(last, (ContentText, ReasoningText))
            joined[-1] = type(item)(last.text + item.text)
    return joined
