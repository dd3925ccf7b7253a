"""A request's trace from the outside: over HTTP, through real workers, to a collector."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from service.api.internal_call import InternalCaller
from service.batches.runner import Call
from service.errors import QueueFull
from service.runtime.stages import StageRecorder
from service.telemetry.otlp import OtlpTracer
from tests.api.builders import MODEL, ScriptedEngine, hello, serving, until
from tests.runtime.builders import engine_config, kill_a_worker, running_pool
from tests.telemetry.collector import collecting

CHAT = "/v1/chat/completions"
SECRET = "correct horse battery staple"
ENGINE_STAGES = ["queue", "prefill", "decode"]
CLIENTS_TRACE = "0af7651916cd43dd8448eb211c80319c"


@asynccontextmanager
async def traced(engine=None, **options):
    """A service on a scripted engine whose traces have arrived when this ends."""
    with collecting() as collector:
        tracer = OtlpTracer(collector.config())
        async with serving(engine, tracer=tracer, **options) as service:
            yield service, collector
        await asyncio.to_thread(tracer.close)


@asynccontextmanager
async def traced_pool(contexts="2x256", *, workers=1, **model):
    """The same on worker processes whose model is simulated."""
    with collecting() as collector:
        tracer = OtlpTracer(collector.config())
        witnesses = [StageRecorder(tracer, MODEL)]
        async with (
            running_pool(
                engine_config(contexts, **model), workers=workers, witnesses=witnesses
            ) as bench,
            serving(bench.pool, tracer=tracer) as service,
        ):
            yield service, bench, collector
        await asyncio.to_thread(tracer.close)


async def post(service, path, body, **headers):
    async with service.http(timeout=30) as http:
        return await http.post(path, json=body, headers=headers)


def forced(**changes):
    """A request for exactly that many tokens."""
    return hello(ignore_eos=True, max_tokens=5) | changes


def root_of(collector, path=CHAT):
    [root] = collector.named(f"POST {path}")
    return root


def check_nested(root, stages):
    """Stages lie within the request, one after the other."""
    moments = [root.start, *(moment for s in stages for moment in (s.start, s.end)), root.end]
    assert moments == sorted(moments)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_chat_is_a_span_for_each_stage(stream):
    async with traced_pool(step_seconds=0.01) as (service, _, collector):
        answer = await post(
            service, CHAT, forced(stream=stream), **{"x-session-id": "talk", "x-request-id": "r-1"}
        )
    root = root_of(collector)
    stages = collector.children(root)
    assert list(stages) == ["receive", "prepare", *ENGINE_STAGES]
    check_nested(root, stages.values())
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    assert stages["decode"].seconds >= 4 * 0.01
    assert root.attributes["smolserve.request_id"] == answer.headers["x-request-id"] == "r-1"
    assert root.attributes["smolserve.session_id"] == "talk"
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["gen_ai.usage.output_tokens"] == 5
    decode = stages["decode"].attributes
    assert decode["gen_ai.request.model"] == MODEL
    assert decode["gen_ai.usage.input_tokens"] == root.attributes["gen_ai.usage.input_tokens"]
    assert decode["gen_ai.usage.output_tokens"] == 5
    assert decode["gen_ai.response.finish_reasons"] == ["length"]
    assert decode["smolserve.worker"] == 0


async def test_a_repeated_prompt_is_told_as_cached():
    async with traced_pool() as (service, _, collector):
        for _ in range(2):
            await post(service, CHAT, forced())
    first, second = sorted(collector.named("prefill"), key=lambda span: span.start)
    num_prompt = second.attributes["gen_ai.usage.input_tokens"]
    assert first.attributes["gen_ai.usage.cache_read.input_tokens"] == 0
    assert second.attributes["gen_ai.usage.cache_read.input_tokens"] == num_prompt - 1


async def test_a_request_that_waits_for_a_slot_is_in_the_queue_until_the_other_ends():
    async with traced_pool("1x256", step_seconds=0.01) as (service, _, collector):
        await asyncio.gather(*(post(service, CHAT, forced()) for _ in range(2)))
    early, late = sorted(collector.named("queue"), key=lambda span: span.end)
    [decode] = [span for span in collector.named("decode") if span.parent == early.parent]
    assert late.end >= decode.end
    assert late.seconds >= 4 * 0.01


async def test_choices_have_stages_of_their_own():
    async with traced_pool("4x256") as (service, _, collector):
        await post(service, CHAT, forced(n=3))
    root = root_of(collector)
    for name in ENGINE_STAGES:
        spans = collector.named(name)
        assert {span.parent for span in spans} == {root.id}
        assert len({span.attributes["smolserve.sequence_id"] for span in spans}) == 3


async def test_a_text_completion_and_a_response_are_traced_as_a_chat_is():
    completion = {"model": MODEL, "prompt": "Once", "max_tokens": 3, "ignore_eos": True}
    response = {"model": MODEL, "input": "Hi", "max_output_tokens": 3}
    async with traced_pool() as (service, _, collector):
        for path, body in {"/v1/completions": completion, "/v1/responses": response}.items():
            assert (await post(service, path, body)).status_code == 200
    stages = ["receive", "prepare", *ENGINE_STAGES]
    assert list(collector.children(root_of(collector, "/v1/completions"))) == stages
    response = root_of(collector, "/v1/responses")
    assert list(collector.children(response)) == [*stages, "store"]
    assert response.attributes["gen_ai.response.id"].startswith("resp_")


async def test_a_response_in_the_background_is_traced_to_its_end():
    body = {"model": MODEL, "input": "Hi", "max_output_tokens": 5, "background": True}
    async with traced_pool(step_seconds=0.02) as (service, bench, collector):
        await post(service, "/v1/responses", body)
        await until(lambda: bench.pool.num_running + bench.pool.num_waiting == 0)
    root = root_of(collector, "/v1/responses")
    stages = collector.children(root)
    assert list(stages) == ["receive", "prepare", *ENGINE_STAGES]
    assert stages["decode"].end > root.end


async def test_embeddings_are_traced():
    body = {"model": MODEL, "input": ["one", "two"]}
    async with traced_pool(embedding_len=64) as (service, _, collector):
        assert (await post(service, "/v1/embeddings", body)).status_code == 200
    root = root_of(collector, "/v1/embeddings")
    stages = collector.children(root)
    assert list(stages) == ["receive", "prepare", "embed", "write"]
    check_nested(root, stages.values())
    assert root.attributes["gen_ai.usage.input_tokens"] == 6


async def test_a_line_of_a_batch_is_traced_and_told_apart():
    async with traced_pool() as (service, _, collector):
        call = Call(tenant="", endpoint=CHAT, body=json.dumps(forced()).encode())
        assert (await InternalCaller(service.app)(call)).status == 200
    root = root_of(collector)
    assert root.attributes["smolserve.is_internal"] is True
    assert list(collector.children(root))[-3:] == ENGINE_STAGES


async def test_compiling_a_grammar_is_a_stage():
    async with traced() as (service, collector):
        await post(service, CHAT, hello(response_format={"type": "json_object"}))
    assert list(collector.children(root_of(collector))) == [
        "receive",
        "prepare",
        "compile_grammar",
    ]


async def test_a_client_continues_its_own_trace():
    traceparent = f"00-{CLIENTS_TRACE}-b7ad6b7169203331-01"
    async with traced() as (service, collector):
        await post(service, CHAT, hello(), traceparent=traceparent)
    assert {span.trace_id for span in collector.spans} == {CLIENTS_TRACE}
    assert root_of(collector).parent == "b7ad6b7169203331"


async def test_the_log_line_names_the_trace():
    async with traced() as (service, collector):
        await post(service, CHAT, hello())
    [line] = [line for line in service.log if line["event"] == "request"]
    assert line["trace_id"] == root_of(collector).trace_id
    assert line["request_id"] == root_of(collector).attributes["smolserve.request_id"]


async def test_without_a_tracer_the_log_names_no_trace():
    async with serving() as service:
        await post(service, CHAT, hello())
    assert "trace_id" not in service.log[0]


async def test_a_refused_request_says_in_which_stage_and_why():
    async with traced() as (service, collector):
        await post(service, CHAT, hello(temperature="hot"))
    root = root_of(collector)
    assert collector.children(root)["prepare"].attributes["error.type"] == "invalid_value"
    assert root.attributes["http.response.status_code"] == 400
    assert not root.failed


async def test_a_full_queue_is_told_and_is_no_failure():
    engine = ScriptedEngine()
    engine.refusal = QueueFull("full", retry_after_seconds=1)
    async with traced(engine) as (service, collector):
        assert (await post(service, CHAT, hello())).status_code == 429
    root = root_of(collector)
    assert root.attributes["error.type"] == "queue_full"
    assert not root.failed


async def test_what_nobody_expects_is_a_failure_without_its_message():
    engine = ScriptedEngine()
    engine.refusal = KeyError(SECRET)
    async with traced(engine) as (service, collector):
        assert (await post(service, CHAT, hello())).status_code == 500
    root = root_of(collector)
    assert root.failed
    assert root.attributes["error.type"] == "internal_error"
    assert not any(SECRET.encode() in body for body in collector.bodies)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_marked_where_it_left(stream):
    async with traced_pool(step_seconds=0.01) as (service, bench, collector):
        async with service.http() as http:
            body = forced(stream=stream, max_tokens=200)
            asking = asyncio.create_task(http.post(CHAT, json=body))
            await until(lambda: bench.sample("time_to_first_token_seconds_count") == 1)
            asking.cancel()
        await until(lambda: bench.pool.num_running == 0)
        await until(lambda: service.log)
    root = root_of(collector)
    stages = collector.children(root)
    for span in (root, stages["decode"]):
        assert span.attributes["error.type"] == "cancelled"
        assert not span.failed
    assert stages["decode"].attributes["gen_ai.response.finish_reasons"] == ["abort"]
    assert "error.type" not in stages["prefill"].attributes


async def test_a_worker_that_dies_is_an_event_of_the_stage_that_it_interrupts():
    async with traced_pool(step_seconds=0.05, workers=2) as (service, bench, collector):
        asking = asyncio.create_task(post(service, CHAT, forced(max_tokens=60)))
        await until(lambda: bench.sample("time_to_first_token_seconds_count") == 1)
        kill_a_worker()
        assert (await asking).status_code == 200
        assert bench.sample("resubmissions_total") == 1
    decode = collector.children(root_of(collector))["decode"]
    [(name, moment, attributes)] = decode.events
    assert name == "resubmitted"
    assert decode.start < moment < decode.end
    assert attributes["smolserve.num_generated"] > 0
    assert decode.attributes["gen_ai.usage.output_tokens"] == 60
    assert not decode.failed


async def test_a_request_that_kills_workers_fails_in_the_stage_that_it_kills_in():
    deadly = ord("!")
    async with traced_pool(deadly_token=deadly) as (service, _, collector):
        messages = [{"role": "user", "content": "!"}]
        assert (await post(service, CHAT, forced(messages=messages))).status_code == 500
    root = root_of(collector)
    queue = collector.children(root)["queue"]
    for span in (root, queue):
        assert span.failed
        assert span.attributes["error.type"] == "worker_died"
    assert len(queue.events) >= 1


async def test_probes_and_scrapes_are_not_traced():
    async with traced() as (service, collector), service.http() as http:
        for path in ("/health/live", "/health/ready", "/metrics"):
            await http.get(path)
        await http.get("/v1/models")
        await http.get("/nowhere")
        await http.get(f"/v1/models/{MODEL}")
    names = {span.name for span in collector.spans}
    assert names == {"GET /v1/models", "GET", "GET /v1/models/{model_id}"}


async def test_neither_prompt_nor_answer_is_in_a_trace():
    messages = [
        {"role": "system", "content": f"S {SECRET}"},
        {"role": "user", "content": f"U {SECRET}"},
    ]
    bodies = {
        CHAT: hello(messages=messages),
        "/v1/completions": {"model": MODEL, "prompt": SECRET},
        "/v1/responses": {"model": MODEL, "input": SECRET, "instructions": SECRET},
        "/v1/embeddings": {"model": MODEL, "input": SECRET},
        "/v1/chat/completions/input_tokens": hello(messages=messages),
    }
    async with traced(ScriptedEngine(SECRET)) as (service, collector):
        answers = {path: await post(service, path, body) for path, body in bodies.items()}
        await post(
            service, CHAT, hello(messages=[{"role": "user", "content": f"explode {SECRET}"}])
        )
    assert SECRET in answers[CHAT].text
    sent = b"".join(collector.bodies)
    assert b"smolserve.request_id" in sent
    for word in SECRET.split():
        assert word.encode() not in sent


async def test_a_collector_that_hangs_slows_nobody():
    async with traced_pool() as (service, _, collector):
        collector.is_answering.clear()
        for _ in range(3):
            assert (await post(service, CHAT, forced())).status_code == 200
        collector.is_answering.set()
    assert len(collector.named("decode")) == 3
