"""What a chat template can take, found out by rendering short conversations with it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from service.chat.messages import Message, Tool, ToolCall, fold_reasoning, fold_tools
from service.chat.parser import CALL_TAG, TaggedParser, Tags, ToolCallArguments, ToolCallStart
from service.chat.sandbox import TemplateFailure

ArgumentsForm = Literal["object", "text"]

_SYSTEM, _USER, _ASSISTANT = "PROBESYSTEM", "PROBEUSER", "PROBEASSISTANT"
_LATER, _NAME, _VALUE, _RESULT = "PROBELATER", "PROBENAME", "PROBEVALUE", "PROBERESULT"
_ARGUMENTS = {"probekey": _VALUE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a template renders by itself; the rest is rewritten for it, so that nothing is lost."""

    system: bool
    """A system message at the head."""
    later_system: bool
    """System messages further down."""
    repeated_roles: bool
    """Two messages of a role in a row."""
    reasoning: bool
    """`reasoning_content` of assistant messages."""
    tool_calls: ArgumentsForm | None
    """How calls in the history want their arguments; None where calls or results vanish."""
    text_with_calls: bool
    """What an assistant said in the message of its calls (Llama 3's template drops it)."""
    tagged_calls: bool
    """Calls are spelled as our parser reads them: JSON between `<tool_call>` tags."""


class Renders(Protocol):
    """Renders messages for a probe; raises TemplateFailure."""

    def __call__(
        self, messages: Sequence[Message], *, arguments: ArgumentsForm, tools: Sequence[Tool] = ()
    ) -> str: ...


def probe_abilities(render: Renders, source: str) -> Abilities:
    """Raises TemplateFailure for a template that cannot even render a question."""
    user, assistant = _say("user", _USER), _say("assistant", _ASSISTANT)
    question = render([user], arguments="object")
    if _USER not in question:
        raise TemplateFailure("a user message vanishes in it", None)

    def keeps(*messages: Message) -> bool:
        try:
            rendered = render(messages, arguments="object")
        except TemplateFailure:
            return False
        return all(message.content in rendered for message in messages)

    system = _say("system", _SYSTEM)
    later = _say("system", _LATER)
    tool_calls, rendered_calls = _probe_tool_calls(render, said="")
    return Abilities(
        system=keeps(system, user),
        later_system=keeps(system, user, assistant, later, user),
        repeated_roles=keeps(user, _say("user", _LATER)),
        reasoning="reasoning_content" in source,
        tool_calls=tool_calls,
        text_with_calls=tool_calls == _probe_tool_calls(render, said=_ASSISTANT)[0],
        tagged_calls=_reads_back(rendered_calls),
    )


def _probe_tool_calls(render: Renders, *, said: str) -> tuple[ArgumentsForm | None, str]:
    """The form that the template takes, and what it makes of a call and its result."""
    call = ToolCall(id="probecall", name=_NAME, arguments=json.dumps(_ARGUMENTS))
    messages = [
        _say("user", _USER),
        Message(role="assistant", content=said, tool_calls=(call,)),
        Message(role="tool", content=_RESULT, name=_NAME, tool_call_id=call.id),
    ]
    forms: tuple[ArgumentsForm, ...] = ("object", "text")
    for form in forms:
        try:
            rendered = render(messages, arguments=form, tools=[Tool(name=_NAME)])
        except TemplateFailure:
            continue
        is_kept = all(text in rendered for text in ("probekey", _VALUE, _RESULT, said))
        if is_kept and "{'probekey'" not in rendered and '\\"probekey' not in rendered:
            return form, rendered
    return None, ""


def _reads_back(rendered: str) -> bool:
    """Whether the parser finds the call; an example in the template's own words is not one."""
    parser = TaggedParser(Tags(tool_calls=True), str)
    parsed = parser.feed(rendered[max(rendered.rfind(CALL_TAG), 0) :], 0)
    name = "".join(item.name for item in parsed if isinstance(item, ToolCallStart))
    arguments = "".join(item.text for item in parsed if isinstance(item, ToolCallArguments))
    return name == _NAME and parser.calls_complete and json.loads(arguments) == _ARGUMENTS


def _say(role: Literal["system", "user", "assistant"], content: str) -> Message:
    return Message(role=role, content=content)


def adapt(messages: Sequence[Message], abilities: Abilities) -> list[Message]:
    """Rewrites what the template would lose or refuse."""
    adapted = list(messages)
    if not abilities.text_with_calls and abilities.repeated_roles:
        adapted = [part for message in adapted for part in _split_calls(message)]
    has_both = any(message.content and message.tool_calls for message in adapted)
    if abilities.tool_calls is None or (has_both and not abilities.text_with_calls):
        adapted = fold_tools(adapted)
    if not abilities.reasoning:
        adapted = fold_reasoning(adapted)
    if not abilities.later_system:
        adapted = _gather_system(adapted)
    if not abilities.system:
        adapted = [_as_user(message) for message in adapted]
    if not (abilities.repeated_roles and abilities.system):
        adapted = _merge_repeated(adapted)
    return adapted


def _split_calls(message: Message) -> list[Message]:
    if not (message.content and message.tool_calls):
        return [message]
    return [replace(message, tool_calls=()), replace(message, content="", reasoning="")]


def _gather_system(messages: Iterable[Message]) -> list[Message]:
    messages = list(messages)
    texts = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    if not texts:
        return others
    return [Message(role="system", content="\n\n".join(texts)), *others]


def _as_user(message: Message) -> Message:
    return replace(message, role="user") if message.role == "system" else message


def _merge_repeated(messages: Iterable[Message]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        last = merged[-1] if merged else None
        if last is None or last.role != message.role or not _is_plain(last, message):
            merged.append(message)
        else:
            merged[-1] = replace(last, content=f"{last.content}\n\n{message.content}")
    return merged


def _is_plain(*messages: Message) -> bool:
    return all(
        message.role != "tool" and not message.tool_calls and not message.reasoning
        for message in messages
    )


def template_message(message: Message, arguments: ArgumentsForm) -> dict[str, object]:
    """The message as Hugging Face's templates expect it."""
    spelled: dict[str, object] = {"role": message.role, "content": message.content}
    if message.reasoning:
        spelled["reasoning_content"] = message.reasoning
    if message.name:
        spelled["name"] = message.name
    if message.tool_call_id:
        spelled["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        spelled["tool_calls"] = [_template_call(call, arguments) for call in message.tool_calls]
    return spelled


def _template_call(call: ToolCall, arguments: ArgumentsForm) -> Mapping[str, object]:
    value = call.parsed_arguments() if arguments == "object" else call.arguments or "{}"
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": value},
    }
