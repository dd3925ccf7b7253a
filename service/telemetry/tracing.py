"""What is traced of a request, whatever sends it on; without a tracer none of this is made.

Times are seconds of the monotonic clock. Attributes are names, numbers and codes, never prompts nor
answers; they have the names of OpenTelemetry's conventions where those have one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.core.trace import TraceContext

Attribute = str | int | float | bool | Sequence[str]
Attributes = Mapping[str, Attribute]

CANCELLED = "cancelled"
"""Instead of an error's code: whoever wanted it has left."""

_FACTS = {
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
    "finish_reason": "smolserve.finish_reason",
    "session_id": "smolserve.session_id",
    "response_id": "gen_ai.response.id",
    "stream": "smolserve.stream",
}
"""What a log line calls it, and what a span does."""
_REFUSALS = range(400, 500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Something that happened within a stage."""

    name: str
    time: float
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A span that has ended."""

    name: str
    start: float
    end: float
    attributes: Attributes = field(default_factory=dict[str, Attribute])
    moments: Sequence[Moment] = ()
    error: str | None = None
    """The code of what ended it too early, or CANCELLED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How a request looked from outside, told when it has ended."""

    method: str
    path: str
    route: str | None
    """The path with its parameters' names; None where no route took it."""
    status: int | None
    """None where the client left before there was one."""
    request_id: str
    is_internal: bool
    """Whether this process made it itself, as it does with a batch's lines."""
    facts: Mapping[str, object]
    """Those of its log line."""

    @property
    def name(self) -> str:
        return self.method if self.route is None else f"{self.method} {self.route}"

    @property
    def error(self) -> str | None:
        """The code of what went wrong, be it the client's fault or ours."""
        if self.facts.get("client_left"):
            return CANCELLED
        code = self.facts.get("error")
        return None if code is None else str(code)

    @property
    def has_failed(self) -> bool:
        """Whether our side is to blame; a refusal is an answer."""
        is_refused = self.status in _REFUSALS
        return self.error not in {None, CANCELLED} and not is_refused

    def attributes(self) -> Attributes:
        described: dict[str, Attribute] = {
            "http.request.method": self.method,
            "url.path": self.path,
            "smolserve.request_id": self.request_id,
            "smolserve.is_internal": self.is_internal,
        }
        if self.route is not None:
            described["http.route"] = self.route
        if self.status is not None:
            described["http.response.status_code"] = self.status
        for fact, name in _FACTS.items():
            value = self.facts.get(fact)
            if isinstance(value, str | int | float):
                described[name] = value
        return described


class RequestTrace(Protocol):
    """The span of one request that the service serves."""

    @property
    def trace_id(self) -> str:
        """As logs and other services write it, also where the trace is not sampled."""
        ...

    @property
    def context(self) -> TraceContext | None:
        """For whom makes stages of it later; None where the trace is not sampled."""
        ...

    def enter(self, stage: str | None) -> None:
        """The request is at this stage from now on; what it was at before is over."""
        ...

    def end(self, served: Served) -> None: ...


class Tracer(Protocol):
    def begin(self, carrier: Mapping[str, str], started_at: float) -> RequestTrace:
        """`carrier` has the client's `traceparent` and `tracestate`, where it sent them."""
        ...

    def record(self, context: TraceContext, stages: Sequence[Stage]) -> None:
        """Children of the request's span, which may have ended."""
        ...
