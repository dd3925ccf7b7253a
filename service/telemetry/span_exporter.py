"""Sends spans to a collector, and says whether it takes them."""

import logging
from collections.abc import Sequence

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = structlog.stdlib.get_logger(__name__)


class TellingExporter(SpanExporter):
    """Says once that the collector does not take spans, and once that it does again.

    The library would say it every time, so what it says is kept as the reason and not written.
    """

    def __init__(self, endpoint: str, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=timeout_seconds)
        self._reason = _LastRecord()
        self._is_failing = False
        library = logging.getLogger(OTLPSpanExporter.__module__)
        library.addHandler(self._reason)
        library.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing and not self._is_failing:
            reason = self._reason.text
            logger.warning("traces_not_exported", endpoint=self._endpoint, reason=reason)
        elif self._is_failing and not is_failing:
            logger.info("traces_exported_again", endpoint=self._endpoint)
        self._is_failing = is_failing
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        logging.getLogger(OTLPSpanExporter.__module__).removeHandler(self._reason)


class _LastRecord(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
