import asyncio
import json

import pytest
from openai import APIError

from service.errors import EngineError
from tests.api.builders import (
    ScriptedEngine,
    hello,
    one_body,
    post_scope,
    read_events,
    serving,
    start_stream,
    tokens_of,
    until,
)


async def post_stream(service, **changes):
    async with (
        service.http() as http,
        http.stream("POST", "/v1/chat/completions", json=hello(stream=True, **changes)) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return await read_events(response)


def decode(events):
    return [json.loads(event) for event in events if event.startswith("{")]


async def test_a_stream_is_role_text_finish_and_done():
    async with serving(ScriptedEngine("Hello")) as service:
        events = await post_stream(service)
    role, text, finish = decode(events)
    assert events[-1] == "[DONE]"
    assert role["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant"},
        "logprobs": None,
        "finish_reason": None,
    }
    assert text["choices"][0]["delta"] == {"content": "Hello"}
    assert finish["choices"][0]["delta"] == {}
    assert finish["choices"][0]["finish_reason"] == "stop"


async def test_all_chunks_have_one_id_time_and_model():
    async with serving() as service:
        chunks = decode(await post_stream(service))
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


async def test_without_the_option_no_chunk_speaks_of_usage():
    async with serving() as service:
        assert all("usage" not in chunk for chunk in decode(await post_stream(service)))


async def test_with_the_option_usage_comes_last_and_is_null_before():
    engine = ScriptedEngine("Hello")
    engine.num_cached_tokens = 4
    async with serving(engine) as service:
        events = await post_stream(service, stream_options={"include_usage": True})
    *before, last = decode(events)
    assert events[-1] == "[DONE]"
    assert all(chunk["usage"] is None for chunk in before)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": len("user: Hi\n"),
        "completion_tokens": 5,
        "total_tokens": len("user: Hi\n") + 5,
        "prompt_tokens_details": {
            "cached_tokens": 4,
            "audio_tokens": 0,
            "image_tokens": 0,
            "text_tokens": len("user: Hi\n"),
        },
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
            "audio_tokens": 0,
            "text_tokens": 5,
        },
    }


async def test_a_truncated_answer_finishes_with_length():
    async with serving(ScriptedEngine(finish_reason="length")) as service:
        chunks = decode(await post_stream(service))
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_an_empty_answer_still_has_its_role_and_its_end():
    async with serving(ScriptedEngine("")) as service:
        role, finish = decode(await post_stream(service))
    assert role["choices"][0]["delta"] == {"role": "assistant"}
    assert finish["choices"][0]["finish_reason"] == "stop"


async def test_tokens_that_come_one_by_one_are_chunks_of_their_own():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        stream, chunks = await start_stream(service, client)
        texts = [(await anext(chunks)).choices[0].delta.content]
        for letter in "bc":
            stream.push(tokens_of(letter), None)
            texts.append((await anext(chunks)).choices[0].delta.content)
        stream.push([], "stop")
        finish = await anext(chunks)
    assert texts == ["a", "b", "c"]
    assert finish.choices[0].finish_reason == "stop"


async def test_reasoning_is_a_field_of_its_own_and_its_tokens_are_counted():
    async with serving(ScriptedEngine("<think>\nhm\n</think>\nYes")) as service:
        events = await post_stream(service, stream_options={"include_usage": True})
    deltas = [chunk["choices"][0]["delta"] for chunk in decode(events) if chunk["choices"]]
    assert {"reasoning_content": "hm"} in deltas
    assert {"content": "Yes"} in deltas
    usage = decode(events)[-1]["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_a_tool_call_opens_with_its_name_and_goes_on_with_arguments():
    answer = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    async with serving(ScriptedEngine(answer)) as service:
        chunks = decode(await post_stream(service))
    calls = [
        call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert calls[0] == {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "add", "arguments": ""},
    }
    assert all(call.keys() == {"index", "function"} for call in calls[1:])
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == {"a": 1}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_engine_failure_before_the_first_token_is_a_plain_error():
    async with serving(ScriptedEngine(None)) as service, service.http() as http:
        posting = asyncio.create_task(http.post("/v1/chat/completions", json=hello(stream=True)))
        (await service.engine.next_stream()).fail(EngineError("it broke"))
        response = await posting
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_error"


async def test_an_engine_failure_after_it_is_an_event_and_no_done():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        stream, chunks = await start_stream(service, client)
        stream.fail(EngineError("it broke"))
        with pytest.raises(APIError, match="it broke") as caught:
            async for _ in chunks:
                pass
        assert caught.value.code == "engine_error"


async def test_a_failed_stream_ends_without_done():
    async with serving(ScriptedEngine(None)) as service:
        posting = asyncio.create_task(post_stream(service))
        stream = await service.engine.next_stream()
        stream.push(tokens_of("a"), None)
        stream.fail(EngineError("it broke"))
        events = await posting
    assert json.loads(events[-1])["error"] == {
        "message": "it broke",
        "type": "server_error",
        "param": None,
        "code": "engine_error",
    }
    assert "[DONE]" not in events


async def test_a_prompt_that_waits_is_kept_alive_with_comments():
    async with (
        serving(ScriptedEngine(None), keepalive_seconds=0.01) as service,
        service.http() as http,
        http.stream("POST", "/v1/chat/completions", json=hello(stream=True)) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == ": keep-alive"
        (await service.engine.next_stream()).push(tokens_of("Hi"), "stop")
        rest = [line async for line in lines if line.startswith("data")]
    assert rest[-1] == "data: [DONE]"


async def test_an_openai_stream_survives_keep_alive_comments():
    async with (
        serving(ScriptedEngine(None), keepalive_seconds=0.005) as service,
        service.client() as client,
    ):
        stream, chunks = await start_stream(service, client)
        await asyncio.sleep(0.05)  # a few comments come
        stream.push(tokens_of("Hi"), "stop")
        texts = [chunk.choices[0].delta.content async for chunk in chunks]
    assert "Hi" in texts


async def test_what_comes_while_a_reader_is_slow_is_one_chunk():
    written, is_reading = [], asyncio.Event()

    async def send(message):
        if message["type"] == "http.response.body":
            written.append(message["body"])
            await is_reading.wait()

    async with serving(ScriptedEngine(None)) as service:
        answering = asyncio.ensure_future(
            service.app(post_scope(), one_body(hello(stream=True)), send)
        )
        stream = await service.engine.next_stream()
        stream.push(tokens_of("a"), None)
        await until(lambda: written)
        stream.push(tokens_of("b"), None)
        stream.push(tokens_of("c"), "stop")
        is_reading.set()
        await answering
    texts = [
        chunk["choices"][0]["delta"]["content"]
        for chunk in decode(b"".join(written).decode().replace("data: ", "").split("\n\n"))
        if "content" in chunk["choices"][0]["delta"]
    ]
    assert texts == ["a", "bc"]


def test_the_synchronous_client_reads_a_stream():
    async def scenario():
        async with serving(ScriptedEngine("Hello there")) as service:
            return await asyncio.to_thread(_read_synchronously, service.sync_client())

    assert asyncio.run(scenario()) == "Hello there"


def _read_synchronously(client):
    with client, client.chat.completions.create(**hello(stream=True)) as chunks:
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
