"""Traces by OpenTelemetry's SDK, sent to a collector by OTLP over HTTP.

Imported only where traces are on. Spans wait in a bounded queue for a thread of their own, so that
a collector that is slow or down costs nobody anything but the spans that find no room.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.core.trace import TraceContext
from service.telemetry.span_exporter import TellingExporter
from service.telemetry.tracing import CANCELLED, Served, Stage

logger = structlog.stdlib.get_logger(__name__)

_EXPORT_SECONDS = 2.0
"""Between exports; a span is seen so much later at most."""
_MAX_BATCH = 512
_MAX_ATTRIBUTE_LEN = 256
"""Characters; a client chooses paths and the names of its sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpConfig:
    endpoint: str
    service_name: str
    sample_ratio: float
    """Of the traces that begin here; for others their beginner has decided."""
    timeout_seconds: float
    """That the collector may take, and that the end of the service waits for it."""
    max_spans: int
    """That may wait for the collector; at more the oldest are dropped."""


class OtlpTracer:
    """A `Tracer`; may be used from one thread and closed from another."""

    def __init__(
        self,
        config: OtlpConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._timeout_seconds = config.timeout_seconds
        self._clock = clock
        self._wall_ns = wall_ns
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)),
            resource=Resource.create(
                {"service.name": config.service_name, "service.version": __version__}
            ),
            span_limits=SpanLimits(max_span_attribute_length=_MAX_ATTRIBUTE_LEN),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                TellingExporter(config.endpoint, config.timeout_seconds),
                max_queue_size=config.max_spans,
                max_export_batch_size=min(_MAX_BATCH, config.max_spans),
                schedule_delay_millis=_EXPORT_SECONDS * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("smolserve", __version__)

    def begin(self, carrier: Mapping[str, str], started_at: float) -> "OtlpTrace":
        epoch_ns = self._wall_ns() - _nanoseconds(self._clock())
        span = self._tracer.start_span(
            "request",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=epoch_ns + _nanoseconds(started_at),
        )
        return OtlpTrace(self, span, epoch_ns, self._clock)

    def record(self, context: TraceContext, stages: Sequence[Stage]) -> None:
        parent = SpanContext(
            context.trace_id,
            context.span_id,
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
        within = set_span_in_context(NonRecordingSpan(parent))
        for stage in stages:
            span = self._tracer.start_span(
                stage.name,
                context=within,
                start_time=context.epoch_ns + _nanoseconds(stage.start),
                attributes=stage.attributes,
            )
            for moment in stage.moments:
                span.add_event(
                    moment.name,
                    moment.attributes,
                    timestamp=context.epoch_ns + _nanoseconds(moment.time),
                )
            _mark(span, stage.error, has_failed=stage.error not in {None, CANCELLED})
            span.end(context.epoch_ns + _nanoseconds(stage.end))

    def close(self) -> None:
        """Sends what waits, for as long as one export may take, and gives up the rest."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(self._timeout_seconds)
        if closing.is_alive():
            logger.warning("traces_given_up", waited_s=self._timeout_seconds)


class OtlpTrace:
    """A `RequestTrace`."""

    def __init__(
        self, tracer: OtlpTracer, span: Span, epoch_ns: int, clock: Callable[[], float]
    ) -> None:
        named = span.get_span_context()
        self.trace_id = format_trace_id(named.trace_id)
        self.context = (
            TraceContext(trace_id=named.trace_id, span_id=named.span_id, epoch_ns=epoch_ns)
            if span.is_recording()
            else None
        )
        self._tracer = tracer
        self._span = span
        self._clock = clock
        self._stage: tuple[str, float] | None = None

    def enter(self, stage: str | None) -> None:
        if self.context is not None:
            now = self._clock()
            self._leave(now, None)
            self._stage = None if stage is None else (stage, now)

    def end(self, served: Served) -> None:
        if self.context is None:
            return
        now = self._clock()
        self._leave(now, served.error)
        self._span.update_name(served.name)
        self._span.set_attributes(served.attributes())
        _mark(self._span, served.error, has_failed=served.has_failed)
        self._span.end(self.context.epoch_ns + _nanoseconds(now))

    def _leave(self, now: float, error: str | None) -> None:
        if self._stage is not None and self.context is not None:
            name, start = self._stage
            self._tracer.record(self.context, [Stage(name=name, start=start, end=now, error=error)])
            self._stage = None


def _mark(span: Span, error: str | None, *, has_failed: bool) -> None:
    """A client that left, or was refused, is told but is no error of this service."""
    if error is not None:
        span.set_attribute("error.type", error)
    if has_failed:
        span.set_status(Status(StatusCode.ERROR, error))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
