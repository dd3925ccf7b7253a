"""The way of speaking that fits a model: how its conversations are written and its output read."""

import secrets
from collections.abc import Callable
from typing import Protocol

from service.chat.chatml import ChatMLFormat
from service.chat.jinja import load_jinja_format
from service.chat.messages import Conversation
from service.chat.parser import OutputParser
from service.chat.prompt import Segment, Vocabulary
from service.chat.smollm3 import SmolLM3Format
from service.core.request import ThinkingBudget


class ChatFormat(Protocol):
    """Immutable and safe to share between threads."""

    @property
    def name(self) -> str:
        """Which rendering this is, for the start-up log."""
        ...

    @property
    def native_tools(self) -> bool:
        """Whether the model's own format has tools; others are told of them by `tool_prompt`."""
        ...

    @property
    def supports_thinking(self) -> bool: ...

    def render(self, conversation: Conversation) -> list[Segment]:
        """The prompt; raises InvalidRequest for what cannot be rendered."""
        ...

    def thinks(self, conversation: Conversation) -> bool:
        """Whether the model is going to think: a budget is only for a conversation that does."""
        ...

    def parser(self, conversation: Conversation) -> OutputParser:
        """A new parser for one response to the conversation."""
        ...

    def thinking_budget(self, vocab: Vocabulary, max_tokens: int) -> ThinkingBudget | None:
        """How a thought is closed after `max_tokens`; None where the model cannot be told.

        Render with `open_thought`, so that what is closed is open.
        """
        ...


def random_call_id() -> str:
    """An id for a tool call, as OpenAI's look."""
    return f"call_{secrets.token_hex(12)}"


def choose_format(
    vocab: Vocabulary, *, new_call_id: Callable[[], str] = random_call_id
) -> ChatFormat:
    """SmolLM3's own rendering, else the model file's template, else ChatML.

    Raises ModelFileError for a template that does not work.
    """
    if _is_smollm3(vocab):
        return SmolLM3Format(new_call_id)
    if vocab.chat_template:
        return load_jinja_format(vocab, vocab.chat_template, new_call_id)
    return ChatMLFormat(new_call_id)


def _is_smollm3(vocab: Vocabulary) -> bool:
    """By architecture, or, in a file remapped to `llama`, by the keys that stayed."""
    return vocab.metadata.get("general.architecture") == "smollm3" or any(
        key.startswith("smollm3.") for key in vocab.metadata
    )
