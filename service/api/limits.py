"""How much of everything one request may have, beside its bytes. All raise InvalidRequest."""

from service.api.config import RequestLimits
from service.api.fields import GenerationFields
from service.api.schemas import AssistantMessage, ChatCompletionRequest, Content, Message
from service.errors import InvalidRequest


def check_limits(request: GenerationFields, limits: RequestLimits) -> None:
    """Of what all requests for generated text have."""
    _check("n", request.n or 1, limits.max_choices, "choices")
    for index, stop in enumerate(request.stop or ()):
        _check(f"stop[{index}]", len(stop), limits.max_stop_chars, "characters")


def check_chat_limits(request: ChatCompletionRequest, limits: RequestLimits) -> None:
    check_limits(request, limits)
    _check("messages", len(request.messages), limits.max_messages, "messages")
    for index, message in enumerate(request.messages):
        num_chars = _count_chars(message)
        _check(f"messages[{index}]", num_chars, limits.max_message_chars, "characters")
    if request.prediction is not None:
        num_chars = _count_text(request.prediction.content)
        _check("prediction", num_chars, limits.max_message_chars, "characters")
    _check("tools", len(request.tools or ()), limits.max_tools, "tools")


def _check(path: str, number: int, limit: int, noun: str) -> None:
    if number > limit:
        raise InvalidRequest(
            f"{path}: {number} {noun} are more than the {limit} allowed here.", param=path
        )


def _count_chars(message: Message) -> int:
    number = _count_text(message.content or "")
    if isinstance(message, AssistantMessage):
        number += len(message.reasoning_content or "")
        number += sum(len(call.function.arguments) for call in message.tool_calls or ())
    return number


def _count_text(content: Content) -> int:
    return len(content) if isinstance(content, str) else sum(len(part.text) for part in content)
