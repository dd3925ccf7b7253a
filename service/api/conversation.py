"""A request's messages and thinking fields as the chat package knows them."""

from collections.abc import Sequence

from service.api import schemas
from service.api.validation import UNSUPPORTED_PARAMETER
from service.chat.format import ChatFormat
from service.chat.messages import Conversation, Message, ToolCall, join_parts
from service.errors import InvalidRequest

_ENABLE_THINKING = "enable_thinking"


def read_conversation(
    request: schemas.ChatCompletionRequest, chat_format: ChatFormat
) -> Conversation:
    """Raises InvalidRequest for thinking that the model cannot do, or fields that disagree."""
    kwargs = dict(request.chat_template_kwargs or {})
    asked = kwargs.pop(_ENABLE_THINKING, None)
    if asked is not None and not isinstance(asked, bool):
        raise InvalidRequest(
            f"chat_template_kwargs.{_ENABLE_THINKING} must be true or false.",
            param=f"chat_template_kwargs.{_ENABLE_THINKING}",
        )
    _check_thinking(request, chat_format, asked=asked)
    effort = request.reasoning_effort
    use = request.tool_use
    return Conversation(
        messages=tuple(map(_read_message, request.messages)),
        tools=use.offered if use else (),
        enable_thinking=effort != "none" if effort is not None else asked,
        continue_final_message=bool(request.continue_final_message),
        template_kwargs=kwargs,
        # What binds an answer binds behind a thought, so there must be one for sure, or none.
        open_thought=request.thinking_budget is not None
        or use is not None
        or request.answer_form is not None,
    )


def _check_thinking(
    request: schemas.ChatCompletionRequest, chat_format: ChatFormat, *, asked: bool | None
) -> None:
    effort, budget = request.reasoning_effort, request.thinking_budget
    if not chat_format.supports_thinking:
        if effort not in {None, "none"}:
            raise _cannot_think("reasoning_effort")
        if budget is not None:
            raise _cannot_think("thinking_budget")
    if effort is not None and asked is not None and (effort != "none") != asked:
        raise InvalidRequest(
            f"reasoning_effort {effort!r} contradicts chat_template_kwargs.{_ENABLE_THINKING}; "
            "send one of them.",
            param="reasoning_effort",
        )
    if budget is not None and request.continue_final_message:
        raise InvalidRequest(
            "thinking_budget counts a thought from its start; it cannot be combined with "
            "continue_final_message.",
            param="thinking_budget",
        )


def _cannot_think(param: str) -> InvalidRequest:
    return InvalidRequest(
        f"{param}: this model has no thinking mode.", param=param, code=UNSUPPORTED_PARAMETER
    )


def _read_message(message: schemas.Message) -> Message:
    match message:
        case schemas.AssistantMessage():
            return Message(
                role="assistant",
                content=read_content(message.content),
                name=message.name,
                tool_calls=tuple(map(_read_call, message.tool_calls or ())),
                reasoning=message.reasoning_content or "",
            )
        case schemas.ToolMessage():
            return Message(
                role="tool",
                content=read_content(message.content),
                name=message.name,
                tool_call_id=message.tool_call_id,
            )
        case schemas.InstructionMessage():
            return Message(
                role=message.role, content=read_content(message.content), name=message.name
            )


def read_content(content: str | Sequence[schemas.TextPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return join_parts(part.text for part in content)


def _read_call(call: schemas.ToolCall) -> ToolCall:
    return ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
