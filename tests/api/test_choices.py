"""Several answers to one request."""

import asyncio
import json

import pytest
from openai import APIError, RateLimitError

from service.errors import EngineError, QueueFull
from tests.api.builders import (
    ScriptedEngine,
    hello,
    read_events,
    serving,
    start_stream,
    tokens_of,
    until,
)
from tests.runtime.builders import engine_config, running_pool

ENDLESS = {"extra_body": {"ignore_eos": True}}


async def test_choices_are_numbered_and_the_prompt_counts_once():
    async with serving(ScriptedEngine("Hello")) as service, service.client() as client:
        answer = await client.chat.completions.create(**hello(n=3))
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"Hello"}
    assert answer.usage.prompt_tokens == len("user: Hi\n")
    assert answer.usage.completion_tokens == 15
    assert answer.usage.total_tokens == len("user: Hi\n") + 15


async def test_the_first_choice_is_what_a_request_for_one_gets():
    async with serving() as service, service.client() as client:
        await client.chat.completions.create(**hello(seed=7))
        await client.chat.completions.create(**hello(seed=7, n=4))
        await client.chat.completions.create(**hello(seed=8, n=4))
        seeds = [request.sampling.seed for request in service.engine.requests]
    assert seeds[0] == seeds[1] == 7
    assert len(set(seeds[1:])) == 8


async def test_a_stream_interleaves_choices_and_ends_once():
    async with serving(ScriptedEngine(None)) as service, service.http() as http:
        body = hello(stream=True, n=2, stream_options={"include_usage": True})
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_read(http, body))
            first, second = [await service.engine.next_stream() for _ in range(2)]
            for stream, text in [(second, "b"), (first, "a"), (second, "d"), (first, "c")]:
                stream.push(tokens_of(text), None)
                await until(lambda: not stream._text)  # noqa: B023 - called at once
            second.push([], "length")
            first.push([], "stop")
        events = reading.result()
    assert events[-1] == "[DONE]"
    *chunks, usage = [json.loads(event) for event in events[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for index, text, reason in [(0, "ac", "stop"), (1, "bd", "length")]:
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant"}
        assert "".join(choice["delta"].get("content", "") for choice in own) == text
        assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == [reason]
        assert own[-1]["finish_reason"] == reason
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert all(chunk["usage"] is None for chunk in chunks)


async def _read(http, body):
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        return await read_events(response)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_fails_ends_all(stream):
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        asking = asyncio.create_task(_ask(client, n=3, stream=stream))
        streams = [await service.engine.next_stream() for _ in range(3)]
        streams[0].push(tokens_of("a"), None)
        streams[2].fail(EngineError("it broke"))
        with pytest.raises(APIError, match="it broke"):
            await asking
        await until(lambda: [stream.stage for stream in streams] == ["done"] * 3)


async def _ask(client, **changes):
    answer = await client.chat.completions.create(**hello(**changes))
    return [chunk async for chunk in answer] if changes["stream"] else answer


async def test_a_client_that_leaves_ends_all():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        stream, chunks = await start_stream(service, client, n=2)
        other = await service.engine.next_stream()
        await chunks.response.aclose()
        assert sorted([await service.engine.next_aborted() for _ in range(2)]) == [
            "decode",
            "queued",
        ]
        assert stream.stage == other.stage == "done"


async def test_nothing_starts_where_there_is_no_room_for_all():
    engine = ScriptedEngine()
    engine.refusal = QueueFull("full", retry_after_seconds=7)
    async with serving(engine) as service, service.client() as client:
        with pytest.raises(RateLimitError):
            await client.chat.completions.create(**hello(n=2))
        assert engine.requests == []


async def test_a_pool_takes_all_choices_or_none():
    async with (
        running_pool(engine_config("2x256"), max_queued=1) as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        with pytest.raises(RateLimitError):
            await client.chat.completions.create(**hello(n=4, max_tokens=2))
        assert bench.pool.num_running == bench.pool.num_waiting == 0
        answer = await client.chat.completions.create(**hello(n=3, max_tokens=2, **ENDLESS))
    assert len(answer.choices) == 3


async def test_a_prompt_is_computed_once_for_all_choices():
    messages = [{"role": "user", "content": "x" * 200}]
    async with (
        running_pool(engine_config("4x512")) as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        body = hello(messages=messages, n=4, max_tokens=3, **ENDLESS)
        answer = await client.chat.completions.create(**body)
        begun, cached = (bench.sample(f"{kind}_tokens_total") for kind in ("prompt", "cached"))
        assert begun is not None
        assert cached is not None
    assert len({choice.message.content for choice in answer.choices}) == 1  # it is deterministic
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert begun - cached < answer.usage.prompt_tokens + 4 * 32
