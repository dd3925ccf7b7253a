"""`/v1/responses` through OpenAI's own client; what it cannot parse fails here."""

import json

import pytest
from openai import BadRequestError, NotFoundError
from openai.types.responses import ResponseItemList, response_create_params
from pydantic import BaseModel

from service.api.responses.schemas import ResponseRequest
from service.core.sampling import SamplingParams
from tests.api.builders import ScriptedEngine, build_service, serving
from tests.api.responses import ADD, CALL, THINKING, ask, asking, check, prompt_of


async def test_an_answer_is_a_response_with_a_message():
    engine = ScriptedEngine("Hello")
    engine.num_cached_tokens = 3
    async with asking(engine) as (_, responses):
        response = check(await responses.create(**ask(instructions="Be kind.")))
    assert response.id.startswith("resp_")
    assert (response.status, response.output_text) == ("completed", "Hello")
    [message] = response.output
    assert (message.type, message.status, message.role) == ("message", "completed", "assistant")
    assert message.content[0].annotations == []
    assert response.instructions == "Be kind."
    assert response.usage.input_tokens == len("system: Be kind.\nuser: Hi\n")
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert response.usage.output_tokens == 5
    assert response.completed_at >= response.created_at


async def test_silence_is_told_as_what_holds():
    recommended = SamplingParams(temperature=0.6, top_p=0.95)
    async with asking(sampling=recommended) as (_, responses):
        response = check(await responses.create(**ask()))
    assert (response.temperature, response.top_p) == (0.6, 0.95)
    assert (response.truncation, response.service_tier) == ("disabled", "default")
    assert (response.tools, response.tool_choice, response.metadata) == ([], "auto", {})
    assert response.text.format.type == "text"
    assert response.parallel_tool_calls is True
    assert response.model_extra == {"store": True}


async def test_the_tier_is_the_one_that_it_is_served_in():
    async with asking() as (service, responses):
        fast = await responses.create(**ask(service_tier="fast"))
        flex = await responses.create(**ask(service_tier="flex"))
    assert (fast.service_tier, flex.service_tier) == ("priority", "flex")
    assert [request.priority for request in service.engine.requests] == [-10, 10]


async def test_reasoning_comes_before_the_message_with_its_text():
    async with asking(ScriptedEngine(THINKING)) as (_, responses):
        response = check(await responses.create(**ask(reasoning={"effort": "high"})))
    reasoning, message = response.output
    assert (reasoning.type, reasoning.summary) == ("reasoning", [])
    assert [part.text for part in reasoning.content] == ["hm"]
    assert message.content[0].text == "Hello"
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert response.reasoning.effort == "high"


async def test_a_call_is_an_item_and_its_output_goes_back_as_one():
    async with asking(ScriptedEngine(CALL)) as (service, responses):
        first = check(await responses.create(**ask(tools=[ADD])))
        [call] = first.output
        assert (call.type, call.name, call.call_id) == ("function_call", "add", "call_1")
        assert json.loads(call.arguments) == {"a": 1}
        assert first.tools[0].name == "add"
        service.engine.answer = "2"
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "two"}
        second = await responses.create(
            **ask(input=[result], tools=[ADD], previous_response_id=first.id)
        )
    assert second.output_text == "2"
    assert prompt_of(service).endswith("tool: two\n")


async def test_a_response_cut_off_is_incomplete():
    engine = ScriptedEngine("Hel", finish_reason="length")
    async with asking(engine) as (service, responses):
        response = check(await responses.create(**ask(max_output_tokens=3)))
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    assert service.engine.requests[0].max_tokens == 3


async def test_nothing_said_is_an_empty_message():
    async with asking(ScriptedEngine("")) as (_, responses):
        response = check(await responses.create(**ask()))
    assert (len(response.output), response.output_text) == (1, "")


async def test_items_are_messages_in_their_order():
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "1+1?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "easy"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "2", "annotations": [], "logprobs": None}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "And 2+2?"},
    ]
    async with asking() as (service, responses):
        await responses.create(**ask(input=items))
    assert prompt_of(service) == (
        "developer: Be brief.\nuser: 1+1?\nassistant: 2\nassistant: No.\nuser: And 2+2?\n"
    )


async def test_output_may_be_put_into_the_next_input_as_it_is():
    async with asking(ScriptedEngine(f"{THINKING}{CALL}")) as (service, responses):
        first = await responses.create(**ask(tools=[ADD]))
        result = {"type": "function_call_output", "call_id": "call_1", "output": "two"}
        given = [{"role": "user", "content": "Hi"}, *first.output, result]
        await responses.create(**ask(input=given, tools=[ADD], store=False))
        dumped = [item.model_dump() for item in first.output]
        given = [{"role": "user", "content": "Hi"}, *dumped, result]
        await responses.create(**ask(input=given, tools=[ADD], store=False))
    assert prompt_of(service, 1) == prompt_of(service, 2)
    assert prompt_of(service).startswith("user: Hi\nassistant: Hello")


async def test_a_chain_of_responses_is_the_conversation_and_the_session():
    async with asking(ScriptedEngine("One")) as (service, responses):
        first = await responses.create(**ask(instructions="Count."))
        service.engine.answer = "Two"
        second = await responses.create(**ask(input="Go on", previous_response_id=first.id))
        await responses.create(**ask(input="And on", previous_response_id=second.id))
        branch = await responses.create(**ask(input="Or?", previous_response_id=first.id))
    assert prompt_of(service, 2) == (
        "user: Hi\nassistant: One\nuser: Go on\nassistant: Two\nuser: And on\n"
    )
    assert prompt_of(service, 3) == "user: Hi\nassistant: One\nuser: Or?\n"
    assert branch.previous_response_id == first.id
    assert {request.session for request in service.engine.requests} == {first.id}


async def test_a_session_that_the_client_names_stays():
    async with asking() as (service, responses):
        first = await responses.create(**ask(), extra_headers={"X-Session-Id": "mine"})
        await responses.create(**ask(previous_response_id=first.id, prompt_cache_key="key"))
    assert [request.session for request in service.engine.requests] == ["mine", "key"]


async def test_a_previous_response_that_is_not_there_is_named():
    async with asking() as (service, responses):
        first = await responses.create(**ask(store=False))
        with pytest.raises(BadRequestError, match="Send the conversation") as refusal:
            await responses.create(**ask(previous_response_id=first.id))
        assert refusal.value.code == "previous_response_not_found"
        assert refusal.value.param == "previous_response_id"
        second = await responses.create(**ask())
        third = await responses.create(**ask(previous_response_id=second.id))
        await responses.delete(second.id)
        with pytest.raises(BadRequestError, match=second.id):
            await responses.create(**ask(previous_response_id=third.id))
    assert len(service.engine.requests) == 3


async def test_an_item_may_be_named_instead_of_sent():
    async with asking(ScriptedEngine("One")) as (service, responses):
        first = await responses.create(**ask())
        named = {"type": "item_reference", "id": first.output[0].id}
        await responses.create(**ask(input=[named, {"role": "user", "content": "Go on"}]))
        assert prompt_of(service) == "assistant: One\nuser: Go on\n"
        with pytest.raises(BadRequestError) as refusal:
            await responses.create(**ask(input=[{"id": "msg_absent"}]))
        assert (refusal.value.param, refusal.value.code) == ("input[0].id", "item_not_found")
        with pytest.raises(BadRequestError, match="leave it out"):
            await responses.create(**ask(input=[named], previous_response_id=first.id))


async def test_a_stored_response_is_read_listed_and_deleted():
    async with asking(ScriptedEngine(THINKING)) as (_, responses):
        created = await responses.create(**ask(metadata={"a": "b"}))
        assert await responses.retrieve(created.id) == created
        await responses.delete(created.id)
        for gone in (responses.retrieve, responses.delete, responses.cancel):
            with pytest.raises(NotFoundError):
                await gone(created.id)
        with pytest.raises(NotFoundError):
            await responses.input_items.list(created.id)


async def test_what_is_not_to_be_stored_is_not_found():
    async with asking() as (_, responses):
        response = await responses.create(**ask(store=False))
        assert response.model_extra == {"store": False}
        with pytest.raises(NotFoundError):
            await responses.retrieve(response.id)


async def test_input_items_come_in_pages_the_last_first():
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    items += [
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "3"},
    ]
    async with asking() as (_, responses):
        created = await responses.create(**ask(input=items))
        page = await responses.input_items.list(created.id, limit=2)
        ResponseItemList.model_validate(page.model_dump(by_alias=True))
        assert page.has_more
        assert [item.type for item in page.data] == ["function_call_output", "function_call"]
        everything = [item async for item in responses.input_items.list(created.id, limit=2)]
        assert len(everything) == 7
        oldest = await responses.input_items.list(created.id, order="asc", limit=1)
        assert oldest.data[0].content[0].text == "0"
        assert oldest.data[0].id.startswith("msg_")
        with pytest.raises(BadRequestError, match="after"):
            await responses.input_items.list(created.id, after="absent")


async def test_another_tenant_finds_nothing():
    async with (
        serving(api_keys=("one", "two")) as service,
        service.client("one") as one,
        service.client("two") as two,
    ):
        mine = await one.responses.create(**ask(background=True))
        theirs = two.responses
        for look in (theirs.retrieve, theirs.delete, theirs.cancel, theirs.input_items.list):
            with pytest.raises(NotFoundError):
                await look(mine.id)
        with pytest.raises(BadRequestError, match="previous response"):
            await theirs.create(**ask(previous_response_id=mine.id))
        assert (await one.responses.retrieve(mine.id)).id == mine.id


class Sum(BaseModel):
    total: int


async def test_parse_gives_the_model_that_was_asked_for():
    async with asking(ScriptedEngine('{"total": 3}')) as (service, responses):
        parsed = await responses.parse(**ask(text_format=Sum))
        async with responses.stream(**ask(text_format=Sum)) as stream:
            streamed = await stream.get_final_response()
    assert parsed.output_parsed == streamed.output_parsed == Sum(total=3)
    assert parsed.text.format.name == "Sum"
    assert service.engine.requests[0].constraint is not None


async def test_every_field_of_the_client_is_known():
    base = response_create_params.ResponseCreateParamsBase.__annotations__
    assert {*base, "stream"} <= ResponseRequest.model_fields.keys()


REFUSED = [
    ({"nonsense": 1}, "nonsense", "unknown_parameter"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]", "unsupported_parameter"),
    ({"tools": [ADD | {"name": "a b"}]}, "tools[0].name", "invalid_value"),
    (
        {"tools": [ADD | {"parameters": {"type": "object", "maximum": 2**70}}]},
        "tools[0].parameters.maximum",
        "invalid_value",
    ),
    ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice", "unsupported_parameter"),
    (
        {"tools": [ADD], "tool_choice": {"type": "function", "name": "no"}},
        "tool_choice.name",
        "invalid_value",
    ),
    ({"include": ["reasoning.encrypted_content"]}, "include[0]", "unsupported_parameter"),
    ({"include": ["file_search_call.results"]}, "include[0]", "unsupported_parameter"),
    ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
    ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
    ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "unsupported_parameter"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
    ({"background": True, "store": False}, "background", "invalid_value"),
    (
        {"text": {"format": {"type": "json_schema"}}},
        "text.format.name",
        "missing_required_parameter",
    ),
    ({"input": [{"type": "computer_call"}]}, "input[0]", "unsupported_parameter"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0]",
        "unsupported_parameter",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]},
        "input",
        "invalid_value",
    ),
    ({"input": []}, "input", "invalid_value"),
    ({"input": "word " * 1000}, "input", "context_length_exceeded"),
    ({"model": "other"}, "model", "model_not_found"),
]


@pytest.mark.parametrize(("changes", "param", "code"), REFUSED, ids=lambda value: str(value)[:40])
async def test_what_cannot_be_done_is_refused_by_name(changes, param, code):
    service = build_service()
    async with service.direct() as http:
        for stream in (False, True):
            answer = await http.post("/v1/responses", json=ask(stream=stream) | changes)
            assert answer.status_code == (404 if param == "model" else 400)
            error = answer.json()["error"]
            assert (error["param"], error["code"]) == (param, code)
    assert service.engine.requests == []


async def test_thinking_is_refused_where_the_model_cannot():
    async with asking(supports_thinking=False) as (_, responses):
        with pytest.raises(BadRequestError) as refusal:
            await responses.create(**ask(reasoning={"effort": "low"}))
    assert refusal.value.param == "reasoning.effort"
    assert "reasoning.effort: this model has no thinking mode" in str(refusal.value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "scripted", "input": "\\ud800"}',
        b'{"model": "scripted", "input": [[]]}',
        b'{"model": "scripted", "input": [{"type": 1}]}',
        b'{"model": "scripted", "input": [{"role": "user", "content": 1}]}',
        b'{"model": "scripted", "input": {}}',
        b'{"model": "scripted", "input": "", "tool_choice": {}}',
        b'{"model": "scripted", "input": "", "tools": [1]}',
        b'{"model": "scripted", "input": "", "text": {"format": {}}}',
        b'{"model": "scripted", "input": "", "metadata": {"a": 1}}',
        b'{"model": "scripted"}',
        b"[]",
        b"",
    ],
)
async def test_what_is_no_request_is_a_400(body):
    async with build_service().direct() as http:
        headers = {"content-type": "application/json"}
        answer = await http.post("/v1/responses", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_what_is_no_query_is_a_400():
    async with asking() as (service, responses), service.http() as http:
        path = f"/v1/responses/{(await responses.create(**ask())).id}"
        for query in (
            "stream=maybe",
            "stream=true&starting_after=x",
            "nonsense=1",
            "include=reasoning.encrypted_content",
            "include_obfuscation=true",
        ):
            assert (await http.get(f"{path}?{query}")).status_code == 400
        for query in ("limit=0", "limit=x", "order=up", "after=absent"):
            assert (await http.get(f"{path}/input_items?{query}")).status_code == 400
