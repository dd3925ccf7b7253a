"""The examples in docs/smollm3.md and docs/tools.md are what the service renders."""

import json
import re
from pathlib import Path

import pytest

from service.chat.chatml import ChatMLFormat
from service.chat.messages import Conversation, Message, Tool, ToolCall
from service.chat.prompt import prompt_text
from service.chat.smollm3 import SmolLM3Format

DOCUMENTS = Path(__file__).parents[2] / "docs"
FORMATS = {"smollm3.md": SmolLM3Format(str), "tools.md": ChatMLFormat(str)}
EXAMPLE = re.compile(r"```json\n(\{\"messages\".*?)```\n\n```text\n(.*?)```", re.DOTALL)


def read_examples(name):
    return EXAMPLE.findall((DOCUMENTS / name).read_text())


def read_message(fields):
    calls = tuple(ToolCall(**call) for call in fields.pop("tool_calls", ()))
    return Message(reasoning=fields.pop("reasoning_content", ""), tool_calls=calls, **fields)


def test_documents_have_examples():
    assert len(read_examples("smollm3.md")) >= 3
    assert len(read_examples("tools.md")) == 1


@pytest.mark.parametrize(
    ("name", "request_text", "prompt"),
    [(name, *example) for name in FORMATS for example in read_examples(name)],
)
def test_example_is_rendered_as_the_document_says(name, request_text, prompt):
    fields = json.loads(request_text)
    conversation = Conversation(
        messages=[read_message(message) for message in fields["messages"]],
        tools=[Tool(**tool) for tool in fields.get("tools", ())],
    )
    assert prompt_text(FORMATS[name].render(conversation)) == prompt
