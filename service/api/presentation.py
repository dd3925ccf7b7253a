"""Answers in OpenAI's form: one JSON document, or chunks whose constant bytes are made once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from service.api.generator import Choice, Part
from service.api.logprobs import ShownToken
from service.chat.parser import (
    ContentText,
    Parsed,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)
from service.errors import EngineError

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What all chunks of an answer have in common."""

    id: str
    created: int
    model: str
    fingerprint: str
    service_tier: str | None = None

    def fields(self, kind: str) -> dict[str, object]:
        fields: dict[str, object] = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }
        return fields | ({"service_tier": self.service_tier} if self.service_tier else {})


class ChunkEncoder:
    """A choice's parts to events; `include_usage` puts `usage: null` into all but the last."""

    def __init__(self, stamp: Stamp, index: int, *, include_usage: bool) -> None:
        self._open = b"data: " + orjson.dumps(stamp.fields("chat.completion.chunk"))[:-1]
        self._usage = b',"usage":null' if include_usage else b""
        self._head = self._open + b',"choices":[{"index":%d,"delta":' % index
        self._end = b',"finish_reason":null}]' + self._usage + b"}\n\n"
        self._tail = b',"logprobs":null' + self._end
        self._content_head = self._head + b'{"content":'
        self._content_tail = b"}" + self._tail

    def role(self) -> bytes:
        return self._head + b'{"role":"assistant"}' + self._tail

    def encode(self, parts: Iterable[Part]) -> bytes:
        return b"".join(map(self._encode, parts))

    def finish(self, finish_reason: str, tokens: list[ShownToken] | None) -> bytes:
        """`tokens` are what no delta had."""
        return b"".join(
            (
                self._head,
                b'{},"logprobs":',
                orjson.dumps(describe_logprobs(tokens) if tokens else None),
                b',"finish_reason":',
                orjson.dumps(finish_reason),
                b"}]",
                self._usage,
                b"}\n\n",
            )
        )

    def usage(self, usage: dict[str, object]) -> bytes:
        return self._open + b',"choices":[],"usage":' + orjson.dumps(usage) + b"}\n\n"

    def _encode(self, part: Part) -> bytes:
        parsed = part.parsed
        if part.tokens is not None:
            logprobs = b',"logprobs":' + orjson.dumps(describe_logprobs(part.tokens))
            return self._head + orjson.dumps(_delta(parsed)) + logprobs + self._end
        if isinstance(parsed, ContentText):
            return self._content_head + orjson.dumps(parsed.text) + self._content_tail
        return self._head + orjson.dumps(_delta(parsed)) + self._tail


def _delta(parsed: Parsed) -> dict[str, object]:
    match parsed:
        case ContentText(text):
            return {"content": text}
        case ReasoningText(text):
            return {"reasoning_content": text}
        case ToolCallStart(index, call_id, name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": call_id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case ToolCallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


@dataclass(slots=True)
class MessageBuilder:
    """The parts of an answer that is sent at once."""

    tokens: list[ShownToken] = field(default_factory=list[ShownToken])
    """Of the content, where logprobs are asked for."""
    _content: list[str] = field(default_factory=list[str])
    _reasoning: list[str] = field(default_factory=list[str])
    _calls: list[ToolCallStart] = field(default_factory=list[ToolCallStart])
    _arguments: list[list[str]] = field(default_factory=list[list[str]])

    def add(self, parts: Iterable[Part]) -> None:
        for part in parts:
            self.tokens += part.tokens or ()
            match parsed := part.parsed:
                case ContentText(text):
                    self._content.append(text)
                case ReasoningText(text):
                    self._reasoning.append(text)
                case ToolCallStart():
                    self._calls.append(parsed)
                    self._arguments.append([])
                case ToolCallArguments(index, text):
                    self._arguments[index].append(text)

    def message(self) -> dict[str, object]:
        content = "".join(self._content)
        message: dict[str, object] = {
            "role": "assistant",
            "content": content if content or not self._calls else None,
            "refusal": None,
        }
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(arguments)},
                }
                for call, arguments in zip(self._calls, self._arguments, strict=True)
            ]
        return message


async def read_choice(choice: Choice) -> dict[str, object]:
    """A choice to its end. Raises EngineError."""
    builder = MessageBuilder()
    async for parts in choice.parts():
        builder.add(parts)
    cut = choice.finish_tokens()
    return {
        "index": choice.index,
        "message": builder.message(),
        "logprobs": None if cut is None else describe_logprobs([*builder.tokens, *cut]),
        "finish_reason": choose_finish_reason(choice),
    }


def encode_completion(
    stamp: Stamp, choices: Sequence[dict[str, object]], usage: dict[str, object]
) -> bytes:
    fields = stamp.fields("chat.completion")
    return orjson.dumps(fields | {"choices": choices, "usage": usage})


def describe_logprobs(tokens: Iterable[ShownToken]) -> dict[str, object]:
    content = [
        _describe_token(token.share, token.logprob)
        | {"top_logprobs": [_describe_token(*other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _describe_token(token: bytes, logprob: float) -> dict[str, object]:
    """A token that is no text of its own, such as a part of a character, reads as U+FFFD."""
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}


def choose_finish_reason(choice: Choice) -> str:
    """Of a choice that has ended; `tool_calls` only when every call is complete."""
    reason = choice.stream.finish_reason
    if reason is None:
        raise EngineError("The engine ended the answer without a reason.")
    return "tool_calls" if reason == "stop" and choice.parser.calls_complete else reason


def count_usage(choices: Sequence[Choice]) -> dict[str, object]:
    """Of all choices together. The prompt counts once: the others start from the first's."""
    num_prompt = choices[0].stream.num_prompt_tokens
    num_output = sum(choice.stream.num_output_tokens for choice in choices)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
        "prompt_tokens_details": {
            "cached_tokens": min(choice.stream.num_cached_tokens for choice in choices),
            "audio_tokens": 0,
            "image_tokens": 0,
            "text_tokens": num_prompt,
        },
        "completion_tokens_details": {
            "reasoning_tokens": sum(choice.parser.num_reasoning_tokens for choice in choices),
            "accepted_prediction_tokens": sum(
                choice.stream.num_accepted_tokens for choice in choices
            ),
            "rejected_prediction_tokens": sum(
                choice.stream.num_rejected_tokens for choice in choices
            ),
            "audio_tokens": 0,
            "text_tokens": num_output,
        },
    }
