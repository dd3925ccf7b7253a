import asyncio

import pytest
from openai import InternalServerError
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from service.errors import EngineError, EngineUnavailable
from tests.api.builders import ScriptedEngine, read_events, tokens_of
from tests.api.responses import ADD, CALL, THINKING, ask, asking, check

_EVENT = TypeAdapter(ResponseStreamEvent)
_DELTAS = {
    "response.output_text.delta",
    "response.reasoning_text.delta",
    "response.function_call_arguments.delta",
}


async def collect(responses, **changes):
    events = [event async for event in await responses.create(**ask(stream=True, **changes))]
    for number, event in enumerate(events):
        _EVENT.validate_python(event.model_dump(by_alias=True))
        assert event.sequence_number == number
    return events


def names(events):
    """Deltas that follow each other count as one."""
    types = [event.type.removeprefix("response.") for event in events]
    return [
        name
        for index, name in enumerate(types)
        if not (index and name == types[index - 1] and name.endswith(".delta"))
    ]


async def test_a_message_streams_from_its_item_to_its_parts_and_back():
    async with asking(ScriptedEngine("Hello")) as (_, responses):
        events = await collect(responses)
    assert names(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[0].response.status == "in_progress"
    assert events[0].response.output == []
    assert "".join(event.delta for event in events if event.type in _DELTAS) == "Hello"
    assert check(events[-1].response).output_text == "Hello"
    assert events[-1].response.usage.output_tokens == 5


async def test_thoughts_text_and_calls_are_items_of_their_own():
    async with asking(ScriptedEngine(f"{THINKING}{CALL}")) as (_, responses):
        events = await collect(responses, tools=[ADD])
    assert names(events)[2:-1] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.output
    assert [item.type for item in done] == ["reasoning", "message", "function_call"]
    assert [item.status for item in done] == ["completed"] * 3


async def test_streamed_and_whole_are_the_same_response():
    def content(response):
        return response.model_dump(
            include={"output", "usage", "status"},
            exclude={"output": {"__all__": {"id"}}},
        )

    async with asking(ScriptedEngine(f"{THINKING}{CALL}")) as (_, responses):
        whole = await responses.create(**ask(tools=[ADD]))
        events = await collect(responses, tools=[ADD])
    assert content(events[-1].response) == content(whole)


async def test_the_clients_own_accumulation_gives_the_response():
    async with asking(ScriptedEngine(f"{THINKING}{CALL}")) as (_, responses):
        async with responses.stream(**ask(tools=[ADD])) as stream:
            seen = [event.type async for event in stream]
            final = await stream.get_final_response()
        kept = await responses.retrieve(final.id)
    assert "response.function_call_arguments.delta" in seen
    assert final.output_text == kept.output_text == "Hello"


async def test_each_event_is_said_by_name_and_none_follows_the_last():
    async with (
        asking() as (service, _),
        service.http() as http,
        http.stream("POST", "/v1/responses", json=ask(stream=True)) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = await read_events(response)
    assert lines[0] == "event: response.created"
    assert lines[-2] == "event: response.completed"
    assert len(lines) % 2 == 0


async def test_a_stream_that_is_cut_off_ends_incomplete():
    engine = ScriptedEngine("<think>\nhm", finish_reason="length")
    async with asking(engine) as (_, responses):
        events = await collect(responses)
    assert events[-1].type == "response.incomplete"
    [reasoning] = events[-1].response.output
    assert (reasoning.type, reasoning.status) == ("reasoning", "incomplete")


async def test_what_fails_before_the_first_event_is_a_plain_error():
    async with asking() as (service, responses):
        service.engine.refusal = EngineUnavailable("loading")
        with pytest.raises(InternalServerError) as refusal:
            await responses.create(**ask(stream=True))
    assert refusal.value.status_code == 503


async def test_what_fails_later_is_an_error_and_a_response_that_failed():
    async with asking(ScriptedEngine(None)) as (service, responses):
        creating = asyncio.create_task(responses.create(**ask(stream=True)))
        stream = await service.engine.next_stream()
        stream.begin(0)
        stream.push(tokens_of("Hel"), None)
        events = [await anext(await creating)]
        stream.fail(EngineError("The worker died."))
        events += [event async for event in creating.result()]
        kept = await responses.retrieve(events[0].response.id)
    error, failed = events[-2:]
    assert (error.type, error.code, error.message) == ("error", "engine_error", "The worker died.")
    assert (failed.type, failed.response.status) == ("response.failed", "failed")
    assert failed.response.error.code == "server_error"
    [message] = failed.response.output
    assert (message.status, message.content[0].text) == ("incomplete", "Hel")
    assert check(kept).status == "failed"


async def test_silence_is_broken_by_comments():
    async with (
        asking(ScriptedEngine(None), keepalive_seconds=0.01) as (service, _),
        service.http() as http,
        http.stream("POST", "/v1/responses", json=ask(stream=True)) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == ": keep-alive"
        stream = await service.engine.next_stream()
        stream.begin(0)
        stream.push(tokens_of("Hi"), "stop")
        rest = [line async for line in lines if line.startswith("event: ")]
    assert rest[0] == "event: response.created"
    assert rest[-1] == "event: response.completed"


async def test_a_client_that_leaves_frees_its_slot_and_nothing_is_stored():
    async with asking(ScriptedEngine(None)) as (service, responses):
        creating = asyncio.create_task(responses.create(**ask(stream=True)))
        stream = await service.engine.next_stream()
        stream.begin(0)
        stream.push(tokens_of("a"), None)
        events = await creating
        created = await anext(events)
        await events.close()
        assert await service.engine.next_aborted() == "decode"
        assert await service.records.get(created.response.id, "") is None


async def test_logprobs_are_of_the_texts_tokens_streamed_and_whole():
    async with asking(ScriptedEngine("Hi")) as (service, responses):
        options = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
        whole = await responses.create(**ask(**options))
        events = await collect(responses, **options)
        assert service.engine.requests[0].num_logprobs == 2
    logprobs = whole.output[0].content[0].logprobs
    assert [each.token for each in logprobs] == ["H", "i"]
    streamed = [
        each
        for event in events
        if event.type == "response.output_text.delta"
        for each in event.logprobs
    ]
    assert [each.token for each in streamed] == ["H", "i"]
    assert events[-1].response.output[0].content[0].logprobs == logprobs
