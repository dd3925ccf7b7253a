"""The API over real worker processes; the engine in them is simulated."""

import asyncio

import pytest
from openai import RateLimitError

from tests.api.builders import hello, serving, until
from tests.runtime.builders import engine_config, running_pool

SLOW = {"step_seconds": 0.01}
ENDLESS = {"extra_body": {"ignore_eos": True}}


def ask(client, text="Hi", **changes):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(**hello(messages=messages, **ENDLESS | changes))


async def test_an_answer_comes_from_a_worker():
    async with (
        running_pool() as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        answer = await ask(client, max_tokens=5)
    assert len(answer.choices[0].message.content.split()) == 5
    assert answer.choices[0].finish_reason == "length"


async def test_a_stream_says_what_the_whole_answer_says():
    async with (
        running_pool() as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        answer = await ask(client, max_tokens=9, seed=5)
        chunks = await ask(client, max_tokens=9, seed=5, stream=True)
        texts = [chunk.choices[0].delta.content or "" async for chunk in chunks]
    assert "".join(texts) == answer.choices[0].message.content


async def test_a_repeated_prompt_is_told_as_cached():
    async with (
        running_pool() as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        first, second = [await ask(client, max_tokens=2) for _ in range(2)]
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == second.usage.prompt_tokens - 1


async def test_killing_every_client_of_32_streams_frees_every_slot():
    async with (
        running_pool(engine_config("32x256", **SLOW)) as bench,
        serving(bench.pool) as service,
    ):
        async with service.client() as client:
            streams = await asyncio.gather(
                *(ask(client, f"Hi {number}", stream=True) for number in range(32))
            )
            for stream in streams:
                await anext(stream)
            await until(lambda: bench.sample("requests_running", worker="0") == 32)
            for stream in streams:
                await stream.response.aclose()
        await until(lambda: bench.sample("requests_running", worker="0") == 0)
        assert bench.sample("aborts_total", stage="decode") == 32
        assert bench.pool.num_running == bench.pool.num_waiting == 0
        busy = bench.sample("slots", worker="0", state="running", **{"class": "256"})
    assert busy == 0


async def test_a_client_that_leaves_the_queue_is_counted_there():
    async with (
        running_pool(engine_config("1x256", **SLOW)) as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        running = await ask(client, stream=True)
        waiting = asyncio.create_task(ask(client, "Ho"))
        await until(lambda: bench.pool.num_waiting == 1)
        waiting.cancel()
        await until(lambda: bench.sample("aborts_total", stage="queued") == 1)
        assert bench.pool.num_waiting == 0
        await running.response.aclose()
        await until(lambda: bench.pool.num_running == 0)


async def test_a_full_queue_turns_the_next_one_away():
    async with (
        running_pool(engine_config("1x256", **SLOW), max_queued=0) as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        running = await ask(client, stream=True)
        with pytest.raises(RateLimitError) as caught:
            await ask(client, stream=True)
        assert int(caught.value.response.headers["retry-after"]) > 0
        await running.response.aclose()
        await until(lambda: bench.pool.num_running == 0)
        await ask(client, max_tokens=1)
