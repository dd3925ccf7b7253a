"""A request's way through the engine as stages of its trace, made when it is over."""

from collections.abc import Iterator, Mapping

from service.core.request import FinishReason
from service.runtime.flight import Flight, Resubmission
from service.telemetry.tracing import CANCELLED, Attribute, Moment, Stage, Tracer

_ERRORS: Mapping[FinishReason, str] = {"abort": CANCELLED, "error": "worker_died"}


class StageRecorder:
    """Called with each request that ended, it sends the stages of those that are traced."""

    def __init__(self, tracer: Tracer, model: str) -> None:
        self._tracer = tracer
        self._model = model

    def __call__(self, flight: Flight, reason: FinishReason, ended: float) -> None:
        if flight.request.trace is not None:
            stages = [*list_stages(flight, reason, ended, model=self._model)]
            self._tracer.record(flight.request.trace, stages)


def list_stages(
    flight: Flight, reason: FinishReason, ended: float, *, model: str
) -> Iterator[Stage]:
    """Those that it got to; the last of them ended as the request did."""
    starts = {"queue": flight.submitted, "prefill": flight.began, "decode": flight.first_token}
    reached = [(name, start) for name, start in starts.items() if start]
    ends = [*(start for _, start in reached[1:]), ended]
    attributes = _describe(flight, model)
    for (name, start), end in zip(reached, ends, strict=True):
        is_last = name == reached[-1][0]
        own: dict[str, Attribute] = {}
        if is_last:
            own["gen_ai.response.finish_reasons"] = [reason]
        if name == "decode":
            own["gen_ai.usage.output_tokens"] = flight.stream.num_output_tokens
        yield Stage(
            name=name,
            start=start,
            end=end,
            attributes=attributes | own,
            moments=[
                moment
                for moment in map(_describe_resubmission, flight.resubmissions)
                if start <= moment.time and (is_last or moment.time < end)
            ],
            error=_ERRORS.get(reason) if is_last else None,
        )


def _describe(flight: Flight, model: str) -> dict[str, Attribute]:
    """What all stages say, so that each can be searched for."""
    attributes: dict[str, Attribute] = {
        "gen_ai.request.model": model,
        "gen_ai.usage.input_tokens": flight.stream.num_prompt_tokens,
        "smolserve.request_id": flight.request.request_id,
        "smolserve.sequence_id": flight.sequence_id,
        "smolserve.priority": flight.request.priority,
    }
    if flight.began:
        attributes["gen_ai.usage.cache_read.input_tokens"] = flight.stream.num_cached_tokens
    if flight.worker is not None:
        attributes["smolserve.worker"] = flight.worker
    return attributes


def _describe_resubmission(resubmission: Resubmission) -> Moment:
    return Moment(
        name="resubmitted",
        time=resubmission.time,
        attributes={
            "smolserve.worker": resubmission.worker,
            "smolserve.num_generated": resubmission.num_generated,
        },
    )
