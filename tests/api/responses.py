"""Builders of requests for responses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai.types.responses import Response

from tests.api.builders import MODEL, Service, serving

THINKING = "<think>\nhm\n</think>\nHello"
CALL = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
ADD = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}


def ask(**changes: Any) -> Any:
    return {"model": MODEL, "input": "Hi"} | changes


@asynccontextmanager
async def asking(engine=None, **options) -> AsyncIterator[tuple[Service, Any]]:
    """The client's `responses`; untyped, since tests know which kind of item is where."""
    async with serving(engine, **options) as service, service.client() as client:
        yield service, client.responses


def prompt_of(service, index=-1):
    return "".join(map(chr, service.engine.requests[index].prompt))


def check(response: Any) -> Any:
    """The SDK builds responses unchecked; this is its own type, checked."""
    Response.model_validate(response.model_dump(by_alias=True), strict=False)
    return response
