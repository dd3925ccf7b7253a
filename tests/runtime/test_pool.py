"""The pool over real worker processes; the engine in them is simulated."""

import asyncio
import subprocess
import sys
from typing import Any

import msgspec
import psutil
import pytest

from service.errors import EngineError, QueueFull
from tests.runtime.builders import engine_config, read, request, running_pool, until

SLOW: dict[str, Any] = {"step_seconds": 0.02}


async def test_request_is_answered_with_its_tokens_as_text():
    async with running_pool() as bench:
        stream = bench.pool.submit(request([5, 6, 7], max_tokens=4))
        text = await read(stream)
        assert len(text.split()) == 4
        assert stream.finish_reason == "length"
        assert (stream.num_prompt_tokens, stream.num_output_tokens) == (3, 4)


async def test_equal_requests_get_equal_answers_whatever_runs_beside_them():
    async with running_pool() as bench:
        alone = await read(bench.pool.submit(request([5, 6, 7])))
        others = [bench.pool.submit(request([8 + n] * 20)) for n in range(6)]
        again = bench.pool.submit(request([5, 6, 7]))
        assert await read(again) == alone
        for other in others:
            await read(other)


async def test_second_turn_finds_the_first_in_the_cache():
    async with running_pool() as bench:
        prompt = list(range(100, 140))
        first = bench.pool.submit(request(prompt, max_tokens=4))
        answer = await read(first)
        history = prompt + [int(word) for word in answer.split()]
        second = bench.pool.submit(request([*history, 1, 2], max_tokens=2))
        await read(second)
        assert second.num_cached_tokens == len(history) - 1


async def test_stop_string_ends_the_text_before_it_and_frees_the_slot():
    async with running_pool() as bench:
        words = (await read(bench.pool.submit(request([5, 6], max_tokens=9)))).split()
        stream = bench.pool.submit(request([5, 6], max_tokens=50, stop=(words[3],)))
        assert (await read(stream)).split() == words[:3]
        assert stream.finish_reason == "stop"
        await until(lambda: bench.sample("requests_running", worker="0") == 0)


async def test_prediction_that_proves_right_is_counted_and_changes_nothing():
    async with running_pool(engine_config(step_seconds=0.004, row_seconds=0.0001)) as bench:
        words = (await read(bench.pool.submit(request([5, 6], max_tokens=20)))).split()
        prediction = [*map(int, words[:12]), 1, 2, 3]
        asked = msgspec.structs.replace(request([5, 6], max_tokens=20), prediction=prediction)
        stream = bench.pool.submit(asked)
        assert (await read(stream)).split() == words
        assert stream.num_output_tokens == 20
        assert 5 < stream.num_accepted_tokens < 12
        assert (bench.sample("accepted_draft_tokens_total") or 0) >= stream.num_accepted_tokens
        assert (bench.sample("draft_tokens_total") or 0) >= (
            stream.num_accepted_tokens + stream.num_rejected_tokens
        )


@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
async def test_aborted_request_frees_its_slot_and_is_counted_at_its_stage(stage):
    engine = engine_config("1x1024", row_seconds=0.002)
    async with running_pool(engine) as bench:
        if stage == "queued":
            bench.pool.submit(request([1, 2], max_tokens=None))
        stream = bench.pool.submit(request([5] * 900, max_tokens=None))
        await until(lambda: stream.stage == stage)
        running_before = bench.pool.num_running
        stream.abort()
        stream.abort()
        assert bench.sample("aborts_total", stage=stage) == 1
        left = 1 if stage == "queued" else 0
        assert bench.pool.num_running == running_before - (stage != "queued")
        await until(lambda: bench.sample("requests_waiting", worker="0") == 0)
        await until(lambda: bench.sample("requests_running", worker="0") == left)


async def test_slow_reader_gets_joined_deltas_and_loses_nothing():
    async with running_pool() as bench:
        expected = await read(bench.pool.submit(request([5, 6], max_tokens=30)))
        stream = bench.pool.submit(request([5, 6], max_tokens=30))
        await until(lambda: stream.stage == "done")
        deltas = [delta async for delta in stream]
        assert len(deltas) == 1
        assert deltas[0].text == expected
        assert len(deltas[0].token_ids) == 30


async def test_request_beyond_the_queue_is_refused_and_nothing_is_enqueued():
    engine = engine_config("1x64", **SLOW)
    async with running_pool(engine, max_queued=1) as bench:
        streams = [bench.pool.submit(request([n], max_tokens=20)) for n in (1, 2)]
        with pytest.raises(QueueFull) as refusal:
            bench.pool.submit(request([3]))
        assert refusal.value.retry_after_seconds >= 1
        for stream in streams:
            await read(stream)
        await read(bench.pool.submit(request([3])))


async def test_request_goes_to_the_worker_that_had_its_prefix():
    async with running_pool(workers=2) as bench:
        prompts = [[n] * 40 for n in (1, 2)]
        # Both are in flight at once, so each worker gets one.
        streams = [bench.pool.submit(request(prompt, max_tokens=20)) for prompt in prompts]
        await asyncio.gather(*map(read, streams))
        for prompt in (*prompts, *prompts):
            stream = bench.pool.submit(request([*prompt, 9], max_tokens=1))
            await read(stream)
            assert stream.num_cached_tokens >= 32


async def test_requests_without_history_spread_over_the_workers():
    async with running_pool(engine_config("1x64", **SLOW), workers=2) as bench:
        streams = [bench.pool.submit(request([n] * 4, max_tokens=10)) for n in (1, 2)]
        await until(lambda: all(stream.stage == "decode" for stream in streams))
        assert bench.sample("requests_running", worker="0") == 1
        assert bench.sample("requests_running", worker="1") == 1
        for stream in streams:
            await read(stream)


async def test_worker_that_dies_in_warm_up_is_started_once_in_safe_mode():
    engine = engine_config(dies_in_warm_up="with_extra_buffers")
    async with running_pool(engine) as bench:
        assert not bench.pool.ready[0].extra_buffers
        assert bench.sample("worker_restarts_total", worker="0") == 1


async def test_worker_that_dies_in_safe_mode_too_stops_the_start():
    with pytest.raises(EngineError, match="cannot start: killed by signal"):
        async with running_pool(engine_config(dies_in_warm_up="always")):
            pass


def test_workers_end_when_the_api_process_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.runtime.keep_pool"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    worker.wait(timeout=20)


async def test_queue_time_ends_where_the_first_step_begins():
    engine = engine_config(step_seconds=0.2)
    async with running_pool(engine) as bench:
        await read(bench.pool.submit(request([5, 6], max_tokens=1)))
        waited = bench.sample("queue_time_seconds_sum")
        until_first_token = bench.sample("time_to_first_token_seconds_sum")
    assert waited is not None
    assert until_first_token is not None
    assert until_first_token - waited >= 0.2
