"""Reads a batch's input: JSON Lines, a request each."""

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from service.batches.objects import Line, Problem

_MAX_PROBLEMS = 100
_MAX_CUSTOM_ID_LEN = 512
_ENVELOPE_BYTES = 4096
"""What may be around a line's body."""
_KEYS = frozenset({"custom_id", "method", "url", "body"})
_NOT_IN_A_BATCH = ("stream", "background")
"""Answers that would not be there when the request has been served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRules:
    endpoint: str
    max_lines: int
    max_body_bytes: int


@dataclass(slots=True)
class CheckedInput:
    """All lines, or the first problems."""

    lines: list[Line] = field(default_factory=list[Line])
    problems: list[Problem] = field(default_factory=list[Problem])
    model: str | None = None
    """The first line's."""


def check_input(file: BinaryIO, rules: InputRules) -> CheckedInput:
    """Reads the whole file, a line in memory at a time."""
    checked = CheckedInput()
    custom_ids: set[str] = set()
    for number, offset, text in _read_lines(file, rules.max_body_bytes + _ENVELOPE_BYTES):
        if len(checked.lines) == rules.max_lines:
            limit = f"The file has more than the {rules.max_lines} requests allowed here."
            checked.problems.append(Problem(code="too_many_requests", message=limit, line=number))
            break
        try:
            request = _parse(text, rules, custom_ids)
        except _Refusal as refusal:
            checked.problems.append(refusal.at(number))
        else:
            custom_id = cast("str", request["custom_id"])
            custom_ids.add(custom_id)
            line = Line(number=number, custom_id=custom_id, offset=offset, length=len(text))
            checked.lines.append(line)
            checked.model = checked.model or _model_of(request)
        if len(checked.problems) == _MAX_PROBLEMS:
            break
    if not checked.lines and not checked.problems:
        empty = "The file has no requests; write one JSON object on each line."
        checked.problems.append(Problem(code="empty_file", message=empty))
    return checked


def read_request(path: Path, line: Line) -> bytes:
    """The body of a line that was checked, as JSON. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        text = os.pread(handle, line.length, line.offset)
    finally:
        os.close(handle)
    return orjson.dumps(orjson.loads(text)["body"])


class _Refusal(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    def at(self, line: int) -> Problem:
        message = f"{self.param}: {self.message}." if self.param else f"{self.message}."
        return Problem(code=self.code, message=message, line=line, param=self.param)


def _read_lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """(number, offset, text) of each that is not blank; one that is too long is cut there."""
    number = offset = 0
    while text := file.readline(max_bytes + 1):
        number += 1
        if text.strip():
            yield number, offset, text
        offset += len(text)
        while len(text) > max_bytes and not text.endswith(b"\n"):
            text = file.readline(max_bytes + 1)
            offset += len(text)


def _parse(text: bytes, rules: InputRules, custom_ids: Container[str]) -> dict[str, Any]:
    if len(text) > rules.max_body_bytes + _ENVELOPE_BYTES:
        limit = f"the line is longer than the {rules.max_body_bytes} bytes that a request may have"
        raise _Refusal("line_too_long", limit)
    try:
        request = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _Refusal("invalid_json_line", f"the line is not valid JSON: {error}") from None
    if not isinstance(request, dict):
        raise _Refusal("invalid_json_line", "the line must be a JSON object")
    request = cast("dict[str, Any]", request)
    _check_request(request, rules)
    if request["custom_id"] in custom_ids:
        raise _Refusal("duplicate_custom_id", "another line has it too", "custom_id")
    return request


def _check_request(request: dict[str, Any], rules: InputRules) -> None:
    for key in sorted(_KEYS - request.keys()):
        raise _Refusal("missing_required_parameter", "is required", key)
    for key in sorted(request.keys() - _KEYS):
        raise _Refusal("unknown_parameter", "is not known here", key[:100])
    custom_id, body = request["custom_id"], request["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_CUSTOM_ID_LEN:
        message = f"must be a string of 1 to {_MAX_CUSTOM_ID_LEN} characters"
        raise _Refusal("invalid_value", message, "custom_id")
    if request["method"] != "POST":
        raise _Refusal("invalid_method", "must be POST", "method")
    if request["url"] != rules.endpoint:
        raise _Refusal("invalid_url", f"must be the batch's endpoint, {rules.endpoint}", "url")
    if not isinstance(body, dict):
        raise _Refusal("invalid_value", "must be an object", "body")
    for key in _NOT_IN_A_BATCH:
        if cast("dict[str, Any]", body).get(key):
            message = "is not supported in a batch; leave it out"
            raise _Refusal("unsupported_parameter", message, f"body.{key}")


def _model_of(request: dict[str, Any]) -> str | None:
    model = request["body"].get("model")
    return model[:200] if isinstance(model, str) else None
