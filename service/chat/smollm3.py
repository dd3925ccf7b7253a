"""SmolLM3's chat format, rendered by ourselves: the templates in circulation differ and lose data.

The wire format (headings, sentences, tags, their order) is what the model was trained on; every
deviation from the published template is one that keeps something the client sent. docs/smollm3.md
shows it by example.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from service.chat.messages import (
    Conversation,
    Message,
    ToolCall,
    call_text,
    check_conversation,
    dump_json,
    function_schema,
    normalize,
    result_text,
)
from service.chat.parser import CODE_FUNCTION, OutputParser, TaggedParser, Tags
from service.chat.prompt import Segment, Vocabulary, control, plain
from service.chat.thinking import close_thought
from service.core.request import ThinkingBudget
from service.errors import InvalidRequest

_THINK_FLAG = re.compile(r"[ \t]?(?<![\w/.:-])/(no_think|think)(?![\w/-]|\.\w)")
_OVERRIDE_FLAG = re.compile(r"[ \t]?(?<![\w/.:-])/system_override(?![\w/-]|\.\w)")
"""Whole words: not the path in "See /thinking/docs", nor the end of "https://example.org/think"."""

_PERSONA = "You are a helpful AI assistant named SmolLM, trained by Hugging Face."
_THINKING_PERSONA = (
    f"{_PERSONA} Your role as an assistant involves thoroughly exploring questions through a "
    "systematic thinking process before providing the final precise and accurate solutions. "
    "This requires engaging in a comprehensive cycle of analysis, summarizing, exploration, "
    "reassessment, reflection, backtracking, and iteration to develop well-considered "
    "thinking process. Please structure your response into two main sections: Thought and "
    "Solution using the specified format: <think> Thought section </think> Solution section. "
    "In the Thought section, detail your reasoning process in steps. Each step should "
    "include detailed considerations such as analysing questions, summarizing relevant "
    "findings, brainstorming new ideas, verifying the accuracy of the current steps, "
    "refining any errors, and revisiting previous steps. In the Solution section, based on "
    "various attempts, explorations, and reflections from the Thought section, "
    "systematically present the final solution that you deem correct. The Solution section "
    "should be logical, accurate, and concise and detail necessary steps needed to reach the "
    "conclusion."
)
"""The instructions the model was trained with where nobody gave others; part of the wire format."""

_XML_TOOLS_HEAD = (
    "You may call one or more functions to assist with the user query.\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n\n<tools>\n"
)
_XML_TOOLS_TAIL = (
    "</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_PYTHON_TOOLS_HEAD = (
    "When you send a message containing Python code between '<code>' and '</code>' tags, it "
    "will be executed in a stateful Jupyter notebook environment, and you will then be given "
    "the output to continued reasoning in an agentic loop.\n\n"
    "You can use the following tools in your python code like regular functions:\n"
    "<tools>\n"
)
_PYTHON_TOOLS_TAIL = (
    "</tools>\n\nThe state persists between code executions: so variables that you define in one "
    "step are still available thereafter."
)
_EMPTY_THOUGHT = "<think>\n\n</think>\n"
_TEMPLATE_KWARGS = ("xml_tools", "python_tools")


class SmolLM3Format:
    """The rendering and parsing of SmolLM3; see the module."""

    name = "smollm3 (the service's own rendering)"
    native_tools = True
    supports_thinking = True

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self._new_call_id = new_call_id

    def render(self, conversation: Conversation) -> list[Segment]:
        """Raises InvalidRequest for what cannot be rendered."""
        check_conversation(conversation)
        messages = normalize(conversation.messages)
        thinks = self.thinks(conversation)
        has_code = bool(_python_tools(conversation))
        num_leading = _num_leading_system(messages)
        segments = list(_system_block(conversation, messages[:num_leading], thinks=thinks))
        turns = messages[num_leading:]
        final = turns.pop() if conversation.continue_final_message else None
        segments += _render_turns(turns, thinks=thinks, has_code=has_code)
        if final is not None:
            is_open = _is_open_thought(final)
            return [*segments, *_open_assistant(final, thinks=thinks, is_open=is_open)]
        opening = "<|im_start|>assistant\n"
        if not thinks:
            opening += _EMPTY_THOUGHT
        elif conversation.open_thought:
            opening += "<think>\n"
        return [*segments, control(opening)]

    def thinks(self, conversation: Conversation) -> bool:
        """Whether the model is going to think.

        A flag in a system message wins over `enable_thinking`, a later message over an earlier
        one, and `/no_think` over `/think` in the same.
        """
        for message in reversed(conversation.messages):
            if message.role in {"system", "developer"}:
                flags = set(_THINK_FLAG.findall(message.content))
                if flags:
                    return "no_think" not in flags
        return conversation.enable_thinking is not False

    def parser(self, conversation: Conversation) -> OutputParser:
        final = conversation.messages[-1] if conversation.continue_final_message else None
        in_thought = conversation.open_thought and self.thinks(conversation)
        if final is not None:
            in_thought = _is_open_thought(final)
        tags = Tags(
            thinking=True,
            tool_calls=bool(_xml_tools(conversation)),
            code=bool(_python_tools(conversation)),
            in_thought=in_thought,
            in_content=final is not None and bool(final.content),
        )
        return TaggedParser(tags, self._new_call_id)

    def thinking_budget(self, vocab: Vocabulary, max_tokens: int) -> ThinkingBudget | None:
        return close_thought(vocab, max_tokens)


def _num_leading_system(messages: Sequence[Message]) -> int:
    return next(
        (i for i, message in enumerate(messages) if message.role != "system"), len(messages)
    )


def _system_block(
    conversation: Conversation, messages: Iterable[Message], *, thinks: bool
) -> Iterable[Segment]:
    texts = [message.content for message in messages]
    instructions = "\n\n".join(filter(None, map(_strip_flags, texts)))
    tools = list(_tool_section(conversation))
    yield control("<|im_start|>system\n")
    if any(_OVERRIDE_FLAG.search(text) for text in texts):
        yield plain(instructions)
        if tools:
            yield control("\n\n")
            yield from tools
        yield control("<|im_end|>\n")
        return
    yield control("## Metadata\n\nKnowledge Cutoff Date: June 2025\n")
    if conversation.today is not None:
        yield control(f"Today Date: {conversation.today:%d %B %Y}\n")
    yield control(f"Reasoning Mode: {'/think' if thinks else '/no_think'}\n\n")
    yield control("## Custom Instructions\n\n")
    if instructions:
        yield plain(instructions)
    else:
        yield control(_THINKING_PERSONA if thinks else _PERSONA)
    yield control("\n\n")
    if tools:
        yield from tools
        yield control("\n\n")
    yield control("<|im_end|>\n")


def _strip_flags(text: str) -> str:
    stripped = _OVERRIDE_FLAG.sub("", _THINK_FLAG.sub("", text))
    return text.rstrip() if stripped == text else stripped.strip()


def _tool_section(conversation: Conversation) -> Iterable[Segment]:
    xml_tools, python_tools = _xml_tools(conversation), _python_tools(conversation)
    if not (xml_tools or python_tools):
        return
    yield control("### Tools\n\n")
    if xml_tools:
        yield control(_XML_TOOLS_HEAD)
        yield plain("".join(f"{tool}\n" for tool in xml_tools))
        yield control(_XML_TOOLS_TAIL)
    if python_tools:
        yield control(_PYTHON_TOOLS_HEAD)
        yield plain("".join(f"{tool}\n" for tool in python_tools))
        yield control(_PYTHON_TOOLS_TAIL)


def _xml_tools(conversation: Conversation) -> list[str]:
    kwargs = _template_kwargs(conversation)
    schemas = [dump_json(function_schema(tool)) for tool in conversation.tools]
    return schemas + _tool_texts(kwargs.get("xml_tools"), "xml_tools")


def _python_tools(conversation: Conversation) -> list[str]:
    return _tool_texts(_template_kwargs(conversation).get("python_tools"), "python_tools")


def _template_kwargs(conversation: Conversation) -> Mapping[str, object]:
    for name in conversation.template_kwargs:
        if name not in _TEMPLATE_KWARGS:
            raise InvalidRequest(
                f"SmolLM3's chat format knows no {name!r}; it reads enable_thinking, "
                f"{' and '.join(_TEMPLATE_KWARGS)}.",
                param=f"chat_template_kwargs.{name}",
            )
    return conversation.template_kwargs


def _tool_texts(tools: object, name: str) -> list[str]:
    if tools is None:
        return []
    if isinstance(tools, str):
        return [tools]
    entries: list[object] = list(tools) if isinstance(tools, (list, tuple)) else [None]  # pyright: ignore[reportUnknownArgumentType] - a client's JSON
    if any(not isinstance(entry, (str, Mapping)) for entry in entries):
        raise InvalidRequest(
            f"{name} must be a string or a list of strings and objects.",
            param=f"chat_template_kwargs.{name}",
        )
    return [entry if isinstance(entry, str) else dump_json(entry) for entry in entries]


def _render_turns(
    messages: Sequence[Message], *, thinks: bool, has_code: bool
) -> Iterable[Segment]:
    num_calls = 0
    for index, message in enumerate(messages):
        if message.role == "tool":
            is_first = index == 0 or messages[index - 1].role != "tool"
            is_last = index + 1 == len(messages) or messages[index + 1].role != "tool"
            yield control("<|im_start|>user\n" if is_first else "\n")
            yield control("<tool_response>\n")
            yield plain(result_text(message, num_calls))
            yield control("\n</tool_response>")
            if is_last:
                yield control("<|im_end|>\n")
            continue
        num_calls = len(message.tool_calls)
        if message.role == "assistant":
            yield from _open_assistant(message, thinks=thinks)
            yield from _render_calls(message, has_code=has_code)
        else:
            yield control(f"<|im_start|>{message.role}\n")
            yield plain(message.content)
        yield control("<|im_end|>\n")


def _open_assistant(message: Message, *, thinks: bool, is_open: bool = False) -> Iterable[Segment]:
    yield control("<|im_start|>assistant\n")
    if message.reasoning:
        yield control("<think>\n")
        yield plain(message.reasoning)
        if not is_open:
            yield control("\n</think>\n")
    elif not thinks:
        yield control(_EMPTY_THOUGHT)
    yield plain(message.content)


def _is_open_thought(message: Message) -> bool:
    """Whether the final message, to be continued, ends inside its thought."""
    return bool(message.reasoning) and not message.content


def _render_calls(message: Message, *, has_code: bool) -> Iterable[Segment]:
    text_before = message.content
    for call in message.tool_calls:
        if text_before and not text_before.endswith("\n"):
            yield control("\n")
        code = _code(call) if has_code else None
        opening, closing = (
            ("<tool_call>\n", "\n</tool_call>") if code is None else ("<code>", "</code>")
        )
        yield control(opening)
        yield plain(call_text(call) if code is None else code)
        yield control(closing)
        text_before = closing


def _code(call: ToolCall) -> str | None:
    """The code of a call that the parser made from a code block."""
    arguments = call.parsed_arguments()
    if call.name != CODE_FUNCTION or not isinstance(arguments, dict):
        return None
    match cast("dict[str, object]", arguments):
        case {"code": str(code), **others} if not others:
            return code
        case _:
            return None
