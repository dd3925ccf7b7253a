"""ChatML, for model files that carry no template."""

from collections.abc import Callable, Iterable

from service.chat.messages import (
    Conversation,
    Message,
    check_conversation,
    fold_reasoning,
    fold_tools,
    normalize,
)
from service.chat.parser import OutputParser, PlainParser, TaggedParser, Tags
from service.chat.prompt import Segment, Vocabulary, control, plain
from service.chat.tool_prompt import tell_tools
from service.chat.unsupported import refuse_unsupported
from service.core.request import ThinkingBudget


class ChatMLFormat:
    """`<|im_start|>role`, the content, `<|im_end|>`; tools, calls and results become text."""

    name = "ChatML (the model file has no template)"
    native_tools = False
    supports_thinking = False

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self._new_call_id = new_call_id

    def render(self, conversation: Conversation) -> list[Segment]:
        check_conversation(conversation)
        refuse_unsupported(self, conversation, known_kwargs=())
        told = tell_tools(conversation)
        messages = fold_tools(fold_reasoning(normalize(told.messages)))
        segments = [segment for message in messages for segment in _render(message)]
        if conversation.continue_final_message:
            return segments[:-1]
        return [*segments, control("<|im_start|>assistant\n")]

    def thinks(self, conversation: Conversation) -> bool:  # noqa: ARG002 - the protocol's
        return False

    def parser(self, conversation: Conversation) -> OutputParser:
        if not conversation.tools:
            return PlainParser()
        continues = conversation.continue_final_message
        in_content = continues and bool(conversation.messages[-1].content)
        return TaggedParser(Tags(tool_calls=True, in_content=in_content), self._new_call_id)

    def thinking_budget(self, vocab: Vocabulary, max_tokens: int) -> ThinkingBudget | None:  # noqa: ARG002 - the protocol's
        return None


def _render(message: Message) -> Iterable[Segment]:
    yield control(f"<|im_start|>{message.role}\n")
    yield plain(message.content)
    yield control("<|im_end|>\n")
