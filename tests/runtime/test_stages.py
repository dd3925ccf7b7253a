"""Stages of a request's trace, from the times that the pool knows."""

import msgspec
import pytest

from service.core.request import FinishReason
from service.core.trace import TraceContext
from service.runtime.flight import Flight, Resubmission
from service.runtime.stages import StageRecorder, list_stages
from service.runtime.stream import OutputStream
from tests.runtime.builders import request, token_bytes

CONTEXT = TraceContext(trace_id=1, span_id=2, epoch_ns=0)


def flight(*, began=0.0, first_token=0.0, num_tokens=0, resubmissions=(), trace=None):
    asked = msgspec.structs.replace(request([1, 2, 3]), trace=trace)
    stream = OutputStream(asked, token_bytes=token_bytes, on_abort=lambda _stream: None)
    if began:
        stream.begin(2)
        stream.push([7] * num_tokens, None)
    return Flight(
        sequence_id=5,
        request=asked,
        stream=stream,
        submitted=10.0,
        share="",
        began=began,
        first_token=first_token,
        worker=1 if began else None,
        resubmissions=resubmissions,
    )


def stages_of(flight, reason: FinishReason = "stop", ended=20.0):
    return {stage.name: stage for stage in list_stages(flight, reason, ended, model="m")}


def test_stages_join_without_a_gap_and_the_last_ends_with_the_request():
    stages = stages_of(flight(began=11.0, first_token=14.0, num_tokens=4))
    spans = [(name, stage.start, stage.end) for name, stage in stages.items()]
    assert spans == [("queue", 10, 11), ("prefill", 11, 14), ("decode", 14, 20)]


def test_every_stage_names_the_model_the_worker_and_the_prompts_counts():
    for stage in stages_of(flight(began=11.0, first_token=14.0, num_tokens=4)).values():
        assert stage.attributes["gen_ai.request.model"] == "m"
        assert stage.attributes["gen_ai.usage.input_tokens"] == 3
        assert stage.attributes["gen_ai.usage.cache_read.input_tokens"] == 2
        assert stage.attributes["smolserve.worker"] == 1
        assert stage.attributes["smolserve.request_id"] == "r"
        assert stage.error is None


def test_decoding_says_how_much_was_generated_and_why_it_ended():
    stages = stages_of(flight(began=11.0, first_token=14.0, num_tokens=4), "length")
    assert stages["decode"].attributes["gen_ai.usage.output_tokens"] == 4
    assert stages["decode"].attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert "gen_ai.response.finish_reasons" not in stages["prefill"].attributes


@pytest.mark.parametrize(
    ("times", "last"),
    [({}, "queue"), ({"began": 11.0}, "prefill"), ({"began": 11.0, "first_token": 14.0}, "decode")],
)
@pytest.mark.parametrize(
    ("reason", "error"), [("abort", "cancelled"), ("error", "worker_died"), ("stop", None)]
)
def test_the_stage_that_a_request_ends_in_is_the_last_and_says_why(times, last, reason, error):
    stages = stages_of(flight(**times, num_tokens=1), reason)
    assert list(stages)[-1] == last
    assert stages[last].end == 20
    assert stages[last].error == error
    assert [stage.error for name, stage in stages.items() if name != last] == [None] * (
        len(stages) - 1
    )


def test_a_request_that_never_began_has_no_worker_and_found_nothing_cached():
    attributes = stages_of(flight(), "abort")["queue"].attributes
    assert "smolserve.worker" not in attributes
    assert "gen_ai.usage.cache_read.input_tokens" not in attributes


def test_a_resubmission_is_told_in_the_stage_that_it_fell_into():
    sent_again = (Resubmission(12.0, 1, 0), Resubmission(20.0, 0, 3))
    stages = stages_of(flight(began=11.0, first_token=14.0, num_tokens=4, resubmissions=sent_again))
    assert [moment.time for moment in stages["prefill"].moments] == [12]
    [moment] = stages["decode"].moments
    assert moment.attributes == {"smolserve.worker": 0, "smolserve.num_generated": 3}


def test_a_request_that_is_not_traced_is_not_recorded():
    recorded = []

    class Recorder:
        def begin(self, carrier, started_at):
            raise NotImplementedError

        def record(self, context, stages):
            recorded.append((context, [stage.name for stage in stages]))

    recorder = StageRecorder(Recorder(), "m")
    recorder(flight(), "abort", 20.0)
    assert recorded == []
    recorder(flight(trace=CONTEXT), "abort", 20.0)
    assert recorded == [(CONTEXT, ["queue"])]
