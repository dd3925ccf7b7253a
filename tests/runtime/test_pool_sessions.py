"""Sessions over real worker processes; the engine in them is simulated."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from service.core.messages import Submit
from service.errors import EngineUnavailable
from service.runtime.config import PoolConfig
from service.runtime.pool import EnginePool
from service.runtime.sharing import Sharing
from service.telemetry.metrics import Metrics
from tests.runtime.builders import (
    engine_config,
    kill_a_worker,
    read,
    request,
    running_pool,
    token_bytes,
    until,
)

SLOW = engine_config("2x256", step_seconds=0.02)
ON_DISK = {"disk_cache_bytes": 1 << 20}
SECRET = list(range(100, 150))


def turn(prompt, session="chat", *, tenant="", max_tokens=4):
    return msgspec.structs.replace(
        request(prompt, max_tokens=max_tokens, tenant=tenant), session=session
    )


def worker_of(bench, session="chat"):
    return bench.pool.sessions.get("", session).worker


async def test_a_session_knows_its_requests_and_its_tokens():
    async with running_pool() as bench:
        stream = bench.pool.submit(turn([5] * 10))
        session = bench.pool.sessions.get("", "chat")
        assert session is not None
        assert session.num_running == 1
        await read(stream)
        await read(bench.pool.submit(turn([5] * 20, max_tokens=3)))
        assert (session.num_running, session.num_requests, session.num_tokens) == (0, 2, 23)
        assert bench.sample("sessions") == 1


async def test_an_aborted_request_leaves_its_session_idle():
    async with running_pool(SLOW) as bench:
        stream = bench.pool.submit(turn([5] * 10, max_tokens=200))
        await until(lambda: stream.stage == "decode")
        stream.abort()
        session = bench.pool.sessions.get("", "chat")
        assert session is not None
        assert session.num_running == 0
        assert session.num_tokens > 10


async def test_a_session_stays_with_its_worker_when_nothing_else_speaks_for_it():
    async with running_pool(SLOW, workers=2) as bench:
        other = bench.pool.submit(request([9] * 4, max_tokens=200))
        await read(bench.pool.submit(turn([5] * 4)))
        other.abort()
        assert worker_of(bench) == 1  # the other was busy
        await read(bench.pool.submit(turn([6] * 4)))
        assert worker_of(bench) == 1
        await read(bench.pool.submit(turn([6] * 4, session="new")))
        assert worker_of(bench, "new") == 0


async def test_a_session_leaves_a_worker_that_is_far_busier():
    async with running_pool(SLOW, workers=2) as bench:
        await read(bench.pool.submit(turn([5] * 4)))
        crowd = [bench.pool.submit(turn([n] * 4, max_tokens=200)) for n in range(4)]
        assert {flight.worker for flight in bench.pool._flights.values()} == {0, 1}
        assert worker_of(bench) == 1
        for stream in crowd:
            stream.abort()


async def test_a_session_whose_worker_died_goes_on_in_another():
    async with running_pool(workers=2) as bench:
        await read(bench.pool.submit(turn([5] * 4)))
        assert worker_of(bench) == 0
        kill_a_worker()
        await until(lambda: bench.sample("worker_up", worker="0") == 0)
        await read(bench.pool.submit(turn([5] * 4)))
        assert worker_of(bench) == 1


async def test_a_forgotten_session_is_unknown_and_an_unknown_one_is_nothing_to_forget():
    async with running_pool(workers=2) as bench:
        await read(bench.pool.submit(turn([5] * 40)))
        assert await bench.pool.forget_session("other", "chat") is None
        assert bench.pool.sessions.get("", "chat") is not None
        assert await bench.pool.forget_session("", "chat") is not None
        assert bench.pool.sessions.get("", "chat") is None
        assert await bench.pool.forget_session("", "chat") is None


async def test_forgetting_leaves_running_requests_alone():
    async with running_pool(SLOW) as bench:
        stream = bench.pool.submit(turn([5] * 10, max_tokens=20))
        await until(lambda: stream.stage == "decode")
        assert await bench.pool.forget_session("", "chat") is not None
        assert len((await read(stream)).split()) == 20
        assert bench.pool.sessions.get("", "chat") is None


async def test_a_session_in_the_memory_of_a_dead_worker_is_forgotten():
    async with running_pool() as bench:
        await read(bench.pool.submit(turn([5] * 10)))
        kill_a_worker()
        assert await bench.pool.forget_session("", "chat") == 0
        assert bench.pool.sessions.get("", "chat") is None


async def test_with_a_disk_nobody_says_forgotten_for_a_dead_worker(tmp_path):
    engine = msgspec.structs.replace(engine_config(), disk_cache_dir=str(tmp_path), **ON_DISK)
    async with running_pool(engine) as bench:
        await read(bench.pool.submit(turn([5] * 10)))
        kill_a_worker()
        with pytest.raises(EngineUnavailable):
            await bench.pool.forget_session("", "chat")
        with pytest.raises(EngineUnavailable):
            await bench.pool.forget_session("", "chat")
        await until(lambda: bench.pool.is_ready)
        await bench.pool.forget_session("", "chat")


async def test_forgetting_many_at_once_answers_each():
    async with running_pool(workers=2) as bench:
        names = [f"s{number}" for number in range(20)]
        for name in names:
            await read(bench.pool.submit(turn([5] * 10, name, max_tokens=1)))
        answers = await asyncio.gather(*(bench.pool.forget_session("", name) for name in names))
        assert None not in answers
        assert bench.sample("sessions") == 0


async def test_what_a_worker_finds_on_disk_is_a_session_at_once():
    async with running_pool() as bench:
        found = msgspec.structs.replace(bench.pool.ready[0], sessions=(("a", "chat", 70),))
        bench.pool.worker_ready(0, 1, found)
        session = bench.pool.sessions.get("a", "chat")
        assert session is not None
        assert (session.worker, session.num_tokens) == (0, 70)


def submitted(pool: EnginePool, *requests) -> list[Submit]:
    """What a worker would be told of requests."""
    for each in requests:
        pool.submit(each)
    return [flight.enter(0, now=0.0) for flight in pool._flights.values()]


async def test_a_request_carries_its_label_and_its_public_tokens_beside_its_tenant():
    async with running_pool() as bench:
        bench.pool._sharing = Sharing(public_prefixes=[[1, 2, 3]])
        one, other = submitted(
            bench.pool, turn([1, 2, 3, 4], tenant="a"), turn([1, 2, 4], tenant="b")
        )
        assert (one.tenant, one.share, one.session, one.num_public) == ("a", "a", "chat", 3)
        assert (other.tenant, other.share, other.num_public) == ("b", "b", 0)


async def test_global_sharing_has_one_label_and_still_a_session_for_each_tenant():
    async with running_pool() as bench:
        bench.pool._sharing = Sharing(is_global=True)
        one, other = submitted(bench.pool, turn([1], tenant="a"), turn([2], tenant="b"))
        assert one.share == other.share
        assert one.tenant != other.tenant
        assert bench.pool.sessions.get("a", "chat") is not bench.pool.sessions.get("b", "chat")


def test_each_worker_has_a_folder_of_its_own_on_disk():
    engine = msgspec.structs.replace(engine_config(), disk_cache_dir="kv", **ON_DISK)
    pool = EnginePool(
        PoolConfig(engine=engine, num_workers=2), token_bytes, Metrics(CollectorRegistry())
    )
    folders = [each._config.disk_cache_dir for each in pool._supervisors]
    assert folders == [str(Path("kv") / "worker-0"), str(Path("kv") / "worker-1")]


async def cached(bench, prompt, session="other", *, tenant=""):
    """How much of a prompt a request found."""
    stream = bench.pool.submit(turn(prompt, session, tenant=tenant, max_tokens=1))
    await read(stream)
    return stream.num_cached_tokens


async def test_what_a_session_computed_is_not_found_after_it_was_forgotten():
    async with running_pool() as bench:
        await read(bench.pool.submit(turn(SECRET)))
        assert (await bench.pool.forget_session("", "chat") or 0) >= len(SECRET)
        assert await cached(bench, SECRET) == 0


async def test_what_another_session_computed_too_stays():
    async with running_pool() as bench:
        await read(bench.pool.submit(turn(SECRET, "one")))
        await read(bench.pool.submit(turn(SECRET, "two")))
        await bench.pool.forget_session("", "one")
        assert await cached(bench, SECRET) > 0


async def test_what_a_running_request_of_a_forgotten_session_leaves_is_not_found():
    async with running_pool(SLOW) as bench:
        stream = bench.pool.submit(turn(SECRET, max_tokens=5))
        await until(lambda: stream.stage == "decode")
        await bench.pool.forget_session("", "chat")
        await read(stream)
        assert await cached(bench, SECRET) == 0


async def test_a_request_that_waited_while_its_session_was_forgotten_leaves_nothing_either():
    async with running_pool(SLOW) as bench:
        kill_a_worker()
        await until(lambda: not bench.pool.is_ready)
        waiting = asyncio.create_task(read(_submit_waiting(bench, turn(SECRET, max_tokens=2))))
        await bench.pool.forget_session("", "chat")
        await waiting
        assert await cached(bench, SECRET) == 0


def _submit_waiting(bench, asked):
    """Past the check that some worker is ready, as a request that lost its worker is."""
    bench.pool.check_room = lambda _num_requests: None
    return bench.pool.submit(asked)


async def test_tenants_find_nothing_of_each_other():
    async with running_pool() as bench:
        await read(bench.pool.submit(turn(SECRET, tenant="a")))
        assert await cached(bench, SECRET, "chat", tenant="b") == 0
        assert await cached(bench, SECRET, "chat", tenant="a") == len(SECRET) - 1


async def test_a_public_prefix_is_found_by_all_and_nothing_behind_it():
    async with running_pool() as bench:
        bench.pool._sharing = Sharing(public_prefixes=[SECRET[:40]])
        await read(bench.pool.submit(turn(SECRET, tenant="a")))
        assert await cached(bench, SECRET, tenant="b") == 40


async def test_global_sharing_finds_what_anybody_computed():
    async with running_pool() as bench:
        bench.pool._sharing = Sharing(is_global=True)
        await read(bench.pool.submit(turn(SECRET, tenant="a")))
        assert await cached(bench, SECRET, tenant="b") == len(SECRET) - 1


async def test_a_session_on_disk_is_known_found_and_deletable_after_a_restart(tmp_path):
    engine = msgspec.structs.replace(engine_config(), disk_cache_dir=str(tmp_path), **ON_DISK)
    async with running_pool(engine, workers=2) as bench:
        await read(bench.pool.submit(turn(SECRET)))
    async with running_pool(engine, workers=2) as bench:
        session = bench.pool.sessions.get("", "chat")
        assert session is not None
        assert session.num_tokens >= len(SECRET)
        assert await cached(bench, SECRET, "chat") == len(SECRET) - 1
    async with running_pool(engine, workers=2) as bench:
        assert (await bench.pool.forget_session("", "chat") or 0) >= len(SECRET)
    async with running_pool(engine, workers=2) as bench:
        assert bench.pool.sessions.get("", "chat") is None
        assert await cached(bench, SECRET) == 0
