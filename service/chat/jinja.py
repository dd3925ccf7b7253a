"""Formats given by the Jinja template in a model file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import cast

from service.chat.abilities import (
    Abilities,
    ArgumentsForm,
    adapt,
    probe_abilities,
    template_message,
)
from service.chat.mask import Mask, find_free_char, strings_in
from service.chat.messages import (
    Conversation,
    Message,
    Tool,
    check_conversation,
    function_schema,
    normalize,
)
from service.chat.parser import OutputParser, PlainParser, TaggedParser, Tags
from service.chat.prompt import Segment, Vocabulary, control, prompt_text
from service.chat.sandbox import ChatTemplate, TemplateFailure
from service.chat.thinking import close_thought
from service.chat.tool_prompt import tell_tools
from service.chat.unsupported import refuse_unsupported
from service.core.request import ThinkingBudget
from service.errors import InvalidRequest, ModelFileError

_OWN_VARIABLES = frozenset(
    {
        "messages",
        "tools",
        "add_generation_prompt",
        "bos_token",
        "eos_token",
        "raise_exception",
        "strftime_now",
        "enable_thinking",
    }
)
"""What the service gives a template itself; everything else that it reads is a client's to set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """What a rendering reads besides the conversation."""

    special_texts: frozenset[str]
    tokens: Mapping[str, str]
    """`bos_token` and `eos_token`."""
    needs_date: bool = False
    """The template calls `strftime_now` without asking whether it is there."""


class JinjaFormat:
    """Renders with the template; adapts what the template cannot take."""

    name = "the model file's Jinja template"

    def __init__(
        self, template: ChatTemplate, source: str, setting: _Setting, new_call_id: Callable[[], str]
    ) -> None:
        """Raises TemplateFailure if the template cannot render a question."""
        self._template = template
        self._source = source
        self._setting = setting
        self._new_call_id = new_call_id
        self._abilities = self._probe()
        reads = template.variables
        self.native_tools = "tools" in reads and self._abilities.tagged_calls
        self.supports_thinking = "enable_thinking" in reads or "</think>" in source

    def _probe(self) -> Abilities:
        try:
            return probe_abilities(self._render_probe, self._source)
        except TemplateFailure:
            if "strftime_now" not in self._template.variables or self._setting.needs_date:
                raise
        self._setting = replace(self._setting, needs_date=True)
        return probe_abilities(self._render_probe, self._source)

    def _render_probe(
        self, messages: Sequence[Message], *, arguments: ArgumentsForm, tools: Sequence[Tool] = ()
    ) -> str:
        variables = {
            "messages": [template_message(message, arguments) for message in messages],
            "tools": [function_schema(tool) for tool in tools] or None,
            "add_generation_prompt": True,
        }
        return self._template.render({**variables, **self._given(None)})

    def render(self, conversation: Conversation) -> list[Segment]:
        """Raises InvalidRequest, with the template's line, if the template fails."""
        check_conversation(conversation)
        refuse_unsupported(
            self, conversation, known_kwargs=self._template.variables - _OWN_VARIABLES
        )
        segments = self._render(conversation)
        if conversation.open_thought and self._would_open_thought(conversation, segments):
            segments.append(control("<think>\n"))
        return segments

    def thinks(self, conversation: Conversation) -> bool:
        """As far as the service can tell: the template decides."""
        return self.supports_thinking and conversation.enable_thinking is not False

    def parser(self, conversation: Conversation) -> OutputParser:
        if not (self.supports_thinking or conversation.tools):
            return PlainParser()
        final = conversation.messages[-1] if conversation.continue_final_message else None
        opened = self.supports_thinking and _ends_in_thought(self.render(conversation))
        tags = Tags(
            thinking=self.supports_thinking,
            tool_calls=bool(conversation.tools),
            in_thought=opened,
            in_content=not opened and final is not None and bool(final.content),
        )
        return TaggedParser(tags, self._new_call_id)

    def thinking_budget(self, vocab: Vocabulary, max_tokens: int) -> ThinkingBudget | None:
        return close_thought(vocab, max_tokens) if self.supports_thinking else None

    def _would_open_thought(self, conversation: Conversation, segments: Sequence[Segment]) -> bool:
        return (
            self.thinks(conversation)
            and not conversation.continue_final_message
            and not _ends_in_thought(segments)
            and not prompt_text(segments[-4:]).rstrip().endswith("</think>")
        )

    def _render(self, conversation: Conversation) -> list[Segment]:
        told = conversation if self.native_tools else tell_tools(conversation)
        variables = self._client_variables(told)
        used_text = "\0".join([self._source, *strings_in(variables)])
        cut = find_free_char(used_text) if conversation.continue_final_message else ""
        mask = Mask(self._setting.special_texts, used_text + cut)
        hidden: dict[str, object] = {name: mask.hide(value) for name, value in variables.items()}
        if cut:
            hidden["messages"] = _mark_end(hidden["messages"], cut)
        hidden["add_generation_prompt"] = not cut
        try:
            rendered = self._template.render({**hidden, **self._given(conversation.today)})
        except TemplateFailure as failure:
            raise InvalidRequest(
                f"The model's chat template cannot render these messages: {failure}",
                param="messages",
            ) from failure
        if not cut:
            return mask.reveal(rendered)
        if cut not in rendered:
            raise InvalidRequest(
                "The model's chat template does not show the last message, so it cannot be "
                "continued.",
                param="continue_final_message",
            )
        return mask.reveal(rendered[: rendered.rindex(cut)])

    def _client_variables(self, conversation: Conversation) -> dict[str, object]:
        messages = adapt(normalize(conversation.messages), self._abilities)
        arguments = self._abilities.tool_calls or "object"
        variables: dict[str, object] = {
            **conversation.template_kwargs,
            "messages": [template_message(message, arguments) for message in messages],
            "tools": [function_schema(tool) for tool in conversation.tools] or None,
        }
        if conversation.enable_thinking is not None:
            variables["enable_thinking"] = conversation.enable_thinking
        return variables

    def _given(self, today: date | None) -> dict[str, object]:
        given: dict[str, object] = dict(self._setting.tokens)
        if today is not None:
            given["strftime_now"] = today.strftime
        elif self._setting.needs_date:
            given["strftime_now"] = _no_date
        return given


def load_jinja_format(
    vocab: Vocabulary, source: str, new_call_id: Callable[[], str]
) -> JinjaFormat:
    """Raises ModelFileError, with the template's line, for one that does not work at all."""
    setting = _Setting(
        special_texts=vocab.special_texts,
        tokens={
            "bos_token": "" if vocab.bos is None else vocab.token_text(vocab.bos),
            "eos_token": "" if vocab.eos is None else vocab.token_text(vocab.eos),
        },
    )
    try:
        return JinjaFormat(ChatTemplate(source), source, setting, new_call_id)
    except TemplateFailure as failure:
        raise ModelFileError(
            f"The chat template in the model file does not work: {failure}. "
            "Fix tokenizer.chat_template in the file, or remove it to be served with ChatML."
        ) from failure


def _no_date(_format: str) -> str:
    return ""


def _mark_end(messages: object, cut: str) -> object:
    """Marks the end of the final content; all after it in the rendered text is dropped."""
    *others, final = cast("list[dict[str, object]]", messages)
    return [*others, {**final, "content": f"{final['content']}{cut}"}]


def _ends_in_thought(segments: Sequence[Segment]) -> bool:
    return prompt_text(segments[-4:]).rstrip().endswith("<think>")
