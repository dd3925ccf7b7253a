"""The examples in docs/smollm3.md are what the service renders."""

import json
import re
from pathlib import Path

import pytest

from service.chat.messages import Conversation, Message, Tool, ToolCall
from service.chat.prompt import prompt_text
from service.chat.smollm3 import SmolLM3Format

DOCUMENT = Path(__file__).parents[2] / "docs" / "smollm3.md"
EXAMPLE = re.compile(r"```json\n(\{\"messages\".*?)```\n\n```text\n(.*?)```", re.DOTALL)


def read_examples():
    return EXAMPLE.findall(DOCUMENT.read_text())


def read_message(fields):
    calls = tuple(ToolCall(**call) for call in fields.pop("tool_calls", ()))
    return Message(reasoning=fields.pop("reasoning_content", ""), tool_calls=calls, **fields)


def test_document_has_examples():
    assert len(read_examples()) >= 3


@pytest.mark.parametrize(("request_text", "prompt"), read_examples())
def test_example_is_rendered_as_the_document_says(request_text, prompt):
    fields = json.loads(request_text)
    conversation = Conversation(
        messages=[read_message(message) for message in fields["messages"]],
        tools=[Tool(**tool) for tool in fields.get("tools", ())],
    )
    assert prompt_text(SmolLM3Format(str).render(conversation)) == prompt
