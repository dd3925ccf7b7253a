"""System prompts that the operator declares public, as the prefixes of prompts that they become."""

from itertools import takewhile
from pathlib import Path

from service.api.served_model import ServedModel
from service.chat.messages import Conversation, Message
from service.errors import InvalidRequest, SettingsError

_BEGINNINGS = ("Hello", "7 + 7", "\n\n- a list", "(why?)", '"so"')
"""Messages that share no beginning: what their prompts share does not depend on any message."""


def read_public_prompt(path: Path) -> str:
    """The file's text without the line end that editors put at the end. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"SMOLSERVE_CACHE__PUBLIC_PROMPTS: {path} cannot be read: {error}"
        ) from None
    if not text.strip():
        raise SettingsError(f"SMOLSERVE_CACHE__PUBLIC_PROMPTS: {path} is empty")
    return text.removesuffix("\n")


def find_prefixes(model: ServedModel, system_prompt: str) -> list[list[int]]:
    """The first tokens of every prompt with that system message, one for each way of thinking.

    A template that writes something else before the system message (a date, tools) makes prompts
    that begin otherwise; they are not public then, which is safe.
    """
    prefixes: list[list[int]] = []
    for thinking in (None, True, False) if model.format.supports_thinking else (None,):
        try:
            prefix = _find_prefix(model, system_prompt, enable_thinking=thinking)
        except InvalidRequest as error:
            raise SettingsError(
                f"SMOLSERVE_CACHE__PUBLIC_PROMPTS: the model's chat template refuses it: {error}"
            ) from None
        if prefix and prefix not in prefixes:
            prefixes.append(prefix)
    return prefixes


def _find_prefix(
    model: ServedModel, system_prompt: str, *, enable_thinking: bool | None
) -> list[int]:
    system = Message(role="system", content=system_prompt)
    prompts = [
        model.encode(
            Conversation(
                messages=(system, Message(role="user", content=beginning)),
                enable_thinking=enable_thinking,
            )
        )
        for beginning in _BEGINNINGS
    ]
    columns = zip(*prompts, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
