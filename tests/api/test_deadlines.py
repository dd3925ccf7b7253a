"""How long a request may take, by the client's header and the operator's setting."""

import json
from pathlib import Path

import pytest
from openai import BadRequestError, InternalServerError

from service.api.internal_call import InternalCaller
from service.batches.config import BatchesConfig
from service.batches.runner import Call
from tests.api.builders import MODEL, ScriptedEngine, build_service, hello, serving, until
from tests.runtime.builders import engine_config, running_pool

ENDLESS = {"ignore_eos": True, "max_tokens": 900}
SLOW = engine_config("1x1024", step_seconds=0.02, embedding_len=64)
SOON = {"X-Request-Timeout": "0.3"}
BODIES = {
    "/v1/chat/completions": hello(**ENDLESS),
    "/v1/completions": {"model": MODEL, "prompt": "Hi", **ENDLESS},
    "/v1/responses": {"model": MODEL, "input": "Hi", "max_output_tokens": 900},
}


@pytest.mark.parametrize("path", BODIES)
async def test_answer_that_takes_too_long_is_an_error_that_clients_do_not_repeat(path):
    async with running_pool(SLOW) as bench, serving(bench.pool) as service, service.http() as http:
        response = await http.post(path, json=BODIES[path], headers=SOON)
        await until(lambda: bench.pool.num_running == 0)
    assert response.status_code == 504
    assert response.headers["x-should-retry"] == "false"
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("deadline_exceeded", "server_error")
    assert service.log[-1]["error"] == "deadline_exceeded"
    assert bench.sample("requests_finished_total", reason="deadline") == 1
    assert service.value("rejections_total", code="deadline_exceeded") is None


async def test_official_client_raises_it_after_one_try():
    async with running_pool(SLOW) as bench, serving(bench.pool) as service:
        async with service.client() as client:
            with pytest.raises(InternalServerError) as caught:
                await client.with_options(max_retries=5).chat.completions.create(
                    **hello(max_tokens=900), extra_headers=SOON, extra_body={"ignore_eos": True}
                )
        assert caught.value.code == "deadline_exceeded"
        assert bench.sample("requests_total") == 1


@pytest.mark.parametrize("path", BODIES)
async def test_stream_that_takes_too_long_ends_with_an_error_event(path):
    async with running_pool(SLOW) as bench, serving(bench.pool) as service, service.http() as http:
        body = BODIES[path] | {"stream": True}
        response = await http.post(path, json=body, headers={"X-Request-Timeout": "3"})
    assert response.status_code == 200
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
    if path == "/v1/responses":
        error, last = map(json.loads, events[-2:])
        assert error["code"] == "deadline_exceeded"
        assert last["response"]["status"] == "failed"
    else:
        assert json.loads(events[-1])["error"]["code"] == "deadline_exceeded"
        assert "[DONE]" not in response.text
    assert len(events) > 3


async def test_response_in_the_background_has_the_deadline_of_its_request():
    async with (
        running_pool(SLOW) as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        created = await client.responses.create(
            model=MODEL, input="Hi", background=True, extra_headers=SOON
        )
        await until(lambda: any(line["event"] == "background response" for line in service.log))
        response = await client.responses.retrieve(created.id)
        assert bench.sample("requests_finished_total", reason="deadline") == 1
    assert response.status == "failed"
    assert response.error is not None
    assert "time" in response.error.message


async def test_embeddings_have_a_deadline():
    slow = engine_config("1x64", row_seconds=0.01, embedding_len=64)
    async with running_pool(slow) as bench, serving(bench.pool) as service, service.http() as http:
        body = {"model": MODEL, "input": [[5] * 60] * 50}
        response = await http.post("/v1/embeddings", json=body, headers=SOON)
        assert bench.pool._embeddings._num_requests == 0
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"


async def test_header_shortens_what_is_set_and_never_lengthens_it():
    engine = ScriptedEngine()
    service = build_service(engine, request_timeout_seconds=60.0)
    async with service.direct() as http:
        for header in ({}, {"X-Request-Timeout": "5.5"}, {"X-Request-Timeout": "1000"}):
            await http.post("/v1/chat/completions", json=hello(), headers=header)
    given = [request.timeout_seconds for request in engine.requests]
    for seconds, limit in zip(given, (60, 5.5, 60), strict=True):
        assert limit - 5 < seconds <= limit


async def test_without_header_and_setting_there_is_no_deadline():
    engine = ScriptedEngine()
    async with build_service(engine).direct() as http:
        await http.post("/v1/chat/completions", json=hello())
    assert engine.requests[0].timeout_seconds is None


@pytest.mark.parametrize(
    "value", ["", "0", "-1", "soon", "nan", "inf", "1e999", "1_0", "10s", "1,5"]
)
async def test_header_that_is_no_time_is_refused_by_name(value):
    async with serving() as service, service.client() as client:
        with pytest.raises(BadRequestError) as caught:
            await client.chat.completions.create(
                **hello(), extra_headers={"X-Request-Timeout": value}
            )
    assert caught.value.param == "X-Request-Timeout"
    assert caught.value.code == "invalid_value"


async def test_lines_of_batches_have_their_batchs_window_and_no_other_deadline():
    engine = ScriptedEngine()
    service = build_service(
        engine,
        request_timeout_seconds=60.0,
        batching=BatchesConfig(directory=Path("nowhere")),
    )
    body = json.dumps(hello()).encode()
    answer = await InternalCaller(service.app)(
        Call(tenant="", endpoint="/v1/chat/completions", body=body)
    )
    assert answer.status == 200
    assert engine.requests[0].timeout_seconds is None
