"""Answers as the OpenAPI document describes them; `presentation` writes them without these."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "tool_calls"]


class AnswerModel(BaseModel):
    """Says all that an answer may have: what is not here is never sent."""

    model_config = ConfigDict(extra="forbid")


class PromptTokensDetails(AnswerModel):
    cached_tokens: int
    audio_tokens: int = 0
    image_tokens: int = 0
    text_tokens: int | None = None


class CompletionTokensDetails(AnswerModel):
    reasoning_tokens: int
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None
    audio_tokens: int = 0
    text_tokens: int | None = None


class Usage(AnswerModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TopLogprob(AnswerModel):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(AnswerModel):
    content: list[TokenLogprob] | None
    refusal: None = None


class AnsweredFunction(AnswerModel):
    name: str
    arguments: str


class AnsweredToolCall(AnswerModel):
    id: str
    type: Literal["function"]
    function: AnsweredFunction


class AnsweredMessage(AnswerModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[AnsweredToolCall] | None = None


class ChatChoice(AnswerModel):
    index: int
    message: AnsweredMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(AnswerModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: str | None = None
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(AnswerModel):
    name: str | None = None
    arguments: str


class ToolCallDelta(AnswerModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class MessageDelta(AnswerModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChoiceDelta(AnswerModel):
    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletionChunk(AnswerModel):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: str | None = None
    choices: list[ChatChoiceDelta]
    usage: Usage | None = None
