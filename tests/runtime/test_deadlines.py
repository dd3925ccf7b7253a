"""A request ends at its deadline, whatever it is doing. The processes are real, the engine not."""

import msgspec
import pytest

from service.errors import DeadlineExceeded
from tests.runtime.builders import (
    engine_config,
    kill_a_worker,
    read,
    request,
    running_pool,
    undisturbed,
    until,
)
from tests.runtime.test_worker_death import never_ready_again

SOON = 1.5
SLOW = {"step_seconds": 0.02}


def endless(prompt, seconds: float | None = SOON):
    return msgspec.structs.replace(request(prompt, max_tokens=None), timeout_seconds=seconds)


@pytest.mark.parametrize(
    ("stage", "prompt_len"),
    [("waiting for its turn", 4), ("having its prompt computed", 4000), ("being answered", 4)],
)
async def test_request_ends_at_its_deadline_at_every_stage_and_leaves_no_slot_busy(
    stage, prompt_len
):
    engine = engine_config("1x4096", step_seconds=0.02, row_seconds=0.002)
    async with running_pool(engine) as bench:
        is_queued = stage.startswith("waiting")
        if is_queued:
            bench.pool.submit(endless([1, 2], seconds=None))
        stream = bench.pool.submit(endless([5] * prompt_len))
        with pytest.raises(DeadlineExceeded, match=stage):
            await read(stream)
        assert bench.sample("requests_finished_total", reason="deadline") == 1
        assert bench.sample("requests_finished_total", reason="error") == 0
        left = 1 if is_queued else 0
        assert bench.pool.num_running == left
        await until(lambda: bench.sample("requests_waiting", worker="0") == 0)
        await until(lambda: bench.sample("requests_running", worker="0") == left)


async def collect(stream, words):
    async for delta in stream:
        words += delta.text.split()


async def test_reader_gets_what_there_is_and_then_the_error():
    async with running_pool(engine_config("1x1024", **SLOW)) as bench:
        stream = bench.pool.submit(endless([5, 6]))
        words = []
        with pytest.raises(DeadlineExceeded):
            await collect(stream, words)
        assert list(map(int, words)) == undisturbed([5, 6], len(words))
        assert words


async def test_deadline_outlives_the_worker(monkeypatch):
    monkeypatch.setattr("service.runtime.pool.MAX_FAILED_STARTS", 99)  # the pool never gives up
    async with running_pool(engine_config("1x1024", **SLOW)) as bench:
        stream = bench.pool.submit(endless([5, 6], seconds=3.0))
        await until(lambda: stream.num_output_tokens > 0)
        never_ready_again(bench)
        kill_a_worker()
        with pytest.raises(DeadlineExceeded):
            await read(stream)
        assert bench.pool.num_running == bench.pool.num_waiting == 0


async def test_request_that_is_answered_in_time_is_left_alone():
    async with running_pool() as bench:
        stream = bench.pool.submit(
            msgspec.structs.replace(request([5, 6], max_tokens=4), timeout_seconds=5.0)
        )
        (timer,) = [flight.timer for flight in bench.pool._flights.values()]
        assert list(map(int, (await read(stream)).split())) == undisturbed([5, 6], 4)
        assert timer is not None
        assert timer.cancelled()


async def test_request_whose_time_is_up_before_it_comes_is_told_so():
    async with running_pool() as bench:
        with pytest.raises(DeadlineExceeded):
            await read(bench.pool.submit(endless([5, 6], seconds=0.0)))


async def test_weight_reaches_the_worker():
    async with running_pool(engine_config("1x64")) as bench:
        sent = []
        supervisor = bench.pool._supervisors[0]
        send = supervisor.send
        supervisor.send = lambda command: (sent.append(command), send(command))[1]
        stream = bench.pool.submit(
            msgspec.structs.replace(request([5, 6], max_tokens=2), weight=2.5)
        )
        await read(stream)
        assert [command.weight for command in sent] == [2.5]
