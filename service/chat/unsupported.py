"""A request that asks for what its model's format cannot do is told so."""

from collections.abc import Collection
from typing import Protocol

from service.chat.messages import Conversation
from service.errors import InvalidRequest


class Limits(Protocol):
    """What a format supports."""

    @property
    def supports_thinking(self) -> bool: ...


def refuse_unsupported(
    limits: Limits, conversation: Conversation, *, known_kwargs: Collection[str]
) -> None:
    """Raises InvalidRequest that names the field."""
    if conversation.enable_thinking and not limits.supports_thinking:
        raise InvalidRequest(
            "This model's chat format has no thinking mode.",
            param="chat_template_kwargs.enable_thinking",
        )
    for name in conversation.template_kwargs:
        if name not in known_kwargs:
            known = ", ".join(sorted(known_kwargs)) or "none"
            raise InvalidRequest(
                f"This model's chat template does not read {name!r}; it reads: {known}.",
                param=f"chat_template_kwargs.{name}",
            )
