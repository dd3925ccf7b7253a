"""A collector of traces: takes OTLP over HTTP as a real one does, and keeps what it got."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.telemetry.otlp import OtlpConfig

NANOSECONDS = 1_000_000_000


class CollectedSpan:
    """A span as it came over the wire."""

    def __init__(self, span, resource):
        self.name = span.name
        self.id = span.span_id.hex()
        self.parent = span.parent_span_id.hex()
        self.trace_id = span.trace_id.hex()
        self.kind = span.kind
        self.start = span.start_time_unix_nano
        self.end = span.end_time_unix_nano
        self.failed = span.status.code == span.status.STATUS_CODE_ERROR
        self.attributes = _read(span.attributes)
        self.events = [(event.name, event.time_unix_nano, _read(event)) for event in span.events]
        self.resource = _read(resource.attributes)

    @property
    def seconds(self):
        return (self.end - self.start) / NANOSECONDS


class Collector:
    def __init__(self):
        self.spans: list[CollectedSpan] = []
        self.bodies: list[bytes] = []
        self.status = 200
        self.is_answering = threading.Event()
        self.is_answering.set()
        self._news = threading.Condition()
        self.endpoint = ""

    def config(self, **changes):
        fields = {
            "endpoint": self.endpoint,
            "service_name": "tested",
            "sample_ratio": 1.0,
            "timeout_seconds": 5.0,
            "max_spans": 1000,
        }
        return OtlpConfig(**fields | changes)

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def children(self, parent):
        """By name, in the order that they began."""
        found = [span for span in self.spans if span.parent == parent.id]
        return {span.name: span for span in sorted(found, key=lambda span: span.start)}

    def take(self, body):
        with self._news:
            self.bodies.append(body)
            if self.status == 200:
                request = ExportTraceServiceRequest.FromString(body)
                for resource_spans in request.resource_spans:
                    for scope_spans in resource_spans.scope_spans:
                        self.spans += [
                            CollectedSpan(span, resource_spans.resource)
                            for span in scope_spans.spans
                        ]
            self._news.notify_all()

    def wait(self, condition, seconds=30):
        """Until what has come satisfies a condition of no arguments."""
        with self._news:
            assert self._news.wait_for(condition, seconds), [span.name for span in self.spans]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            collector.is_answering.wait()
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(body)
            self.send_response(collector.status)
            self.end_headers()

        def log_message(self, format, *args):  # noqa: A002 - http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield collector
        finally:
            collector.is_answering.set()
            server.shutdown()
            thread.join()


def _read(attributes) -> dict[str, Any]:
    given = getattr(attributes, "attributes", attributes)
    return {pair.key: _value(pair.value) for pair in given}


def _value(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
