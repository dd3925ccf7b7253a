"""Traces on their way to a collector that takes them, is slow, or is not there."""

import subprocess
import sys
from contextlib import contextmanager
from typing import Any

from structlog.testing import capture_logs

from service.telemetry.otlp import OtlpTracer
from service.telemetry.tracing import CANCELLED, Moment, Served, Stage
from tests.telemetry.collector import NANOSECONDS, collecting

CLIENTS_TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENTS_SPAN = "b7ad6b7169203331"
WALL_NS = 1_700_000_000 * NANOSECONDS


def served(status: int | None = 200, route: str | None = "/v1/chat/completions", **facts):
    return Served(
        method="POST",
        path="/v1/chat/completions",
        route=route,
        status=status,
        request_id="req_1",
        is_internal=False,
        facts=facts,
    )


@contextmanager
def tracing(collector, *, clock=lambda: 100.0, **changes):
    """Closed at the end, which sends everything."""
    tracer = OtlpTracer(collector.config(**changes), clock=clock, wall_ns=lambda: WALL_NS)
    try:
        yield tracer
    finally:
        tracer.close()


def trace_one(collector, outcome, *, carrier=None, **changes) -> Any:
    """The span of a request that began 10 s ago, or None."""
    with tracing(collector, **changes) as tracer:
        tracer.begin(carrier or {}, 90.0).end(outcome)
    return next(iter(collector.spans), None)


def test_a_request_is_a_span_that_says_what_was_served():
    with collecting() as collector:
        span = trace_one(collector, served(prompt_tokens=5, finish_reason="stop", stream=True))
    assert span.name == "POST /v1/chat/completions"
    assert (span.start, span.end) == (WALL_NS - 10 * NANOSECONDS, WALL_NS)
    assert span.parent == ""
    assert not span.failed
    assert span.resource["service.name"] == "tested"
    assert span.attributes == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "smolserve.request_id": "req_1",
        "smolserve.is_internal": False,
        "gen_ai.usage.input_tokens": 5,
        "smolserve.finish_reason": "stop",
        "smolserve.stream": True,
    }


def test_an_unknown_route_does_not_make_a_name_of_its_own():
    with collecting() as collector:
        assert trace_one(collector, served(404, route=None)).name == "POST"


def test_a_client_names_the_trace_that_its_request_is_part_of():
    carrier = {"traceparent": f"00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01"}
    with collecting() as collector:
        span = trace_one(collector, served(), carrier=carrier, sample_ratio=0)
    assert (span.trace_id, span.parent) == (CLIENTS_TRACE, CLIENTS_SPAN)


def test_a_client_whose_trace_is_not_sampled_keeps_its_name_and_sends_nothing():
    carrier = {"traceparent": f"00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-00"}
    with collecting() as collector, tracing(collector) as tracer:
        trace = tracer.begin(carrier, 90.0)
        assert (trace.trace_id, trace.context) == (CLIENTS_TRACE, None)
        trace.enter("prepare")
        trace.end(served())
    assert collector.bodies == []


def test_nonsense_in_the_header_begins_a_trace_of_our_own():
    with collecting() as collector:
        span = trace_one(collector, served(), carrier={"traceparent": "00-nonsense-01"})
    assert span.parent == ""


def test_nothing_is_sent_of_what_is_not_sampled():
    with collecting() as collector:
        assert trace_one(collector, served(), sample_ratio=0) is None


def test_stages_follow_each_other_and_the_last_ends_with_the_request():
    times = iter([100.0, 101.0, 103.0, 106.0, 110.0])
    with collecting() as collector, tracing(collector, clock=lambda: next(times)) as tracer:
        trace = tracer.begin({}, 100.0)
        trace.enter("receive")
        trace.enter("prepare")
        trace.enter(None)
        trace.end(served())
    [root] = collector.named("POST /v1/chat/completions")
    stages = collector.children(root)
    assert {name: span.seconds for name, span in stages.items()} == {"receive": 2, "prepare": 3}
    assert stages["receive"].end == stages["prepare"].start
    assert root.seconds == 10


def test_the_stage_that_a_request_fails_in_says_why():
    with collecting() as collector, tracing(collector) as tracer:
        trace = tracer.begin({}, 90.0)
        trace.enter("prepare")
        trace.end(served(500, error="internal_error"))
    for span in collector.spans:
        assert span.failed
        assert span.attributes["error.type"] == "internal_error"


def test_a_refusal_is_told_and_is_no_failure():
    with collecting() as collector:
        span = trace_one(collector, served(429, error="queue_full"))
    assert span.attributes["error.type"] == "queue_full"
    assert not span.failed


def test_an_error_after_the_first_byte_is_a_failure():
    with collecting() as collector:
        assert trace_one(collector, served(200, error="worker_died")).failed


def test_a_client_that_left_is_told_and_is_no_failure():
    with collecting() as collector:
        span = trace_one(collector, served(None, client_left=True))
    assert span.attributes["error.type"] == CANCELLED
    assert "http.response.status_code" not in span.attributes
    assert not span.failed


def test_stages_may_be_recorded_after_the_request_has_ended():
    stage = Stage(
        name="decode",
        start=95.0,
        end=98.5,
        attributes={"gen_ai.response.finish_reasons": ["stop"], "smolserve.worker": 3},
        moments=[Moment(name="resubmitted", time=96.0, attributes={"smolserve.worker": 3})],
        error="worker_died",
    )
    with collecting() as collector, tracing(collector) as tracer:
        trace = tracer.begin({}, 90.0)
        trace.end(served())
        assert trace.context is not None
        tracer.record(trace.context, [stage])
    [root] = collector.named("POST /v1/chat/completions")
    span = collector.children(root)["decode"]
    assert (span.start - root.start) / NANOSECONDS == 5
    assert span.seconds == 3.5
    assert span.failed
    assert span.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    [(name, moment, attributes)] = span.events
    assert (name, attributes) == ("resubmitted", {"smolserve.worker": 3})
    assert moment == span.start + NANOSECONDS


def test_what_a_client_chose_is_cut():
    with collecting() as collector:
        span = trace_one(collector, served(session_id="x" * 1000))
    assert len(span.attributes["smolserve.session_id"]) == 256


def test_a_collector_that_is_not_there_is_told_once_and_costs_the_spans_alone():
    with collecting() as collector:
        nobody = collector.endpoint
    with capture_logs() as lines:
        with tracing(collector, endpoint=nobody, max_spans=10, timeout_seconds=1.0) as tracer:
            for _ in range(100):
                tracer.begin({}, 90.0).end(served())
        with collecting() as again:
            trace_one(again, served())
    told = [line for line in lines if line["event"] == "traces_not_exported"]
    assert [line["endpoint"] for line in told] == [nobody]
    assert "Failed to export" in told[0]["reason"]
    assert len(again.spans) == 1


def test_a_collector_that_comes_back_is_told_as_well():
    with collecting() as collector, capture_logs() as lines:
        collector.status = 400
        with tracing(collector) as tracer:
            tracer.begin({}, 90.0).end(served())
            collector.wait(lambda: len(collector.bodies) == 1)
            collector.status = 200
            tracer.begin({}, 90.0).end(served())
    assert [line["event"] for line in lines] == ["traces_not_exported", "traces_exported_again"]
    assert "400" in lines[0]["reason"]
    assert len(collector.spans) == 1


def test_a_collector_that_never_answers_is_not_waited_for_longer_than_set():
    with collecting() as collector, capture_logs() as lines:
        collector.is_answering.clear()
        tracer = OtlpTracer(collector.config(timeout_seconds=0.2, max_spans=5000))
        for _ in range(2000):  # several batches, each of which would take as long
            tracer.begin({}, 90.0).end(served())
        tracer.close()
    assert "traces_given_up" in [line["event"] for line in lines]


def test_nobody_loads_the_sdk_who_does_not_trace():
    loaded = "import sys, service.app; print('opentelemetry.sdk' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
