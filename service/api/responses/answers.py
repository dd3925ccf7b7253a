"""Responses as the OpenAPI document describes them; `generation` and `events` write them."""

from typing import Any, Literal

from pydantic import ConfigDict

from service.api.answers import AnswerModel
from service.api.responses.items import ItemStatus

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class AnsweredText(AnswerModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[dict[str, Any]]


class AnsweredReasoningText(AnswerModel):
    type: Literal["reasoning_text"]
    text: str


class AnsweredMessage(AnswerModel):
    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[AnsweredText]


class AnsweredReasoning(AnswerModel):
    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[AnsweredReasoningText]


class AnsweredFunctionCall(AnswerModel):
    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class ResponseFailure(AnswerModel):
    code: Literal["server_error"]
    message: str


class IncompleteDetails(AnswerModel):
    reason: Literal["max_output_tokens"]


class InputTokensDetails(AnswerModel):
    cached_tokens: int
    cache_write_tokens: int
    """Computed now, and kept for who comes back."""


class OutputTokensDetails(AnswerModel):
    reasoning_tokens: int


class ResponseUsage(AnswerModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ReasoningAnswer(AnswerModel):
    effort: str | None
    summary: None


class TextAnswer(AnswerModel):
    format: dict[str, Any]
    verbosity: Literal["low", "medium", "high"]


class ResponseObject(AnswerModel):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[AnsweredMessage | AnsweredReasoning | AnsweredFunctionCall]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningAnswer
    safety_identifier: str | None
    service_tier: Literal["default", "flex", "priority"]
    store: bool
    temperature: float
    text: TextAnswer
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class ResponseEvent(AnswerModel):
    """Has fields of its type's beside these."""

    model_config = ConfigDict(extra="allow")

    type: str
    sequence_number: int


class DeletedResponse(AnswerModel):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItemList(AnswerModel):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
