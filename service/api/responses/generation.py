"""From a choice that is being generated to a response that grows by it."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from service.api.exchange import mint
from service.api.generator import Choice
from service.api.responses.events import Event, GrowingResponse
from service.api.responses.schemas import ResponseRequest
from service.api.served_model import ServedModel
from service.errors import EngineError


def mint_id() -> str:
    return f"resp_{mint()}"


def begin_response(
    request: ResponseRequest, response_id: str, *, model: ServedModel, tier: str | None
) -> GrowingResponse:
    """What the request asks for, with what holds where it is silent.

    `tier` is the one that it is really served in.
    """
    text, reasoning = request.text, request.reasoning
    sampling = model.sampling
    fields: dict[str, object] = {
        "id": response_id,
        "object": "response",
        "created_at": _now(),
        "background": bool(request.background),
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "model": model.id,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": tier or "default",
        "store": request.is_stored,
        "temperature": _choose(request.temperature, sampling.temperature),
        "text": {
            "format": _dump(text.format) if text and text.format else {"type": "text"},
            "verbosity": text.verbosity or "medium" if text else "medium",
        },
        "tool_choice": _dump(request.tool_choice) if request.tool_choice else "auto",
        "tools": [_dump(tool) | {"strict": bool(tool.strict)} for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": _choose(request.top_p, sampling.top_p),
        "truncation": "disabled",
        "user": request.user,
    }
    return GrowingResponse(fields, "queued" if request.background else "in_progress")


async def generate(
    choice: Choice, response: GrowingResponse, emit: Callable[[list[Event]], Awaitable[None]]
) -> list[Event]:
    """The response has ended, but for its last event, when this returns its last but that.

    `emit` is given the events before. Raises EngineError.
    """
    async for parts in choice.parts():
        await emit(response.add(parts))
    response.add_tokens(choice.finish_tokens() or ())
    reason = choice.stream.finish_reason
    if reason is None:
        raise EngineError("The engine ended the answer without a reason.")
    usage = _count_usage(choice)
    if reason == "length":
        return response.cut_off(usage)
    return response.complete(usage, _now(), calls_complete=choice.parser.calls_complete)


def _count_usage(choice: Choice) -> dict[str, object]:
    stream = choice.stream
    num_computed = stream.num_prompt_tokens - stream.num_cached_tokens
    return {
        "input_tokens": stream.num_prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": stream.num_cached_tokens,
            "cache_write_tokens": num_computed,
        },
        "output_tokens": stream.num_output_tokens,
        "output_tokens_details": {"reasoning_tokens": choice.parser.num_reasoning_tokens},
        "total_tokens": stream.num_prompt_tokens + stream.num_output_tokens,
    }


def _choose(asked: float | None, recommended: float) -> float:
    return recommended if asked is None else asked


def _dump(asked: Any) -> Any:  # noqa: ANN401 - a model to a dict, anything else as it is
    return asked if isinstance(asked, str) else asked.model_dump(by_alias=True, exclude_none=True)


def _now() -> int:
    return int(time.time())  # noqa: TID251 - a response is stamped
