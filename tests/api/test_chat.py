import asyncio
import json

import httpx
import pytest
from openai import APIStatusError, BadRequestError, InternalServerError, RateLimitError
from openai.types.chat import completion_create_params
from structlog.testing import capture_logs

from service.api.config import RequestLimits
from service.api.exchange import PRIORITY_KEY
from service.api.schemas import ChatCompletionRequest
from service.core.sampling import SamplingParams
from service.errors import EngineError, EngineUnavailable, QueueFull
from tests.api.builders import (
    MODEL,
    ScriptedEngine,
    build_service,
    hello,
    one_body,
    post_scope,
    serving,
    tokens_of,
)


async def test_an_answer_is_one_document():
    engine = ScriptedEngine("Hello")
    engine.num_cached_tokens = 3
    async with serving(engine) as service, service.client() as client:
        answer = await client.chat.completions.create(**hello())
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello")
    assert choice.finish_reason == "stop"
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_the_synchronous_client_gets_an_answer():
    async def scenario():
        async with serving(ScriptedEngine("Hello")) as service:
            return await asyncio.to_thread(_ask_synchronously, service.sync_client())

    assert asyncio.run(scenario()) == "Hello"


def _ask_synchronously(client):
    with client:
        return client.chat.completions.create(**hello()).choices[0].message.content


async def test_reasoning_and_calls_are_split_as_in_a_stream():
    answer = '<think>\nhm\n</think>\n<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    async with serving(ScriptedEngine(answer)) as service, service.client() as client:
        [choice] = (await client.chat.completions.create(**hello())).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.model_extra == {"reasoning_content": "hm"}
    assert choice.message.tool_calls is not None
    function = choice.message.tool_calls[0].function
    assert function.name == "add"
    assert json.loads(function.arguments) == {"a": 1}


async def test_a_response_message_may_be_put_into_the_history_as_it_is():
    async with serving() as service, service.client() as client:
        first = await client.chat.completions.create(**hello())
        messages = [
            *hello()["messages"],
            first.choices[0].message,
            {"role": "user", "content": "?"},
        ]
        await client.chat.completions.create(**hello(messages=messages))
        prompt = "".join(map(chr, service.engine.requests[-1].prompt))
    assert prompt == "user: Hi\nassistant: Hello there\nuser: ?\n"


async def test_silence_is_answered_with_what_the_model_recommends():
    recommended = SamplingParams(temperature=0.6, top_p=0.95)
    async with serving(sampling=recommended) as service, service.client() as client:
        await client.chat.completions.create(**hello())
        await client.chat.completions.create(**hello(temperature=0, seed=-1))
        silent, greedy = (request.sampling for request in service.engine.requests)
    assert (silent.temperature, silent.top_p) == (0.6, 0.95)
    assert silent.seed > 0
    assert (greedy.temperature, greedy.top_p) == (0, 0.95)
    assert greedy.seed == 2**64 - 1


async def test_what_the_client_asks_for_reaches_the_engine():
    service = build_service()
    async with service.direct() as http:
        response = await http.post(
            "/v1/chat/completions",
            headers={"X-Session-Id": "s-1", "X-Request-Id": "r-1"},
            json=hello(
                top_k=40,
                min_p=0.05,
                presence_penalty=0.5,
                frequency_penalty=-0.5,
                repetition_penalty=1.1,
                logit_bias={"7": -100},
                ignore_eos=True,
                min_tokens=3,
                max_tokens=9,
                stop=["\n"],
                thinking_budget=50,
            ),
        )
        [request] = service.engine.requests
    assert response.status_code == 200
    sampling = request.sampling
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (40, 0.05, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.logit_bias == ((7, -100),)
    assert (sampling.ignore_eos, sampling.min_tokens, request.max_tokens) == (True, 3, 9)
    assert request.stop == ("\n",)
    assert (request.session, request.request_id) == ("s-1", "r-1")
    assert request.thinking.max_tokens == 50


async def test_fields_without_effect_here_are_accepted():
    async with serving() as service, service.client() as client:
        answer = await client.chat.completions.create(
            **hello(
                user="u",
                metadata={"a": "b"},
                store=False,
                service_tier="auto",
                prompt_cache_key="k",
                safety_identifier="s",
                verbosity="low",
                prediction={"type": "content", "content": [{"type": "text", "text": "x"}]},
                n=1,
                logprobs=False,
                top_logprobs=0,
                response_format={"type": "text"},
                tools=[],
                parallel_tool_calls=True,
                modalities=["text"],
            )
        )
    assert answer.service_tier == "default"
    assert answer.system_fingerprint == "fp_test"
    assert service.engine.requests[-1].prediction == tokens_of("x")
    assert answer.usage.completion_tokens_details.accepted_prediction_tokens == 0
    assert answer.usage.completion_tokens_details.rejected_prediction_tokens == 0


JSON = {"content-type": "application/json"}

REFUSED = {
    "foo": (1, "unknown_parameter"),
    "n": (0, "invalid_value"),
    "functions": ([{"name": "f"}], "unsupported_parameter"),
    "response_format": ({"type": "xml"}, "invalid_value"),
    "logprobs": (3, "invalid_value"),
    "top_logprobs": (3, "invalid_value"),
    "store": (True, "unsupported_parameter"),
    "verbosity": ("loud", "invalid_value"),
    "service_tier": ("slow", "invalid_value"),
    "priority": (101, "invalid_value"),
    "metadata.a": ({"a": "x" * 513}, "invalid_value"),
    "modalities": (["text", "audio"], "unsupported_parameter"),
    "prediction.type": ({"type": "diff", "content": "x"}, "invalid_value"),
    "prediction.content": ({"type": "content"}, "missing_required_parameter"),
    "temperature": (2.5, "invalid_value"),
    "top_p": (-0.1, "invalid_value"),
    "top_k": (1.5, "invalid_value"),
    "min_p": ("0.1", "invalid_value"),
    "seed": (2**63, "invalid_value"),
    "presence_penalty": (3, "invalid_value"),
    "repetition_penalty": (0, "invalid_value"),
    "stop": (["a", "b", "c", "d", "e"], "invalid_value"),
    "stop[1]": (["a", ""], "invalid_value"),
    "logit_bias": ({"50000": 1}, "invalid_value"),
    "logit_bias.7": ({"7": 101}, "invalid_value"),
    "max_tokens": (0, "invalid_value"),
    "stream_options": ({"include_usage": True}, "invalid_value"),
    "messages": ([], "invalid_value"),
    "messages[0]": ([{"role": "function", "content": "x"}], "invalid_value"),
    "messages[0].content": ([{"role": "user", "content": 1}], "invalid_value"),
    "messages[0].content[1].type": (
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}],
            }
        ],
        "unsupported_parameter",
    ),
    "messages[1].tool_call_id": (
        [{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}],
        "missing_required_parameter",
    ),
    "reasoning_effort": ("enormous", "invalid_value"),
    "chat_template_kwargs.enable_thinking": ({"enable_thinking": "yes"}, "invalid_value"),
}


@pytest.mark.parametrize("param", REFUSED)
async def test_a_field_that_cannot_be_honoured_is_refused_by_name(param):
    value, code = REFUSED[param]
    field = param.split(".")[0].split("[")[0]
    service = build_service()
    async with service.direct() as http:
        response = await http.post("/v1/chat/completions", json=hello(**{field: value}))
        assert service.engine.requests == []
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert field in error["message"]


def test_every_field_of_the_official_client_is_known():
    official = set(completion_create_params.CompletionCreateParamsStreaming.__annotations__)
    assert official <= set(ChatCompletionRequest.model_fields)


async def test_a_part_that_is_not_text_is_named_by_its_type():
    content = [{"type": "input_audio", "input_audio": {}}]
    async with serving() as service, service.client() as client:
        with pytest.raises(BadRequestError, match="'input_audio'"):
            await client.chat.completions.create(
                **hello(messages=[{"role": "user", "content": content}])
            )


async def test_text_parts_null_content_and_every_role_are_rendered():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "d", "tool_call_id": "1"},
    ]
    async with serving() as service, service.client() as client:
        await client.chat.completions.create(**hello(messages=messages))
        prompt = "".join(map(chr, service.engine.requests[0].prompt))
    assert prompt == "system: a\ndeveloper: b\nuser: c\nassistant: \ntool: d\n"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(stream):
    async with serving(ScriptedEngine(context_len=100)) as service, service.client() as client:
        messages = [{"role": "user", "content": "x" * 93}]
        with pytest.raises(BadRequestError) as caught:
            await client.chat.completions.create(**hello(messages=messages, stream=stream))
    assert caught.value.code == "context_length_exceeded"
    assert "holds 100 tokens" in caught.value.message
    assert "have 100" in caught.value.message
    assert caught.value.param == "messages"


async def test_a_prompt_that_leaves_room_for_a_token_is_taken():
    async with serving(ScriptedEngine(context_len=100)) as service, service.client() as client:
        messages = [{"role": "user", "content": "x" * 92}]
        await client.chat.completions.create(**hello(messages=messages))


async def test_another_model_is_not_found():
    async with serving() as service, service.client() as client:
        with pytest.raises(APIStatusError) as caught:
            await client.chat.completions.create(**hello(model="gpt-4"))
    assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_is_429_and_says_when_to_come_back(stream):
    engine = ScriptedEngine()
    engine.refusal = QueueFull("full", retry_after_seconds=7)
    async with serving(engine) as service, service.client() as client:
        with pytest.raises(RateLimitError) as caught:
            await client.chat.completions.create(**hello(stream=stream))
        assert service.value("rejections_total", code="queue_full") == 1
    assert caught.value.code == "queue_full"
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "explode"}]}),
        ("/v1/completions", {"prompt": "x" * 2345}),
    ],
)
async def test_a_full_queue_is_told_before_the_prompt_is_looked_at(path, prompt):
    engine = ScriptedEngine()
    async with build_service(engine).direct() as http:
        body = {"model": MODEL, **prompt}
        looked_at = await http.post(path, json=body)
        engine.refusal = QueueFull("full", retry_after_seconds=7)
        refused = await http.post(path, json=body)
    assert looked_at.status_code in {400, 500}
    assert refused.status_code == 429


async def test_a_service_that_loads_is_503():
    engine = ScriptedEngine()
    engine.refusal = EngineUnavailable("loading")
    async with serving(engine) as service, service.client() as client:
        with pytest.raises(InternalServerError) as caught:
            await client.chat.completions.create(**hello())
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_an_engine_failure_is_a_500_with_a_body():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        creating = asyncio.create_task(client.chat.completions.create(**hello()))
        (await service.engine.next_stream()).fail(EngineError("it broke"))
        with pytest.raises(InternalServerError, match="it broke"):
            await creating


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bug_of_ours_is_a_500_with_a_body_and_a_line_in_the_log(stream):
    async with serving() as service, service.client() as client:
        messages = [{"role": "user", "content": "explode"}]
        with pytest.raises(InternalServerError) as caught:
            await client.chat.completions.create(**hello(messages=messages, stream=stream))
        failure = next(line for line in service.log if line["event"] == "request failed")
    assert caught.value.code == "internal_error"
    assert failure["request_id"] in caught.value.message


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"model": "\xff"}', b"[" * 100_000, b'{"a": "\\ud800"}']
)
async def test_a_body_that_is_no_json_object_is_a_400(body):
    service = build_service()
    async with service.direct() as http:
        response = await http.post("/v1/chat/completions", content=body, headers=JSON)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"top_k": 2**63}, "top_k"),
        ({"min_tokens": -(10**30)}, "min_tokens"),
        ({"chat_template_kwargs": {"a": [0, 10**30]}}, "chat_template_kwargs.a[1]"),
    ],
    ids=str,
)
async def test_an_integer_that_nothing_behind_can_hold_is_refused_with_its_place(fields, param):
    async with build_service().direct() as http:
        response = await http.post("/v1/chat/completions", json=hello(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_many_digits_in_a_text_are_no_integer():
    async with build_service().direct() as http:
        response = await http.post("/v1/chat/completions", json=hello(user="1" * 30))
    assert response.status_code == 200


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_the_limit_is_a_413(is_chunked):
    async def pieces():
        for _ in range(20):
            yield b"x" * 100

    content = pieces() if is_chunked else b"x" * 2000
    async with serving(max_body_bytes=1000) as service, service.http() as http:
        response = await http.post("/v1/chat/completions", content=content, headers=JSON)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"thinking_budget": 10}, "thinking_budget"),
    ],
)
async def test_a_model_that_cannot_think_is_not_asked_to(fields, param):
    service = build_service(supports_thinking=False)
    async with service.direct() as http:
        response = await http.post("/v1/chat/completions", json=hello(**fields))
        allowed = await http.post("/v1/chat/completions", json=hello(reasoning_effort="none"))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert allowed.status_code == 200


async def test_contradicting_fields_are_refused():
    contradictions = [
        {"max_tokens": 5, "max_completion_tokens": 6},
        {"min_tokens": 6, "max_tokens": 5},
        {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
        {"thinking_budget": 5, "continue_final_message": True},
    ]
    service = build_service()
    async with service.direct() as http:
        for fields in contradictions:
            response = await http.post("/v1/chat/completions", json=hello(**fields))
            assert response.status_code == 400, fields
            assert response.json()["error"]["param"] in fields


async def test_a_budget_counts_only_where_the_model_thinks():
    service = build_service()
    async with service.direct() as http:
        body = hello(thinking_budget=5, reasoning_effort="none")
        await http.post("/v1/chat/completions", json=body)
        assert service.engine.requests[0].thinking is None


async def test_the_hundredth_concurrent_request_is_answered_as_the_first():
    async with (
        serving(ScriptedEngine("Hello")) as service,
        service.http(limits=httpx.Limits(max_connections=100)) as http,
    ):
        posts = (http.post("/v1/chat/completions", json=hello()) for _ in range(100))
        responses = await asyncio.gather(*posts)
    assert {response.json()["choices"][0]["message"]["content"] for response in responses} == {
        "Hello"
    }
    assert len({response.json()["id"] for response in responses}) == 100


LIMITS = RequestLimits(
    max_messages=2, max_message_chars=5, max_choices=2, max_tools=1, max_stop_chars=3
)
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": name}} for name in "fg"]


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("messages", {"messages": [{"role": "user", "content": "x"}] * 3}),
        ("messages[0]", {"messages": [{"role": "user", "content": "x" * 6}]}),
        (
            "messages[1]",
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": "long", "tool_calls": [CALL]},
                ]
            },
        ),
        ("n", {"n": 3}),
        ("tools", {"tools": TOOLS}),
        ("stop[1]", {"stop": ["abc", "abcd"]}),
    ],
)
async def test_more_than_a_limit_allows_is_refused_with_the_limit(param, fields):
    service = build_service(limits=LIMITS)
    async with service.direct() as http:
        response = await http.post("/v1/chat/completions", json=hello(**fields))
        allowed = await http.post("/v1/chat/completions", json=hello(n=2, stop="abc"))
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, "invalid_value")
    assert allowed.status_code == 200


async def test_unknown_fields_are_named_all_of_them():
    service = build_service()
    body = hello(foo=1, messages=[{"role": "user", "content": "x", "bar": 2}])
    async with service.direct() as http:
        error = (await http.post("/v1/chat/completions", json=body)).json()["error"]
    assert error["message"] == "Unknown fields: messages[0].bar, foo."


async def test_unknown_fields_can_be_ignored_though_not_wrong_values():
    service = build_service(ignore_unknown_fields=True)
    body = hello(foo=1, messages=[{"role": "user", "content": "x", "bar": 2}])
    async with service.direct() as http:
        with capture_logs() as lines:
            ignored = await http.post("/v1/chat/completions", json=body)
        refused = await http.post("/v1/chat/completions", json=body | {"temperature": 3})
    assert ignored.status_code == 200
    assert lines == [
        {
            "event": "unknown_fields_ignored",
            "fields": ["messages[0].bar", "foo"],
            "log_level": "debug",
        }
    ]
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temperature")


@pytest.mark.parametrize(
    ("fields", "priority", "tier"),
    [
        ({}, 0, None),
        ({"service_tier": "auto"}, 0, "default"),
        ({"service_tier": "default"}, 0, "default"),
        ({"service_tier": "flex"}, 10, "flex"),
        ({"service_tier": "priority"}, -10, "priority"),
        ({"service_tier": "fast"}, -10, "priority"),
        ({"priority": 7}, 7, None),
        ({"service_tier": "flex", "priority": -3}, -3, "priority"),
    ],
)
async def test_a_tier_is_a_priority_and_the_answer_says_the_real_one(fields, priority, tier):
    service = build_service()
    async with service.direct() as http:
        answer = (await http.post("/v1/chat/completions", json=hello(**fields))).json()
    assert service.engine.requests[0].priority == priority
    assert answer.get("service_tier") == tier


async def test_a_call_from_within_brings_its_own_priority():
    service = build_service()
    scope = post_scope() | {PRIORITY_KEY: 100}
    sent = []

    async def send(message):
        sent.append(message)

    await service.app(scope, one_body(hello(priority=-100, service_tier="priority")), send)
    assert service.engine.requests[0].priority == 100
    assert json.loads(sent[1]["body"])["service_tier"] == "flex"
