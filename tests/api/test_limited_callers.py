"""Limits of callers, as clients meet them."""

import asyncio
import json
import re

import pytest
from openai import APIError, RateLimitError

from service.api.internal_call import InternalCaller
from service.api.keys import ApiKey, digest_key
from service.api.rate_limits import ESTIMATED_ANSWER_TOKENS, RATE_LIMIT_HEADERS, RateLimits
from service.batches.runner import Call
from service.core.request import FIRST_PRIORITY
from service.errors import EngineError, QueueFull
from tests.api.builders import (
    MODEL,
    ScriptedEngine,
    build_service,
    hello,
    serving,
    start_stream,
    tokens_of,
    until,
)

CHAT = "/v1/chat/completions"
BODIES = {
    "chat": (CHAT, hello()),
    "stream": (CHAT, hello(stream=True)),
    "completion": ("/v1/completions", {"model": MODEL, "prompt": "Hi"}),
    "response": ("/v1/responses", {"model": MODEL, "input": "Hi"}),
    "embedding": ("/v1/embeddings", {"model": MODEL, "input": "Hi"}),
    "invalid": (CHAT, {}),
}
BOTH = RateLimits(requests_per_minute=10, tokens_per_minute=10_000)
AUTHORIZATION = {"Authorization": "Bearer one"}


def key_of(
    name: str | None = "alice", key="one", weight=1.0, best_priority=FIRST_PRIORITY, **limits
):
    return ApiKey.of_digest(
        digest_key(key),
        name=name,
        weight=weight,
        limits=RateLimits(**limits),
        best_priority=best_priority,
    )


def limited(engine=None, **limits):
    """Nothing is refilled."""
    return build_service(engine, rate_limits=RateLimits(**limits), limit_clock=lambda: 0.0)


def serving_one_at_a_time(engine, **options):
    return serving(engine, rate_limits=RateLimits(max_concurrent=1), **options)


def remaining(response, noun="tokens"):
    return int(response.headers[f"x-ratelimit-remaining-{noun}"])


@pytest.mark.parametrize("kind", BODIES)
async def test_every_answer_of_a_generating_endpoint_tells_what_is_left(kind):
    path, body = BODIES[kind]
    async with serving(rate_limits=BOTH) as service, service.http() as http:
        response = await http.post(path, json=body)
    assert response.headers["x-ratelimit-limit-requests"] == "10"
    assert response.headers["x-ratelimit-limit-tokens"] == "10000"
    assert remaining(response, "requests") == 9
    for noun in ("requests", "tokens"):
        assert re.fullmatch(r"(\d+m)?[\d.]+m?s", response.headers[f"x-ratelimit-reset-{noun}"])


async def test_without_limits_and_elsewhere_nothing_is_told():
    async with build_service().direct() as http:
        unlimited = await http.post(CHAT, json=hello())
    async with build_service(rate_limits=BOTH).direct() as http:
        elsewhere = await http.get("/v1/models")
    assert not {*unlimited.headers, *elsewhere.headers} & {*RATE_LIMIT_HEADERS}


async def test_a_request_too_many_is_refused_before_its_body_is_looked_at():
    service = limited(requests_per_minute=2)
    async with service.direct() as http:
        for _ in range(2):
            assert (await http.post(CHAT, json=hello())).status_code == 200
        refused = await http.post(CHAT, content=b"no JSON at all")
    error = refused.json()["error"]
    assert refused.status_code == 429
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert "2 requests per minute" in error["message"]
    assert refused.headers["retry-after"] == "30"
    assert remaining(refused, "requests") == 0
    assert len(service.engine.requests) == 2
    assert service.value("rejections_total", code="rate_limit_exceeded") == 1


async def test_a_whole_answer_costs_what_it_took():
    async with limited(ScriptedEngine("12345"), tokens_per_minute=1000).direct() as http:
        response = await http.post(CHAT, json=hello())
        usage = response.json()["usage"]
    assert remaining(response) == 1000 - usage["total_tokens"]


@pytest.mark.parametrize(
    ("changes", "num_reserved"),
    [
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": 1500}, ESTIMATED_ANSWER_TOKENS),
        ({}, ESTIMATED_ANSWER_TOKENS),
    ],
)
async def test_a_stream_begins_with_its_prompt_and_a_guess_of_its_answer_taken(
    changes, num_reserved
):
    service = limited(tokens_per_minute=1000)
    async with service.direct() as http:
        stream = await http.post(CHAT, json=hello(stream=True, **changes))
        [request] = service.engine.requests[:1]
        after = await http.post(CHAT, json={})
    num_prompt, num_answer = len(request.prompt), len(tokens_of(service.engine.answer))
    assert remaining(stream) == 1000 - num_prompt - num_reserved
    assert remaining(after) == 1000 - num_prompt - num_answer * changes.get("n", 1)


async def test_a_prompt_that_does_not_fit_what_is_left_is_refused_and_takes_nothing():
    service = limited(ScriptedEngine(""), tokens_per_minute=600)
    async with service.direct() as http:
        first = await http.post("/v1/completions", json={"model": MODEL, "prompt": "x" * 400})
        refused = await http.post("/v1/completions", json={"model": MODEL, "prompt": "x" * 400})
    assert first.status_code == 200
    assert refused.status_code == 429
    assert "600 tokens per minute" in refused.json()["error"]["message"]
    assert remaining(refused) == remaining(first)
    assert len(service.engine.requests) == 1


async def test_a_request_that_the_engine_refuses_costs_no_tokens():
    service = limited(tokens_per_minute=1000)
    service.engine.refusal = QueueFull("full", retry_after_seconds=3)
    async with service.direct() as http:
        refused = await http.post(CHAT, json=hello())
        after = await http.post(CHAT, json={})
    assert refused.json()["error"]["code"] == "queue_full"
    assert remaining(after) == 1000


async def test_the_official_client_shows_the_headers():
    async with serving(rate_limits=BOTH) as service, service.client() as client:
        raw = await client.chat.completions.with_raw_response.create(**hello())
        async with client.chat.completions.with_streaming_response.create(
            **hello(stream=True)
        ) as streamed:
            assert streamed.headers["x-ratelimit-remaining-requests"] == "8"
    assert raw.headers["x-ratelimit-remaining-requests"] == "9"


async def test_the_official_client_waits_as_long_as_it_is_told_and_then_gets_its_answer():
    async with serving_one_at_a_time(ScriptedEngine(None)) as service, service.client() as client:
        stream, chunks = await start_stream(service, client)
        waiting = asyncio.create_task(
            client.with_options(max_retries=1).chat.completions.create(**hello())
        )
        await until(lambda: service.value("rejections_total", code="rate_limit_exceeded"))
        stream.push(tokens_of("b"), "stop")
        assert [chunk async for chunk in chunks]
        second = await service.engine.next_stream()
        second.begin(0)
        second.push(tokens_of("c"), "stop")
        assert (await waiting).choices[0].message.content == "c"


async def is_free(service, client):
    """A request finds the caller's one place free; its answer is `z`."""
    creating = asyncio.create_task(client.chat.completions.create(**hello()))
    stream = await service.engine.next_stream()
    stream.begin(0)
    stream.push(tokens_of("z"), "stop")
    return (await creating).choices[0].message.content == "z"


async def is_taken(client):
    with pytest.raises(RateLimitError) as caught:
        await client.chat.completions.create(**hello())
    return "1 requests at a time" in caught.value.message


async def until_the_line_of(service, num_lines):
    await until(lambda: len(service.log) == num_lines)


async def test_a_place_is_free_after_the_last_byte():
    async with serving_one_at_a_time(ScriptedEngine(None)) as service, service.client() as client:
        stream, chunks = await start_stream(service, client)
        assert await is_taken(client)
        stream.push(tokens_of("b"), "stop")
        assert [chunk async for chunk in chunks]
        await until_the_line_of(service, 2)
        assert await is_free(service, client)


async def test_a_place_is_free_after_its_client_left():
    async with serving_one_at_a_time(ScriptedEngine(None)) as service, service.client() as client:
        _, chunks = await start_stream(service, client)
        assert await is_taken(client)
        await chunks.close()
        await until_the_line_of(service, 2)
        assert await is_free(service, client)


async def test_a_place_is_free_after_an_error():
    async with serving_one_at_a_time(ScriptedEngine(None)) as service, service.client() as client:
        stream, chunks = await start_stream(service, client)
        stream.fail(EngineError("broken"))
        with pytest.raises(APIError):
            assert [chunk async for chunk in chunks]
        await until_the_line_of(service, 1)
        assert await is_free(service, client)


async def test_a_place_is_free_after_a_drain_ended_it():
    async with serving_one_at_a_time(ScriptedEngine(None)) as service, service.client() as client:
        _, chunks = await start_stream(service, client)
        service.drain.interrupt_all()
        with pytest.raises(APIError):
            assert [chunk async for chunk in chunks]
        await until_the_line_of(service, 1)
        assert await is_free(service, client)


async def test_a_response_in_the_background_has_its_place_until_it_is_made():
    async with serving_one_at_a_time(ScriptedEngine(None)) as service, service.client() as client:
        response = await client.responses.create(model=MODEL, input="Hi", background=True)
        stream = await service.engine.next_stream()
        assert await is_taken(client)
        stream.begin(0)
        stream.push(tokens_of("b"), "stop")
        await until(lambda: any(line["event"] == "background response" for line in service.log))
        assert (await client.responses.retrieve(response.id)).output_text == "b"
        assert await is_free(service, client)


async def test_callers_do_not_use_up_each_others_limits():
    service = build_service(
        api_keys=(
            key_of(requests_per_minute=1),
            key_of(name="bob", key="two", requests_per_minute=1),
        )
    )
    async with service.direct() as http:
        statuses = [
            (
                await http.post(CHAT, json=hello(), headers={"Authorization": f"Bearer {key}"})
            ).status_code
            for key in ("one", "one", "two", "two")
        ]
    assert statuses == [200, 429, 200, 429]


@pytest.mark.parametrize(
    ("fields", "priority", "tier"),
    [
        ({"priority": -100}, 0, None),
        ({"service_tier": "priority"}, 0, "default"),
        ({"service_tier": "flex"}, 10, "flex"),
        ({"priority": 7}, 7, None),
    ],
)
@pytest.mark.parametrize("is_open", [True, False])
async def test_no_request_is_served_before_what_its_caller_may_have(
    is_open, fields, priority, tier
):
    keys = () if is_open else (key_of(best_priority=0),)
    service = build_service(api_keys=keys, best_priority=0 if is_open else FIRST_PRIORITY)
    async with service.direct(headers=AUTHORIZATION) as http:
        answer = (await http.post(CHAT, json=hello(**fields))).json()
    assert service.engine.requests[0].priority == priority
    assert answer.get("service_tier") == tier


async def test_keys_are_exchanged_while_requests_run():
    engine = ScriptedEngine(None)
    old, new = key_of("alice", "one"), key_of("bob", "two", requests_per_minute=1)
    async with (
        serving(engine, api_keys=(old,)) as service,
        service.client(api_key="one") as client,
    ):
        output, chunks = await start_stream(service, client)
        service.keys.replace((new,))
        output.push(tokens_of("b"), "stop")
        assert [chunk.choices[0].delta.content async for chunk in chunks] == ["a", "b", None]
        async with service.http() as http:
            statuses = [
                (
                    await http.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
                ).status_code
                for key in ("one", "two")
            ]
        assert statuses == [401, 200]
        assert service.value("caller_requests_total", caller="bob") == 0
        assert service.value("caller_requests_total", caller="alice") is None


async def test_limits_that_are_changed_hold_from_the_next_request_on():
    service = build_service(api_keys=(key_of(requests_per_minute=5),), limit_clock=lambda: 0.0)
    async with service.direct(headers=AUTHORIZATION) as http:
        statuses = [(await http.post(CHAT, json=hello())).status_code for _ in range(2)]
        service.keys.replace((key_of(requests_per_minute=2),))
        statuses.append((await http.post(CHAT, json=hello())).status_code)
    assert statuses == [200, 200, 429]


async def test_a_callers_weight_goes_with_its_requests_and_with_its_batches():
    service = build_service(api_keys=(key_of(weight=3.0, requests_per_minute=1),))
    async with service.direct(headers=AUTHORIZATION) as http:
        await http.post(CHAT, json=hello())
        tenant = service.engine.requests[0].tenant
        call = InternalCaller(service.app)
        lines = [
            await call(Call(tenant=tenant, endpoint=CHAT, body=json.dumps(hello()).encode()))
            for _ in range(3)
        ]
        of_a_key_that_is_gone = await call(
            Call(tenant="gone", endpoint=CHAT, body=json.dumps(hello()).encode())
        )
        over = await http.post(CHAT, json=hello())
    assert [request.weight for request in service.engine.requests] == [3, 3, 3, 3, 1]
    assert [line.status for line in (*lines, of_a_key_that_is_gone)] == [200] * 4
    assert over.status_code == 429


async def test_a_caller_with_a_name_is_counted_and_logged_by_it():
    service = build_service(
        ScriptedEngine("12345"),
        api_keys=(key_of(requests_per_minute=1), key_of(name=None, key="two")),
    )
    async with service.direct(headers=AUTHORIZATION) as http:
        answer = await http.post(CHAT, json=hello())
        await http.post(CHAT, json=hello())
        await http.post(CHAT, json=hello(), headers={"Authorization": "Bearer two"})
    assert service.value("caller_requests_total", caller="alice") == 1
    assert service.value("caller_refusals_total", caller="alice") == 1
    tokens = service.value("caller_tokens_total", caller="alice")
    assert tokens == answer.json()["usage"]["total_tokens"]
    assert [line.get("caller") for line in service.log] == ["alice", "alice", None]


async def test_pages_of_allowed_origins_may_read_the_limits():
    service = build_service(cors_origins=("https://example.com",), rate_limits=BOTH)
    async with service.direct(headers={"Origin": "https://example.com"}) as http:
        response = await http.post(CHAT, json=hello())
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {*RATE_LIMIT_HEADERS, "retry-after"} <= {*exposed}
