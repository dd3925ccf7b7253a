"""What became of a line, as it stands in an output or error file."""

import secrets
from dataclasses import dataclass
from http import HTTPStatus

import msgspec
import orjson

from service.batches.objects import Ending, Line, Usage

_REFUSALS = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_NOT_RUN = {
    "expired": ("batch_expired", "The batch expired before this request had been answered."),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was answered."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The service's answer to a line."""

    status: int
    request_id: str
    body: bytes
    """JSON."""
    retry_after_seconds: float | None = None

    @property
    def is_refusal(self) -> bool:
        """The line did not run; it may another time."""
        return self.status in _REFUSALS

    @property
    def is_failure(self) -> bool:
        return self.status != HTTPStatus.OK


def render_answer(line: Line, answer: Answer) -> tuple[bytes, Usage]:
    """The line's result, and what it used."""
    response = {
        "status_code": answer.status,
        "request_id": answer.request_id,
        "body": orjson.loads(answer.body),
    }
    return _render(line, response=response, error=None), _read_usage(answer.body)


def render_unrun(line: Line, ending: Ending) -> bytes:
    """The result of a line that the batch's end came before."""
    code, message = _NOT_RUN[ending]
    return _render(line, response=None, error={"code": code, "message": message})


def _render(line: Line, *, response: object, error: object) -> bytes:
    record = {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": line.custom_id,
        "response": response,
        "error": error,
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _read_usage(body: bytes) -> Usage:
    used = msgspec.json.decode(body, type=_Body).usage or _Used()
    of_input = used.prompt_tokens_details or used.input_tokens_details or _Details()
    of_output = used.completion_tokens_details or used.output_tokens_details or _Details()
    return Usage(
        input_tokens=used.prompt_tokens or used.input_tokens or 0,
        cached_tokens=of_input.cached_tokens or 0,
        output_tokens=used.completion_tokens or used.output_tokens or 0,
        reasoning_tokens=of_output.reasoning_tokens or 0,
    )


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Used(msgspec.Struct):
    """Chat and completions speak of prompts, responses of input."""

    prompt_tokens: int | None = None
    input_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Body(msgspec.Struct):
    usage: _Used | None = None
