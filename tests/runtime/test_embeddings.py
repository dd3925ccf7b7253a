"""Texts become vectors, whatever becomes of the workers."""

import asyncio

import pytest

from service.errors import EngineUnavailable, QueueFull, WorkerDied
from tests.runtime.builders import (
    engine_config,
    kill_a_worker,
    read_tokens,
    request,
    running_pool,
    undisturbed,
    until,
)

DEADLY = 666


def engine(**model):
    return engine_config("2x256", embedding_len=64, **model)


async def test_a_text_has_the_same_vector_in_any_worker_and_company():
    async with running_pool(engine(), workers=2) as bench:
        vectors = await bench.pool.embed([[1, 2, 3]] * 10 + [[4]])
        assert await bench.pool.embed([[1, 2, 3]]) == vectors[:1]
        assert len(set(vectors)) == 2
        assert bench.sample("embeddings_total") == 12
        assert bench.sample("embedding_tokens_total") == 34


async def test_texts_survive_their_worker():
    texts = [[number] * 60 for number in range(20)]
    async with running_pool(engine(row_seconds=0.0003)) as bench:
        expected = await bench.pool.embed(texts)
        embedding = asyncio.create_task(bench.pool.embed(texts))
        await until(lambda: (bench.sample("embeddings_total") or 0) > 22)
        kill_a_worker()
        assert await embedding == expected
        assert bench.sample("worker_restarts_total", worker="0") == 1


async def test_a_text_that_kills_workers_fails_and_harms_nobody():
    async with running_pool(engine(step_seconds=0.01, deadly_token=DEADLY), workers=2) as bench:
        chats = [bench.pool.submit(request([5, number], max_tokens=150)) for number in range(4)]
        await until(lambda: all(chat.num_output_tokens for chat in chats))
        with pytest.raises(WorkerDied, match="2 workers died of this text"):
            await bench.pool.embed([[1, DEADLY]])
        for number, chat in enumerate(chats):
            assert await read_tokens(chat) == undisturbed([5, number], 150)
        assert bench.sample("quarantines_total") == 0


async def test_a_short_request_does_not_wait_for_a_long_one():
    async with running_pool(engine(row_seconds=0.0003)) as bench:
        long = asyncio.create_task(bench.pool.embed([[1] * 60] * 200))
        await until(lambda: bool(bench.sample("embeddings_total")))
        await bench.pool.embed([[2], [3]])
        assert not long.done()
        long.cancel()


async def test_more_requests_than_slots_and_places_in_the_queue_are_refused():
    async with running_pool(engine(row_seconds=0.001), max_queued=1) as bench:
        waiting = [asyncio.create_task(bench.pool.embed([[1] * 60] * 10)) for _ in range(3)]
        await until(lambda: bool(bench.sample("embeddings_total")))
        with pytest.raises(QueueFull):
            await bench.pool.embed([[1]])
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await bench.pool.embed([[1]])


async def test_a_pool_that_ends_says_so_and_takes_no_more():
    async with running_pool(engine(row_seconds=0.001)) as bench:
        embedding = asyncio.create_task(bench.pool.embed([[1] * 60] * 100))
        await until(lambda: bool(bench.sample("embeddings_total")))
        await bench.pool.stop()
        with pytest.raises(WorkerDied, match="shutting down"):
            await embedding
        with pytest.raises(EngineUnavailable):
            await bench.pool.embed([[1]])


async def test_a_long_text_does_not_look_like_a_hang():
    """Each chunk is a sign of life, though there is no vector yet."""
    engine = engine_config("2x256", embedding_len=4000, row_seconds=0.001)
    async with running_pool(engine, watchdog_seconds=0.5) as bench:
        await bench.pool.embed([[1] * 2000])
        assert bench.sample("watchdog_kills_total", worker="0") == 0
