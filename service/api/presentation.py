"""Answers in OpenAI's form: one JSON document, or chunks whose constant bytes are made once."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson

from service.chat.parser import (
    ContentText,
    OutputParser,
    Parsed,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)
from service.errors import EngineError
from service.runtime.stream import OutputStream

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What all chunks of an answer have in common."""

    id: str
    created: int
    model: str
    service_tier: str | None = None

    def fields(self, kind: str) -> dict[str, object]:
        fields: dict[str, object] = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }
        return fields | ({"service_tier": self.service_tier} if self.service_tier else {})


class ChunkEncoder:
    """Parsed output to events; `include_usage` puts `usage: null` into all but the last."""

    def __init__(self, stamp: Stamp, *, include_usage: bool) -> None:
        self._open = b"data: " + orjson.dumps(stamp.fields("chat.completion.chunk"))[:-1]
        self._usage = b',"usage":null' if include_usage else b""
        self._head = self._open + b',"choices":[{"index":0,"delta":'
        self._tail = b',"logprobs":null,"finish_reason":null}]' + self._usage + b"}\n\n"
        self._content_head = self._head + b'{"content":'
        self._content_tail = b"}" + self._tail

    def role(self) -> bytes:
        return self._head + b'{"role":"assistant"}' + self._tail

    def encode(self, parsed: Iterable[Parsed]) -> bytes:
        return b"".join(map(self._encode, parsed))

    def finish(self, finish_reason: str) -> bytes:
        reason = orjson.dumps(finish_reason)
        return b"".join(
            (
                self._head,
                b'{},"logprobs":null,"finish_reason":',
                reason,
                b"}]",
                self._usage,
                b"}\n\n",
            )
        )

    def usage(self, usage: dict[str, object]) -> bytes:
        return self._open + b',"choices":[],"usage":' + orjson.dumps(usage) + b"}\n\n"

    def _encode(self, parsed: Parsed) -> bytes:
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

    _content: list[str] = field(default_factory=list[str])
    _reasoning: list[str] = field(default_factory=list[str])
    _calls: list[ToolCallStart] = field(default_factory=list[ToolCallStart])
    _arguments: list[list[str]] = field(default_factory=list[list[str]])

    def add(self, parsed: Iterable[Parsed]) -> None:
        for part in parsed:
            match part:
                case ContentText(text):
                    self._content.append(text)
                case ReasoningText(text):
                    self._reasoning.append(text)
                case ToolCallStart():
                    self._calls.append(part)
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


def encode_completion(
    stamp: Stamp, message: dict[str, object], finish_reason: str, usage: dict[str, object]
) -> bytes:
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason,
    }
    fields = stamp.fields("chat.completion")
    return orjson.dumps(fields | {"choices": [choice], "usage": usage})


def choose_finish_reason(stream: OutputStream, parser: OutputParser) -> str:
    """Of a stream that has ended; `tool_calls` only when every call is complete."""
    reason = stream.finish_reason
    if reason is None:
        raise EngineError("The engine ended the answer without a reason.")
    return "tool_calls" if reason == "stop" and parser.calls_complete else reason


def count_usage(stream: OutputStream, parser: OutputParser) -> dict[str, object]:
    return {
        "prompt_tokens": stream.num_prompt_tokens,
        "completion_tokens": stream.num_output_tokens,
        "total_tokens": stream.num_prompt_tokens + stream.num_output_tokens,
        "prompt_tokens_details": {"cached_tokens": stream.num_cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": parser.num_reasoning_tokens},
    }
